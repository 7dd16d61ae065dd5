/* SPDX-License-Identifier: MIT */
/* What a frame from a client does: the checks of PROTOCOL.md, in Go's order and with Go's words, so
 * that nobody can tell the two apart. Where Go crashes or leaks, we do not follow. */
#include <stdio.h>
#include <string.h>

#include "ttrpc/clock.h"
#include "ttrpc/server-internal.h"

static bool text_is(const ttrpc_text *text, const char *name) {
        return strlen(name) == text->n && memcmp(name, text->data, text->n) == 0;
}

static const ttrpc_method *find_method(const ttrpc_server *server, const ttrpc_request *q,
                                       const server_entry **ret_entry, bool *ret_service_known) {
        *ret_service_known = false;
        for (size_t i = server->n_entries; i > 0; i--) {
                const server_entry *e = &server->entries[i - 1];

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

static void put_unimplemented(server_conn *conn, uint32_t id, const char *what,
                              const ttrpc_text *name) {
        char text[512];

        snprintf(text, sizeof(text), "%s %.*s", what, name->n < 400 ? (int)name->n : 400,
                 name->data);
        ttrpc_make_utf8(text);
        ttrpc_server_put_status(conn, id, TTRPC_UNIMPLEMENTED, text);
}

static void set_deadline(ttrpc_server *server, ttrpc_call *call, int64_t timeout_nano) {
        if (timeout_nano <= 0)
                return;
        call->deadline = ttrpc_later(ttrpc_now(), (uint64_t)timeout_nano / 1000 + 1);
        if (call->deadline < server->next_deadline)
                server->next_deadline = call->deadline;
}

static void call_handler(server_conn *conn, const ttrpc_frame_header *header,
                         const ttrpc_request *q, const ttrpc_method *method,
                         const server_entry *e) {
        ttrpc_server *server = conn->server;
        ttrpc_call *call;

        if (conn->n_calls >= server->max_calls ||
            ttrpc_call_new(conn, header->stream_id, q, &call) < 0) {
                ttrpc_server_put_status(conn, header->stream_id, TTRPC_RESOURCE_EXHAUSTED,
                                        "too many calls under way");
                return;
        }
        /* The method decides, not the flags: so it is in Go. */
        call->is_stream =
                method->server_streams == 1 ||
                (method->server_streams == 2 && (header->flags & TTRPC_FLAG_REMOTE_CLOSED));
        set_deadline(server, call, q->timeout_nano);
        method->handler(call, q->payload ? q->payload : (const uint8_t *)"", q->n_payload,
                        e->methods, e->userdata);
        ttrpc_call_unref(call);
}

static void receive_request(server_conn *conn, const ttrpc_frame_header *header,
                            const uint8_t *data) {
        uint32_t id = header->stream_id;
        const server_entry *e = NULL;
        const ttrpc_method *method;
        bool service_known;
        ttrpc_request q;
        ttrpc_call *call;

        if (id <= conn->last_id) {
                ttrpc_server_put_status(conn, id, TTRPC_INVALID_ARGUMENT,
                                        "StreamID cannot be re-used and must increment");
                /* for the peer the stream that had the id is over */
                call = find_call(conn, id);
                if (call)
                        ttrpc_call_cut_loose(call);
                return;
        }
        conn->last_id = id;
        if (ttrpc_request_parse(data, header->length, &q) < 0) {
                ttrpc_server_put_status(conn, id, TTRPC_INVALID_ARGUMENT,
                                        "unmarshal request error");
                return;
        }
        method = find_method(conn->server, &q, &e, &service_known);
        if (!method)
                put_unimplemented(conn, id, service_known ? "method" : "service",
                                  service_known ? &q.method : &q.service);
        else if (conn->server->closing)
                ttrpc_server_put_status(conn, id, TTRPC_UNAVAILABLE, "the server is shutting down");
        else if (q.timeout_nano < 0)
                ttrpc_server_put_status(conn, id, TTRPC_DEADLINE_EXCEEDED,
                                        "context deadline exceeded");
        else
                call_handler(conn, header, &q, method, e);
}

static void receive_data(server_conn *conn, const ttrpc_frame_header *header) {
        ttrpc_call *call = find_call(conn, header->stream_id);

        if (!call)
                ttrpc_server_put_status(conn, header->stream_id, TTRPC_INVALID_ARGUMENT,
                                        "StreamID is no longer active");
        else if (!call->is_stream) {
                ttrpc_server_put_status(conn, header->stream_id, TTRPC_INVALID_ARGUMENT,
                                        "data on a unary call");
                ttrpc_call_cut_loose(call);
        }
        /* a server stream's client has nothing to add; what it sends all the same is ignored */
}

void ttrpc_server_receive(server_conn *conn, const ttrpc_frame_header *header, const uint8_t *data,
                          bool too_long) {
        char text[128];

        if (too_long) {
                snprintf(text, sizeof(text), "message length %u exceed maximum message size of %u",
                         header->length, TTRPC_MESSAGE_MAX);
                ttrpc_server_put_status(conn, header->stream_id, TTRPC_RESOURCE_EXHAUSTED, text);
        } else if (header->stream_id % 2 == 0)
                ttrpc_server_put_status(conn, header->stream_id, TTRPC_INVALID_ARGUMENT,
                                        "StreamID must be odd for client initiated streams");
        else if (header->type == TTRPC_FRAME_REQUEST)
                receive_request(conn, header, data);
        else if (header->type == TTRPC_FRAME_DATA)
                receive_data(conn, header);
        /* other types are ignored: room for extensions */
}
