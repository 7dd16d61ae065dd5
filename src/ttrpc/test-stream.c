/* SPDX-License-Identifier: MIT */
/* Streams whose peer does not read, over real sockets: what they cost, and whom. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ttrpc/clock.h"
#include "ttrpc/test-wire.h"

#define FLAG_END    (TTRPC_FLAG_REMOTE_CLOSED | TTRPC_FLAG_NO_DATA)
#define STREAM_HIGH (256U * 1024) /* what ttrpc.h promises of ttrpc_call_send() */
#define MESSAGE     4096U
#define N_FEW       500U

typedef struct fixture {
        ttrpc_server *server;
        int peer, other;
        size_t n_message;  /* of Flood, bytes */
        size_t n_accepted; /* by Flood's sends, bytes on the wire */
        unsigned n_gone, n_ended, n_echoes;
        size_t n_fds;
} fixture;

/* ---- the service ---- */

typedef struct stream {
        fixture *f;
        unsigned left; /* UINT32_MAX: without end */
        size_t n_message;
} stream;

static void on_gone(ttrpc_call *call, void *userdata) {
        stream *s = userdata;

        s->f->n_gone++;
        assert_int_equal(ttrpc_call_send(call, NULL, 0), -ENOTCONN);
        free(s);
        ttrpc_call_unref(call);
}

static void send_on(ttrpc_call *call, void *userdata) {
        static const uint8_t message[TTRPC_MESSAGE_MAX];
        stream *s = userdata;

        while (s->left > 0) {
                int r = ttrpc_call_send(call, message, s->n_message);

                if (r == -EAGAIN)
                        return;
                assert_int_equal(r, 0);
                s->f->n_accepted += s->n_message + TTRPC_HEADER_SIZE;
                if (s->left != UINT32_MAX)
                        s->left--;
        }
        assert_int_equal(ttrpc_call_finish(call), 0);
        s->f->n_ended++;
        free(s);
        ttrpc_call_unref(call);
}

static void start(ttrpc_call *call, fixture *f, unsigned count, size_t n_message) {
        stream *s = malloc(sizeof(*s));

        assert_non_null(s);
        *s = (stream){ .f = f, .left = count, .n_message = n_message };
        ttrpc_call_set_callbacks(ttrpc_call_ref(call), on_gone, send_on, s);
        send_on(call, s);
}

static void on_flood(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                     void *userdata) {
        fixture *f = userdata;

        start(call, f, UINT32_MAX, f->n_message);
}

static void on_few(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                   void *userdata) {
        start(call, userdata, N_FEW, MESSAGE);
}

static void on_echo(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                    void *userdata) {
        fixture *f = userdata;

        f->n_echoes++;
        assert_int_equal(ttrpc_call_reply(call, payload, n), 0);
}

static const ttrpc_method methods[] = {
        { "Flood", 1, on_flood },
        { "Few", 1, on_few },
        { "Echo", 0, on_echo },
};
static const ttrpc_service service = { "S", methods, sizeof(methods) / sizeof(methods[0]) };

static int connect_to(fixture *f) {
        int fds[2];

        wire_pair(fds);
        assert_int_equal(ttrpc_server_add_connection(f->server, fds[0]), 0);
        return fds[1];
}

static int set_up(void **state) {
        fixture *f = calloc(1, sizeof(*f));

        assert_non_null(f);
        f->n_fds = wire_count_fds();
        f->n_message = MESSAGE;
        assert_int_equal(ttrpc_server_new(&f->server), 0);
        assert_int_equal(ttrpc_server_register(f->server, &service, NULL, f), 0);
        f->peer = connect_to(f);
        f->other = connect_to(f);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        fixture *f = *state;

        ttrpc_server_free(f->server);
        if (f->peer >= 0)
                close(f->peer);
        if (f->other >= 0)
                close(f->other);
        assert_int_equal(wire_count_fds(), f->n_fds);
        free(f);
        return 0;
}

static void request_within(fixture *f, int fd, uint32_t id, const char *method,
                           int64_t timeout_nano) {
        ttrpc_request q = { .service = wire_text("S"),
                            .method = wire_text(method),
                            .payload = (const uint8_t *)"hello",
                            .n_payload = 5,
                            .timeout_nano = timeout_nano };

        wire_send_request(fd, id, strcmp(method, "Echo") == 0 ? 0 : TTRPC_FLAG_REMOTE_CLOSED, &q);
        wire_pump_server(f->server);
}

static void request(fixture *f, int fd, uint32_t id, const char *method) {
        request_within(f, fd, id, method, 0);
}

/* The next frame; the server goes on when there is room. */
static ttrpc_frame_header next_frame(fixture *f, int fd) {
        wire_frame frame;

        assert_true(wire_receive(fd, &frame));
        free(frame.data);
        wire_pump_server(f->server);
        return frame.header;
}

