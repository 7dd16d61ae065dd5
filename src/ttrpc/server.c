/* SPDX-License-Identifier: MIT */
/*
 * One epoll holds the listeners and the connections. A connection is closed only at the top of
 * process() or in free(): whoever finds it dead elsewhere marks it (`broken`), so that no frame of
 * ours works on freed memory.
 *
 * The connection's list of calls does not own them: the handler does, by its references. When a
 * connection ends, its calls are cut loose (conn = NULL) and told.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ttrpc/clock.h"
#include "ttrpc/conn.h"
#include "ttrpc/envelope.h"
#include "ttrpc/ttrpc.h"

#define EXPORT __attribute__((visibility("default")))

#define EVENTS_MAX  32
#define READS_MAX   8             /* a turn, so that one peer does not starve the others */
#define STREAM_HIGH (256U * 1024) /* a stream's send is refused from here */
#define STREAM_LOW  (64U * 1024)  /* and asked for again below this */
#define MESSAGE_MAX 4096U         /* of a status, in bytes */

typedef struct server_conn server_conn;

typedef struct entry {
        const ttrpc_service *service;
        const void *methods;
        void *userdata;
} entry;

struct server_conn {
        bool is_listener; /* first in both: what epoll's pointer points to */
        ttrpc_server *server;
        server_conn *next;
        ttrpc_conn io;
        ttrpc_call *calls;
        size_t n_calls;
        uint32_t last_id;
        uint32_t events;
        bool broken;
        bool has_peer;
        struct ucred peer;
};

typedef struct listener_source {
        bool is_listener;
        struct listener_source *next;
        int fd;
} listener_source;

struct ttrpc_server {
        int epoll;
        listener_source *listeners;
        server_conn *conns;
        size_t n_conns;
        entry *entries; /* newest last; looked at from the end */
        size_t n_entries;
        size_t max_conns, max_calls, max_queued;
        uid_t uid;
        server_conn *reading; /* whose frames are being handled; its answers go out together */
        bool closing, any_broken;
        uint64_t next_deadline;
};

struct ttrpc_call {
        unsigned n_ref;
        server_conn *conn; /* NULL once it has gone, or the call was answered */
        ttrpc_call *next;
        uint32_t stream_id;
        bool is_stream, answered, gone, wants_room;
        uint64_t deadline;
        bool has_peer;
        struct ucred peer;
        void (*on_gone)(ttrpc_call *call, void *userdata);
        void (*on_writable)(ttrpc_call *call, void *userdata);
        void *userdata;
        const char *service, *method;
        ttrpc_pair *metadata;
        size_t n_metadata;
        char text[]; /* all strings */
};

/* ---- writing ---- */

static void mark_broken(server_conn *conn) {
        conn->broken = true;
        conn->server->any_broken = true;
}

static void update_events(server_conn *conn) {
        uint32_t events = EPOLLIN | (ttrpc_conn_queued(&conn->io) > 0 ? EPOLLOUT : 0);
        struct epoll_event e = { .events = events, .data.ptr = conn };

        if (events == conn->events || conn->broken)
                return;
        if (epoll_ctl(conn->server->epoll, EPOLL_CTL_MOD, conn->io.fd, &e) == 0)
                conn->events = events;
        else
                mark_broken(conn);
}

/* Inside process() what one read has caused goes out together, at its end. */
static void written(server_conn *conn) {
        if (conn != conn->server->reading) {
                if (ttrpc_conn_flush(&conn->io) < 0)
                        mark_broken(conn);
                update_events(conn);
        }
        if (ttrpc_conn_queued(&conn->io) > conn->server->max_queued)
                mark_broken(conn); /* it does not read */
}

