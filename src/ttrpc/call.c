/* SPDX-License-Identifier: MIT */
/* A call as its handler has it: answers, callbacks, what is known of the caller. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ttrpc/clock.h"
#include "ttrpc/server-internal.h"

#define STREAM_HIGH (256U * 1024) /* a stream's send is refused from here */
#define STREAM_LOW  (64U * 1024)  /* and asked for again below this */
#define MESSAGE_MAX 4096U         /* of a status, in bytes */

/* ---- writing ---- */

static int put_response(server_conn *conn, uint32_t stream_id, const ttrpc_response *p) {
        size_t size = ttrpc_response_size(p);
        uint8_t *at;

        if (size > TTRPC_MESSAGE_MAX)
                return -EMSGSIZE;
        at = ttrpc_conn_put(&conn->io, stream_id, TTRPC_FRAME_RESPONSE, 0, size);
        if (!at) {
                /* without memory for an answer the peer would wait for ever */
                ttrpc_server_mark_broken(conn);
                return -ENOMEM;
        }
        ttrpc_response_format(p, at);
        ttrpc_server_written(conn);
        return 0;
}

void ttrpc_server_put_status(server_conn *conn, uint32_t stream_id, int32_t code,
                             const char *message) {
        ttrpc_response p = { .code = code, .message = { message, strlen(message) } };

        (void)put_response(conn, stream_id, &p);
}

void ttrpc_make_utf8(char *text) {
        if (ttrpc_utf8_is_valid(text, strlen(text)))
                return;
        for (char *c = text; *c; c++)
                if ((unsigned char)*c >= 0x80)
                        *c = '?';
}

/* ---- life ---- */

static char *copy_text(char **at, const ttrpc_text *text) {
        char *copy = *at;

        memcpy(copy, text->data, text->n);
        copy[text->n] = '\0';
        *at += text->n + 1;
        return copy;
}

static void link_call(server_conn *conn, ttrpc_call *call) {
        call->conn = conn;
        call->next = conn->calls;
        call->linked = &conn->calls;
        if (call->next)
                call->next->linked = &call->next;
        conn->calls = call;
        conn->n_calls++;
}

static void unlink_call(ttrpc_call *call) {
        if (!call->conn)
                return;
        *call->linked = call->next;
        if (call->next)
                call->next->linked = call->linked;
        call->conn->n_calls--;
        call->conn = NULL;
}

int ttrpc_call_new(server_conn *conn, uint32_t stream_id, const ttrpc_request *q,
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
        link_call(conn, call);
        *ret = call;
        return 0;
}

EXPORT ttrpc_call *ttrpc_call_ref(ttrpc_call *call) {
        call->n_ref++;
        return call;
}

EXPORT ttrpc_call *ttrpc_call_unref(ttrpc_call *call) {
        if (!call || --call->n_ref > 0)
                return NULL;
        if (!call->answered && call->conn) {
                server_conn *conn = call->conn;

                ttrpc_server_put_status(conn, call->stream_id, TTRPC_INTERNAL,
                                        "the server dropped the call");
                unlink_call(call);
                ttrpc_server_check_idle(conn);
        }
        free(call->metadata);
        free(call);
        return NULL;
}

void ttrpc_call_cut_loose(ttrpc_call *call) {
        unlink_call(call);
        if (call->answered)
                return;
        call->answered = call->gone = true;
        ttrpc_call_ref(call);
        if (call->on_gone)
                call->on_gone(call, call->userdata);
        ttrpc_call_unref(call);
}

/* ---- answers ---- */

/* 0: it is ours to answer. */
static int may_answer(const ttrpc_call *call) {
        if (call->gone)
                return -ENOTCONN;
        if (call->answered)
                return -EALREADY;
        return call->conn->broken ? -ENOTCONN : 0;
}

/* For the last word: even when nobody will hear it, the handler is done and on_gone would come too
 * late. */
static int end_answer(ttrpc_call *call, int r) {
        server_conn *conn = call->conn;

        if (!conn)
                return r;
        call->answered = true;
        unlink_call(call);
        ttrpc_server_check_idle(conn);
        return r;
}

