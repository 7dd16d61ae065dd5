/* SPDX-License-Identifier: MIT */

/* A host that is a state root of this machine. */

#include "cli/peer.h"

#include <fcntl.h>
#include <libgen.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/calls.h"
#include "cli/end.h"
#include "cli/find.h"
#include "cli/host.h"
#include "cli/launch.h"
#include "cli/log-carry.h"
#include "cli/netns.h"
#include "cli/pair.h"
#include "cli/sandbox.h"
#include "cli/socket-pass.h"
#include "cli/target-check.h"
#include "migration/sandbox-images.h"

#define CONNECT_TIMEOUT (10 * USEC_PER_SEC)
#define CLEARED_TIMEOUT (10 * USEC_PER_SEC)
#define CLEARED_STEP    (20 * USEC_PER_MSEC)
#define COPY_STEP       (64L << 20)

typedef struct local_peer {
        peer base;
        host *host;
} local_peer;

static host *host_of(peer *p) {
        return ((local_peer *)p)->host;
}

/* The sandbox's folder, or a file in it. */
static int path_of(const peer *p, const char *name, const char *file, char **ret,
                   ferry_error *reterr) {
        return sandbox_path(p->root, peer_sandbox(p, name), file, ret, reterr);
}

static int start_destination(peer *p, const char *name, const char *namespace,
                             ferry_error *reterr) {
        const launch_containerd containerd = { .namespace = namespace,
                                               .address = p->containerd,
                                               .cache_dir = host_of(p)->cache_dir };
        int r;

        r = sandbox_make(host_of(p)->root, name, reterr);
        if (r < 0)
                return r;
        r = launch_shim(host_of(p), name, NULL, namespace ? &containerd : NULL, reterr);
        if (r < 0)
                (void)sandbox_remove(host_of(p)->root, name, NULL); /* not while a shim holds it */
        return r;
}

static int find_awaiting(peer *p, rpc_group *group, const char *session_id, char **ret,
                         ferry_error *reterr) {
        sandbox_names names;
        int r;

        *ret = NULL;
        r = sandbox_list(host_of(p)->root, &names, reterr);
        for (size_t i = 0; r == 0 && !*ret && i < names.n; i++)
                if (find_is_awaiting(host_of(p)->root, group, names.names[i], session_id)) {
                        *ret = strdup(names.names[i]);
                        r = *ret ? 0 : ferry_error_set_errno(reterr, -ENOMEM, "sandbox");
                }
        sandbox_names_done(&names);
        return r;
}

static int open_shim(peer *p, rpc_group *group, const char *any_name, bool revive,
                     const char *label, rpc **ret, ferry_error *reterr) {
        const char *name = peer_sandbox(p, any_name);
        _cleanup_(freep) char *path = NULL;
        bool has_shim = true;
        int r;

        r = sandbox_check_exists(host_of(p)->root, name, reterr);
        if (r == 0)
                r = sandbox_path(host_of(p)->root, name, "shim.sock", &path, reterr);
        if (r < 0)
                return r;
        r = sandbox_has_shim(host_of(p)->root, name, &has_shim, NULL);
        if (r == 0 && !has_shim) {
                if (!revive)
                        return end_explain_no_shim(host_of(p)->root, name, reterr);
                r = launch_shim(host_of(p), name, NULL, NULL, reterr);
                if (r < 0)
                        return r;
        }
        return rpc_open(group, path, label, ret, reterr);
}

static int give_socket(peer *p, rpc *shim, const char *name, const char *session_id,
                       const char *disk, int fd, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        int r;

        r = path_of(p, name, "fd.sock", &path, reterr);
        return r < 0 ? r : socket_pass(shim, path, session_id, disk, fd, reterr);
}

/* Somebody else may connect to the listener in between: the shims' hello would find that out, and a
 * disk's connection has none. */
static int check_peer(int from_fd, int fd, ferry_error *reterr) {
        struct sockaddr_storage ours = { .ss_family = AF_UNSPEC },
                                theirs = { .ss_family = AF_UNSPEC };
        socklen_t n_ours = sizeof(ours), n_theirs = sizeof(theirs);

        if (getsockname(from_fd, (struct sockaddr *)&ours, &n_ours) < 0 ||
            getpeername(fd, (struct sockaddr *)&theirs, &n_theirs) < 0)
                return ferry_error_set_errno(reterr, -errno, "migration connection");
        if (n_ours != n_theirs || memcmp(&ours, &theirs, n_ours) != 0)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -ECONNREFUSED,
                                       "somebody else has connected in between: try again");
        return 0;
}