static int put_response(server_conn *conn, uint32_t stream_id, const ttrpc_response *p) {
        size_t size = ttrpc_response_size(p);
        uint8_t *at;

        if (size > TTRPC_MESSAGE_MAX)
                return -EMSGSIZE;
        at = ttrpc_conn_put(&conn->io, stream_id, TTRPC_FRAME_RESPONSE, 0, size);
        if (!at) {
                /* without memory for an answer the peer would wait for ever */
                mark_broken(conn);
                return -ENOMEM;
        }
        ttrpc_response_format(p, at);
        written(conn);
        return 0;
}

static void put_status(server_conn *conn, uint32_t stream_id, int32_t code, const char *message) {
        ttrpc_response p = { .code = code, .message = { message, strlen(message) } };

        (void)put_response(conn, stream_id, &p);
}

/* ---- calls ---- */

static void unlink_call(ttrpc_call *call) {
        server_conn *conn = call->conn;

        if (!conn)
                return;
        for (ttrpc_call **at = &conn->calls; *at; at = &(*at)->next)
                if (*at == call) {
                        *at = call->next;
                        conn->n_calls--;
                        break;
                }
        call->conn = NULL;
}

EXPORT ttrpc_call *ttrpc_call_ref(ttrpc_call *call) {
        call->n_ref++;
        return call;
}

EXPORT ttrpc_call *ttrpc_call_unref(ttrpc_call *call) {
        if (!call || --call->n_ref > 0)
                return NULL;
        if (!call->answered && call->conn)
                put_status(call->conn, call->stream_id, TTRPC_INTERNAL,
                           "the server dropped the call");
        unlink_call(call);
        free(call->metadata);
        free(call);
        return NULL;
}

/* The peer will hear no more of it: tell who works on it. */
static void cut_loose(ttrpc_call *call) {
        unlink_call(call);
        if (call->answered)
                return;
        call->answered = call->gone = true;
        ttrpc_call_ref(call);
        if (call->on_gone)
                call->on_gone(call, call->userdata);
        ttrpc_call_unref(call);
}

/* 0: it is ours to answer. */
static int may_answer(const ttrpc_call *call) {
        if (call->gone)
                return -ENOTCONN;
        return call->answered ? -EALREADY : 0;
}

static void answered(ttrpc_call *call) {
        call->answered = true;
        unlink_call(call);
}

EXPORT int ttrpc_call_reply(ttrpc_call *call, const uint8_t *payload, size_t n) {
        ttrpc_response p = { .message = { "", 0 }, .payload = payload, .n_payload = n };
        char text[128];
        int r = may_answer(call);

        if (r < 0)
                return r;
        r = put_response(call->conn, call->stream_id, &p);
        if (r == -EMSGSIZE) {
                snprintf(text, sizeof(text), "message length %zu exceed maximum message size of %u",
                         n, TTRPC_MESSAGE_MAX);
                put_status(call->conn, call->stream_id, TTRPC_RESOURCE_EXHAUSTED, text);
        }
        answered(call);
        return r;
}

/* Our own texts are UTF-8; what they quote may not be. */
static void make_utf8(char *text) {
        if (ttrpc_utf8_is_valid(text, strlen(text)))
                return;
        for (char *c = text; *c; c++)
                if ((unsigned char)*c >= 0x80)
                        *c = '?';
}

EXPORT int ttrpc_call_fail(ttrpc_call *call, int32_t code, const char *format, ...) {
        char text[MESSAGE_MAX];
        va_list ap;
        int r = may_answer(call);

        if (r < 0)
                return r;
        va_start(ap, format);
        vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        make_utf8(text);
        put_status(call->conn, call->stream_id, code == TTRPC_OK ? TTRPC_UNKNOWN : code, text);
        answered(call);
        return 0;
}