static bool is_end(const ttrpc_frame_header *h) {
        return h->type == TTRPC_FRAME_DATA && h->flags == FLAG_END;
}

/* What of all that was taken is in the server's memory: the rest is in the kernel's. */
static size_t queued(const fixture *f) {
        int unread = 0;

        assert_int_equal(ioctl(f->peer, FIONREAD, &unread), 0);
        return f->n_accepted - (size_t)unread;
}

static void expect_echo(fixture *f, int fd, uint32_t id) {
        request(f, fd, id, "Echo");
        wire_expect_status(fd, id, TTRPC_OK, NULL);
}

/* ---- nobody waits for it ---- */

static void other_connections_do_not_wait(void **state) {
        fixture *f = *state;

        request(f, f->peer, 1, "Flood");
        expect_echo(f, f->other, 1);
        request(f, f->other, 3, "Few");
        for (unsigned i = 0; i < N_FEW; i++)
                assert_int_equal(next_frame(f, f->other).length, MESSAGE);
        wire_expect(f->other, 3, TTRPC_FRAME_DATA, FLAG_END, NULL, 0);
        expect_echo(f, f->other, 5);
        assert_int_equal(f->n_gone, 0);
}

/* The answers are behind what was queued before, and before all that comes. */
static void calls_of_its_connection_do_not_wait(void **state) {
        fixture *f = *state;
        size_t n_before, n_seen = 0;
        ttrpc_frame_header h;

        request(f, f->peer, 1, "Flood");
        n_before = f->n_accepted;
        request(f, f->peer, 3, "Echo");
        request(f, f->peer, 5, "Echo");
        assert_int_equal(f->n_echoes, 2); /* they were served though nobody reads */
        while ((h = next_frame(f, f->peer)).stream_id == 1)
                n_seen += h.length + TTRPC_HEADER_SIZE;
        assert_int_equal(h.stream_id, 3);
        assert_int_equal(n_seen, n_before);
        assert_int_equal(next_frame(f, f->peer).stream_id, 5);
        /* and the stream has gone on */
        assert_true(f->n_accepted > n_before);
}

/* The one fills the queue whenever there is room; the other gets its turn all the same. */
static void streams_of_its_connection_do_not_starve(void **state) {
        static const char *const orders[][2] = { { "Flood", "Few" }, { "Few", "Flood" } };
        fixture *f = *state;

        for (uint32_t i = 0; i < 2; i++) {
                uint32_t few = strcmp(orders[i][0], "Few") == 0 ? 1 : 3, n_few = 0;
                int fd = connect_to(f);
                ttrpc_frame_header h;
                unsigned n = 0;

                request(f, fd, 1, orders[i][0]);
                request(f, fd, 3, orders[i][1]);
                for (;;) {
                        h = next_frame(f, fd);
                        if (is_end(&h) && h.stream_id == few)
                                break;
                        n_few += h.stream_id == few;
                        if (++n > 100 * N_FEW)
                                fail_msg("%s, then %s: only %u of %u", orders[i][0], orders[i][1],
                                         n_few, N_FEW);
                }
                assert_int_equal(n_few, N_FEW);
                assert_int_equal(f->n_ended, i + 1);
                close(fd);
                wire_pump_server(f->server);
                assert_int_equal(f->n_gone, i + 1);
        }
}

/* ---- what it costs ---- */

static void memory_is_bounded(void **state) {
        fixture *f = *state;

        for (uint32_t i = 0; i < 100; i++)
                request(f, f->peer, 2 * i + 1, "Flood");
        assert_true(queued(f) >= STREAM_HIGH);
        assert_true(queued(f) < STREAM_HIGH + MESSAGE + TTRPC_HEADER_SIZE);
        /* and stays so, when it is read a little now and then */
        for (unsigned i = 0; i < 1000; i++) {
                f->n_accepted -= next_frame(f, f->peer).length + TTRPC_HEADER_SIZE;
                assert_true(queued(f) < STREAM_HIGH + MESSAGE + TTRPC_HEADER_SIZE);
        }
        assert_int_equal(f->n_gone, 0);
}

static void one_message_may_go_beyond(void **state) {
        fixture *f = *state;

        f->n_message = TTRPC_MESSAGE_MAX;
        for (uint32_t i = 0; i < 10; i++)
                request(f, f->peer, 2 * i + 1, "Flood");
        assert_true(queued(f) < STREAM_HIGH + TTRPC_MESSAGE_MAX + TTRPC_HEADER_SIZE);
        expect_echo(f, f->other, 1);
}

/* ---- its end ---- */

static void who_leaves_leaves_nothing(void **state) {
        fixture *f = *state;

        for (uint32_t i = 0; i < 100; i++)
                request(f, f->peer, 2 * i + 1, "Flood");
        f->peer = (close(f->peer), -1);
        wire_pump_server(f->server);
        assert_int_equal(f->n_gone, 100);
        assert_int_equal(ttrpc_server_get_pending(f->server), 0);
        /* of our descriptors: the server's epoll, and the other pair */
        assert_int_equal(wire_count_fds(), f->n_fds + 3);
        expect_echo(f, f->other, 1);
}

