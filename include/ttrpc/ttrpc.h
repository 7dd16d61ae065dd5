/* SPDX-License-Identifier: MIT */
#pragma once

/* libttrpc: client and server of containerd's ttrpc protocol. Messages are bytes: any protobuf
 * library will do; protoc-gen-ttrpc-c writes typed stubs for protobuf-c.
 *
 * No thread, no event loop of its own. A client and a server each show one descriptor to poll
 * (get_fd, get_events, get_timeout) and one function to call when it is ready (process). Callbacks
 * run inside process(), inside the call that they answer where that says so, and nowhere else. An
 * object belongs to one thread. ttrpc_*_attach_event (ttrpc-sd-event.h) does it for sd-event;
 * ttrpc_client_call_sync() needs no loop at all.
 *
 * Functions return 0 or a negative errno. What the peer answered is never an errno: it is a
 * ttrpc_status. Times are microseconds, durations are relative. Strings that go on the wire must be
 * UTF-8: -EILSEQ otherwise. Source: PROTOCOL.md of containerd/ttrpc. */

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of a serialized Request or Response, either way: "4 MiB inclusive". */
#define TTRPC_MESSAGE_MAX 4194304u

/* The gRPC codes that Status carries. Others are passed through as they come. */
enum ttrpc_code {
        TTRPC_OK = 0,
        TTRPC_CANCELLED = 1,
        TTRPC_UNKNOWN = 2,
        TTRPC_INVALID_ARGUMENT = 3,
        TTRPC_DEADLINE_EXCEEDED = 4,
        TTRPC_NOT_FOUND = 5,
        TTRPC_ALREADY_EXISTS = 6,
        TTRPC_PERMISSION_DENIED = 7,
        TTRPC_RESOURCE_EXHAUSTED = 8,
        TTRPC_FAILED_PRECONDITION = 9,
        TTRPC_ABORTED = 10,
        TTRPC_OUT_OF_RANGE = 11,
        TTRPC_UNIMPLEMENTED = 12,
        TTRPC_INTERNAL = 13,
        TTRPC_UNAVAILABLE = 14,
        TTRPC_DATA_LOSS = 15,
        TTRPC_UNAUTHENTICATED = 16
};

/* What the peer said. `message` is never NULL. */
typedef struct ttrpc_status {
        int32_t code;
        const char *message;
} ttrpc_status;

typedef struct ttrpc_pair {
        const char *key; /* lower case on the wire */
        const char *value;
} ttrpc_pair;

/* ---- server ---- */

typedef struct ttrpc_server ttrpc_server;
typedef struct ttrpc_call ttrpc_call;

/* A request has come. `payload` is borrowed for the call of the handler. The handler, or whoever it
 * passes the call to (ttrpc_call_ref), answers now or later: reply, fail, or (streams) send and
 * finish. A call that is dropped unanswered is answered with code 13. */
typedef void (*ttrpc_handler)(ttrpc_call *call, const uint8_t *payload, size_t n,
                              const void *methods, void *userdata);

typedef struct ttrpc_method {
        const char *name;
        int server_streams; /* 0 unary, 1 server-streaming, 2 as the caller opened it */
        ttrpc_handler handler;
} ttrpc_method;

/* Static data. `name` with its package: "pkg.Service". */
typedef struct ttrpc_service {
        const char *name;
        const ttrpc_method *methods;
        size_t n_methods;
} ttrpc_service;

int ttrpc_server_new(ttrpc_server **ret);
/* Closes everything; calls under way are cancelled first. Returns NULL; NULL is fine. Not from
 * inside a callback of this server. */
ttrpc_server *ttrpc_server_free(ttrpc_server *server);

/* `service` and what it points to, `methods` and `userdata` are borrowed; both are handed to the
 * handlers. A service registered again replaces the methods of the same names and keeps the
 * others. */
int ttrpc_server_register(ttrpc_server *server, const ttrpc_service *service, const void *methods,
                          void *userdata);

