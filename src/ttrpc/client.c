/* SPDX-License-Identifier: MIT */
/*
 * A client is one connection and the list of calls under way on it. A call's end unlinks it first
 * and calls back then, so that a callback may start calls, cancel others or free the client.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ttrpc/clock.h"
#include "ttrpc/conn.h"
#include "ttrpc/envelope.h"
#include "ttrpc/ttrpc.h"

#define EXPORT __attribute__((visibility("default")))

#define BUCKETS    128U                /* many calls at once, found fast */
#define QUEUED_MAX (16U * 1024 * 1024) /* bytes that the server does not read */

struct ttrpc_slot {
        ttrpc_client *client;
        ttrpc_slot *older, *newer;
        ttrpc_slot *chain; /* in its bucket */
        uint32_t id;
        uint64_t deadline;
        ttrpc_message_handler on_message; /* NULL: unary */
        ttrpc_reply_handler on_end;
        void (*destroy)(void *userdata);
        void *userdata;
};

struct ttrpc_client {
        ttrpc_conn io;
        ttrpc_slot *oldest, *newest;
        ttrpc_slot *buckets[BUCKETS]; /* the same ones by id */
        uint32_t next_id;             /* 0: used up */
        unsigned n_pins;              /* frames of our callers that still use us */
        bool dead, freed;
        bool processing;
        uint64_t next_deadline; /* not later than the first one */
};

static void pin(ttrpc_client *c) {
        c->n_pins++;
}

static void unpin(ttrpc_client *c) {
        if (--c->n_pins > 0 || !c->freed)
                return;
        ttrpc_conn_done(&c->io);
        free(c);
}

static void slot_free(ttrpc_slot *slot) {
        if (slot->destroy)
                slot->destroy(slot->userdata);
        free(slot);
}

static ttrpc_slot **bucket_of(ttrpc_client *c, uint32_t id) {
        return &c->buckets[id / 2 % BUCKETS];
}

static ttrpc_slot *find(ttrpc_client *c, uint32_t id) {
        ttrpc_slot *slot = *bucket_of(c, id);

        while (slot && slot->id != id)
                slot = slot->chain;
        return slot;
}

static void link_slot(ttrpc_slot *slot) {
        ttrpc_client *c = slot->client;
        ttrpc_slot **bucket = bucket_of(c, slot->id);

        slot->chain = *bucket;
        *bucket = slot;
        slot->older = c->newest;
        *(c->newest ? &c->newest->newer : &c->oldest) = slot;
        c->newest = slot;
}

static void unlink_slot(ttrpc_slot *slot) {
        ttrpc_client *c = slot->client;
        ttrpc_slot **at = bucket_of(c, slot->id);

        while (*at != slot)
                at = &(*at)->chain;
        *at = slot->chain;
        *(slot->older ? &slot->older->newer : &c->oldest) = slot->newer;
        *(slot->newer ? &slot->newer->older : &c->newest) = slot->older;
}

static void end_slot(ttrpc_slot *slot, int r, int32_t code, const char *message,
                     const uint8_t *payload, size_t n) {
        ttrpc_status status = { .code = code, .message = message };

        unlink_slot(slot);
        slot->on_end(r, &status, payload, n, slot->userdata);
        slot_free(slot);
}

/* A callback may change the list, so it is looked at anew each time. */
static void end_all(ttrpc_client *c) {
        c->dead = true;
        ttrpc_conn_hang_up(&c->io);
        while (c->oldest)
                end_slot(c->oldest, -ENOTCONN, TTRPC_UNAVAILABLE, "ttrpc: closed", NULL, 0);
}

EXPORT int ttrpc_client_new(int fd_consume, ttrpc_client **ret) {
        ttrpc_client *c = malloc(sizeof(*c));
        int r;

        if (!c) {
                close(fd_consume);
                return -ENOMEM;
        }
        *c = (ttrpc_client){ .next_id = 1, .next_deadline = TTRPC_NEVER };
        r = ttrpc_conn_init(&c->io, fd_consume);
        if (r < 0) {
                free(c);
                return r;
        }
        *ret = c;
        return 0;
}

EXPORT void ttrpc_client_set_answer_max(ttrpc_client *c, size_t n) {
        c->io.message_max = n < TTRPC_MESSAGE_MAX ? n : TTRPC_MESSAGE_MAX;
}

