/* SPDX-License-Identifier: MIT */
#include "lab.h"

#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "child.h"
#include "cli/launch.h"
#include "cli/netns.h"
#include "cli/sandbox.h"

#define MARK_MAX      4096U
#define FOLDER_PREFIX "/tmp/ferry-demo-"

static const char *const namespaces[] = { "ferry-a", "ferry-b", LAB_CLIENT_NETNS };
static const char *const addresses[] = { "10.77.0.1", "10.77.0.2" };

/* ---- ip(8) ---- */

#define IP(...) ip((const char *const[]){ "ip", __VA_ARGS__, NULL }, reterr)

static int ip(const char *const *argv, ferry_error *reterr) {
        return child_must(argv, reterr);
}

static bool has_namespace(const char *name) {
        char path[64];

        snprintf(path, sizeof(path), NETNS_FOLDER "/%s", name);
        return access(path, F_OK) == 0;
}

/* With a hardware address of its own: a bridge takes the lowest of its ports' otherwise, so that it
 * changes when a guest's tap comes or goes, and the neighbours talk to nobody for a while. */
static int make_bridge(const char *netns, const char *hardware_address, const char *address,
                       ferry_error *reterr) {
        int r;

        r = IP("-n", netns, "link", "set", "lo", "up");
        if (r == 0)
                r = IP("-n", netns, "link", "add", "br0", "address", hardware_address, "type",
                       "bridge", "forward_delay", "0");
        if (r == 0)
                r = IP("-n", netns, "address", "add", address, "dev", "br0");
        return r < 0 ? r : IP("-n", netns, "link", "set", "br0", "up");
}

static int make_cable(const char *netns, const char *port, ferry_error *reterr) {
        int r;

        r = IP("-n", netns, "link", "add", "up0", "type", "veth", "peer", "name", port, "netns",
               LAB_CLIENT_NETNS);
        if (r == 0)
                r = IP("-n", netns, "link", "set", "up0", "master", "br0", "up");
        return r < 0 ? r : IP("-n", LAB_CLIENT_NETNS, "link", "set", port, "master", "br0", "up");
}

static int make_network(ferry_error *reterr) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < ELEMENTS(namespaces); i++)
                r = IP("netns", "add", namespaces[i]);
        if (r == 0)
                r = make_bridge("ferry-a", "02:fe:10:77:00:01", "10.77.0.1/24", reterr);
        if (r == 0)
                r = make_bridge("ferry-b", "02:fe:10:77:00:02", "10.77.0.2/24", reterr);
        if (r == 0)
                r = make_bridge(LAB_CLIENT_NETNS, "02:fe:10:77:00:fe", "10.77.0.254/24", reterr);
        if (r == 0)
                r = make_cable("ferry-a", "a0", reterr);
        return r < 0 ? r : make_cable("ferry-b", "b0", reterr);
}

/* ---- the mark ---- */

/* The file that is locked may have been removed by who had it locked before: then it marks nothing.
 */
static bool is_current(const char *path, int fd) {
        struct stat ours, current;

        return fstat(fd, &ours) == 0 && stat(path, &current) == 0 &&
               ours.st_dev == current.st_dev && ours.st_ino == current.st_ino;
}

/* l->mark_fd is set only once the mark is ours. */
static int mark_open(lab *l, ferry_error *reterr) {
        int r;

        r = geteuid() == 0 ? asprintf(&l->mark_path, "/run/ferry-demo.mark")
                           : asprintf(&l->mark_path, "/tmp/ferry-demo-%u.mark", geteuid());
        if (r < 0) {
                l->mark_path = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "demo");
        }
        for (;;) {
                _cleanup_(closep) int fd =
                        open(l->mark_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

                if (fd < 0)
                        return ferry_error_set_errno(reterr, -errno, "%s", l->mark_path);
                if (flock(fd, LOCK_EX | LOCK_NB) < 0)
                        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                               "another demo is running");
                if (is_current(l->mark_path, fd)) {
                        l->mark_fd = TAKE_FD(fd);
                        return 0;
                }
        }
}

