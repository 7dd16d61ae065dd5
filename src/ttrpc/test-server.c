/* SPDX-License-Identifier: MIT */
/* The server as a client sees it, frame by frame: the codes and texts are what a Go server was seen
 * to answer, but where the test's name says that ours does better. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ttrpc/clock.h"
#include "ttrpc/test-wire.h"

#define TOO_LONG (TTRPC_MESSAGE_MAX + 1)
#define FLAG_END (TTRPC_FLAG_REMOTE_CLOSED | TTRPC_FLAG_NO_DATA)

typedef struct fixture {
        ttrpc_server *server;
        int peer;
        ttrpc_call *held[4]; /* by Later and Stream */
        size_t n_held;
        unsigned n_gone, n_writable;
        size_t n_fds;
} fixture;

/* ---- the service ---- */

static void on_echo(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                    void *userdata) {
        fixture *f = userdata;

        assert_int_equal(ttrpc_server_process(f->server), -EBUSY);
        assert_int_equal(ttrpc_call_reply(call, payload, n), 0);
        assert_int_equal(ttrpc_call_reply(call, payload, n), -EALREADY);
        assert_int_equal(ttrpc_call_fail(call, TTRPC_INTERNAL, "twice"), -EALREADY);
}

static void on_gone(ttrpc_call *call, void *userdata) {
        fixture *f = userdata;

        f->n_gone++;
        assert_int_equal(ttrpc_call_reply(call, NULL, 0), -ENOTCONN);
}

static void on_writable(ttrpc_call *call, void *userdata) {
        fixture *f = userdata;

        f->n_writable++;
}

static void on_hold(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                    void *userdata) {
        fixture *f = userdata;

        assert_true(f->n_held < 4);
        f->held[f->n_held++] = ttrpc_call_ref(call);
        ttrpc_call_set_callbacks(call, on_gone, on_writable, f);
}

static void on_fail(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                    void *userdata) {
        assert_int_equal(ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION, "not %s: \xff", "now"),
                         0);
}

static void on_drop(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                    void *userdata) {
}

static void on_big(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                   void *userdata) {
        uint8_t *big = calloc(1, TTRPC_MESSAGE_MAX);

        assert_non_null(big);
        assert_int_equal(ttrpc_call_reply(call, big, TTRPC_MESSAGE_MAX), -EMSGSIZE);
        free(big);
}

static void on_count(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                     void *userdata) {
        assert_true(ttrpc_call_is_stream(call));
        assert_int_equal(ttrpc_call_send(call, payload, n), 0);
        assert_int_equal(ttrpc_call_send(call, NULL, 0), 0);
        assert_int_equal(ttrpc_call_finish(call), 0);
        assert_int_equal(ttrpc_call_send(call, NULL, 0), -EALREADY);
}

static void on_both(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                    void *userdata) {
        if (!ttrpc_call_is_stream(call)) {
                assert_int_equal(ttrpc_call_send(call, payload, n), -EINVAL);
                assert_int_equal(ttrpc_call_finish(call), -EINVAL);
                assert_int_equal(ttrpc_call_reply(call, (const uint8_t *)"unary", 5), 0);
        } else
                assert_int_equal(ttrpc_call_reply(call, (const uint8_t *)"stream", 6), 0);
}

static void on_shutdown(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                        void *userdata) {
        fixture *f = userdata;

        ttrpc_server_shutdown(f->server);
        assert_int_equal(ttrpc_call_reply(call, NULL, 0), 0);
}

static const ttrpc_method methods[] = {
        { "Echo", 0, on_echo }, { "Hold", 0, on_hold },       { "Fail", 0, on_fail },
        { "Drop", 0, on_drop }, { "Big", 0, on_big },         { "Count", 1, on_count },
        { "Both", 2, on_both }, { "HoldStream", 1, on_hold }, { "Shutdown", 0, on_shutdown },
};
static const ttrpc_service service = { "test.Service", methods,
                                       sizeof(methods) / sizeof(methods[0]) };

static int set_up(void **state) {
        fixture *f = calloc(1, sizeof(*f));
        int fds[2];

        assert_non_null(f);
        f->n_fds = wire_count_fds();
        wire_pair(fds);
        assert_int_equal(ttrpc_server_new(&f->server), 0);
        assert_int_equal(ttrpc_server_register(f->server, &service, NULL, f), 0);
        assert_int_equal(ttrpc_server_add_connection(f->server, fds[0]), 0);
        f->peer = fds[1];
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        fixture *f = *state;

        ttrpc_server_free(f->server);
        for (size_t i = 0; i < f->n_held; i++)
                ttrpc_call_unref(f->held[i]);
        if (f->peer >= 0)
                close(f->peer);
        assert_int_equal(wire_count_fds(), f->n_fds);
        free(f);
        return 0;
}