EXPORT int ttrpc_client_connect(const char *unix_path, ttrpc_client **ret) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        size_t n = strlen(unix_path);
        int fd;

        if (n >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        memcpy(address.sun_path, unix_path, n + 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
                int r = -errno;

                close(fd);
                return r;
        }
        return ttrpc_client_new(fd, ret);
}

EXPORT ttrpc_client *ttrpc_client_free(ttrpc_client *c) {
        if (!c || c->freed)
                return NULL;
        pin(c);
        c->freed = true;
        end_all(c);
        unpin(c);
        return NULL;
}

EXPORT int ttrpc_client_get_fd(const ttrpc_client *c) {
        return c->io.fd;
}

EXPORT int ttrpc_client_get_events(const ttrpc_client *c) {
        if (c->dead)
                return 0;
        return ttrpc_conn_queued(&c->io) > 0 ? POLLIN | POLLOUT : POLLIN;
}

EXPORT uint64_t ttrpc_client_get_timeout(const ttrpc_client *c) {
        return c->next_deadline;
}

/* ---- requests ---- */

static int check_text(const char *text, ttrpc_text *ret) {
        *ret = (ttrpc_text){ text, strlen(text) };
        return ttrpc_utf8_is_valid(text, ret->n) ? 0 : -EILSEQ;
}

static int fill_request(ttrpc_request *q, const char *service, const char *method,
                        const uint8_t *payload, size_t n, const ttrpc_call_options *options) {
        if (check_text(service, &q->service) < 0 || check_text(method, &q->method) < 0)
                return -EILSEQ;
        q->payload = payload;
        q->n_payload = n;
        q->timeout_nano = 0;
        q->n_metadata = 0;
        if (!options)
                return 0;
        if (options->timeout_usec > 0)
                q->timeout_nano = options->timeout_usec < INT64_MAX / 1000
                                          ? (int64_t)options->timeout_usec * 1000
                                          : INT64_MAX;
        if (options->n_metadata > TTRPC_METADATA_MAX)
                return -E2BIG;
        for (size_t i = 0; i < options->n_metadata; i++) {
                ttrpc_envelope_pair *pair = &q->metadata[i];

                if (check_text(options->metadata[i].key, &pair->key) < 0 ||
                    check_text(options->metadata[i].value, &pair->value) < 0)
                        return -EILSEQ;
                /* Go's receiver finds lower-case keys only */
                for (size_t k = 0; k < pair->key.n; k++)
                        if (pair->key.data[k] >= 'A' && pair->key.data[k] <= 'Z')
                                return -EINVAL;
                q->n_metadata++;
        }
        return 0;
}

static int send_request(ttrpc_client *c, uint32_t id, bool stream, const ttrpc_request *q) {
        size_t size = ttrpc_request_size(q);
        uint8_t *at;

        if (size > TTRPC_MESSAGE_MAX)
                return -EMSGSIZE;
        /* a server stream is half-closed at once; REMOTE_OPEN is for client streams */
        at = ttrpc_conn_put(&c->io, id, TTRPC_FRAME_REQUEST, stream ? TTRPC_FLAG_REMOTE_CLOSED : 0,
                            size);
        if (!at)
                return -ENOMEM;
        ttrpc_request_format(q, at);
        return 0;
}

static int start(ttrpc_client *c, const char *service, const char *method, const uint8_t *payload,
                 size_t n, const ttrpc_call_options *options, ttrpc_message_handler on_message,
                 ttrpc_reply_handler on_end, void *userdata, ttrpc_slot **ret_slot) {
        ttrpc_request q;
        ttrpc_slot *slot;
        int r;

        if (c->dead || c->next_id == 0)
                return -ENOTCONN;
        if (ttrpc_conn_queued(&c->io) > QUEUED_MAX)
                return -EAGAIN;
        r = fill_request(&q, service, method, payload, n, options);
        if (r < 0)
                return r;
        slot = malloc(sizeof(*slot));
        if (!slot)
                return -ENOMEM;
        *slot = (ttrpc_slot){
                .client = c,
                .id = c->next_id,
                .deadline = TTRPC_NEVER,
                .on_message = on_message,
                .on_end = on_end,
                .userdata = userdata,
        };
        r = send_request(c, slot->id, on_message != NULL, &q);
        if (r < 0) {
                free(slot);
                return r;
        }
        /* On a wrap the next connection goes on: a late answer to the old stream of that id would
         * be taken for the new one's. */
        c->next_id = c->next_id > UINT32_MAX - 2 ? 0 : c->next_id + 2;
        if (options && options->timeout_usec > 0) {
                slot->deadline = ttrpc_later(ttrpc_now(), options->timeout_usec);
                if (slot->deadline < c->next_deadline)
                        c->next_deadline = slot->deadline;
        }
        link_slot(slot);
        if (!c->processing)
                (void)ttrpc_conn_flush(&c->io); /* a dead connection shows in process() */
        if (ret_slot)
                *ret_slot = slot;
        return 0;
}