/* It writes no more, and reads; then not even that. */
static void who_leaves_by_halves(void **state) {
        fixture *f = *state;

        request(f, f->peer, 1, "Flood");
        request(f, f->peer, 3, "Few");
        assert_int_equal(shutdown(f->peer, SHUT_WR), 0);
        wire_pump_server(f->server);
        for (ttrpc_frame_header h = { 0 }; !(is_end(&h) && h.stream_id == 3);)
                h = next_frame(f, f->peer);
        assert_int_equal(f->n_gone, 0);
        f->peer = (close(f->peer), -1);
        wire_pump_server(f->server);
        assert_int_equal(f->n_gone, 1);
        assert_int_equal(ttrpc_server_get_pending(f->server), 0);
}

static void deadline_of_a_stream(void **state) {
        fixture *f = *state;
        ttrpc_frame_header h;

        request_within(f, f->peer, 1, "Flood", 1000);
        while (f->n_gone == 0)
                wire_pump_server(f->server);
        assert_true(ttrpc_server_get_timeout(f->server) == TTRPC_NEVER);
        /* what was queued, then the status, and no more of it */
        f->n_message = f->n_accepted;
        while ((h = next_frame(f, f->peer)).type == TTRPC_FRAME_DATA) {
                assert_int_equal(h.flags, 0);
                f->n_message -= h.length + TTRPC_HEADER_SIZE;
        }
        assert_int_equal(f->n_message, 0);
        assert_int_equal(h.type, TTRPC_FRAME_RESPONSE);
        assert_int_equal(h.stream_id, 1);
        expect_echo(f, f->peer, 3);
        assert_int_equal(f->n_gone, 1);
}

/* One of two has a deadline; what it leaves is the other's. */
static void deadline_of_one_of_two(void **state) {
        fixture *f = *state;
        ttrpc_frame_header h;

        request_within(f, f->peer, 1, "Flood", 1000);
        request(f, f->peer, 3, "Few");
        while (f->n_gone == 0)
                wire_pump_server(f->server);
        do
                h = next_frame(f, f->peer);
        while (!(is_end(&h) && h.stream_id == 3));
        assert_int_equal(f->n_ended, 1);
        wire_expect_nothing(f->peer);
}

/* ---- the client's side ---- */

typedef struct reading {
        ttrpc_slot *slot;
        unsigned n, n_after;
        bool cancelled, ended, echoed;
} reading;

static void on_message(const uint8_t *payload, size_t n, void *userdata) {
        reading *r = userdata;

        if (r->cancelled)
                r->n_after++;
        if (++r->n == 3) {
                r->slot = ttrpc_slot_cancel(r->slot);
                r->cancelled = true;
        }
}

static void on_stream_end(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                          void *userdata) {
        ((reading *)userdata)->ended = true;
}

static void on_echoed(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                      void *userdata) {
        assert_int_equal(r, 0);
        ((reading *)userdata)->echoed = true;
}

/* The protocol has no cancel: the server sends on. That is thrown away, and holds up nobody. */
static void a_stream_that_nobody_wants_any_more(void **state) {
        fixture *f = *state;
        ttrpc_client *client;
        reading r = { .n = 0 };

        assert_int_equal(ttrpc_client_new(f->peer, &client), 0);
        f->peer = -1;
        assert_int_equal(ttrpc_client_stream(client, "S", "Flood", NULL, 0, NULL, on_message,
                                             on_stream_end, &r, &r.slot),
                         0);
        while (!r.cancelled) {
                assert_int_equal(ttrpc_server_process(f->server), 0);
                assert_int_equal(ttrpc_client_process(client), 0);
        }
        assert_int_equal(ttrpc_client_call(client, "S", "Echo", NULL, 0, NULL, on_echoed, &r, NULL),
                         0);
        while (!r.echoed) {
                assert_int_equal(ttrpc_server_process(f->server), 0);
                assert_int_equal(ttrpc_client_process(client), 0);
        }
        assert_int_equal(r.n_after, 0);
        assert_false(r.ended);
        ttrpc_client_free(client);
        wire_pump_server(f->server);
        assert_int_equal(f->n_gone, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(other_connections_do_not_wait),
                TEST(calls_of_its_connection_do_not_wait),
                TEST(streams_of_its_connection_do_not_starve),
                TEST(memory_is_bounded),
                TEST(one_message_may_go_beyond),
                TEST(who_leaves_leaves_nothing),
                TEST(who_leaves_by_halves),
                TEST(deadline_of_a_stream),
                TEST(deadline_of_one_of_two),
                TEST(a_stream_that_nobody_wants_any_more),
        };

        return cmocka_run_group_tests_name("ttrpc-stream", tests, NULL, NULL);
}
