/* SPDX-License-Identifier: MIT */
#include "vm/throttle.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

#define STATE_FILE "throttle"
#define PROC_MAX   (1U << 20)
#define PIDS_MAX   (1U << 16)

#define REMOVE_TRIES 50
#define REMOVE_USEC  1000

struct throttle {
        throttle_kind kind;
        char *folder; /* of the process's own cgroup */
        int folder_fd, state_dir_fd;
        pid_t pid;
        size_t n; /* cgroups made */
        bool is_set;
};

/* ---- where ---- */

static bool has_word(const char *list, size_t n, const char *word) {
        size_t n_word = strlen(word);

        for (const char *at = list, *end = list + n; at < end;) {
                size_t length = 0;

                while (at + length < end && at[length] != ',')
                        length++;
                if (length == n_word && memcmp(at, word, n_word) == 0)
                        return true;
                at += length + 1;
        }
        return false;
}

/* "7:cpu,cpuacct:/a/b" of v1, "0::/a/b" of v2. */
static int find_cgroup(const char *cgroups, throttle_kind kind, char **ret) {
        for (const char *line = cgroups; *line;
             line += strcspn(line, "\n"), line += *line == '\n') {
                size_t n = strcspn(line, "\n");
                const char *list = memchr(line, ':', n), *path;

                path = list ? memchr(list + 1, ':', n - (size_t)(list + 1 - line)) : NULL;
                if (!path || path[1] != '/')
                        continue;
                if (kind == THROTTLE_V1 ? !has_word(list + 1, (size_t)(path - list - 1), "cpu")
                                        : path != list + 1)
                        continue;
                path++;
                *ret = strndup(path, n - (size_t)(path - line));
                return *ret ? 0 : -ENOMEM;
        }
        return -ENOENT;
}

/* "36 35 98:0 ROOT POINT options [more...] - TYPE source OPTIONS": the mount of that kind. Names
 * with blanks are octal there; a cgroup mount with such a name is no good to us. */
static int find_mount(const char *mounts, throttle_kind kind, char root[PATH_MAX],
                      char point[PATH_MAX]) {
        char line[3 * PATH_MAX];

        for (const char *at = mounts; *at; at += strcspn(at, "\n"), at += *at == '\n') {
                size_t n = strcspn(at, "\n");
                char type[32], options[PATH_MAX], *rest;

                if (n >= sizeof(line))
                        continue;
                memcpy(line, at, n);
                line[n] = '\0';
                rest = strstr(line, " - ");
                if (!rest || sscanf(line, "%*d %*d %*s %4095s %4095s", root, point) != 2 ||
                    sscanf(rest, " - %31s %*s %4095s", type, options) != 2)
                        continue;
                if (strcmp(type, kind == THROTTLE_V1 ? "cgroup" : "cgroup2") != 0 ||
                    (kind == THROTTLE_V1 && !has_word(options, strlen(options), "cpu")) ||
                    strchr(root, '\\') || strchr(point, '\\'))
                        continue;
                return 0;
        }
        return -ENOENT;
}

static int locate_in(const char *cgroups, const char *mounts, throttle_kind kind, char **ret) {
        _cleanup_(freep) char *cgroup = NULL;
        char root[PATH_MAX], point[PATH_MAX];
        const char *below;
        size_t n;
        int r;

        r = find_cgroup(cgroups, kind, &cgroup);
        if (r == 0)
                r = find_mount(mounts, kind, root, point);
        if (r < 0)
                return r;
        /* what is mounted may be a part of the hierarchy: a container's */
        n = strcmp(root, "/") == 0 ? 0 : strlen(root);
        if (strncmp(cgroup, root, n) != 0 || (cgroup[n] != '/' && cgroup[n] != '\0'))
                return -ENOENT;
        below = cgroup + n;
        if (strcmp(below, "/") == 0)
                below = "";
        return asprintf(ret, "%s%s", point, below) < 0 ? -ENOMEM : 0;
}