static void request(fixture *f, uint32_t id, const char *method, uint8_t flags,
                    const char *payload) {
        ttrpc_request q = {
                .service = wire_text("test.Service"),
                .method = wire_text(method),
                .payload = (const uint8_t *)payload,
                .n_payload = strlen(payload),
        };

        wire_send_request(f->peer, id, flags, &q);
}

static void expect_reply(fixture *f, uint32_t id, const char *payload) {
        uint8_t wire[64] = { 0x12 };
        size_t n = strlen(payload);

        wire[1] = (uint8_t)n;
        memcpy(wire + 2, payload, n);
        wire_expect(f->peer, id, TTRPC_FRAME_RESPONSE, 0, wire, n > 0 ? n + 2 : 0);
}

static void expect_alive(fixture *f, uint32_t id) {
        request(f, id, "Echo", 0, "alive");
        wire_pump_server(f->server);
        expect_reply(f, id, "alive");
        wire_expect_nothing(f->peer);
}

/* ---- unary ---- */

static void unary(void **state) {
        fixture *f = *state;

        request(f, 1, "Echo", 0, "hello");
        request(f, 1001, "Echo", 0xf7, "gaps and flags do not matter");
        request(f, 1003, "Echo", 0, "");
        wire_pump_server(f->server);
        expect_reply(f, 1, "hello");
        expect_reply(f, 1001, "gaps and flags do not matter");
        expect_reply(f, 1003, "");
        assert_int_equal(ttrpc_server_get_pending(f->server), 0);
}

/* Each way to cut the bytes of two requests in two, with a look at them in between. */
static void unary_in_two_parts(void **state) {
        fixture *f = *state;
        uint8_t wire[2 * (TTRPC_HEADER_SIZE + 23)];
        size_t n = sizeof(wire) / 2;
        ttrpc_request q = { .service = wire_text("test.Service"),
                            .method = wire_text("Echo"),
                            .payload = (const uint8_t *)"x",
                            .n_payload = 1 };

        assert_int_equal(ttrpc_request_size(&q), n - TTRPC_HEADER_SIZE);
        for (size_t cut = 1; cut < sizeof(wire); cut++) {
                uint32_t id = (uint32_t)(4 * cut + 1);

                for (uint32_t i = 0; i < 2; i++) {
                        ttrpc_frame_header h = { (uint32_t)(n - TTRPC_HEADER_SIZE), id + 2 * i,
                                                 TTRPC_FRAME_REQUEST, 0 };

                        ttrpc_frame_format(&h, wire + i * n);
                        ttrpc_request_format(&q, wire + i * n + TTRPC_HEADER_SIZE);
                }
                wire_send(f->peer, wire, cut);
                wire_pump_server(f->server);
                wire_send(f->peer, wire + cut, sizeof(wire) - cut);
                wire_pump_server(f->server);
                expect_reply(f, id, "x");
                expect_reply(f, id + 2, "x");
                wire_expect_nothing(f->peer);
        }
}

static void byte_by_byte(void **state) {
        fixture *f = *state;
        uint8_t wire[TTRPC_HEADER_SIZE + 23];
        ttrpc_request q = { .service = wire_text("test.Service"),
                            .method = wire_text("Echo"),
                            .payload = (const uint8_t *)"x",
                            .n_payload = 1 };
        ttrpc_frame_header h = { 23, 1, TTRPC_FRAME_REQUEST, 0 };

        ttrpc_frame_format(&h, wire);
        ttrpc_request_format(&q, wire + TTRPC_HEADER_SIZE);
        for (size_t i = 0; i < sizeof(wire); i++) {
                wire_expect_nothing(f->peer);
                wire_send(f->peer, wire + i, 1);
                wire_pump_server(f->server);
        }
        expect_reply(f, 1, "x");
}

static void failures(void **state) {
        fixture *f = *state;

        request(f, 1, "Fail", 0, "");
        request(f, 3, "Drop", 0, "");
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 1, TTRPC_FAILED_PRECONDITION, "not now: ?");
        wire_expect_status(f->peer, 3, TTRPC_INTERNAL, "the server dropped the call");
        expect_alive(f, 5);
}