/* Caps; 0 leaves one as it is. Defaults: 1024 connections, 1024 calls under way a connection,
 * 16 MiB queued for a connection: from half of that no more requests are read, at all of it the
 * peer, which does not read its answers, is cut off. */
int ttrpc_server_set_limits(ttrpc_server *server, size_t connections, size_t calls,
                            size_t queued_bytes);
/* Only peers of this uid, or root, may connect, over unix sockets ((uid_t)-1: anybody; the
 * default). */
void ttrpc_server_set_uid(ttrpc_server *server, uid_t uid);

/* A listening stream socket; taken on every path. */
int ttrpc_server_listen(ttrpc_server *server, int fd_consume);
/* A connected stream socket; taken on every path. */
int ttrpc_server_add_connection(ttrpc_server *server, int fd_consume);

/* One descriptor for all of it (an epoll): poll it for POLLIN. */
int ttrpc_server_get_fd(const ttrpc_server *server);
/* CLOCK_MONOTONIC time at which process() wants to be called in any case; UINT64_MAX: never. */
uint64_t ttrpc_server_get_timeout(const ttrpc_server *server);
/* Does what is to be done, without waiting. -EBUSY from inside one of its callbacks. */
int ttrpc_server_process(ttrpc_server *server);

/* Takes no more connections and requests; idle connections close, the others when their last call
 * has been answered. */
void ttrpc_server_shutdown(ttrpc_server *server);
/* Calls under way, and answers that are not written yet. */
size_t ttrpc_server_get_pending(const ttrpc_server *server);

ttrpc_call *ttrpc_call_ref(ttrpc_call *call);
ttrpc_call *ttrpc_call_unref(ttrpc_call *call);

/* Each answers the call, once: -EALREADY afterwards, -ENOTCONN when the peer has gone or the
 * deadline has passed (the answer is dropped, all is well). A reply over 4 MiB is -EMSGSIZE and
 * answers the call with code 8. fail() cuts its text at 4 KiB. */
int ttrpc_call_reply(ttrpc_call *call, const uint8_t *payload, size_t n);
int ttrpc_call_fail(ttrpc_call *call, int32_t code, const char *format, ...)
#ifdef __GNUC__
        __attribute__((format(printf, 3, 4)))
#endif
        ;
/* Streams (else -EINVAL): one message; not taken (-EAGAIN) while 256 KiB or more wait to be written
 * to the peer: on_writable says when there is room. -EMSGSIZE: over 4 MiB, not taken. finish() is
 * always taken, as are reply() (a last message) and fail(). */
int ttrpc_call_send(ttrpc_call *call, const uint8_t *payload, size_t n);
int ttrpc_call_finish(ttrpc_call *call);

/* `on_gone`: the peer left or the deadline passed; the call is answered as far as the wire is
 * concerned. Not called once the handler has answered. `on_writable`: there is room again after
 * -EAGAIN. Either may be NULL. */
void ttrpc_call_set_callbacks(ttrpc_call *call, void (*on_gone)(ttrpc_call *call, void *userdata),
                              void (*on_writable)(ttrpc_call *call, void *userdata),
                              void *userdata);

/* True when the caller expects a stream. */
int ttrpc_call_is_stream(const ttrpc_call *call);
const char *ttrpc_call_get_service(const ttrpc_call *call);
const char *ttrpc_call_get_method(const ttrpc_call *call);
/* CLOCK_MONOTONIC; UINT64_MAX: none. */
uint64_t ttrpc_call_get_deadline(const ttrpc_call *call);
const ttrpc_pair *ttrpc_call_get_metadata(const ttrpc_call *call, size_t *ret_n);
/* SO_PEERCRED of the connection; -EOPNOTSUPP where there is none. */
int ttrpc_call_get_peer(const ttrpc_call *call, pid_t *ret_pid, uid_t *ret_uid, gid_t *ret_gid);

/* ---- client ---- */

typedef struct ttrpc_client ttrpc_client;
/* A call under way. */
typedef struct ttrpc_slot ttrpc_slot;

typedef struct ttrpc_call_options {
        uint64_t timeout_usec; /* 0: none */
        const ttrpc_pair *metadata;
        size_t n_metadata;
} ttrpc_call_options;