int throttle_locate(const char *cgroups, const char *mounts, throttle_kind *ret_kind, char **ret) {
        static const throttle_kind kinds[] = { THROTTLE_V1, THROTTLE_V2 };

        for (size_t i = 0; i < ELEMENTS(kinds); i++) {
                int r = locate_in(cgroups, mounts, kinds[i], ret);

                if (r == -ENOENT)
                        continue;
                *ret_kind = kinds[i];
                return r;
        }
        return -EOPNOTSUPP;
}

void throttle_period(unsigned percentage, unsigned *ret_period_usec, unsigned *ret_quota_usec) {
        unsigned share = 100 - percentage, period = THROTTLE_PERIOD_MIN;

        if (period * share < THROTTLE_QUOTA_MIN * 100)
                period = (THROTTLE_QUOTA_MIN * 100 + share - 1) / share;
        *ret_period_usec = period;
        *ret_quota_usec = period * share / 100;
}

/* ---- files ---- */

static void cgroup_name(pid_t pid, size_t i, char ret[64]) {
        snprintf(ret, 64, "ferry-%d-%zu", (int)pid, i);
}

static int write_file(int folder_fd, const char *cgroup, const char *name, const char *text) {
        _cleanup_(closep) int fd = -EBADF;
        char path[PATH_MAX];

        if ((size_t)snprintf(path, sizeof(path), "%s%s%s", cgroup, *cgroup ? "/" : "", name) >=
            sizeof(path))
                return -ENAMETOOLONG;
        fd = openat(folder_fd, path, O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        return fd_write_all(fd, text, strlen(text));
}

static int write_quota(const throttle *t, size_t i, unsigned percentage) {
        unsigned period, quota;
        char cgroup[64], text[64];
        int r;

        cgroup_name(t->pid, i, cgroup);
        throttle_period(percentage, &period, &quota);
        if (t->kind == THROTTLE_V2) {
                snprintf(text, sizeof(text), "%u %u", quota, period);
                return write_file(t->folder_fd, cgroup, "cpu.max", text);
        }
        snprintf(text, sizeof(text), "%u", period);
        r = write_file(t->folder_fd, cgroup, "cpu.cfs_period_us", text);
        if (r < 0)
                return r;
        snprintf(text, sizeof(text), "%u", quota);
        return write_file(t->folder_fd, cgroup, "cpu.cfs_quota_us", text);
}

static int lift_quota(const throttle *t, const char *cgroup) {
        return t->kind == THROTTLE_V2 ? write_file(t->folder_fd, cgroup, "cpu.max", "max")
                                      : write_file(t->folder_fd, cgroup, "cpu.cfs_quota_us", "-1");
}

static const char *threads_file(const throttle *t) {
        return t->kind == THROTTLE_V2 ? "cgroup.threads" : "tasks";
}

static int move_thread(const throttle *t, const char *cgroup, pid_t thread) {
        char text[16];

        snprintf(text, sizeof(text), "%d", (int)thread);
        return write_file(t->folder_fd, cgroup, threads_file(t), text);
}

static int make_cgroup(throttle *t, size_t i) {
        char cgroup[64];
        int r;

        cgroup_name(t->pid, i, cgroup);
        if (mkdirat(t->folder_fd, cgroup, 0755) < 0 && errno != EEXIST)
                return -errno;
        if (t->kind == THROTTLE_V1)
                return 0;
        r = write_file(t->folder_fd, cgroup, "cgroup.type", "threaded");
        if (r == 0 && i == 0) {
                char path[80];

                snprintf(path, sizeof(path), "%s/cpu.max", cgroup);
                if (faccessat(t->folder_fd, path, F_OK, 0) == 0)
                        return 0;
                /* for good: another sandbox's cgroups may be here too */
                r = write_file(t->folder_fd, "", "cgroup.subtree_control", "+cpu");
        }
        return r;
}

/* Its threads go back to where the process is. False: it stays behind. */
static bool remove_cgroup(const throttle *t, const char *cgroup) {
        _cleanup_(freep) char *threads = NULL;
        char path[PATH_MAX];
        size_t n;

        (void)lift_quota(t, cgroup);
        snprintf(path, sizeof(path), "%s/%s", cgroup, threads_file(t));
        if (file_read(t->folder_fd, path, PIDS_MAX, &threads, &n) == 0)
                for (char *at = threads, *end; *at; at = end) {
                        pid_t thread = (pid_t)strtol(at, &end, 10);

                        if (end == at)
                                break;
                        (void)move_thread(t, "", thread);
                }
        for (int tries = 0; unlinkat(t->folder_fd, cgroup, AT_REMOVEDIR) < 0; tries++) {
                if (errno == ENOENT)
                        return true;
                /* a thread that has just ended is no longer listed, and counts for a moment more */
                if (errno != EBUSY || tries == REMOVE_TRIES) {
                        log_warning("cgroup %s/%s stays behind: %s", t->folder, cgroup,
                                    strerror(errno));
                        return false;
                }
                usleep(REMOVE_USEC);
        }
        return true;
}

/* While any of it is there the file stays too: for the next try, or the next shim. */
static void remove_all(throttle *t) {
        bool all = true;
        char cgroup[64];

        for (size_t i = 0; i < t->n; i++) {
                cgroup_name(t->pid, i, cgroup);
                all = remove_cgroup(t, cgroup) && all;
        }
        t->n = 0;
        t->is_set = false;
        if (!all)
                return;
        if (unlinkat(t->state_dir_fd, STATE_FILE, 0) < 0 && errno != ENOENT)
                log_warning("throttle: %s", strerror(errno));
}

/* One line: the kind, the process, the cgroup. */
static int save(const throttle *t) {
        char text[PATH_MAX + 64];
        int n = snprintf(text, sizeof(text), "v%d %d %s\n", t->kind == THROTTLE_V2 ? 2 : 1,
                         (int)t->pid, t->folder);

        if ((size_t)n >= sizeof(text))
                return -ENAMETOOLONG;
        return file_replace(t->state_dir_fd, STATE_FILE, text, (size_t)n, 0600, false);
}

/* ---- life ---- */

static int throttle_open(throttle *t, int state_dir_fd) {
        t->folder_fd = open(t->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (t->folder_fd < 0)
                return -errno;
        t->state_dir_fd = fcntl(state_dir_fd, F_DUPFD_CLOEXEC, 3);
        return t->state_dir_fd < 0 ? -errno : 0;
}

static throttle *throttle_alloc(pid_t pid) {
        throttle *t = calloc(1, sizeof(*t));

        if (t)
                *t = (throttle){ .folder_fd = -EBADF, .state_dir_fd = -EBADF, .pid = pid };
        return t;
}

static int locate(throttle *t) {
        _cleanup_(freep) char *cgroups = NULL, *mounts = NULL;
        char path[64];
        size_t n;
        int r;

        snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)t->pid);
        r = file_read(AT_FDCWD, path, PROC_MAX, &cgroups, &n);
        if (r == 0)
                r = file_read(AT_FDCWD, "/proc/self/mountinfo", PROC_MAX, &mounts, &n);
        if (r == 0)
                r = throttle_locate(cgroups, mounts, &t->kind, &t->folder);
        return r;
}