EXPORT int ttrpc_call_send(ttrpc_call *call, const uint8_t *payload, size_t n) {
        uint8_t *at;
        int r = may_answer(call);

        if (r < 0)
                return r;
        if (n > TTRPC_MESSAGE_MAX)
                return -EMSGSIZE;
        if (ttrpc_conn_queued(&call->conn->io) >= STREAM_HIGH) {
                call->wants_room = true;
                return -EAGAIN;
        }
        at = ttrpc_conn_put(&call->conn->io, call->stream_id, TTRPC_FRAME_DATA, 0, n);
        if (!at)
                return -ENOMEM;
        if (n > 0)
                memcpy(at, payload, n);
        written(call->conn);
        return 0;
}

EXPORT int ttrpc_call_finish(ttrpc_call *call) {
        int r = may_answer(call);

        if (r < 0)
                return r;
        if (!ttrpc_conn_put(&call->conn->io, call->stream_id, TTRPC_FRAME_DATA,
                            TTRPC_FLAG_REMOTE_CLOSED | TTRPC_FLAG_NO_DATA, 0))
                mark_broken(call->conn);
        else
                written(call->conn);
        answered(call);
        return 0;
}

EXPORT void ttrpc_call_set_callbacks(ttrpc_call *call,
                                     void (*on_gone)(ttrpc_call *call, void *userdata),
                                     void (*on_writable)(ttrpc_call *call, void *userdata),
                                     void *userdata) {
        call->on_gone = on_gone;
        call->on_writable = on_writable;
        call->userdata = userdata;
}

EXPORT int ttrpc_call_is_stream(const ttrpc_call *call) {
        return call->is_stream;
}

EXPORT const char *ttrpc_call_get_service(const ttrpc_call *call) {
        return call->service;
}

EXPORT const char *ttrpc_call_get_method(const ttrpc_call *call) {
        return call->method;
}

EXPORT uint64_t ttrpc_call_get_deadline(const ttrpc_call *call) {
        return call->deadline;
}

EXPORT const ttrpc_pair *ttrpc_call_get_metadata(const ttrpc_call *call, size_t *ret_n) {
        *ret_n = call->n_metadata;
        return call->metadata;
}

EXPORT int ttrpc_call_get_peer(const ttrpc_call *call, pid_t *ret_pid, uid_t *ret_uid,
                               gid_t *ret_gid) {
        if (!call->has_peer)
                return -EOPNOTSUPP;
        *ret_pid = call->peer.pid;
        *ret_uid = call->peer.uid;
        *ret_gid = call->peer.gid;
        return 0;
}

static char *copy_text(char **at, const ttrpc_text *text) {
        char *copy = *at;

        memcpy(copy, text->data, text->n);
        copy[text->n] = '\0';
        *at += text->n + 1;
        return copy;
}

static int new_call(server_conn *conn, uint32_t stream_id, const ttrpc_request *q,
                    ttrpc_call **ret) {
        size_t n_text = q->service.n + q->method.n + 2;
        ttrpc_call *call;
        char *at;

        for (size_t i = 0; i < q->n_metadata; i++)
                n_text += q->metadata[i].key.n + q->metadata[i].value.n + 2;
        call = malloc(sizeof(*call) + n_text);
        if (!call)
                return -ENOMEM;
        *call = (ttrpc_call){
                .n_ref = 1,
                .stream_id = stream_id,
                .deadline = TTRPC_NEVER,
                .has_peer = conn->has_peer,
                .peer = conn->peer,
                .n_metadata = q->n_metadata,
        };
        at = call->text;
        call->service = copy_text(&at, &q->service);
        call->method = copy_text(&at, &q->method);
        if (q->n_metadata > 0) {
                call->metadata = malloc(q->n_metadata * sizeof(*call->metadata));
                if (!call->metadata) {
                        free(call);
                        return -ENOMEM;
                }
        }
        for (size_t i = 0; i < q->n_metadata; i++) {
                call->metadata[i].key = copy_text(&at, &q->metadata[i].key);
                call->metadata[i].value = copy_text(&at, &q->metadata[i].value);
        }
        call->conn = conn;
        call->next = conn->calls;
        conn->calls = call;
        conn->n_calls++;
        *ret = call;
        return 0;
}