/* The end of a call, exactly once. r 0: the peer answered, with `status` (a code other than OK
 * comes without payload). Negative: no answer: -ETIMEDOUT, -ENOTCONN (the connection is gone),
 * -EPROTO (an answer that makes no sense), -EMSGSIZE (one that is too long); `status` says the same
 * as a gRPC code. All arguments are borrowed. */
typedef void (*ttrpc_reply_handler)(int r, const ttrpc_status *status, const uint8_t *payload,
                                    size_t n, void *userdata);
/* One message of a stream. */
typedef void (*ttrpc_message_handler)(const uint8_t *payload, size_t n, void *userdata);

/* A connected stream socket; taken on every path. */
int ttrpc_client_new(int fd_consume, ttrpc_client **ret);
int ttrpc_client_connect(const char *unix_path, ttrpc_client **ret);
/* Of a peer that is not trusted: a longer answer or message than `n` bytes (default and most: 4
 * MiB) ends its call with -EMSGSIZE. It is neither kept nor decoded: that may take many times as
 * much memory. */
void ttrpc_client_set_answer_max(ttrpc_client *client, size_t n);
/* Ends all calls with -ENOTCONN first. Legal from a callback. */
ttrpc_client *ttrpc_client_free(ttrpc_client *client);

int ttrpc_client_get_fd(const ttrpc_client *client);
/* poll(2) events. */
int ttrpc_client_get_events(const ttrpc_client *client);
uint64_t ttrpc_client_get_timeout(const ttrpc_client *client);
/* 0, or -ENOTCONN once the connection is dead (every call has been ended by then, and the peer hung
 * up on). -EBUSY from inside one of its callbacks. */
int ttrpc_client_process(ttrpc_client *client);
/* Waits until something is to be done, `timeout_usec` at most (UINT64_MAX: no limit), then
 * process(). -EINTR on a signal. For programs without a loop that read a stream. */
int ttrpc_client_wait(ttrpc_client *client, uint64_t timeout_usec);

/* Queues the request. `options` may be NULL. -EMSGSIZE when it is over 4 MiB, -EAGAIN when more
 * than 16 MiB wait that the server does not read: nothing was sent. -ENOTCONN: the connection is
 * dead. `ret_slot` may be NULL; otherwise the slot is the caller's until the reply has come (then
 * it is gone) or ttrpc_slot_cancel(). */
int ttrpc_client_call(ttrpc_client *client, const char *service, const char *method,
                      const uint8_t *payload, size_t n, const ttrpc_call_options *options,
                      ttrpc_reply_handler on_reply, void *userdata, ttrpc_slot **ret_slot);
/* A server stream: messages, then the end (no payload; OK at EOF). */
int ttrpc_client_stream(ttrpc_client *client, const char *service, const char *method,
                        const uint8_t *payload, size_t n, const ttrpc_call_options *options,
                        ttrpc_message_handler on_message, ttrpc_reply_handler on_end,
                        void *userdata, ttrpc_slot **ret_slot);
/* Called with the call's userdata when it is over, however it ended, after the last callback; also
 * on cancel. */
void ttrpc_slot_set_destroy(ttrpc_slot *slot, void (*destroy)(void *userdata));
/* Forgets the call: no callback follows. The protocol has no cancel: the server works on. */
ttrpc_slot *ttrpc_slot_cancel(ttrpc_slot *slot);

/* Calls and waits; callbacks of other calls of this client run meanwhile; -EBUSY from inside one of
 * them. Returns as
 * ttrpc_reply_handler's r. On 0 *ret_code is the peer's; OK: *ret_payload (free() it; never NULL)
 * and *ret_n; else *ret_message (free() it; may be NULL). */
int ttrpc_client_call_sync(ttrpc_client *client, const char *service, const char *method,
                           const uint8_t *payload, size_t n, const ttrpc_call_options *options,
                           int32_t *ret_code, char **ret_message, uint8_t **ret_payload,
                           size_t *ret_n);

#ifdef __cplusplus
}
#endif
