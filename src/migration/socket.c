/* SPDX-License-Identifier: MIT */
#include "migration/socket.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "socket.pb-c.h"

#define MAGIC           0x46455252U
#define VERSION         1U
#define INFO_MAX        4096U
#define STORE_MAX       64U
#define STORE_USEC      (60 * USEC_PER_SEC)
#define USER_TIMEOUT_MS 30000
/* What waits in the kernel for a slower link is sent while the guest stands: 35 ms at 1 Gbit/s with
 * the kernel's own choice of buffer. This is 2 ms there, and no copy was seen to be slower for it.
 */
#define UNSENT_BYTES 262144

int migration_socket_parse(const uint8_t *data, size_t n, migration_socket_source *ret,
                           ferry_error *reterr) {
        Ferry__Socket__V1__ProtocolInfo *info = NULL;
        const char *problem = NULL;

        if (n > 0 && n <= INFO_MAX)
                info = ferry__socket__v1__protocol_info__unpack(NULL, n, data);
        if (!info || info->magic != MAGIC)
                problem = "is not a ferry.socket.v1.ProtocolInfo";
        else if (info->version != VERSION)
                problem = "has an unknown version";
        else if (info->source_case == FERRY__SOCKET__V1__PROTOCOL_INFO__SOURCE_PROCESS_FD) {
                if (info->process_fd->pid > INT32_MAX || info->process_fd->fd > INT32_MAX)
                        problem = "names an impossible pid or descriptor";
                else
                        *ret = (migration_socket_source){
                                .pid = (pid_t)info->process_fd->pid,
                                .fd = (int)info->process_fd->fd,
                        };
        } else if (info->source_case == FERRY__SOCKET__V1__PROTOCOL_INFO__SOURCE_TOKEN) {
                if (info->token.len == 0 || info->token.len > MIGRATION_SOCKET_TOKEN_MAX)
                        problem = "has a token that is empty or over 64 bytes";
                else {
                        *ret = (migration_socket_source){
                                .by_token = true,
                                .n_token = info->token.len,
                        };
                        memcpy(ret->token, info->token.data, info->token.len);
                }
        } else
                problem = "names no source";
        if (!problem && strlen(info->disk) > VM_CONFIG_SERIAL_MAX)
                problem = "names a disk with too long a serial";
        else if (!problem)
                strcpy(ret->disk, info->disk);
        if (info)
                ferry__socket__v1__protocol_info__free_unpacked(info, NULL);
        if (problem)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "protocol_info %s",
                                       problem);
        return 0;
}

/* Pids are reused: a process is its pid and its start time. */
static int start_time(pid_t pid, unsigned long long *ret) {
        _cleanup_(freep) char *text = NULL;
        char path[64], *at;
        int r;

        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        r = file_read(AT_FDCWD, path, 4096, &text, NULL);
        if (r < 0)
                return r;
        at = strrchr(text, ')'); /* the name before it may hold anything */
        for (int field = 2; at && field < 22; field++)
                at = strchr(at + 1, ' ');
        if (!at || sscanf(at, " %llu", ret) != 1)
                return -EBADMSG;
        return 0;
}

int migration_socket_from_process(const migration_socket_source *source, const migration_peer *peer,
                                  int *ret_fd, ferry_error *reterr) {
        pid_t pid = source->pid ? source->pid : peer->pid;
        _cleanup_(closep) int pidfd = -EBADF, fd = -EBADF;
        unsigned long long before, after;
        int r;

        if (pid <= 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ESRCH,
                                       "the caller's process is not known here (another pid "
                                       "namespace?): send the descriptor to the fd socket and "
                                       "name its token");
        if (pid != peer->pid && peer->uid != 0)
                return ferry_error_set(reterr, FERRY_PERMISSION_DENIED, -EPERM,
                                       "process %d is not the caller", (int)pid);
        r = start_time(pid, &before);
        if (r < 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, r, "no process %d",
                                       (int)pid);
        pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (pidfd >= 0)
                fd = (int)syscall(SYS_pidfd_getfd, pidfd, source->fd, 0);
        r = fd < 0 ? -errno : 0;
        if (r == -EBADF)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, r,
                                       "process %d has no descriptor %d", (int)pid, source->fd);
        if (r < 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, r,
                                       "taking descriptor %d of process %d: %s; send it to the fd "
                                       "socket and name its token",
                                       source->fd, (int)pid, strerror(-r));
        r = start_time(pid, &after);
        if (r < 0 || before != after)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ESRCH,
                                       "process %d ended meanwhile", (int)pid);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int get_int(int fd, int level, int option, int *ret) {
        socklen_t n = sizeof(*ret);

        return getsockopt(fd, level, option, ret, &n) < 0 ? -errno : 0;
}