/* Whether it works is only known once it was done. */
static int try_out(throttle *t) {
        int r = save(t);

        if (r < 0)
                return r;
        t->n = 1;
        r = make_cgroup(t, 0);
        if (r == 0)
                r = write_quota(t, 0, THROTTLE_MAX);
        remove_all(t);
        return r;
}

int throttle_new(pid_t pid, int state_dir_fd, throttle **ret, ferry_error *reterr) {
        _cleanup_(throttle_freep) throttle *t = throttle_alloc(pid);
        int r;

        if (!t)
                return ferry_error_set_errno(reterr, -ENOMEM, "throttle");
        r = locate(t);
        if (r < 0)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -EOPNOTSUPP,
                                       "no cgroup hierarchy with a cpu controller: %s",
                                       strerror(-r));
        r = throttle_open(t, state_dir_fd);
        if (r == 0)
                r = try_out(t);
        if (r < 0)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -EOPNOTSUPP,
                                       "the cpu controller (cgroup v%d) is not ours to use in %s: "
                                       "%s",
                                       t->kind == THROTTLE_V2 ? 2 : 1, t->folder, strerror(-r));
        *ret = TAKE_PTR(t);
        return 0;
}

int throttle_set(throttle *t, const pid_t *threads, size_t n, unsigned percentage,
                 ferry_error *reterr) {
        int r = 0;

        if (percentage < 1 || percentage > THROTTLE_MAX || n > THROTTLE_THREADS)
                return ferry_error_set_errno(reterr, -EINVAL, "throttle");
        if (t->n == 0)
                r = save(t);
        t->is_set = true;
        for (size_t i = 0; r == 0 && i < n; i++) {
                char cgroup[64];

                if (i == t->n) {
                        t->n++;
                        cgroup_name(t->pid, i, cgroup);
                        r = make_cgroup(t, i);
                        if (r == 0)
                                r = move_thread(t, cgroup, threads[i]);
                }
                if (r == 0)
                        r = write_quota(t, i, percentage);
        }
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "throttle in %s", t->folder);
        return 0;
}