/* ---- requests ---- */

static bool text_is(const ttrpc_text *text, const char *name) {
        return strlen(name) == text->n && memcmp(name, text->data, text->n) == 0;
}

static const ttrpc_method *find_method(const ttrpc_server *server, const ttrpc_request *q,
                                       const entry **ret_entry, bool *ret_service_known) {
        *ret_service_known = false;
        for (size_t i = server->n_entries; i > 0; i--) {
                const entry *e = &server->entries[i - 1];

                if (!text_is(&q->service, e->service->name))
                        continue;
                *ret_service_known = true;
                for (size_t k = 0; k < e->service->n_methods; k++)
                        if (text_is(&q->method, e->service->methods[k].name)) {
                                *ret_entry = e;
                                return &e->service->methods[k];
                        }
        }
        return NULL;
}

static ttrpc_call *find_call(const server_conn *conn, uint32_t id) {
        for (ttrpc_call *call = conn->calls; call; call = call->next)
                if (call->stream_id == id)
                        return call;
        return NULL;
}

static void put_status_text(server_conn *conn, uint32_t id, int32_t code, const char *what,
                            const ttrpc_text *name) {
        char text[512];

        snprintf(text, sizeof(text), "%s %.*s", what, name->n < 400 ? (int)name->n : 400,
                 name->data);
        make_utf8(text);
        put_status(conn, id, code, text);
}

static void receive_request(server_conn *conn, const ttrpc_frame_header *header,
                            const uint8_t *data) {
        ttrpc_server *server = conn->server;
        uint32_t id = header->stream_id;
        const ttrpc_method *method;
        const entry *e = NULL;
        bool service_known;
        ttrpc_request q;
        ttrpc_call *call;

        if (id <= conn->last_id) {
                put_status(conn, id, TTRPC_INVALID_ARGUMENT,
                           "StreamID cannot be re-used and must increment");
                /* for the peer the stream that had the id is over */
                call = find_call(conn, id);
                if (call)
                        cut_loose(call);
                return;
        }
        conn->last_id = id;
        if (ttrpc_request_parse(data, header->length, &q) < 0) {
                put_status(conn, id, TTRPC_INVALID_ARGUMENT, "unmarshal request error");
                return;
        }
        method = find_method(server, &q, &e, &service_known);
        if (!method) {
                put_status_text(conn, id, TTRPC_UNIMPLEMENTED, service_known ? "method" : "service",
                                service_known ? &q.method : &q.service);
                return;
        }
        if (server->closing) {
                put_status(conn, id, TTRPC_UNAVAILABLE, "the server is shutting down");
                return;
        }
        if (q.timeout_nano < 0) {
                put_status(conn, id, TTRPC_DEADLINE_EXCEEDED, "context deadline exceeded");
                return;
        }
        if (conn->n_calls >= server->max_calls || new_call(conn, id, &q, &call) < 0) {
                put_status(conn, id, TTRPC_RESOURCE_EXHAUSTED, "too many calls under way");
                return;
        }
        call->is_stream =
                method->server_streams == 1 ||
                (method->server_streams == 2 && (header->flags & TTRPC_FLAG_REMOTE_CLOSED));
        if (q.timeout_nano > 0) {
                call->deadline = ttrpc_later(ttrpc_now(), (uint64_t)q.timeout_nano / 1000 + 1);
                if (call->deadline < server->next_deadline)
                        server->next_deadline = call->deadline;
        }
        method->handler(call, q.payload ? q.payload : (const uint8_t *)"", q.n_payload, e->methods,
                        e->userdata);
        ttrpc_call_unref(call);
}

static void receive_data(server_conn *conn, const ttrpc_frame_header *header) {
        ttrpc_call *call = find_call(conn, header->stream_id);

        if (!call)
                put_status(conn, header->stream_id, TTRPC_INVALID_ARGUMENT,
                           "StreamID is no longer active");
        else if (!call->is_stream) {
                put_status(conn, header->stream_id, TTRPC_INVALID_ARGUMENT, "data on a unary call");
                cut_loose(call);
        }
        /* a server stream's client has nothing to add; what it sends all the same is ignored */
}