static void answers_in_any_order(void **state) {
        fixture *f = *state;

        request(f, 1, "Hold", 0, "");
        request(f, 3, "Hold", 0, "");
        wire_pump_server(f->server);
        wire_expect_nothing(f->peer);
        assert_int_equal(ttrpc_server_get_pending(f->server), 2);
        assert_int_equal(ttrpc_call_reply(f->held[1], (const uint8_t *)"b", 1), 0);
        expect_reply(f, 3, "b"); /* at once, outside of process() */
        assert_int_equal(ttrpc_call_reply(f->held[0], (const uint8_t *)"a", 1), 0);
        expect_reply(f, 1, "a");
        assert_int_equal(ttrpc_server_get_pending(f->server), 0);
        assert_int_equal(f->n_gone, 0);
}

/* ---- the rows of what each frame does ---- */

static void row_1_too_long_is_discarded(void **state) {
        fixture *f = *state;
        uint8_t *junk = calloc(1, 65536), header[TTRPC_HEADER_SIZE];
        /* comes before the parity check, and for any type; the id is not used up */
        ttrpc_frame_header h = { TOO_LONG, 2, TTRPC_FRAME_REQUEST, 0 };

        assert_non_null(junk);
        ttrpc_frame_format(&h, header);
        wire_send(f->peer, header, sizeof(header));
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 2, TTRPC_RESOURCE_EXHAUSTED,
                           "message length 4194305 exceed maximum message size of 4194304");
        for (size_t left = TOO_LONG; left > 0;) {
                size_t n = left < 65536 ? left : 65536;

                wire_send(f->peer, junk, n);
                wire_pump_server(f->server);
                left -= n;
        }
        free(junk);
        expect_alive(f, 1);
}

static void row_2_even_ids(void **state) {
        fixture *f = *state;

        for (uint8_t type = 1; type <= 4; type++) {
                wire_send_frame(f->peer, 2 * (type - 1U), type, 0, NULL, 0);
                wire_pump_server(f->server);
                wire_expect_status(f->peer, 2 * (type - 1U), TTRPC_INVALID_ARGUMENT,
                                   "StreamID must be odd for client initiated streams");
        }
        expect_alive(f, 1);
}

static void row_3_data_for_nobody(void **state) {
        fixture *f = *state;

        wire_send_frame(f->peer, 7, TTRPC_FRAME_DATA, 0, "x", 1);
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 7, TTRPC_INVALID_ARGUMENT, "StreamID is no longer active");
        expect_alive(f, 1);
        wire_send_frame(f->peer, 1, TTRPC_FRAME_DATA, FLAG_END, NULL, 0);
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 1, TTRPC_INVALID_ARGUMENT, "StreamID is no longer active");
}

/* A Go server crashes. */
static void data_on_a_unary_call_fails_that_call(void **state) {
        fixture *f = *state;

        request(f, 1, "Hold", 0, "");
        request(f, 3, "Hold", 0, "");
        wire_send_frame(f->peer, 1, TTRPC_FRAME_DATA, FLAG_END, NULL, 0);
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 1, TTRPC_INVALID_ARGUMENT, NULL);
        assert_int_equal(f->n_gone, 1);
        assert_int_equal(ttrpc_call_reply(f->held[1], NULL, 0), 0);
        expect_reply(f, 3, "");
        wire_expect_nothing(f->peer);
}

static void row_6_ids_only_grow(void **state) {
        fixture *f = *state;

        request(f, 5, "Hold", 0, "");
        request(f, 3, "Echo", 0, "");
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 3, TTRPC_INVALID_ARGUMENT,
                           "StreamID cannot be re-used and must increment");
        assert_int_equal(f->n_gone, 0);
        request(f, 5, "Echo", 0, "");
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 5, TTRPC_INVALID_ARGUMENT,
                           "StreamID cannot be re-used and must increment");
        assert_int_equal(f->n_gone, 1); /* the live one is over too */
        wire_expect_nothing(f->peer);
        expect_alive(f, UINT32_MAX);
}

static void row_7_garbage_uses_up_the_id(void **state) {
        fixture *f = *state;

        wire_send_frame(f->peer, 1, TTRPC_FRAME_REQUEST, 0, "\xff\xff", 2);
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 1, TTRPC_INVALID_ARGUMENT, NULL);
        request(f, 1, "Echo", 0, "");
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 1, TTRPC_INVALID_ARGUMENT, NULL);
        expect_alive(f, 3);
}