/* Both ends over the real network between the hosts' namespaces. */
static int make_connection(const host *from, const host *to, int *ret_from_fd, int *ret_to_fd,
                           ferry_error *reterr) {
        _cleanup_(closep) int from_ns = -EBADF, to_ns = -EBADF, listener = -EBADF, from_fd = -EBADF;
        uint16_t port;
        int fd, r;

        r = netns_open(from->netns, &from_ns, reterr);
        if (r == 0)
                r = netns_open(to->netns, &to_ns, reterr);
        if (r == 0)
                r = netns_listen(to_ns, to->address, &listener, &port, reterr);
        if (r == 0)
                r = netns_connect(from_ns, to->address, port, CONNECT_TIMEOUT, &from_fd, reterr);
        if (r < 0)
                return ferry_error_prefix(reterr, r, "from host %s to host %s", from->name,
                                          to->name);
        fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "migration connection");
        r = check_peer(from_fd, fd, reterr);
        if (r == 0) {
                r = netns_set_nodelay(fd);
                if (r < 0)
                        ferry_error_set_errno(reterr, r, "migration connection");
        }
        if (r < 0) {
                fd_close(fd);
                return r;
        }
        *ret_from_fd = TAKE_FD(from_fd);
        *ret_to_fd = fd;
        return 0;
}

static int connect_from(peer *p, peer *source, rpc *shim, const char *name, const char *session_id,
                        const char *disk, int *ret_source_fd, ferry_error *reterr) {
        _cleanup_(closep) int source_fd = -EBADF, fd = -EBADF;
        int r;

        r = make_connection(host_of(source), host_of(p), &source_fd, &fd, reterr);
        if (r == 0)
                r = give_socket(p, shim, name, session_id, disk, fd, reterr);
        if (r < 0)
                return r;
        *ret_source_fd = TAKE_FD(source_fd);
        return 0;
}

static int probe_link(peer *p, peer *source, link_figures *ret, ferry_error *reterr) {
        _cleanup_(closep) int from_fd = -EBADF, to_fd = -EBADF;
        int r;

        r = make_connection(host_of(source), host_of(p), &from_fd, &to_fd, reterr);
        if (r < 0)
                return r;
        r = link_probe(from_fd, to_fd, ret);
        return r < 0 ? ferry_error_set_errno(reterr, r, "the connection to host %s", p->name) : 0;
}

static int check_incoming(peer *p, const void *state, size_t n, json_t **ret, ferry_error *reterr) {
        return target_check(host_of(p), state, n, ret, reterr);
}

static void remember(peer *p, const char *name, const char *session_id, const peer *other) {
        const char *here = peer_sandbox(p, name), *there;

        if (!session_id) {
                pair_forget(host_of(p)->root, here);
                return;
        }
        there = peer_sandbox(other, name);
        pair_remember(host_of(p)->root, here, session_id, other->root,
                      p->sandbox || other->sandbox ? there : NULL);
}

static void forward(peer *p, const char *name, const peer *other) {
        pair_forward(host_of(p)->root, name, other->root);
        log_carry(host_of(p)->root, peer_sandbox(p, name), other->root, peer_sandbox(other, name));
}

static void remove_images(peer *p, const char *name) {
        _cleanup_(freep) char *state_dir = NULL;

        if (path_of(p, name, NULL, &state_dir, NULL) < 0)
                return;
        sandbox_remove_images(host_of(p)->cache_dir, state_dir);
        if (host_of(p)->disk_root)
                sandbox_remove_images(host_of(p)->disk_root, state_dir);
}

static int clear(peer *p, rpc_group *group, const char *name, ferry_error *reterr) {
        int r = end_empty_shim(host_of(p), group, name, reterr);

        if (r == 0 && p->containerd)
                remove_images(p, name);
        return r;
}

static int wait_cleared(peer *p, rpc_group *group, const char *name, ferry_error *reterr) {
        uint64_t deadline = now_usec() + CLEARED_TIMEOUT;
        int r;

        while (sandbox_check_exists(host_of(p)->root, name, NULL) == 0 && now_usec() < deadline) {
                r = end_pause(group, CLEARED_STEP, reterr);
                if (r < 0)
                        return r;
        }
        return sandbox_check_exists(host_of(p)->root, name, NULL) < 0
                       ? 0
                       : clear(p, group, name, reterr);
}

/* ---- images ---- */

static char *image_path(peer *p, const char *name, const char *digest) {
        _cleanup_(freep) char *state_dir = NULL;

        return path_of(p, name, NULL, &state_dir, NULL) == 0
                       ? sandbox_copy_path(host_of(p)->cache_dir, state_dir, digest)
                       : NULL;
}

/* copy_file_range() is for files alone. */
static ssize_t copy_step(int in, int out, off_t at, size_t n) {
        off_t from = at, to = at;
        ssize_t k = copy_file_range(in, &from, out, &to, n, 0);

        if (k >= 0 || (errno != EINVAL && errno != EXDEV))
                return k;
        return lseek(out, at, SEEK_SET) < 0 ? -1 : sendfile(out, in, &from, n);
}