static int mark_write(const lab *l, ferry_error *reterr) {
        json_t *mark = json_pack("{s:s, s:b}", "folder", l->folder, "network", l->has_network);
        char *text = mark ? json_dumps(mark, 0) : NULL;
        int r = text ? 0 : -ENOMEM;

        if (r == 0 && (ftruncate(l->mark_fd, 0) < 0 ||
                       pwrite(l->mark_fd, text, strlen(text), 0) != (ssize_t)strlen(text)))
                r = -EIO;
        free(text);
        json_decref(mark);
        return r < 0 ? ferry_error_set_errno(reterr, r, "%s", l->mark_path) : 0;
}

/* What an earlier run wrote down; an empty or broken mark is of a run that had made nothing. */
static int mark_read(lab *l, ferry_error *reterr) {
        char text[MARK_MAX + 1];
        ssize_t n = pread(l->mark_fd, text, MARK_MAX, 0);
        const char *folder;
        json_t *mark;

        if (n <= 0)
                return 0;
        mark = json_loadb(text, (size_t)n, 0, NULL);
        folder = json_string_value(json_object_get(mark, "folder"));
        if (folder && strncmp(folder, FOLDER_PREFIX, strlen(FOLDER_PREFIX)) == 0 &&
            !strchr(folder + strlen(FOLDER_PREFIX), '/'))
                l->folder = strdup(folder);
        l->has_network = json_is_true(json_object_get(mark, "network"));
        json_decref(mark);
        return 0;
}

/* ---- hosts ---- */

static int name_hosts(lab *l, ferry_error *reterr) {
        for (size_t i = 0; i < LAB_N_HOSTS; i++) {
                l->hosts[i].name = namespaces[i];
                l->hosts[i].address = addresses[i];
                if (asprintf(&l->hosts[i].root, "%s/%c", l->folder, (char)('a' + i)) < 0) {
                        l->hosts[i].root = NULL;
                        return ferry_error_set_errno(reterr, -ENOMEM, "demo");
                }
        }
        return 0;
}

static int set_host(const lab *l, size_t i, ferry_error *reterr) {
        if (l->has_network)
                return child_must((const char *const[]){ l->ferry, "--root", l->hosts[i].root,
                                                         "host", "set", "--name", l->hosts[i].name,
                                                         "--netns", l->hosts[i].name, "--address",
                                                         l->hosts[i].address, "--bridge", "br0",
                                                         NULL },
                                  reterr);
        return child_must((const char *const[]){ l->ferry, "--root", l->hosts[i].root, "host",
                                                 "set", "--name", l->hosts[i].name, NULL },
                          reterr);
}

/* ---- removal ---- */

static int remove_entry(const char *path, const struct stat *st, int kind, struct FTW *where) {
        return remove(path);
}

static int stop_sandboxes(const lab *l, const char *root, ferry_error *reterr) {
        sandbox_names names;
        int r, e;

        r = sandbox_list(root, &names, reterr);
        if (r < 0)
                return r;
        for (size_t i = 0; i < names.n; i++) {
                e = child_must((const char *const[]){ l->ferry, "--root", root, "stop", "--force",
                                                      names.names[i], NULL },
                               r == 0 ? reterr : NULL);
                if (r == 0)
                        r = e;
        }
        sandbox_names_done(&names);
        return r;
}

static int remove_parts(lab *l, ferry_error *reterr) {
        int r = 0;

        for (size_t i = 0; i < LAB_N_HOSTS; i++)
                if (l->hosts[i].root) {
                        int e = stop_sandboxes(l, l->hosts[i].root, r == 0 ? reterr : NULL);

                        if (r == 0)
                                r = e;
                }
        /* A sandbox that could not be ended keeps what it stands on; the mark stays too. */
        if (r < 0)
                return r;
        for (size_t i = 0; l->has_network && i < ELEMENTS(namespaces); i++)
                if (has_namespace(namespaces[i])) {
                        r = IP("netns", "delete", namespaces[i]);
                        if (r < 0)
                                return r;
                }
        if (l->folder && nftw(l->folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS) < 0 &&
            errno != ENOENT)
                return ferry_error_set_errno(reterr, -errno, "cannot remove %s", l->folder);
        return 0;
}

static void let_go(lab *l) {
        for (size_t i = 0; i < LAB_N_HOSTS; i++)
                free(l->hosts[i].root);
        free(l->ferry);
        free(l->folder);
        free(l->mark_path);
        fd_close(l->mark_fd);
        *l = (lab){ .mark_fd = -EBADF };
}