static void row_8_unknown_names(void **state) {
        fixture *f = *state;
        ttrpc_request q = { .service = wire_text("no.Such"), .method = wire_text("Echo") };

        wire_send_request(f->peer, 1, 0, &q);
        request(f, 3, "Nothing", 0, "");
        request(f, 5, "Ech", 0, "");
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 1, TTRPC_UNIMPLEMENTED, "service no.Such");
        wire_expect_status(f->peer, 3, TTRPC_UNIMPLEMENTED, "method Nothing");
        wire_expect_status(f->peer, 5, TTRPC_UNIMPLEMENTED, "method Ech");
}

static void row_10_other_types_are_ignored(void **state) {
        fixture *f = *state;

        wire_send_frame(f->peer, 1, TTRPC_FRAME_RESPONSE, 0, "x", 1);
        wire_send_frame(f->peer, 1, 0x80, 0xff, "x", 1);
        wire_pump_server(f->server);
        wire_expect_nothing(f->peer);
        expect_alive(f, 1);
}

static void stranger_is_cut_off(void **state) {
        fixture *f = *state;

        wire_send(f->peer, "GET / HTTP/1.1\r\n\r\n", 18);
        wire_pump_server(f->server);
        assert_true(wire_is_closed(f->peer));
}

/* ---- streams ---- */

static void stream(void **state) {
        fixture *f = *state;

        /* the method decides, not the flags */
        for (uint32_t id = 1; id <= 5; id += 2) {
                request(f, id, "Count", id == 3 ? 0 : TTRPC_FLAG_REMOTE_CLOSED,
                        id == 5 ? "" : "one");
                wire_pump_server(f->server);
                wire_expect(f->peer, id, TTRPC_FRAME_DATA, 0, "one", id == 5 ? 0 : 3);
                wire_expect(f->peer, id, TTRPC_FRAME_DATA, 0, NULL, 0);
                wire_expect(f->peer, id, TTRPC_FRAME_DATA, FLAG_END, NULL, 0);
                wire_expect_nothing(f->peer);
        }
}

static void method_for_both_kinds(void **state) {
        fixture *f = *state;

        request(f, 1, "Both", 0, "");
        request(f, 3, "Both", TTRPC_FLAG_REMOTE_CLOSED, "");
        wire_pump_server(f->server);
        expect_reply(f, 1, "unary");
        expect_reply(f, 3, "stream");
}

static void stream_ends_with_a_status(void **state) {
        fixture *f = *state;

        request(f, 1, "HoldStream", TTRPC_FLAG_REMOTE_CLOSED, "");
        wire_send_frame(f->peer, 1, TTRPC_FRAME_DATA, 0, "ignored", 7);
        wire_pump_server(f->server);
        wire_expect_nothing(f->peer);
        assert_int_equal(ttrpc_call_send(f->held[0], (const uint8_t *)"m", 1), 0);
        assert_int_equal(ttrpc_call_fail(f->held[0], TTRPC_ABORTED, "enough"), 0);
        wire_expect(f->peer, 1, TTRPC_FRAME_DATA, 0, "m", 1);
        wire_expect_status(f->peer, 1, TTRPC_ABORTED, "enough");
        wire_expect_nothing(f->peer);
}

static size_t read_away(int fd) {
        static uint8_t sink[1 << 20];
        size_t n = 0;

        for (ssize_t k; (k = recv(fd, sink, sizeof(sink), MSG_DONTWAIT)) > 0;)
                n += (size_t)k;
        return n;
}

static void slow_reader_of_a_stream(void **state) {
        fixture *f = *state;
        static uint8_t message[4096];
        size_t n_sent = 0, n_read = 0;
        int r;

        request(f, 1, "HoldStream", TTRPC_FLAG_REMOTE_CLOSED, "");
        wire_pump_server(f->server);
        while ((r = ttrpc_call_send(f->held[0], message, sizeof(message))) == 0) {
                n_sent++;
                assert_true(n_sent < 100000);
        }
        assert_int_equal(r, -EAGAIN);
        wire_pump_server(f->server);
        assert_int_equal(f->n_writable, 0);
        while (f->n_writable == 0) {
                n_read += read_away(f->peer);
                wire_pump_server(f->server);
        }
        assert_int_equal(f->n_writable, 1);
        assert_int_equal(ttrpc_call_send(f->held[0], message, sizeof(message)), 0);
        assert_int_equal(ttrpc_call_finish(f->held[0]), 0);
        while (n_read < (n_sent + 1) * (sizeof(message) + TTRPC_HEADER_SIZE) + TTRPC_HEADER_SIZE) {
                wire_pump_server(f->server);
                n_read += read_away(f->peer);
        }
        wire_expect_nothing(f->peer);
        assert_int_equal(f->n_gone, 0);
}