static void receive(server_conn *conn, const ttrpc_frame_header *header, const uint8_t *data,
                    bool too_long) {
        char text[128];

        if (too_long) {
                snprintf(text, sizeof(text), "message length %u exceed maximum message size of %u",
                         header->length, TTRPC_MESSAGE_MAX);
                put_status(conn, header->stream_id, TTRPC_RESOURCE_EXHAUSTED, text);
        } else if (header->stream_id % 2 == 0)
                put_status(conn, header->stream_id, TTRPC_INVALID_ARGUMENT,
                           "StreamID must be odd for client initiated streams");
        else if (header->type == TTRPC_FRAME_REQUEST)
                receive_request(conn, header, data);
        else if (header->type == TTRPC_FRAME_DATA)
                receive_data(conn, header);
        /* other types are ignored: room for extensions */
}

/* ---- connections ---- */

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
                cut_loose(conn->calls);
        ttrpc_conn_done(&conn->io);
        free(conn);
}

static void close_broken(ttrpc_server *server) {
        while (server->any_broken) {
                server_conn *next;

                server->any_broken = false;
                for (server_conn *conn = server->conns; conn; conn = next) {
                        next = conn->next;
                        if (conn->broken) {
                                close_conn(conn);
                                server->any_broken = true; /* on_gone may have broken others */
                                break;
                        }
                }
        }
}

static void offer_room(server_conn *conn) {
        bool again = true;

        while (again && !conn->broken && ttrpc_conn_queued(&conn->io) < STREAM_LOW) {
                again = false;
                for (ttrpc_call *call = conn->calls; call; call = call->next)
                        if (call->wants_room) {
                                call->wants_room = false;
                                ttrpc_call_ref(call);
                                if (call->on_writable)
                                        call->on_writable(call, call->userdata);
                                ttrpc_call_unref(call);
                                again = true; /* the list may be another one now */
                                break;
                        }
        }
}

static void flush_conn(server_conn *conn) {
        if (conn->broken)
                return;
        if (ttrpc_conn_flush(&conn->io) < 0) {
                mark_broken(conn);
                return;
        }
        offer_room(conn);
        if (ttrpc_conn_flush(&conn->io) < 0) {
                mark_broken(conn);
                return;
        }
        update_events(conn);
        if (conn->server->closing && !conn->calls && ttrpc_conn_queued(&conn->io) == 0)
                mark_broken(conn);
}

static void read_conn(server_conn *conn) {
        for (unsigned i = 0; i < READS_MAX && !conn->broken; i++) {
                int r = ttrpc_conn_read(&conn->io);
                ttrpc_frame_header header;
                const uint8_t *data;

                if (r == 0)
                        return;
                if (r < 0) {
                        /* what was answered before the end of the stream still goes out */
                        (void)ttrpc_conn_flush(&conn->io);
                        mark_broken(conn);
                        return;
                }
                while (!conn->broken && (r = ttrpc_conn_next(&conn->io, &header, &data)) > 0)
                        receive(conn, &header, data, r == 2);
                if (r < 0)
                        mark_broken(conn);
        }
}