int lab_remove(lab *l, bool keep, ferry_error *reterr) {
        int r = keep ? 0 : remove_parts(l, reterr);

        if (!keep && r == 0 && l->mark_path && l->mark_fd >= 0)
                (void)unlink(l->mark_path);
        let_go(l);
        return r;
}

/* With the mark locked: nobody else's. */
static int remove_leftovers(lab *l, ferry_error *reterr) {
        int r;

        r = mark_read(l, reterr);
        if (r < 0 || !l->folder)
                return r;
        fprintf(stderr, "demo: removing what an earlier run left\n");
        r = name_hosts(l, reterr);
        if (r == 0)
                r = remove_parts(l, reterr);
        if (r < 0)
                return ferry_error_prefix(reterr, r, "what an earlier demo left in %s", l->folder);
        for (size_t i = 0; i < LAB_N_HOSTS; i++) {
                free(l->hosts[i].root);
                l->hosts[i].root = NULL;
        }
        free(l->folder);
        l->folder = NULL;
        l->has_network = false;
        return ftruncate(l->mark_fd, 0) < 0
                       ? ferry_error_set_errno(reterr, -errno, "%s", l->mark_path)
                       : 0;
}

static int begin(lab *l, ferry_error *reterr) {
        int r;

        *l = (lab){ .mark_fd = -EBADF };
        r = launch_find_program("ferry", "FERRY", "../../src/cli/ferry", &l->ferry, reterr);
        if (r == 0)
                r = mark_open(l, reterr);
        return r < 0 ? r : remove_leftovers(l, reterr);
}

int lab_clean(ferry_error *reterr) {
        lab l;
        int r = begin(&l, reterr);

        if (r == 0)
                (void)unlink(l.mark_path);
        let_go(&l);
        return r;
}

/* ---- making ---- */

static int check_namespaces_are_free(ferry_error *reterr) {
        for (size_t i = 0; i < ELEMENTS(namespaces); i++)
                if (has_namespace(namespaces[i]))
                        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EEXIST,
                                               "there is a network namespace %s that the demo did "
                                               "not make; it needs that name (`ip netns delete %s` "
                                               "if nobody else does)",
                                               namespaces[i], namespaces[i]);
        return 0;
}

static int make_folder(lab *l, ferry_error *reterr) {
        l->folder = strdup(FOLDER_PREFIX "XXXXXX");
        if (!l->folder)
                return ferry_error_set_errno(reterr, -ENOMEM, "demo");
        if (!mkdtemp(l->folder))
                return ferry_error_set_errno(reterr, -errno, "cannot make a folder in /tmp");
        return 0;
}

/* True when namespaces can be made here: by making one that is taken down again. */
static int try_network(lab *l, char **ret_why, ferry_error *reterr) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        if (geteuid() != 0) {
                *ret_why = strdup("not root");
                return 0;
        }
        r = check_namespaces_are_free(reterr);
        if (r < 0)
                return r;
        l->has_network = true;
        r = mark_write(l, reterr);
        if (r < 0)
                return r;
        r = make_network(&error);
        if (r == 0)
                return 0;
        if (child_signal() != 0)
                return ferry_error_set(reterr, FERRY_CANCELLED, -EINTR, "interrupted");
        for (size_t i = 0; i < ELEMENTS(namespaces); i++)
                if (has_namespace(namespaces[i]))
                        (void)IP("netns", "delete", namespaces[i]);
        *ret_why = strdup(ferry_error_message(&error));
        l->has_network = false;
        return mark_write(l, reterr);
}

int lab_make(lab *l, char **ret_why, ferry_error *reterr) {
        int r;

        *ret_why = NULL;
        r = begin(l, reterr);
        if (r == 0)
                r = make_folder(l, reterr);
        if (r == 0)
                r = mark_write(l, reterr);
        if (r == 0)
                r = try_network(l, ret_why, reterr);
        if (r == 0)
                r = name_hosts(l, reterr);
        for (size_t i = 0; r == 0 && i < LAB_N_HOSTS; i++)
                r = set_host(l, i, reterr);
        return r;
}