/* A stream that fills up again from its own callback, however fast the peer reads. */
static void send_until_full(ttrpc_call *call, void *userdata) {
        static uint8_t message[4096];
        fixture *f = userdata;

        f->n_writable++;
        while (ttrpc_call_send(call, message, sizeof(message)) == 0)
                ;
}

static void stream_goes_on_from_its_callback(void **state) {
        fixture *f = *state;

        request(f, 1, "HoldStream", TTRPC_FLAG_REMOTE_CLOSED, "");
        wire_pump_server(f->server);
        ttrpc_call_set_callbacks(f->held[0], on_gone, send_until_full, f);
        send_until_full(f->held[0], f);
        for (unsigned i = 0; i < 50; i++) {
                unsigned before = f->n_writable;

                while (f->n_writable == before) {
                        read_away(f->peer);
                        wire_pump_server(f->server);
                }
        }
        assert_int_equal(ttrpc_call_fail(f->held[0], TTRPC_CANCELLED, "enough"), 0);
}

/* ---- limits ---- */

static void largest_request(void **state) {
        fixture *f = *state;
        char *payload = malloc(TTRPC_MESSAGE_MAX);
        ttrpc_request q = { .service = wire_text("test.Service"), .method = wire_text("Drop") };
        uint8_t *wire = malloc(TTRPC_HEADER_SIZE + TTRPC_MESSAGE_MAX), *at = wire;
        ttrpc_frame_header h = { TTRPC_MESSAGE_MAX, 1, TTRPC_FRAME_REQUEST, 0 };
        size_t left = TTRPC_HEADER_SIZE + TTRPC_MESSAGE_MAX;

        assert_non_null(payload);
        assert_non_null(wire);
        memset(payload, 'x', TTRPC_MESSAGE_MAX);
        q.payload = (uint8_t *)payload;
        q.n_payload = TTRPC_MESSAGE_MAX - (ttrpc_request_size(&q) + 5);
        assert_int_equal(ttrpc_request_size(&q), TTRPC_MESSAGE_MAX);
        ttrpc_frame_format(&h, wire);
        ttrpc_request_format(&q, wire + TTRPC_HEADER_SIZE);
        while (left > 0) {
                ssize_t k = send(f->peer, at, left, MSG_DONTWAIT);

                if (k > 0) {
                        at += k;
                        left -= (size_t)k;
                }
                wire_pump_server(f->server);
        }
        free(wire);
        free(payload);
        wire_expect_status(f->peer, 1, TTRPC_INTERNAL, NULL); /* Drop: it was called */
        expect_alive(f, 3);
}

/* A Go server drops the whole connection. */
static void reply_too_long_fails_that_call(void **state) {
        fixture *f = *state;

        request(f, 1, "Big", 0, "");
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 1, TTRPC_RESOURCE_EXHAUSTED,
                           "message length 4194309 exceed maximum message size of 4194304");
        expect_alive(f, 3);
}

static void too_many_calls(void **state) {
        fixture *f = *state;

        ttrpc_server_set_limits(f->server, 0, 2, 0);
        for (uint32_t id = 1; id <= 5; id += 2)
                request(f, id, "Hold", 0, "");
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 5, TTRPC_RESOURCE_EXHAUSTED, NULL);
        assert_int_equal(ttrpc_call_reply(f->held[0], NULL, 0), 0);
        expect_reply(f, 1, "");
        expect_alive(f, 7);
}

static void too_many_connections(void **state) {
        fixture *f = *state;
        int fds[2];

        ttrpc_server_set_limits(f->server, 1, 0, 0);
        wire_pair(fds);
        assert_int_equal(ttrpc_server_add_connection(f->server, fds[0]), -EMFILE);
        assert_true(wire_is_closed(fds[1]));
        close(fds[1]);
        expect_alive(f, 1);
}

