/* SPDX-License-Identifier: MIT */
/* Listeners, connections, and the one epoll that holds them. The model is in server-internal.h. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "ttrpc/clock.h"
#include "ttrpc/server-internal.h"

#define EVENTS_MAX        32
#define ACCEPTS_MAX       8             /* a turn */
#define READS_MAX         8             /* a turn, so that one peer does not starve the others */
#define BATCH_MAX         (64U * 1024)  /* answers of one turn go out together, up to this */
#define ACCEPT_AGAIN_USEC (100U * 1000) /* after accept() failed, out of descriptors mostly */

/* ---- writing ---- */

void ttrpc_server_mark_broken(server_conn *conn) {
        conn->broken = true;
        conn->server->any_broken = true;
}

/* From half of what gets a peer cut off we read no more of its requests. A peer that reads its
 * answers never comes to the other half, however many requests it sends ahead. */
static bool is_full(const server_conn *conn) {
        return ttrpc_conn_queued(&conn->io) > conn->server->max_queued / 2;
}

static void update_events(server_conn *conn) {
        bool reads = !conn->half_closed && !is_full(conn);
        bool writes = ttrpc_conn_queued(&conn->io) > 0 || conn->wants_room || conn->backlog;
        struct epoll_event e = {
                .events = (reads ? EPOLLIN : 0U) | (writes ? EPOLLOUT : 0U),
                .data.ptr = conn,
        };

        if (e.events == conn->events || conn->broken)
                return;
        if (epoll_ctl(conn->server->epoll, EPOLL_CTL_MOD, conn->io.fd, &e) == 0)
                conn->events = e.events;
        else
                ttrpc_server_mark_broken(conn);
}

static void flush(server_conn *conn) {
        if (!conn->broken && ttrpc_conn_flush(&conn->io) < 0)
                ttrpc_server_mark_broken(conn);
}

void ttrpc_server_written(server_conn *conn) {
        bool in_batch = conn == conn->server->in_batch;

        if (!in_batch || ttrpc_conn_queued(&conn->io) >= BATCH_MAX)
                flush(conn);
        if (!in_batch)
                update_events(conn);
        if (ttrpc_conn_queued(&conn->io) > conn->server->max_queued)
                ttrpc_server_mark_broken(conn); /* it does not read */
}

void ttrpc_server_check_idle(server_conn *conn) {
        if ((conn->server->closing || conn->half_closed) && conn != conn->server->in_batch &&
            !conn->calls && !conn->backlog && ttrpc_conn_queued(&conn->io) == 0)
                ttrpc_server_mark_broken(conn);
}

/* ---- connections ---- */

/* SO_PEERCRED answers for other sockets too, with nobody. */
static bool get_peer(int fd, struct ucred *ret) {
        socklen_t n = sizeof(*ret), n_domain = sizeof(int);
        int domain;

        return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n_domain) == 0 &&
               domain == AF_UNIX && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, ret, &n) == 0;
}

static bool may_connect(const ttrpc_server *server, const server_conn *conn) {
        if (server->uid == (uid_t)-1)
                return true;
        return conn->has_peer && (conn->peer.uid == server->uid || conn->peer.uid == 0);
}

static int watch(ttrpc_server *server, int fd, void *source) {
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = source };

        return epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

EXPORT int ttrpc_server_add_connection(ttrpc_server *server, int fd_consume) {
        server_conn *conn;
        int r;

        if (server->closing || server->n_conns >= server->max_conns) {
                close(fd_consume);
                return server->closing ? -ESHUTDOWN : -EMFILE;
        }
        conn = malloc(sizeof(*conn));
        if (!conn) {
                close(fd_consume);
                return -ENOMEM;
        }
        *conn = (server_conn){ .server = server, .events = EPOLLIN };
        r = ttrpc_conn_init(&conn->io, fd_consume);
        if (r < 0) {
                free(conn);
                return r;
        }
        conn->has_peer = get_peer(conn->io.fd, &conn->peer);
        r = may_connect(server, conn) ? watch(server, conn->io.fd, conn) : -EACCES;
        if (r < 0) {
                ttrpc_conn_done(&conn->io);
                free(conn);
                return r;
        }
        conn->next = server->conns;
        server->conns = conn;
        server->n_conns++;
        return 0;
}

static void close_conn(server_conn *conn) {
        ttrpc_server *server = conn->server;

        for (server_conn **at = &server->conns; *at; at = &(*at)->next)
                if (*at == conn) {
                        *at = conn->next;
                        server->n_conns--;
                        break;
                }
        conn->broken = true;
        while (conn->calls)
                ttrpc_call_cut_loose(conn->calls);
        ttrpc_conn_done(&conn->io);
        free(conn);
}

