/* SPDX-License-Identifier: MIT */
/* The client against a server that is played frame by frame: also what no good server sends. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ttrpc/clock.h"
#include "ttrpc/test-wire.h"

#define FLAG_END (TTRPC_FLAG_REMOTE_CLOSED | TTRPC_FLAG_NO_DATA)

typedef struct fixture {
        ttrpc_client *client;
        int peer;
        size_t n_fds;
} fixture;

/* What became of a call. */
typedef struct outcome {
        unsigned n_ended, n_destroyed, n_messages;
        int r;
        int32_t code;
        char message[128];
        char payload[128];
        size_t n;
        char messages[128]; /* of a stream, each with a ';' behind */
        /* what its callbacks do */
        ttrpc_client *free_client, *call_again;
        struct outcome *again;
        ttrpc_slot *cancel;
} outcome;

static int set_up(void **state) {
        fixture *f = calloc(1, sizeof(*f));
        int fds[2];

        assert_non_null(f);
        f->n_fds = wire_count_fds();
        wire_pair(fds);
        assert_int_equal(ttrpc_client_new(fds[0], &f->client), 0);
        f->peer = fds[1];
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        fixture *f = *state;

        ttrpc_client_free(f->client);
        if (f->peer >= 0)
                close(f->peer);
        assert_int_equal(wire_count_fds(), f->n_fds);
        free(f);
        return 0;
}

static void on_end(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                   void *userdata);

static void act(outcome *o) {
        if (o->cancel)
                o->cancel = ttrpc_slot_cancel(o->cancel);
        if (o->call_again)
                o->again->r = ttrpc_client_call(o->call_again, "S", "Again", NULL, 0, NULL, on_end,
                                                o->again, NULL);
        o->call_again = NULL;
        o->free_client = ttrpc_client_free(o->free_client);
}

static void on_end(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                   void *userdata) {
        outcome *o = userdata;

        o->n_ended++;
        o->r = r;
        o->code = status->code;
        snprintf(o->message, sizeof(o->message), "%s", status->message);
        assert_true(n < sizeof(o->payload));
        if (n > 0)
                memcpy(o->payload, payload, n);
        o->n = n;
        act(o);
}

static void on_message(const uint8_t *payload, size_t n, void *userdata) {
        outcome *o = userdata;

        o->n_messages++;
        snprintf(o->messages + strlen(o->messages), sizeof(o->messages) - strlen(o->messages),
                 "%.*s;", (int)n, (const char *)payload);
        act(o);
}

static void on_destroy(void *userdata) {
        ((outcome *)userdata)->n_destroyed++;
}

static ttrpc_slot *call(fixture *f, outcome *o, const ttrpc_call_options *options) {
        ttrpc_slot *slot = NULL;

        assert_int_equal(ttrpc_client_call(f->client, "S", "M", (const uint8_t *)"pay", 3, options,
                                           on_end, o, &slot),
                         0);
        ttrpc_slot_set_destroy(slot, on_destroy);
        return slot;
}

static ttrpc_slot *stream(fixture *f, outcome *o) {
        ttrpc_slot *slot = NULL;

        assert_int_equal(ttrpc_client_stream(f->client, "S", "M", NULL, 0, NULL, on_message, on_end,
                                             o, &slot),
                         0);
        ttrpc_slot_set_destroy(slot, on_destroy);
        return slot;
}

static void answer(fixture *f, uint32_t id, int32_t code, const char *message,
                   const char *payload) {
        ttrpc_response p = { .code = code,
                             .message = wire_text(message),
                             .payload = (const uint8_t *)payload,
                             .n_payload = strlen(payload) };
        uint8_t wire[256];

        ttrpc_response_format(&p, wire);
        wire_send_frame(f->peer, id, TTRPC_FRAME_RESPONSE, 0, wire, ttrpc_response_size(&p));
}

static void data(fixture *f, uint32_t id, uint8_t flags, const char *text) {
        wire_send_frame(f->peer, id, TTRPC_FRAME_DATA, flags, text, strlen(text));
        wire_pump_client(f->client);
}

static void expect_end(const outcome *o, int r, int32_t code) {
        assert_int_equal(o->n_ended, 1);
        assert_int_equal(o->r, r);
        assert_int_equal(o->code, code);
}

/* ---- requests ---- */