int migration_socket_check(int fd, ferry_error *reterr) {
        struct sockaddr_storage address;
        socklen_t n = sizeof(address);
        int type = 0, pending = 0, on = 1, idle = 5, interval = 5, count = 4;
        int timeout = USER_TIMEOUT_MS, unsent = UNSENT_BYTES;

        if (get_int(fd, SOL_SOCKET, SO_TYPE, &type) < 0 || type != SOCK_STREAM)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOTSOCK,
                                       "the descriptor is not a stream socket");
        if (getpeername(fd, (struct sockaddr *)&address, &n) < 0 ||
            get_int(fd, SOL_SOCKET, SO_ERROR, &pending) < 0 || pending != 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOTCONN,
                                       "the socket is not connected");
        if (address.ss_family == AF_INET || address.ss_family == AF_INET6) {
                struct tcp_info info;
                socklen_t n_info = sizeof(info);

                if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n_info) < 0 ||
                    info.tcpi_state != TCP_ESTABLISHED)
                        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOTCONN,
                                               "the TCP connection is not established");
                (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
                (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
                (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
                (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
                (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
                (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
                (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
        } else if (address.ss_family != AF_UNIX)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOTSOCK,
                                       "the socket is neither TCP nor unix");
        return fd_set_cloexec(fd, true);
}

/* ---- the fd socket ---- */

typedef struct stored {
        uint8_t token[MIGRATION_SOCKET_TOKEN_MAX];
        size_t n_token;
        int fd;
        uint64_t expires_usec;
} stored;

typedef struct fd_connection {
        fd_store *store;
        struct fd_connection *next;
        int fd;
        uint64_t expires_usec;
        sd_event_source *io;
} fd_connection;

struct fd_store {
        sd_event *event;
        int fd;
        sd_event_source *io, *timer;
        stored stored[STORE_MAX];
        size_t n_stored;
        fd_connection *connections;
        size_t n_connections;
};

static void drop_stored(fd_store *store, size_t i) {
        fd_close(store->stored[i].fd);
        store->stored[i] = store->stored[--store->n_stored];
}

static void drop_connection(fd_connection *c) {
        for (fd_connection **at = &c->store->connections; *at; at = &(*at)->next)
                if (*at == c) {
                        *at = c->next;
                        c->store->n_connections--;
                        break;
                }
        sd_event_source_disable_unref(c->io);
        fd_close(c->fd);
        free(c);
}

static int on_store_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        fd_store *store = userdata;
        uint64_t now = now_usec();
        fd_connection *next;

        for (size_t i = store->n_stored; i > 0; i--)
                if (store->stored[i - 1].expires_usec <= now)
                        drop_stored(store, i - 1);
        for (fd_connection *c = store->connections; c; c = next) {
                next = c->next;
                if (c->expires_usec <= now)
                        drop_connection(c);
        }
        if (store->n_stored == 0 && !store->connections) {
                store->timer = sd_event_source_disable_unref(store->timer);
                return 0;
        }
        (void)sd_event_source_set_time(source, now + USEC_PER_SEC);
        (void)sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

static void want_timer(fd_store *store) {
        if (!store->timer)
                (void)sd_event_add_time_relative(store->event, &store->timer, CLOCK_MONOTONIC,
                                                 USEC_PER_SEC, 0, on_store_timer, store);
}

static int store_fd(fd_store *store, const uint8_t *token, size_t n, int fd_consume) {
        _cleanup_(closep) int fd = fd_consume;
        stored *entry;

        if (store->n_stored == STORE_MAX)
                return -EBUSY;
        for (size_t i = 0; i < store->n_stored; i++)
                if (store->stored[i].n_token == n && !memcmp(store->stored[i].token, token, n))
                        return -EEXIST;
        entry = &store->stored[store->n_stored++];
        *entry = (stored){ .n_token = n, .expires_usec = now_usec() + STORE_USEC };
        memcpy(entry->token, token, n);
        entry->fd = TAKE_FD(fd);
        return 0;
}

static int receive_stored(fd_store *store, int connection) {
        uint8_t data[2 + MIGRATION_SOCKET_TOKEN_MAX];
        int fds[1];
        size_t n_fds = 0;
        ssize_t n = fd_receive(connection, data, sizeof(data), fds, ELEMENTS(fds), &n_fds);

        if (n < 0)
                return (int)n;
        if (n_fds != 1)
                return -EBADMSG;
        if (n < 2 || data[0] == 0 || data[0] > MIGRATION_SOCKET_TOKEN_MAX || n != 1 + data[0]) {
                fd_close(fds[0]);
                return -EBADMSG;
        }
        return store_fd(store, data + 1, data[0], fds[0]);
}

static int on_connection(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        fd_connection *c = userdata;
        uint8_t answer = 0;
        int r;

        r = receive_stored(c->store, fd);
        if (r == -EAGAIN)
                return 0;
        if (r < 0) {
                log_warning("fd socket: a descriptor was refused: %s", strerror(-r));
                answer = 1;
        }
        want_timer(c->store);
        (void)send(fd, &answer, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        drop_connection(c);
        return 0;
}

static bool may_store(int fd) {
        struct ucred peer;
        socklen_t n = sizeof(peer);

        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) == 0 &&
               (peer.uid == geteuid() || peer.uid == 0);
}

static int on_accept(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        fd_store *store = userdata;
        _cleanup_(closep) int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        fd_connection *c;

        if (connection < 0)
                return 0;
        if (!may_store(connection) || store->n_connections == STORE_MAX)
                return 0;
        c = malloc(sizeof(*c));
        if (!c)
                return 0;
        *c = (fd_connection){
                .store = store,
                .next = store->connections,
                .fd = connection,
                .expires_usec = now_usec() + STORE_USEC,
        };
        if (sd_event_add_io(store->event, &c->io, connection, EPOLLIN, on_connection, c) < 0) {
                free(c);
                return 0;
        }
        TAKE_FD(connection);
        store->connections = c;
        store->n_connections++;
        want_timer(store);
        return 0;
}

int fd_store_new(sd_event *event, int listen_fd_consume, fd_store **ret) {
        _cleanup_(closep) int fd = listen_fd_consume;
        _cleanup_(fd_store_freep) fd_store *store = calloc(1, sizeof(*store));
        int r;

        if (!store)
                return -ENOMEM;
        store->event = sd_event_ref(event);
        store->fd = TAKE_FD(fd);
        r = sd_event_add_io(event, &store->io, store->fd, EPOLLIN, on_accept, store);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(store);
        return 0;
}

fd_store *fd_store_free(fd_store *store) {
        if (!store)
                return NULL;
        while (store->connections)
                drop_connection(store->connections);
        while (store->n_stored > 0)
                drop_stored(store, store->n_stored - 1);
        sd_event_source_disable_unref(store->io);
        sd_event_source_disable_unref(store->timer);
        fd_close(store->fd);
        sd_event_unref(store->event);
        free(store);
        return NULL;
}

int fd_store_take(fd_store *store, const uint8_t *token, size_t n, int *ret_fd) {
        for (size_t i = 0; i < store->n_stored; i++)
                if (store->stored[i].n_token == n && !memcmp(store->stored[i].token, token, n)) {
                        *ret_fd = store->stored[i].fd;
                        store->stored[i] = store->stored[--store->n_stored];
                        return 0;
                }
        return -ENOENT;
}