/* It sends and sends and never reads: memory stays bounded, and reading makes it go on. */
static void peer_that_does_not_read(void **state) {
        fixture *f = *state;
        static uint8_t payload[1000];
        ttrpc_request q = { .service = wire_text("test.Service"),
                            .method = wire_text("Echo"),
                            .payload = payload,
                            .n_payload = sizeof(payload) };
        uint8_t wire[2048];
        uint32_t n_asked = 0, n_answered = 0;
        size_t n = TTRPC_HEADER_SIZE + ttrpc_request_size(&q), left = 0;
        wire_frame frame;

        ttrpc_server_set_limits(f->server, 0, 0, 1 << 20);
        for (;;) {
                ttrpc_frame_header h = { (uint32_t)(n - TTRPC_HEADER_SIZE), 2 * n_asked + 1,
                                         TTRPC_FRAME_REQUEST, 0 };
                ssize_t k;

                ttrpc_frame_format(&h, wire);
                ttrpc_request_format(&q, wire + TTRPC_HEADER_SIZE);
                k = send(f->peer, wire, n, MSG_DONTWAIT);
                wire_pump_server(f->server);
                if (k < 0)
                        break; /* it reads no more from us */
                n_asked++;
                assert_true(n_asked < 10000);
                if ((size_t)k < n) {
                        left = n - (size_t)k;
                        break;
                }
        }
        while (n_answered < n_asked - (left > 0)) {
                assert_true(wire_receive(f->peer, &frame));
                assert_int_equal(frame.header.stream_id, 2 * n_answered + 1);
                free(frame.data);
                n_answered++;
                wire_pump_server(f->server);
        }
        if (left > 0)
                wire_send(f->peer, wire + n - left, left);
        wire_pump_server(f->server);
        if (left > 0) {
                assert_true(wire_receive(f->peer, &frame));
                free(frame.data);
        }
        expect_alive(f, 2 * n_asked + 1);
}

static void peer_that_never_reads_is_cut_off(void **state) {
        fixture *f = *state;
        uint8_t *big = calloc(1, 1 << 20);

        assert_non_null(big);
        ttrpc_server_set_limits(f->server, 0, 0, 2 << 20);
        for (uint32_t id = 1; id <= 7; id += 2)
                request(f, id, "Hold", 0, "");
        wire_pump_server(f->server);
        for (size_t i = 0; i < 3; i++)
                (void)ttrpc_call_reply(f->held[i], big, 1 << 20);
        wire_pump_server(f->server);
        assert_int_equal(f->n_gone, 1); /* the one that was not answered */
        assert_int_equal(ttrpc_server_get_pending(f->server), 0);
        free(big);
}

/* ---- ends ---- */

static void deadline_passes(void **state) {
        fixture *f = *state;
        ttrpc_request q = { .service = wire_text("test.Service"),
                            .method = wire_text("Hold"),
                            .timeout_nano = 1 };

        wire_send_request(f->peer, 1, 0, &q);
        while (f->n_gone == 0)
                wire_pump_server(f->server);
        wire_expect_status(f->peer, 1, TTRPC_DEADLINE_EXCEEDED, "context deadline exceeded");
        assert_int_equal(f->n_held, 1);
        assert_int_equal(f->n_gone, 1);
        assert_int_equal(ttrpc_call_reply(f->held[0], NULL, 0), -ENOTCONN);
        q.timeout_nano = -1; /* already: the handler is not bothered */
        wire_send_request(f->peer, 3, 0, &q);
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 3, TTRPC_DEADLINE_EXCEEDED, "context deadline exceeded");
        assert_int_equal(f->n_held, 1);
        q.timeout_nano = INT64_MAX;
        wire_send_request(f->peer, 5, 0, &q);
        wire_pump_server(f->server);
        assert_int_equal(f->n_held, 2);
        assert_true(ttrpc_call_get_deadline(f->held[1]) > ttrpc_now());
        assert_true(ttrpc_server_get_timeout(f->server) <= ttrpc_call_get_deadline(f->held[1]));
        expect_alive(f, 7);
}

static void peer_leaves(void **state) {
        fixture *f = *state;

        request(f, 1, "Hold", 0, "");
        request(f, 3, "HoldStream", TTRPC_FLAG_REMOTE_CLOSED, "");
        wire_pump_server(f->server);
        close(f->peer);
        f->peer = -1;
        wire_pump_server(f->server);
        assert_int_equal(f->n_gone, 2);
        assert_int_equal(ttrpc_server_get_pending(f->server), 0);
        assert_int_equal(ttrpc_call_send(f->held[1], NULL, 0), -ENOTCONN);
        assert_int_equal(ttrpc_call_finish(f->held[1]), -ENOTCONN);
}

/* As it answers: the answer finds a dead connection, and on_gone does not come on top. */
static void peer_leaves_unnoticed(void **state) {
        fixture *f = *state;

        request(f, 1, "Hold", 0, "");
        request(f, 3, "Hold", 0, "");
        request(f, 5, "Hold", 0, "");
        wire_pump_server(f->server);
        close(f->peer);
        f->peer = -1;
        (void)ttrpc_call_reply(f->held[0], NULL, 0);
        assert_int_equal(ttrpc_call_reply(f->held[1], NULL, 0), -ENOTCONN);
        assert_int_equal(ttrpc_call_reply(f->held[1], NULL, 0), -EALREADY);
        wire_pump_server(f->server);
        assert_int_equal(f->n_gone, 1);
}