static void requests_on_the_wire(void **state) {
        static const uint8_t unary[] = { 0x0a, 1, 'S', 0x12, 1, 'M', 0x1a, 3, 'p', 'a', 'y' };
        static const uint8_t full[] = { 0x0a, 1,    'S', 0x12, 1,    'M',  0x1a, 3,
                                        'p',  'a',  'y', 0x20, 0xc0, 0x84, 0x3d, 0x2a,
                                        6,    0x0a, 1,   'k',  0x12, 1,    'v' };
        static const ttrpc_pair pair = { "k", "v" };
        const ttrpc_call_options options = { .timeout_usec = 1000,
                                             .metadata = &pair,
                                             .n_metadata = 1 };
        fixture *f = *state;
        outcome o = { 0 };

        call(f, &o, NULL);
        wire_expect(f->peer, 1, TTRPC_FRAME_REQUEST, 0, unary, sizeof(unary));
        call(f, &o, &options);
        wire_expect(f->peer, 3, TTRPC_FRAME_REQUEST, 0, full, sizeof(full));
        stream(f, &o);
        /* half-closed, and never with NO_DATA: a Rust server would wait for the request */
        wire_expect(f->peer, 5, TTRPC_FRAME_REQUEST, TTRPC_FLAG_REMOTE_CLOSED, unary, 6);
        f->client = ttrpc_client_free(f->client); /* before `o` */
}

static void requests_that_cannot_be_sent(void **state) {
        static const ttrpc_pair upper = { "Key", "v" }, binary = { "k", "\xff" };
        ttrpc_call_options options = { .metadata = &upper, .n_metadata = 1 };
        uint8_t *big = calloc(1, TTRPC_MESSAGE_MAX);
        fixture *f = *state;
        outcome o = { 0 };

        assert_non_null(big);
        assert_int_equal(ttrpc_client_call(f->client, "\xff", "M", NULL, 0, NULL, on_end, &o, NULL),
                         -EILSEQ);
        assert_int_equal(ttrpc_client_call(f->client, "S", "\xff", NULL, 0, NULL, on_end, &o, NULL),
                         -EILSEQ);
        assert_int_equal(
                ttrpc_client_call(f->client, "S", "M", NULL, 0, &options, on_end, &o, NULL),
                -EINVAL);
        options.metadata = &binary;
        assert_int_equal(
                ttrpc_client_call(f->client, "S", "M", NULL, 0, &options, on_end, &o, NULL),
                -EILSEQ);
        options.n_metadata = TTRPC_METADATA_MAX + 1;
        assert_int_equal(
                ttrpc_client_call(f->client, "S", "M", NULL, 0, &options, on_end, &o, NULL),
                -E2BIG);
        assert_int_equal(ttrpc_client_call(f->client, "S", "M", big, TTRPC_MESSAGE_MAX, NULL,
                                           on_end, &o, NULL),
                         -EMSGSIZE);
        free(big);
        wire_expect_nothing(f->peer);
        assert_int_equal(o.n_ended, 0);
}

static void server_that_does_not_read(void **state) {
        uint8_t *big = calloc(1, 1 << 20);
        fixture *f = *state;
        outcome o = { 0 };
        unsigned n = 0;
        int r;

        assert_non_null(big);
        while ((r = ttrpc_client_call(f->client, "S", "M", big, 1 << 20, NULL, on_end, &o, NULL)) ==
               0)
                assert_true(++n < 30);
        free(big);
        assert_int_equal(r, -EAGAIN);
        f->client = ttrpc_client_free(f->client); /* before `o` */
        assert_int_equal(o.n_ended, n);
}

/* ---- answers ---- */

static void answers(void **state) {
        fixture *f = *state;
        outcome ok = { 0 }, empty = { 0 }, failed = { 0 }, odd = { 0 };

        call(f, &ok, NULL);
        call(f, &empty, NULL);
        call(f, &failed, NULL);
        call(f, &odd, NULL);
        answer(f, 7, 4711, "what", ""); /* in any order */
        answer(f, 5, TTRPC_NOT_FOUND, "gone", "ignored");
        wire_send_frame(f->peer, 3, TTRPC_FRAME_RESPONSE, 0xff, NULL, 0);
        answer(f, 1, 0, "", "reply");
        wire_pump_client(f->client);
        expect_end(&ok, 0, TTRPC_OK);
        assert_int_equal(ok.n, 5);
        assert_memory_equal(ok.payload, "reply", 5);
        expect_end(&empty, 0, TTRPC_OK);
        assert_int_equal(empty.n, 0);
        expect_end(&failed, 0, TTRPC_NOT_FOUND);
        assert_string_equal(failed.message, "gone");
        assert_int_equal(failed.n, 0);
        expect_end(&odd, 0, 4711);
        assert_int_equal(ok.n_destroyed + empty.n_destroyed + failed.n_destroyed, 3);
}