EXPORT int ttrpc_client_call(ttrpc_client *c, const char *service, const char *method,
                             const uint8_t *payload, size_t n, const ttrpc_call_options *options,
                             ttrpc_reply_handler on_reply, void *userdata, ttrpc_slot **ret_slot) {
        return start(c, service, method, payload, n, options, NULL, on_reply, userdata, ret_slot);
}

EXPORT int ttrpc_client_stream(ttrpc_client *c, const char *service, const char *method,
                               const uint8_t *payload, size_t n, const ttrpc_call_options *options,
                               ttrpc_message_handler on_message, ttrpc_reply_handler on_end,
                               void *userdata, ttrpc_slot **ret_slot) {
        return start(c, service, method, payload, n, options, on_message, on_end, userdata,
                     ret_slot);
}

EXPORT void ttrpc_slot_set_destroy(ttrpc_slot *slot, void (*destroy)(void *userdata)) {
        slot->destroy = destroy;
}

EXPORT ttrpc_slot *ttrpc_slot_cancel(ttrpc_slot *slot) {
        if (!slot)
                return NULL;
        unlink_slot(slot);
        slot_free(slot);
        return NULL;
}

/* ---- answers ---- */

static void end_protocol_error(ttrpc_slot *slot, const char *message) {
        end_slot(slot, -EPROTO, TTRPC_INTERNAL, message, NULL, 0);
}

static void receive_response(ttrpc_slot *slot, const uint8_t *data, size_t n) {
        ttrpc_client *c = slot->client;
        uint32_t id = slot->id;
        ttrpc_response p;
        char *message;

        if (ttrpc_response_parse(data, n, &p) < 0) {
                end_protocol_error(slot, "malformed response");
                return;
        }
        if (p.code != TTRPC_OK) {
                message = strndup(p.message.data, p.message.n);
                end_slot(slot, 0, p.code, message ? message : "", NULL, 0);
                free(message);
                return;
        }
        if (slot->on_message && p.n_payload > 0) {
                slot->on_message(p.payload, p.n_payload, slot->userdata);
                slot = find(c, id); /* the callback may have cancelled it */
                if (!slot)
                        return;
        }
        if (slot->on_message)
                end_slot(slot, 0, TTRPC_OK, "", NULL, 0);
        else
                end_slot(slot, 0, TTRPC_OK, "", p.payload, p.n_payload);
}

static void receive_data(ttrpc_slot *slot, const ttrpc_frame_header *header, const uint8_t *data) {
        ttrpc_client *c = slot->client;
        uint32_t id = slot->id;
        bool closes = header->flags & TTRPC_FLAG_REMOTE_CLOSED;

        if (!slot->on_message) {
                end_protocol_error(slot, "unexpected data on a unary call");
                return;
        }
        /* NO_DATA without the end is an empty message, as Go has it */
        if (header->length > 0 || !closes || !(header->flags & TTRPC_FLAG_NO_DATA)) {
                slot->on_message(data, header->length, slot->userdata);
                slot = find(c, id);
                if (!slot)
                        return;
        }
        if (closes)
                end_slot(slot, 0, TTRPC_OK, "", NULL, 0);
}

static void receive(ttrpc_client *c, const ttrpc_frame_header *header, const uint8_t *data,
                    bool too_long) {
        ttrpc_slot *slot = find(c, header->stream_id);

        if (!slot) /* routine after a timeout or a cancel */
                return;
        if (too_long)
                end_slot(slot, -EMSGSIZE, TTRPC_RESOURCE_EXHAUSTED, "the answer is too long", NULL,
                         0);
        else if (header->type == TTRPC_FRAME_RESPONSE)
                receive_response(slot, data, header->length);
        else if (header->type == TTRPC_FRAME_DATA)
                receive_data(slot, header, data);
        else
                end_protocol_error(slot, "a frame of an unknown type");
}