/* What is a hole there is one here. */
static int copy_content(int in, int out) {
        off_t size = lseek(in, 0, SEEK_END), at = 0;

        if (size < 0 || ftruncate(out, size) < 0)
                return -errno;
        while (at < size) {
                off_t data = lseek(in, at, SEEK_DATA), hole;
                ssize_t n;

                if (data < 0 && errno == ENXIO)
                        return 0;
                at = data < 0 ? at : data; /* a device knows of no holes */
                hole = data < 0 ? size : lseek(in, at, SEEK_HOLE);
                n = copy_step(in, out, at, (size_t)(hole - at < COPY_STEP ? hole - at : COPY_STEP));
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                at += n;
        }
        return 0;
}

static int copy_image(const char *from, const char *to) {
        _cleanup_(closep) int in = open(from, O_RDONLY | O_CLOEXEC), out = -EBADF;
        int r;

        if (in < 0)
                return -errno;
        out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (out < 0)
                return -errno;
        r = copy_content(in, out);
        if (r < 0)
                (void)unlink(to);
        return r;
}

/* A device is not linked: another host has none of that number. */
static int link_or_copy(const char *from, const char *to) {
        struct stat st;

        if (stat(from, &st) < 0)
                return -errno;
        if (S_ISREG(st.st_mode) && link(from, to) == 0)
                return 0;
        return S_ISREG(st.st_mode) && errno != EXDEV ? -errno : copy_image(from, to);
}

static int take_image(peer *p, const char *name, const char *path, const char *digest,
                      ferry_error *reterr) {
        _cleanup_(freep) char *to = image_path(p, name, digest);
        int r = 0;

        if (!to)
                return ferry_error_set_errno(reterr, -ENOMEM, "image");
        if (mkdir(host_of(p)->cache_dir, 0700) < 0 && errno != EEXIST)
                return ferry_error_set_errno(reterr, -errno, "cache folder %s of host %s",
                                             host_of(p)->cache_dir, p->name);
        (void)unlink(to);
        r = link_or_copy(path, to);
        return r < 0 ? ferry_error_set_errno(reterr, r, "a container's root (%s) to host %s", path,
                                             p->name)
                     : 0;
}

static void drop_image(peer *p, const char *name, const char *digest) {
        _cleanup_(freep) char *path = image_path(p, name, digest);

        if (path)
                (void)unlink(path);
}

static peer *local_free(peer *p) {
        local_peer *l = (local_peer *)p;

        host_free(l->host);
        free(p->name);
        free(p->root);
        free(p->sandbox);
        free(l);
        return NULL;
}

static const peer_operations operations = {
        .start_destination = start_destination,
        .find_awaiting = find_awaiting,
        .open = open_shim,
        .connect = connect_from,
        .probe_link = probe_link,
        .check_incoming = check_incoming,
        .remember = remember,
        .forward = forward,
        .give_socket = give_socket,
        .clear = clear,
        .wait_cleared = wait_cleared,
        .take_image = take_image,
        .drop_image = drop_image,
        .free = local_free,
};

int peer_open(const char *target, peer **ret, ferry_error *reterr) {
        _cleanup_(host_freep) host *h = NULL;
        local_peer *l;
        int r;

        if (target[0] != '/')
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "'%.128s' is no absolute path of a state root on this "
                                       "machine; other machines need ferry's node agent, which "
                                       "this version does not have",
                                       target);
        r = host_read(target, &h, reterr);
        if (r < 0)
                return r;
        l = calloc(1, sizeof(*l));
        if (!l)
                return ferry_error_set_errno(reterr, -ENOMEM, "host");
        l->base.operations = &operations;
        l->base.name = strdup(h->is_set ? h->name : target);
        l->base.root = strdup(target);
        l->base.containerd = h->containerd;
        l->host = TAKE_PTR(h);
        if (!l->base.name || !l->base.root) {
                local_free(&l->base);
                return ferry_error_set_errno(reterr, -ENOMEM, "host");
        }
        *ret = &l->base;
        return 0;
}

int peer_check_target(const char *target, ferry_error *reterr) {
        _cleanup_(freep) char *parent = NULL;
        struct stat st;

        if (target[0] != '/' || (stat(target, &st) == 0 && S_ISDIR(st.st_mode)))
                return 0; /* the rest is for peer_open() */
        parent = strdup(target);
        if (!parent)
                return ferry_error_set_errno(reterr, -ENOMEM, "host");
        if (stat(target, &st) == 0 || errno == ENOTDIR)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -ENOTDIR,
                                       "--to %s: is no folder", target);
        if (errno == ENOENT && stat(dirname(parent), &st) < 0)
                return ferry_error_set_errno(reterr, -errno, "--to %s: %s", target, parent);
        return 0;
}