static void answer_in_two_parts(void **state) {
        static const uint8_t wire[] = { 0, 0, 0, 3, 0, 0, 0, 1, 2, 0, 0x12, 1, 'x' };

        for (size_t cut = 1; cut < sizeof(wire); cut++) {
                fixture *f = *state;
                outcome o = { 0 };
                int fds[2];

                ttrpc_client_free(f->client);
                close(f->peer);
                wire_pair(fds);
                assert_int_equal(ttrpc_client_new(fds[0], &f->client), 0);
                f->peer = fds[1];
                call(f, &o, NULL);
                wire_send(f->peer, wire, cut);
                wire_pump_client(f->client);
                assert_int_equal(o.n_ended, 0);
                wire_send(f->peer, wire + cut, sizeof(wire) - cut);
                wire_pump_client(f->client);
                expect_end(&o, 0, TTRPC_OK);
        }
}

static void answers_to_nobody_are_ignored(void **state) {
        fixture *f = *state;
        outcome o = { 0 };

        call(f, &o, NULL);
        answer(f, 3, 0, "", "");
        answer(f, 2, 0, "", "");
        answer(f, 0, 0, "", "");
        data(f, 99, 0, "x");
        assert_int_equal(o.n_ended, 0);
        answer(f, 1, 0, "", "");
        answer(f, 1, 0, "", "");
        wire_pump_client(f->client);
        expect_end(&o, 0, TTRPC_OK);
}

static void answers_that_make_no_sense(void **state) {
        fixture *f = *state;
        outcome garbage = { 0 }, with_data = { 0 }, type = { 0 }, alive = { 0 };

        call(f, &garbage, NULL);
        call(f, &with_data, NULL);
        call(f, &type, NULL);
        call(f, &alive, NULL);
        wire_send_frame(f->peer, 1, TTRPC_FRAME_RESPONSE, 0, "\xff", 1);
        wire_send_frame(f->peer, 3, TTRPC_FRAME_DATA, 0, "x", 1);
        wire_send_frame(f->peer, 5, 77, 0, "x", 1);
        answer(f, 7, 0, "", "");
        wire_pump_client(f->client);
        expect_end(&garbage, -EPROTO, TTRPC_INTERNAL);
        expect_end(&with_data, -EPROTO, TTRPC_INTERNAL);
        expect_end(&type, -EPROTO, TTRPC_INTERNAL);
        expect_end(&alive, 0, TTRPC_OK);
}

static void answer_too_long(void **state) {
        ttrpc_frame_header h = { TTRPC_MESSAGE_MAX + 1, 1, TTRPC_FRAME_RESPONSE, 0 };
        uint8_t header[TTRPC_HEADER_SIZE], *junk = calloc(1, 65536);
        fixture *f = *state;
        outcome o = { 0 }, alive = { 0 };

        assert_non_null(junk);
        call(f, &o, NULL);
        call(f, &alive, NULL);
        ttrpc_frame_format(&h, header);
        wire_send(f->peer, header, sizeof(header));
        for (size_t left = TTRPC_MESSAGE_MAX + 1; left > 0;) {
                size_t n = left < 65536 ? left : 65536;

                wire_send(f->peer, junk, n);
                wire_pump_client(f->client);
                left -= n;
        }
        free(junk);
        expect_end(&o, -EMSGSIZE, TTRPC_RESOURCE_EXHAUSTED);
        answer(f, 3, 0, "", "");
        wire_pump_client(f->client);
        expect_end(&alive, 0, TTRPC_OK);
}