void throttle_lift(throttle *t) {
        char cgroup[64];

        if (!t || !t->is_set)
                return;
        t->is_set = false;
        for (size_t i = 0; i < t->n; i++) {
                int r;

                cgroup_name(t->pid, i, cgroup);
                r = lift_quota(t, cgroup);
                if (r < 0 && r != -ENOENT)
                        log_error("cgroup %s/%s: its throttle stays: %s", t->folder, cgroup,
                                  strerror(-r));
        }
}

throttle *throttle_free(throttle *t) {
        if (!t)
                return NULL;
        if (t->n > 0)
                remove_all(t);
        fd_close(t->folder_fd);
        fd_close(t->state_dir_fd);
        free(t->folder);
        free(t);
        return NULL;
}

/* By name: how many there are is not known, and some may be gone. */
static bool remove_found(throttle *t) {
        DIR *folder = opendir(t->folder);
        struct dirent *entry;
        char prefix[32];
        bool all = true;

        if (!folder)
                return true;
        snprintf(prefix, sizeof(prefix), "ferry-%d-", (int)t->pid);
        while ((entry = readdir(folder)))
                if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0)
                        all = remove_cgroup(t, entry->d_name) && all;
        closedir(folder);
        return all;
}

void throttle_recover(int state_dir_fd) {
        _cleanup_(throttle_freep) throttle *t = NULL;
        _cleanup_(freep) char *text = NULL;
        int version = 0, pid = 0, at = 0;
        size_t n;

        if (file_read(state_dir_fd, STATE_FILE, PATH_MAX + 64, &text, &n) < 0)
                return;
        if (sscanf(text, "v%d %d %n", &version, &pid, &at) != 2 || version < 1 || version > 2 ||
            pid <= 0 || text[at] != '/' || strstr(text + at, "/../")) {
                log_warning("throttle: what a shim before us has left is not understood");
                return;
        }
        text[at + (int)strcspn(text + at, "\n")] = '\0';
        t = throttle_alloc((pid_t)pid);
        if (t)
                t->folder = strdup(text + at);
        if (!t || !t->folder)
                return;
        t->kind = version == 2 ? THROTTLE_V2 : THROTTLE_V1;
        if (throttle_open(t, state_dir_fd) < 0 || remove_found(t))
                (void)unlinkat(state_dir_fd, STATE_FILE, 0);
        log_info("a throttle that was left in %s is lifted", t->folder);
}