static server_conn *next_broken(const ttrpc_server *server) {
        for (server_conn *conn = server->conns; conn; conn = conn->next)
                if (conn->broken)
                        return conn;
        return NULL;
}

static void close_broken(ttrpc_server *server) {
        server_conn *conn;

        if (!server->any_broken)
                return;
        /* a call's on_gone may break others */
        while ((conn = next_broken(server)))
                close_conn(conn);
        server->any_broken = false;
}

/* ---- reading ---- */

/* The frames that have come in, as long as there is room for answers. */
static void receive_frames(server_conn *conn) {
        ttrpc_frame_header header;
        const uint8_t *data;
        int r = 0;

        while (!conn->broken && !is_full(conn) &&
               (r = ttrpc_conn_next(&conn->io, &header, &data)) > 0)
                ttrpc_server_receive(conn, &header, data, r == 2);
        conn->backlog = r > 0 || is_full(conn);
        if (r < 0) {
                flush(conn);
                ttrpc_server_mark_broken(conn);
        }
}

/* The peer writes no more. A unix socket says whether it still reads (else there is a hang-up):
 * then it gets its answers. */
static void receive_end(server_conn *conn, bool hung_up) {
        flush(conn);
        if (hung_up || !conn->has_peer)
                ttrpc_server_mark_broken(conn);
        else
                conn->half_closed = true;
}

static void read_conn(server_conn *conn, bool hung_up) {
        if (conn->backlog)
                receive_frames(conn);
        if (conn->half_closed && hung_up)
                ttrpc_server_mark_broken(conn);
        for (unsigned i = 0; i < READS_MAX && !conn->broken && !conn->half_closed && !is_full(conn);
             i++) {
                int r = ttrpc_conn_read(&conn->io);

                if (r == 0)
                        return;
                if (r == -ENOTCONN)
                        receive_end(conn, hung_up);
                else if (r < 0)
                        ttrpc_server_mark_broken(conn);
                else
                        receive_frames(conn);
                if (conn->io.drained)
                        return;
        }
}

static void serve_conn(server_conn *conn, uint32_t events) {
        if (conn->broken)
                return;
        flush(conn);
        conn->server->in_batch = conn;
        read_conn(conn, events & (EPOLLHUP | EPOLLERR));
        flush(conn);
        ttrpc_call_offer_room(conn);
        conn->server->in_batch = NULL;
        flush(conn);
        ttrpc_server_check_idle(conn);
        update_events(conn);
}

/* ---- listeners ---- */

static void set_accepting(ttrpc_server *server, bool on) {
        for (server_listener *l = server->listeners; l; l = l->next) {
                struct epoll_event e = { .events = on ? EPOLLIN : 0, .data.ptr = l };

                if (l->fd >= 0)
                        (void)epoll_ctl(server->epoll, EPOLL_CTL_MOD, l->fd, &e);
        }
        server->accept_again = on ? TTRPC_NEVER : ttrpc_later(ttrpc_now(), ACCEPT_AGAIN_USEC);
}

static void accept_some(ttrpc_server *server, const server_listener *listener) {
        for (unsigned i = 0; i < ACCEPTS_MAX && listener->fd >= 0; i++) {
                int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

                if (fd >= 0)
                        (void)ttrpc_server_add_connection(server, fd);
                else if (errno == EAGAIN || errno == EWOULDBLOCK)
                        return;
                else if (errno != EINTR && errno != ECONNABORTED) {
                        /* it would fail at once again and again */
                        set_accepting(server, false);
                        return;
                }
        }
}

EXPORT int ttrpc_server_listen(ttrpc_server *server, int fd_consume) {
        server_listener *listener = NULL;
        ttrpc_conn io; /* only to make it non-blocking */
        int r;

        r = ttrpc_conn_init(&io, fd_consume);
        if (r < 0)
                return r;
        if (server->closing)
                r = -ESHUTDOWN;
        if (r == 0) {
                listener = malloc(sizeof(*listener));
                r = listener ? watch(server, io.fd, listener) : -ENOMEM;
        }
        if (r < 0) {
                ttrpc_conn_done(&io);
                free(listener);
                return r;
        }
        *listener = (server_listener){
                .is_listener = true,
                .next = server->listeners,
                .fd = io.fd,
        };
        server->listeners = listener;
        return 0;
}

/* Their memory stays until no event can point to it. */
static void close_listeners(ttrpc_server *server) {
        for (server_listener *l = server->listeners; l; l = l->next) {
                if (l->fd >= 0)
                        close(l->fd);
                l->fd = -1;
        }
        server->accept_again = TTRPC_NEVER;
}

static void free_listeners(ttrpc_server *server) {
        while (server->listeners) {
                server_listener *listener = server->listeners;

                server->listeners = listener->next;
                free(listener);
        }
}

/* ---- the server ---- */