static void answer_longer_than_was_asked_for(void **state) {
        fixture *f = *state;
        outcome o = { 0 }, alive = { 0 };
        char text[64];

        ttrpc_client_set_answer_max(f->client, 32);
        memset(text, 'x', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        call(f, &o, NULL);
        call(f, &alive, NULL);
        answer(f, 1, 0, "", text);
        answer(f, 3, 0, "", "short");
        wire_pump_client(f->client);
        expect_end(&o, -EMSGSIZE, TTRPC_RESOURCE_EXHAUSTED);
        expect_end(&alive, 0, TTRPC_OK);
}

/* ---- streams ---- */

static void stream_to_its_end(void **state) {
        fixture *f = *state;
        outcome o = { 0 };

        stream(f, &o);
        data(f, 1, 0, "one");
        data(f, 1, 0, "");
        data(f, 1, TTRPC_FLAG_NO_DATA, ""); /* without the end: an empty message, as in Go */
        assert_string_equal(o.messages, "one;;;");
        assert_int_equal(o.n_ended, 0);
        data(f, 1, FLAG_END, "");
        assert_string_equal(o.messages, "one;;;");
        expect_end(&o, 0, TTRPC_OK);
        assert_int_equal(o.n_destroyed, 1);
        data(f, 1, 0, "late");
        assert_int_equal(o.n_messages, 3);
}

static void other_ends_of_a_stream(void **state) {
        fixture *f = *state;
        outcome with_last = { 0 }, response = { 0 }, failed = { 0 };

        stream(f, &with_last);
        data(f, 1, TTRPC_FLAG_REMOTE_CLOSED, "last");
        assert_string_equal(with_last.messages, "last;");
        expect_end(&with_last, 0, TTRPC_OK);
        stream(f, &response);
        answer(f, 3, 0, "", "last");
        wire_pump_client(f->client);
        assert_string_equal(response.messages, "last;");
        expect_end(&response, 0, TTRPC_OK);
        stream(f, &failed);
        data(f, 5, 0, "one");
        answer(f, 5, TTRPC_ABORTED, "enough", "");
        wire_pump_client(f->client);
        assert_string_equal(failed.messages, "one;");
        expect_end(&failed, 0, TTRPC_ABORTED);
        assert_string_equal(failed.message, "enough");
}

/* ---- ends ---- */

static void connection_lost(void **state) {
        fixture *f = *state;
        outcome a = { 0 }, b = { 0 }, late = { 0 };

        call(f, &a, NULL);
        stream(f, &b);
        answer(f, 1, 0, "", "made it");
        data(f, 3, 0, "one");
        wire_send(f->peer, "\0\0", 2); /* in the middle of a frame */
        close(f->peer);
        f->peer = -1;
        wire_pump_client(f->client);
        expect_end(&a, 0, TTRPC_OK);
        expect_end(&b, -ENOTCONN, TTRPC_UNAVAILABLE);
        assert_string_equal(b.messages, "one;");
        assert_int_equal(a.n_destroyed + b.n_destroyed, 2);
        assert_int_equal(ttrpc_client_process(f->client), -ENOTCONN);
        assert_int_equal(ttrpc_client_wait(f->client, UINT64_MAX), -ENOTCONN);
        assert_int_equal(ttrpc_client_get_events(f->client), 0);
        assert_int_equal(ttrpc_client_call(f->client, "S", "M", NULL, 0, NULL, on_end, &late, NULL),
                         -ENOTCONN);
        assert_int_equal(late.n_ended, 0);
}

static void connection_lost_in_the_dark(void **state) {
        fixture *f = *state;
        outcome o = { 0 };

        close(f->peer);
        f->peer = -1;
        call(f, &o, NULL); /* cannot be sent; says so when it is looked at */
        wire_pump_client(f->client);
        expect_end(&o, -ENOTCONN, TTRPC_UNAVAILABLE);
}

static void stranger(void **state) {
        fixture *f = *state;
        outcome o = { 0 };
        char request[64];
        ssize_t k;

        call(f, &o, NULL);
        wire_send(f->peer, "SSH-2.0-x\r\n", 11);
        wire_pump_client(f->client);
        expect_end(&o, -ENOTCONN, TTRPC_UNAVAILABLE);
        while ((k = recv(f->peer, request, sizeof(request), 0)) > 0)
                ;
        assert_int_equal(k, 0); /* it is hung up on, and sees that */
}

static void timeout_passes(void **state) {
        const ttrpc_call_options soon = { .timeout_usec = 1 }, far = { .timeout_usec = UINT64_MAX };
        fixture *f = *state;
        outcome o = { 0 }, other = { 0 };

        call(f, &other, &far);
        call(f, &o, &soon);
        assert_true(ttrpc_client_get_timeout(f->client) <= ttrpc_now() + 1);
        while (o.n_ended == 0)
                assert_int_equal(ttrpc_client_wait(f->client, UINT64_MAX), 0);
        expect_end(&o, -ETIMEDOUT, TTRPC_DEADLINE_EXCEEDED);
        assert_int_equal(o.n_destroyed, 1);
        assert_true(ttrpc_client_get_timeout(f->client) > ttrpc_now() + 1000000);
        answer(f, 3, 0, "", "late");
        answer(f, 1, 0, "", "");
        wire_pump_client(f->client);
        assert_int_equal(o.n_ended, 1);
        expect_end(&other, 0, TTRPC_OK);
}

static void cancel(void **state) {
        fixture *f = *state;
        outcome o = { 0 };
        ttrpc_slot *slot = call(f, &o, NULL);

        assert_null(ttrpc_slot_cancel(slot));
        assert_int_equal(o.n_destroyed, 1);
        answer(f, 1, 0, "", "");
        wire_pump_client(f->client);
        assert_int_equal(o.n_ended, 0);
        assert_null(ttrpc_slot_cancel(NULL));
}

static void free_ends_calls(void **state) {
        fixture *f = *state;
        outcome a = { 0 }, b = { 0 }, again = { 0 };

        call(f, &a, NULL);
        stream(f, &b);
        a.call_again = f->client; /* does not join the calls that are being ended */
        a.again = &again;
        f->client = ttrpc_client_free(f->client);
        expect_end(&a, -ENOTCONN, TTRPC_UNAVAILABLE);
        expect_end(&b, -ENOTCONN, TTRPC_UNAVAILABLE);
        assert_int_equal(again.r, -ENOTCONN);
        assert_int_equal(again.n_ended, 0);
}

/* ---- what callbacks may do ---- */

static void callback_frees_the_client(void **state) {
        fixture *f = *state;
        outcome a = { 0 }, b = { 0 };

        call(f, &a, NULL);
        call(f, &b, NULL);
        a.free_client = f->client;
        answer(f, 1, 0, "", "x");
        answer(f, 3, 0, "", "y");
        assert_int_equal(ttrpc_client_process(f->client), -ENOTCONN);
        f->client = NULL;
        expect_end(&a, 0, TTRPC_OK);
        expect_end(&b, -ENOTCONN, TTRPC_UNAVAILABLE);
}

static void message_callback_frees_the_client(void **state) {
        fixture *f = *state;
        outcome o = { 0 };

        stream(f, &o);
        o.free_client = f->client;
        wire_send_frame(f->peer, 1, TTRPC_FRAME_DATA, TTRPC_FLAG_REMOTE_CLOSED, "x", 1);
        assert_int_equal(ttrpc_client_process(f->client), -ENOTCONN);
        f->client = NULL;
        assert_int_equal(o.n_messages, 1);
        expect_end(&o, -ENOTCONN, TTRPC_UNAVAILABLE);
}

static void end_of_the_connection_frees_the_client(void **state) {
        fixture *f = *state;
        outcome a = { 0 }, b = { 0 };

        call(f, &a, NULL);
        call(f, &b, NULL);
        a.free_client = f->client;
        close(f->peer);
        f->peer = -1;
        assert_int_equal(ttrpc_client_process(f->client), -ENOTCONN);
        f->client = NULL;
        expect_end(&a, -ENOTCONN, TTRPC_UNAVAILABLE);
        expect_end(&b, -ENOTCONN, TTRPC_UNAVAILABLE);
}

static void callback_calls_again(void **state) {
        fixture *f = *state;
        outcome a = { 0 }, again = { 0 };

        call(f, &a, NULL);
        a.call_again = f->client;
        a.again = &again;
        answer(f, 1, 0, "", "");
        wire_pump_client(f->client);
        answer(f, 3, 0, "", "");
        wire_pump_client(f->client);
        expect_end(&again, 0, TTRPC_OK);
}

static void callback_cancels_itself_and_others(void **state) {
        fixture *f = *state;
        outcome a = { 0 }, b = { 0 }, c = { 0 };

        stream(f, &b);
        a.cancel = stream(f, &a);
        data(f, 3, TTRPC_FLAG_REMOTE_CLOSED, "x");
        assert_int_equal(a.n_messages, 1);
        assert_int_equal(a.n_ended, 0);
        assert_int_equal(a.n_destroyed, 1);
        c.cancel = call(f, &b, NULL);
        call(f, &c, NULL);
        answer(f, 7, 0, "", "");
        answer(f, 5, 0, "", "");
        wire_pump_client(f->client);
        assert_int_equal(c.n_ended, 1);
        assert_int_equal(b.n_ended, 0);
        assert_int_equal(b.n_destroyed, 1);
        f->client = ttrpc_client_free(f->client); /* before `b`, whose stream is open */
        assert_int_equal(b.n_ended, 1);
}

static void on_end_process(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                           void *userdata) {
        fixture *f = userdata;
        int32_t code;
        char *message;
        uint8_t *reply;
        size_t n_reply;

        assert_int_equal(ttrpc_client_process(f->client), -EBUSY);
        assert_int_equal(ttrpc_client_wait(f->client, 0), -EBUSY);
        assert_int_equal(ttrpc_client_call_sync(f->client, "S", "M", NULL, 0, NULL, &code, &message,
                                                &reply, &n_reply),
                         -EBUSY);
}

static void callback_may_not_wait(void **state) {
        fixture *f = *state;

        assert_int_equal(
                ttrpc_client_call(f->client, "S", "M", NULL, 0, NULL, on_end_process, f, NULL), 0);
        answer(f, 1, 0, "", "");
        wire_pump_client(f->client);
        assert_int_equal(ttrpc_client_process(f->client), 0);
}

/* ---- sync ---- */

/* The answer is there before the call: nobody else runs in this thread. */
static void sync_calls(void **state) {
        fixture *f = *state;
        int32_t code;
        char *message;
        uint8_t *reply;
        size_t n;

        answer(f, 1, 0, "", "x");
        assert_int_equal(ttrpc_client_call_sync(f->client, "S", "M", NULL, 0, NULL, &code, &message,
                                                &reply, &n),
                         0);
        assert_int_equal(code, TTRPC_OK);
        assert_null(message);
        assert_int_equal(n, 1);
        assert_memory_equal(reply, "x", 1);
        free(reply);
        answer(f, 3, TTRPC_ABORTED, "no", "");
        assert_int_equal(ttrpc_client_call_sync(f->client, "S", "M", NULL, 0, NULL, &code, &message,
                                                &reply, &n),
                         0);
        assert_int_equal(code, TTRPC_ABORTED);
        assert_string_equal(message, "no");
        assert_null(reply);
        free(message);
}

static void sync_call_ends(void **state) {
        const ttrpc_call_options soon = { .timeout_usec = 1000 };
        fixture *f = *state;
        int32_t code;
        char *message;
        uint8_t *reply;
        size_t n;

        assert_int_equal(ttrpc_client_call_sync(f->client, "S", "M", NULL, 0, &soon, &code,
                                                &message, &reply, &n),
                         -ETIMEDOUT);
        assert_int_equal(code, TTRPC_DEADLINE_EXCEEDED);
        assert_null(reply);
        free(message);
        close(f->peer);
        f->peer = -1;
        assert_int_equal(ttrpc_client_call_sync(f->client, "S", "M", NULL, 0, NULL, &code, &message,
                                                &reply, &n),
                         -ENOTCONN);
        free(message);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(requests_on_the_wire),
                TEST(requests_that_cannot_be_sent),
                TEST(server_that_does_not_read),
                TEST(answers),
                TEST(answer_in_two_parts),
                TEST(answers_to_nobody_are_ignored),
                TEST(answers_that_make_no_sense),
                TEST(answer_too_long),
                TEST(answer_longer_than_was_asked_for),
                TEST(stream_to_its_end),
                TEST(other_ends_of_a_stream),
                TEST(connection_lost),
                TEST(connection_lost_in_the_dark),
                TEST(stranger),
                TEST(timeout_passes),
                TEST(cancel),
                TEST(free_ends_calls),
                TEST(callback_frees_the_client),
                TEST(message_callback_frees_the_client),
                TEST(end_of_the_connection_frees_the_client),
                TEST(callback_calls_again),
                TEST(callback_cancels_itself_and_others),
                TEST(callback_may_not_wait),
                TEST(sync_calls),
                TEST(sync_call_ends),
        };

        return cmocka_run_group_tests_name("ttrpc-client", tests, NULL, NULL);
}