/* A Go server drops the answers. */
static void half_closed_peer_gets_its_answers(void **state) {
        fixture *f = *state;

        request(f, 1, "Hold", 0, "");
        request(f, 3, "Echo", 0, "x");
        shutdown(f->peer, SHUT_WR);
        wire_pump_server(f->server);
        expect_reply(f, 3, "x");
        wire_expect_nothing(f->peer);
        assert_int_equal(ttrpc_call_reply(f->held[0], NULL, 0), 0);
        wire_pump_server(f->server);
        expect_reply(f, 1, "");
        assert_true(wire_is_closed(f->peer));
        assert_int_equal(f->n_gone, 0);
}

static void half_closed_peer_leaves(void **state) {
        fixture *f = *state;

        request(f, 1, "Hold", 0, "");
        shutdown(f->peer, SHUT_WR);
        wire_pump_server(f->server);
        close(f->peer);
        f->peer = -1;
        wire_pump_server(f->server);
        assert_int_equal(f->n_gone, 1);
}

/* A Go server cuts calls that began since its last answer. */
static void shutdown_waits_for_calls(void **state) {
        fixture *f = *state;

        request(f, 1, "Hold", 0, "");
        wire_pump_server(f->server);
        ttrpc_server_shutdown(f->server);
        request(f, 3, "Echo", 0, "");
        wire_pump_server(f->server);
        wire_expect_status(f->peer, 3, TTRPC_UNAVAILABLE, NULL);
        assert_int_equal(ttrpc_server_get_pending(f->server), 1);
        assert_int_equal(ttrpc_call_reply(f->held[0], NULL, 0), 0);
        assert_int_equal(ttrpc_server_get_pending(f->server), 0);
        wire_pump_server(f->server);
        expect_reply(f, 1, "");
        assert_true(wire_is_closed(f->peer));
}

static void shutdown_by_a_call(void **state) {
        fixture *f = *state;

        request(f, 1, "Shutdown", 0, "");
        request(f, 3, "Echo", 0, "");
        wire_pump_server(f->server);
        expect_reply(f, 1, "");
        wire_expect_status(f->peer, 3, TTRPC_UNAVAILABLE, NULL);
        assert_true(wire_is_closed(f->peer));
}

static void free_tells_the_calls(void **state) {
        fixture *f = *state;

        request(f, 1, "Hold", 0, "");
        wire_pump_server(f->server);
        f->server = ttrpc_server_free(f->server);
        assert_int_equal(f->n_gone, 1);
        assert_int_equal(ttrpc_call_fail(f->held[0], TTRPC_INTERNAL, "x"), -ENOTCONN);
}

/* ---- who calls ---- */

static void on_known(ttrpc_call *call, const uint8_t *payload, size_t n, const void *own,
                     void *userdata) {
        const ttrpc_pair *pairs;
        size_t n_pairs;
        pid_t pid;
        uid_t uid;
        gid_t gid;

        assert_string_equal(ttrpc_call_get_service(call), "test.Service");
        assert_string_equal(ttrpc_call_get_method(call), "Echo");
        pairs = ttrpc_call_get_metadata(call, &n_pairs);
        assert_int_equal(n_pairs, 2);
        assert_string_equal(pairs[0].key, "k");
        assert_string_equal(pairs[0].value, "v");
        assert_string_equal(pairs[1].key, "k");
        assert_string_equal(pairs[1].value, "");
        assert_int_equal(ttrpc_call_get_peer(call, &pid, &uid, &gid), 0);
        assert_int_equal(pid, getpid());
        assert_int_equal(uid, getuid());
        assert_int_equal(gid, getgid());
        assert_int_equal(ttrpc_call_get_deadline(call), UINT64_MAX);
        assert_string_equal(own, "own");
        (*(unsigned *)userdata)++;
        ttrpc_call_reply(call, NULL, 0);
}

/* Also: a method that is registered again replaces that one and leaves the others. */
static void caller_is_known(void **state) {
        static const ttrpc_method echo[] = { { "Echo", 0, on_known } };
        static const ttrpc_service again = { "test.Service", echo, 1 };
        fixture *f = *state;
        unsigned n_called = 0;
        ttrpc_request q = { .service = wire_text("test.Service"),
                            .method = wire_text("Echo"),
                            .n_metadata = 2 };

        q.metadata[0] = (ttrpc_envelope_pair){ wire_text("k"), wire_text("v") };
        q.metadata[1] = (ttrpc_envelope_pair){ wire_text("k"), wire_text("") };
        assert_int_equal(ttrpc_server_register(f->server, &again, "own", &n_called), 0);
        wire_send_request(f->peer, 1, 0, &q);
        request(f, 3, "Fail", 0, "");
        wire_pump_server(f->server);
        expect_reply(f, 1, "");
        assert_int_equal(n_called, 1);
        wire_expect_status(f->peer, 3, TTRPC_FAILED_PRECONDITION, NULL);
}