EXPORT int ttrpc_call_reply(ttrpc_call *call, const uint8_t *payload, size_t n) {
        ttrpc_response p = { .message = { "", 0 }, .payload = payload, .n_payload = n };
        char text[128];
        int r = may_answer(call);

        if (r < 0)
                return end_answer(call, r);
        r = put_response(call->conn, call->stream_id, &p);
        if (r == -EMSGSIZE) {
                snprintf(text, sizeof(text), "message length %zu exceed maximum message size of %u",
                         ttrpc_response_size(&p), TTRPC_MESSAGE_MAX);
                ttrpc_server_put_status(call->conn, call->stream_id, TTRPC_RESOURCE_EXHAUSTED,
                                        text);
        }
        return end_answer(call, r);
}

EXPORT int ttrpc_call_fail(ttrpc_call *call, int32_t code, const char *format, ...) {
        char text[MESSAGE_MAX];
        va_list ap;
        int r = may_answer(call);

        if (r < 0)
                return end_answer(call, r);
        va_start(ap, format);
        vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        ttrpc_make_utf8(text);
        ttrpc_server_put_status(call->conn, call->stream_id,
                                code == TTRPC_OK ? TTRPC_UNKNOWN : code, text);
        return end_answer(call, 0);
}

EXPORT int ttrpc_call_send(ttrpc_call *call, const uint8_t *payload, size_t n) {
        uint8_t *at;
        int r = may_answer(call);

        if (r < 0)
                return r;
        if (!call->is_stream)
                return -EINVAL;
        if (n > TTRPC_MESSAGE_MAX)
                return -EMSGSIZE;
        if (ttrpc_conn_queued(&call->conn->io) >= STREAM_HIGH) {
                if (!call->wants_room)
                        call->waits_since = call->conn->n_waits++;
                call->wants_room = call->conn->wants_room = true;
                return -EAGAIN;
        }
        at = ttrpc_conn_put(&call->conn->io, call->stream_id, TTRPC_FRAME_DATA, 0, n);
        if (!at)
                return -ENOMEM;
        if (n > 0)
                memcpy(at, payload, n);
        ttrpc_server_written(call->conn);
        return 0;
}

EXPORT int ttrpc_call_finish(ttrpc_call *call) {
        int r = may_answer(call);

        if (r < 0)
                return end_answer(call, r);
        if (!call->is_stream)
                return -EINVAL;
        if (!ttrpc_conn_put(&call->conn->io, call->stream_id, TTRPC_FRAME_DATA,
                            TTRPC_FLAG_REMOTE_CLOSED | TTRPC_FLAG_NO_DATA, 0)) {
                ttrpc_server_mark_broken(call->conn);
                return end_answer(call, -ENOMEM);
        }
        ttrpc_server_written(call->conn);
        return end_answer(call, 0);
}

/* ---- callbacks ---- */

EXPORT void ttrpc_call_set_callbacks(ttrpc_call *call,
                                     void (*on_gone)(ttrpc_call *call, void *userdata),
                                     void (*on_writable)(ttrpc_call *call, void *userdata),
                                     void *userdata) {
        call->on_gone = on_gone;
        call->on_writable = on_writable;
        call->userdata = userdata;
}

/* The one that waits longest, so that a busy stream does not starve the others. */
static ttrpc_call *next_in_want(const server_conn *conn) {
        ttrpc_call *found = NULL;

        for (ttrpc_call *call = conn->calls; call; call = call->next)
                if (call->wants_room && (!found || call->waits_since < found->waits_since))
                        found = call;
        return found;
}

void ttrpc_call_offer_room(server_conn *conn) {
        ttrpc_call *call;

        while (conn->wants_room && !conn->broken && ttrpc_conn_queued(&conn->io) < STREAM_LOW) {
                call = next_in_want(conn);
                if (!call) {
                        conn->wants_room = false;
                        return;
                }
                call->wants_room = false;
                ttrpc_call_ref(call);
                if (call->on_writable)
                        call->on_writable(call, call->userdata);
                ttrpc_call_unref(call);
        }
}

/* ---- what is known ---- */

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