EXPORT int ttrpc_server_new(ttrpc_server **ret) {
        ttrpc_server *server = malloc(sizeof(*server));

        if (!server)
                return -ENOMEM;
        *server = (ttrpc_server){
                .epoll = epoll_create1(EPOLL_CLOEXEC),
                .max_conns = 1024,
                .max_calls = 1024,
                .max_queued = 16U * 1024 * 1024,
                .uid = (uid_t)-1,
                .next_deadline = TTRPC_NEVER,
                .accept_again = TTRPC_NEVER,
        };
        if (server->epoll < 0) {
                int r = -errno;

                free(server);
                return r;
        }
        *ret = server;
        return 0;
}

EXPORT ttrpc_server *ttrpc_server_free(ttrpc_server *server) {
        if (!server)
                return NULL;
        server->closing = true;
        close_listeners(server);
        free_listeners(server);
        while (server->conns)
                close_conn(server->conns);
        close(server->epoll);
        free(server->entries);
        free(server);
        return NULL;
}

EXPORT int ttrpc_server_register(ttrpc_server *server, const ttrpc_service *service,
                                 const void *methods, void *userdata) {
        server_entry *more = realloc(server->entries, (server->n_entries + 1) * sizeof(*more));

        if (!more)
                return -ENOMEM;
        server->entries = more;
        server->entries[server->n_entries++] = (server_entry){ service, methods, userdata };
        return 0;
}

EXPORT int ttrpc_server_set_limits(ttrpc_server *server, size_t connections, size_t calls,
                                   size_t queued_bytes) {
        if (connections > 0)
                server->max_conns = connections;
        if (calls > 0)
                server->max_calls = calls;
        if (queued_bytes > 0)
                server->max_queued = queued_bytes;
        return 0;
}

EXPORT void ttrpc_server_set_uid(ttrpc_server *server, uid_t uid) {
        server->uid = uid;
}

EXPORT int ttrpc_server_get_fd(const ttrpc_server *server) {
        return server->epoll;
}

EXPORT uint64_t ttrpc_server_get_timeout(const ttrpc_server *server) {
        if (server->any_broken)
                return 0;
        return server->accept_again < server->next_deadline ? server->accept_again
                                                            : server->next_deadline;
}

/* One whose deadline has passed, or NULL and the next deadline of all. */
static ttrpc_call *next_late(const ttrpc_server *server, uint64_t now, uint64_t *ret_next) {
        *ret_next = TTRPC_NEVER;
        for (server_conn *conn = server->conns; conn; conn = conn->next)
                for (ttrpc_call *call = conn->calls; call; call = call->next) {
                        if (call->deadline <= now)
                                return call;
                        if (call->deadline < *ret_next)
                                *ret_next = call->deadline;
                }
        return NULL;
}

static void expire(ttrpc_server *server) {
        uint64_t now;

        if (server->next_deadline == TTRPC_NEVER && server->accept_again == TTRPC_NEVER)
                return;
        now = ttrpc_now();
        if (now >= server->accept_again)
                set_accepting(server, true);
        if (now >= server->next_deadline) {
                ttrpc_call *late;
                uint64_t next;

                while ((late = next_late(server, now, &next))) {
                        server_conn *conn = late->conn;

                        ttrpc_server_put_status(conn, late->stream_id, TTRPC_DEADLINE_EXCEEDED,
                                                "context deadline exceeded");
                        ttrpc_call_cut_loose(late);
                        ttrpc_server_check_idle(conn);
                }
                server->next_deadline = next;
        }
}

EXPORT int ttrpc_server_process(ttrpc_server *server) {
        struct epoll_event events[EVENTS_MAX];
        int n;

        if (server->processing)
                return -EBUSY;
        n = epoll_wait(server->epoll, events, EVENTS_MAX, 0);
        if (n < 0 && errno != EINTR)
                return -errno;
        server->processing = true;
        for (int i = 0; i < n; i++) {
                const bool *is_listener = events[i].data.ptr;

                if (*is_listener)
                        accept_some(server, events[i].data.ptr);
                else
                        serve_conn(events[i].data.ptr, events[i].events);
        }
        expire(server);
        close_broken(server);
        if (server->closing)
                free_listeners(server);
        server->processing = false;
        return 0;
}

EXPORT void ttrpc_server_shutdown(ttrpc_server *server) {
        server->closing = true;
        close_listeners(server);
        for (server_conn *conn = server->conns; conn; conn = conn->next)
                ttrpc_server_check_idle(conn);
}

EXPORT size_t ttrpc_server_get_pending(const ttrpc_server *server) {
        size_t n = 0;

        for (const server_conn *conn = server->conns; conn; conn = conn->next)
                if (!conn->broken)
                        n += conn->n_calls + (ttrpc_conn_queued(&conn->io) > 0);
        return n;
}