/* Without a free descriptor for it a connection waits; the loop is not kept busy meanwhile. */
static void out_of_descriptors(void **state) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        socklen_t n = sizeof(address.sun_family); /* the kernel picks an abstract name */
        struct pollfd p = { .events = POLLIN };
        struct rlimit limit, low;
        fixture *f = *state;
        int listener, peer, lowest;

        listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(listener, (struct sockaddr *)&address, n), 0);
        n = sizeof(address);
        assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &n), 0);
        assert_int_equal(listen(listener, 1), 0);
        assert_int_equal(ttrpc_server_listen(f->server, listener), 0);
        peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(peer, (struct sockaddr *)&address, n), 0);
        close(f->peer);
        f->peer = peer;
        wire_pump_server(f->server);
        lowest = dup(peer);
        close(lowest);
        assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);

        peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(peer, lowest);
        assert_int_equal(connect(peer, (struct sockaddr *)&address, n), 0);
        low = limit;
        low.rlim_cur = (rlim_t)peer + 1;
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
        assert_int_equal(ttrpc_server_process(f->server), 0);
        p.fd = ttrpc_server_get_fd(f->server);
        assert_int_equal(poll(&p, 1, 0), 0);
        assert_true(ttrpc_server_get_timeout(f->server) != UINT64_MAX);
        expect_alive(f, 1);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);

        close(f->peer);
        f->peer = peer;
        request(f, 1, "Echo", 0, "at last");
        while (poll(&(struct pollfd){ .fd = peer, .events = POLLIN }, 1, 1) == 0)
                wire_pump_server(f->server);
        expect_reply(f, 1, "at last");
        assert_true(ttrpc_server_get_timeout(f->server) == UINT64_MAX);
}

static void uid_is_checked(void **state) {
        fixture *f = *state;
        int fds[2];

        wire_pair(fds);
        ttrpc_server_set_uid(f->server, getuid());
        assert_int_equal(ttrpc_server_add_connection(f->server, fds[0]), 0);
        close(fds[1]);
        wire_pair(fds);
        ttrpc_server_set_uid(f->server, getuid() + 1);
        /* root may always */
        assert_int_equal(ttrpc_server_add_connection(f->server, fds[0]),
                         getuid() == 0 ? 0 : -EACCES);
        close(fds[1]);
        /* and who says no name may not */
        fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(ttrpc_server_add_connection(f->server, fds[0]), -EACCES);
        wire_pump_server(f->server);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(unary),
                TEST(unary_in_two_parts),
                TEST(byte_by_byte),
                TEST(failures),
                TEST(answers_in_any_order),
                TEST(row_1_too_long_is_discarded),
                TEST(row_2_even_ids),
                TEST(row_3_data_for_nobody),
                TEST(data_on_a_unary_call_fails_that_call),
                TEST(row_6_ids_only_grow),
                TEST(row_7_garbage_uses_up_the_id),
                TEST(row_8_unknown_names),
                TEST(row_10_other_types_are_ignored),
                TEST(stranger_is_cut_off),
                TEST(stream),
                TEST(method_for_both_kinds),
                TEST(stream_ends_with_a_status),
                TEST(slow_reader_of_a_stream),
                TEST(stream_goes_on_from_its_callback),
                TEST(largest_request),
                TEST(reply_too_long_fails_that_call),
                TEST(too_many_calls),
                TEST(too_many_connections),
                TEST(peer_that_does_not_read),
                TEST(peer_that_never_reads_is_cut_off),
                TEST(deadline_passes),
                TEST(peer_leaves),
                TEST(peer_leaves_unnoticed),
                TEST(half_closed_peer_gets_its_answers),
                TEST(half_closed_peer_leaves),
                TEST(shutdown_waits_for_calls),
                TEST(shutdown_by_a_call),
                TEST(free_tells_the_calls),
                TEST(caller_is_known),
                TEST(out_of_descriptors),
                TEST(uid_is_checked),
        };

        return cmocka_run_group_tests_name("ttrpc-server", tests, NULL, NULL);
}