static int watch(ttrpc_server *server, int fd, void *source) {
        struct epoll_event e = { .events = EPOLLIN, .data.ptr = source };

        return epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

EXPORT int ttrpc_server_add_connection(ttrpc_server *server, int fd_consume) {
        server_conn *conn;
        socklen_t n = sizeof(conn->peer);
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
        conn->has_peer = getsockopt(conn->io.fd, SOL_SOCKET, SO_PEERCRED, &conn->peer, &n) == 0;
        if (server->uid != (uid_t)-1 &&
            !(conn->has_peer && (conn->peer.uid == server->uid || conn->peer.uid == 0)))
                r = -EACCES;
        else
                r = watch(server, conn->io.fd, conn);
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

static void accept_all(ttrpc_server *server, listener_source *listener) {
        for (unsigned i = 0; i < READS_MAX; i++) {
                int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

                if (fd < 0) {
                        /* out of descriptors: epoll would wake us without end */
                        if (errno == EMFILE || errno == ENFILE)
                                usleep(1000);
                        return;
                }
                (void)ttrpc_server_add_connection(server, fd);
        }
}

EXPORT int ttrpc_server_listen(ttrpc_server *server, int fd_consume) {
        listener_source *listener = malloc(sizeof(*listener));
        int r;

        if (!listener) {
                close(fd_consume);
                return -ENOMEM;
        }
        *listener = (listener_source){
                .is_listener = true,
                .next = server->listeners,
                .fd = fd_consume,
        };
        r = watch(server, fd_consume, listener);
        if (r < 0) {
                close(fd_consume);
                free(listener);
                return r;
        }
        server->listeners = listener;
        return 0;
}

static void close_listeners(ttrpc_server *server) {
        while (server->listeners) {
                listener_source *listener = server->listeners;

                server->listeners = listener->next;
                close(listener->fd);
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
        while (server->conns)
                close_conn(server->conns);
        close(server->epoll);
        free(server->entries);
        free(server);
        return NULL;
}

EXPORT int ttrpc_server_register(ttrpc_server *server, const ttrpc_service *service,
                                 const void *methods, void *userdata) {
        entry *more = realloc(server->entries, (server->n_entries + 1) * sizeof(*more));

        if (!more)
                return -ENOMEM;
        server->entries = more;
        server->entries[server->n_entries++] = (entry){ service, methods, userdata };
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
        return server->any_broken ? 0 : server->next_deadline;
}

static void expire(ttrpc_server *server) {
        uint64_t now = ttrpc_now();
        bool again = now >= server->next_deadline;

        while (again) {
                uint64_t next = TTRPC_NEVER;
                ttrpc_call *late = NULL;

                for (server_conn *conn = server->conns; conn && !late; conn = conn->next)
                        for (ttrpc_call *call = conn->calls; call; call = call->next) {
                                if (call->deadline <= now) {
                                        late = call;
                                        break;
                                }
                                if (call->deadline < next)
                                        next = call->deadline;
                        }
                again = late != NULL;
                if (late) {
                        put_status(late->conn, late->stream_id, TTRPC_DEADLINE_EXCEEDED,
                                   "context deadline exceeded");
                        cut_loose(late);
                } else
                        server->next_deadline = next;
        }
}

EXPORT int ttrpc_server_process(ttrpc_server *server) {
        struct epoll_event events[EVENTS_MAX];
        int n;

        n = epoll_wait(server->epoll, events, EVENTS_MAX, 0);
        if (n < 0 && errno != EINTR)
                return -errno;
        for (int i = 0; i < n; i++) {
                const bool *is_listener = events[i].data.ptr;

                if (*is_listener)
                        accept_all(server, events[i].data.ptr);
                else {
                        server_conn *conn = events[i].data.ptr;

                        server->reading = conn;
                        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                                read_conn(conn);
                        server->reading = NULL;
                        flush_conn(conn);
                }
        }
        expire(server);
        close_broken(server);
        return 0;
}

EXPORT void ttrpc_server_shutdown(ttrpc_server *server) {
        server->closing = true;
        close_listeners(server);
        for (server_conn *conn = server->conns; conn; conn = conn->next)
                flush_conn(conn);
}

EXPORT size_t ttrpc_server_get_pending(const ttrpc_server *server) {
        size_t n = 0;

        for (const server_conn *conn = server->conns; conn; conn = conn->next)
                n += conn->n_calls + (ttrpc_conn_queued(&conn->io) > 0);
        return n;
}