static void expire(ttrpc_client *c) {
        uint64_t now = ttrpc_now();
        bool again = now >= c->next_deadline;

        while (again && !c->freed) {
                uint64_t next = TTRPC_NEVER;

                again = false;
                for (ttrpc_slot *slot = c->oldest; slot; slot = slot->newer) {
                        if (slot->deadline <= now) {
                                end_slot(slot, -ETIMEDOUT, TTRPC_DEADLINE_EXCEEDED,
                                         "no answer in time", NULL, 0);
                                again = true; /* the list may be another one now */
                                break;
                        }
                        if (slot->deadline < next)
                                next = slot->deadline;
                }
                c->next_deadline = next;
        }
}

static int read_frames(ttrpc_client *c) {
        ttrpc_frame_header header;
        const uint8_t *data;
        int r = 0;

        while (!c->freed && (r = ttrpc_conn_next(&c->io, &header, &data)) > 0)
                receive(c, &header, data, r == 2);
        return r;
}

EXPORT int ttrpc_client_process(ttrpc_client *c) {
        int r;

        if (c->dead)
                return -ENOTCONN;
        if (c->processing)
                return -EBUSY;
        pin(c);
        c->processing = true;
        r = ttrpc_conn_flush(&c->io);
        if (r == 0)
                r = ttrpc_conn_read(&c->io);
        if (r > 0)
                r = read_frames(c);
        if (r >= 0 && !c->freed) {
                expire(c);
                r = c->freed ? 0 : ttrpc_conn_flush(&c->io);
        }
        if (r < 0 && !c->freed) {
                /* what had come in before the end has been delivered */
                end_all(c);
        }
        r = c->dead ? -ENOTCONN : 0;
        c->processing = false;
        unpin(c);
        return r;
}

/* ---- without a loop ---- */

typedef struct sync_call {
        bool done;
        int r;
        int32_t code;
        char *message;
        uint8_t *payload;
        size_t n;
} sync_call;

static void on_sync_reply(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                          void *userdata) {
        sync_call *s = userdata;

        s->done = true;
        s->r = r;
        s->code = status->code;
        if (r == 0 && status->code == TTRPC_OK) {
                s->payload = malloc(n + 1);
                if (!s->payload) {
                        s->r = -ENOMEM;
                        return;
                }
                if (n > 0)
                        memcpy(s->payload, payload, n);
                s->n = n;
        } else
                s->message = strdup(status->message);
}

/* Whole milliseconds for poll, rounded up: not to wake too early and spin. */
static int to_poll_timeout(uint64_t until) {
        uint64_t now = ttrpc_now(), left;

        if (until == TTRPC_NEVER)
                return -1;
        left = until > now ? (until - now + 999) / 1000 : 0;
        return left > 3600000 ? 3600000 : (int)left;
}

EXPORT int ttrpc_client_wait(ttrpc_client *c, uint64_t timeout_usec) {
        uint64_t until =
                timeout_usec == TTRPC_NEVER ? TTRPC_NEVER : ttrpc_later(ttrpc_now(), timeout_usec);
        struct pollfd p = { .fd = c->io.fd, .events = (short)ttrpc_client_get_events(c) };

        if (c->dead)
                return -ENOTCONN;
        if (c->processing)
                return -EBUSY;
        if (c->next_deadline < until)
                until = c->next_deadline;
        if (poll(&p, 1, to_poll_timeout(until)) < 0)
                return -errno;
        return ttrpc_client_process(c);
}

EXPORT int ttrpc_client_call_sync(ttrpc_client *c, const char *service, const char *method,
                                  const uint8_t *payload, size_t n,
                                  const ttrpc_call_options *options, int32_t *ret_code,
                                  char **ret_message, uint8_t **ret_payload, size_t *ret_n) {
        sync_call s = { .done = false };
        ttrpc_slot *slot;
        int r;

        *ret_code = TTRPC_UNAVAILABLE;
        *ret_message = NULL;
        *ret_payload = NULL;
        *ret_n = 0;
        if (c->processing)
                return -EBUSY;
        r = ttrpc_client_call(c, service, method, payload, n, options, on_sync_reply, &s, &slot);
        if (r < 0)
                return r;
        pin(c);
        while (!s.done) {
                r = ttrpc_client_wait(c, TTRPC_NEVER);
                if (r < 0 && r != -EINTR && !s.done) {
                        ttrpc_slot_cancel(slot);
                        unpin(c);
                        return r;
                }
        }
        unpin(c);
        *ret_code = s.code;
        *ret_message = s.message;
        *ret_payload = s.payload;
        *ret_n = s.n;
        return s.r;
}
