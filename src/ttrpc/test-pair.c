/* SPDX-License-Identifier: MIT */
/* Client and server together: by hand, in one sd-event loop, and in two threads. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ttrpc/clock.h"
#include "ttrpc/test-wire.h"
#include "ttrpc/ttrpc-sd-event.h"

#define N_CALLS    1000U
#define N_MESSAGES 100000U
/* What a Request or Response takes besides the payload: here the names, keys and lengths. */
#define REQUEST_REST  (2 + 1 + 2 + 4 + 5)
#define RESPONSE_REST 5

/* ---- the service ---- */

/* A stream of numbers that goes on when there is room. */
typedef struct counting {
        ttrpc_call *call;
        uint32_t at, end;
} counting;

static void count_on(ttrpc_call *call, void *userdata) {
        counting *c = userdata;

        for (; c->at < c->end; c->at++) {
                int r = ttrpc_call_send(call, (const uint8_t *)&c->at, sizeof(c->at));

                if (r == -EAGAIN)
                        return;
                assert_int_equal(r, 0);
        }
        assert_int_equal(ttrpc_call_finish(call), 0);
        ttrpc_call_unref(call);
        free(c);
}

static void count_gone(ttrpc_call *call, void *userdata) {
        ttrpc_call_unref(call);
        free(userdata);
}

static void on_count(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                     void *userdata) {
        counting *c = calloc(1, sizeof(*c));

        assert_non_null(c);
        assert_int_equal(n, sizeof(c->end));
        memcpy(&c->end, payload, n);
        c->call = ttrpc_call_ref(call);
        ttrpc_call_set_callbacks(call, count_gone, count_on, c);
        count_on(call, c);
}

static void on_echo(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                    void *userdata) {
        (void)ttrpc_call_reply(call, payload, n);
}

static void on_size(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                    void *userdata) {
        uint8_t *reply;

        assert_int_equal(n, sizeof(n));
        memcpy(&n, payload, sizeof(n));
        reply = calloc(1, n);
        assert_non_null(reply);
        (void)ttrpc_call_reply(call, reply, n);
        free(reply);
}

/* A stream of one message of that size. */
static void on_data(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                    void *userdata) {
        uint8_t *message;

        assert_int_equal(n, sizeof(n));
        memcpy(&n, payload, sizeof(n));
        message = calloc(1, n);
        assert_non_null(message);
        if (ttrpc_call_send(call, message, n) < 0)
                (void)ttrpc_call_fail(call, TTRPC_OUT_OF_RANGE, "too long");
        else
                (void)ttrpc_call_finish(call);
        free(message);
}

typedef struct stoppable {
        ttrpc_server *server;
        bool stopped;
} stoppable;

static void on_stop(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                    void *userdata) {
        stoppable *s = userdata;

        s->stopped = true;
        ttrpc_server_shutdown(s->server);
        (void)ttrpc_call_reply(call, NULL, 0);
}

static const ttrpc_method methods[] = {
        { "Echo", 0, on_echo },  { "Size", 0, on_size }, { "Data", 1, on_data },
        { "Cnt_", 1, on_count }, { "Stop", 0, on_stop },
};
static const ttrpc_service service = { "S", methods, sizeof(methods) / sizeof(methods[0]) };

/* ---- both ends in one thread ---- */

typedef struct fixture {
        ttrpc_server *server;
        ttrpc_client *client;
        size_t n_fds;
        unsigned n_ended, n_ok;
        int r;
        int32_t code;
        size_t n;
        uint32_t at; /* the next number of a stream */
        sd_event *event;
} fixture;

static int set_up(void **state) {
        fixture *f = calloc(1, sizeof(*f));
        int fds[2];

        assert_non_null(f);
        f->n_fds = wire_count_fds();
        wire_pair(fds);
        assert_int_equal(ttrpc_server_new(&f->server), 0);
        assert_int_equal(ttrpc_server_register(f->server, &service, NULL, NULL), 0);
        assert_int_equal(ttrpc_server_add_connection(f->server, fds[0]), 0);
        assert_int_equal(ttrpc_client_new(fds[1], &f->client), 0);
        *state = f;
        return 0;
}

static int tear_down(void **state) {
        fixture *f = *state;

        ttrpc_client_free(f->client);
        ttrpc_server_free(f->server);
        assert_int_equal(wire_count_fds(), f->n_fds);
        free(f);
        return 0;
}

static void on_end(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                   void *userdata) {
        fixture *f = userdata;

        f->n_ended++;
        f->n_ok += r == 0 && status->code == TTRPC_OK;
        f->r = r;
        f->code = status->code;
        f->n = n;
        if (f->event && f->n_ended == N_CALLS)
                sd_event_exit(f->event, 0);
}

static void on_number(const uint8_t *payload, size_t n, void *userdata) {
        fixture *f = userdata;
        uint32_t number;

        assert_int_equal(n, sizeof(number));
        memcpy(&number, payload, n);
        assert_int_equal(number, f->at);
        f->at++;
}

static void on_bytes(const uint8_t *payload, size_t n, void *userdata) {
        fixture *f = userdata;

        f->at += (uint32_t)n;
}

static void run_until(fixture *f, unsigned n_ended) {
        while (f->n_ended < n_ended) {
                assert_int_equal(ttrpc_server_process(f->server), 0);
                assert_int_equal(ttrpc_client_process(f->client), 0);
        }
}

static void echo_of(fixture *f, size_t n) {
        uint8_t *payload = calloc(1, n + 1);

        assert_non_null(payload);
        assert_int_equal(
                ttrpc_client_call(f->client, "S", "Echo", payload, n, NULL, on_end, f, NULL), 0);
        free(payload);
        run_until(f, f->n_ended + 1);
}

static void echo_of_each_size(void **state) {
        const size_t sizes[] = { 0, 1, 127, 128, 4096, 16374, 65536, 1 << 20 };
        fixture *f = *state;

        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
                echo_of(f, sizes[i]);
                assert_int_equal(f->r, 0);
                assert_int_equal(f->code, TTRPC_OK);
                assert_int_equal(f->n, sizes[i]);
        }
}

static void largest_request(void **state) {
        uint8_t *payload = calloc(1, TTRPC_MESSAGE_MAX);
        fixture *f = *state;

        assert_non_null(payload);
        echo_of(f, TTRPC_MESSAGE_MAX - REQUEST_REST - 1);
        assert_int_equal(f->code, TTRPC_OK);
        assert_int_equal(ttrpc_client_call(f->client, "S", "Echo", payload,
                                           TTRPC_MESSAGE_MAX - REQUEST_REST + 1, NULL, on_end, f,
                                           NULL),
                         -EMSGSIZE);
        echo_of(f, 1);
        assert_int_equal(f->code, TTRPC_OK);
        free(payload);
}

static void largest_reply(void **state) {
        fixture *f = *state;

        for (size_t n = TTRPC_MESSAGE_MAX - RESPONSE_REST; n < TTRPC_MESSAGE_MAX; n++) {
                assert_int_equal(ttrpc_client_call(f->client, "S", "Size", (const uint8_t *)&n,
                                                   sizeof(n), NULL, on_end, f, NULL),
                                 0);
                run_until(f, f->n_ended + 1);
                assert_int_equal(f->r, 0);
                assert_int_equal(f->code, n == TTRPC_MESSAGE_MAX - RESPONSE_REST
                                                  ? TTRPC_OK
                                                  : TTRPC_RESOURCE_EXHAUSTED);
        }
}

static void largest_message_of_a_stream(void **state) {
        fixture *f = *state;

        for (size_t n = TTRPC_MESSAGE_MAX; n < TTRPC_MESSAGE_MAX + 2; n++) {
                f->at = 0;
                assert_int_equal(ttrpc_client_stream(f->client, "S", "Data", (const uint8_t *)&n,
                                                     sizeof(n), NULL, on_bytes, on_end, f, NULL),
                                 0);
                run_until(f, f->n_ended + 1);
                assert_int_equal(f->r, 0);
                assert_int_equal(f->code, n > TTRPC_MESSAGE_MAX ? TTRPC_OUT_OF_RANGE : TTRPC_OK);
                assert_int_equal(f->at, n > TTRPC_MESSAGE_MAX ? 0 : n);
        }
}

static void many_calls_at_once(void **state) {
        fixture *f = *state;

        for (unsigned i = 0; i < N_CALLS; i++)
                assert_int_equal(ttrpc_client_call(f->client, "S", "Echo", (const uint8_t *)"x", 1,
                                                   NULL, on_end, f, NULL),
                                 0);
        run_until(f, N_CALLS);
        assert_int_equal(f->n_ok, N_CALLS);
}

static void long_stream(void **state) {
        const uint32_t end = N_MESSAGES;
        fixture *f = *state;

        assert_int_equal(ttrpc_client_stream(f->client, "S", "Cnt_", (const uint8_t *)&end,
                                             sizeof(end), NULL, on_number, on_end, f, NULL),
                         0);
        run_until(f, 1);
        assert_int_equal(f->n_ok, 1);
        assert_int_equal(f->at, N_MESSAGES);
}

static void stream_whose_client_leaves(void **state) {
        const uint32_t end = UINT32_MAX;
        fixture *f = *state;

        assert_int_equal(ttrpc_client_stream(f->client, "S", "Cnt_", (const uint8_t *)&end,
                                             sizeof(end), NULL, on_number, on_end, f, NULL),
                         0);
        while (f->at < 1000) {
                assert_int_equal(ttrpc_server_process(f->server), 0);
                assert_int_equal(ttrpc_client_process(f->client), 0);
        }
        assert_int_equal(ttrpc_server_get_pending(f->server), 2);
        f->client = ttrpc_client_free(f->client);
        assert_int_equal(f->n_ended, 1);
        assert_int_equal(f->r, -ENOTCONN);
        wire_pump_server(f->server);
        assert_int_equal(ttrpc_server_get_pending(f->server), 0);
}

static void server_goes_away(void **state) {
        fixture *f = *state;

        for (unsigned i = 0; i < 10; i++)
                assert_int_equal(
                        ttrpc_client_call(f->client, "S", "Echo", NULL, 0, NULL, on_end, f, NULL),
                        0);
        f->server = ttrpc_server_free(f->server);
        while (ttrpc_client_process(f->client) == 0)
                ;
        assert_int_equal(f->n_ended, 10);
        assert_int_equal(f->n_ok, 0);
        assert_int_equal(f->r, -ENOTCONN);
}

/* ---- in a loop ---- */

static void in_sd_event(void **state) {
        const ttrpc_call_options options = { .timeout_usec = 60 * 1000000 };
        fixture *f = *state;
        ttrpc_attachment *server, *client;

        assert_true(sd_event_new(&f->event) >= 0);
        assert_int_equal(ttrpc_server_attach_event(f->server, f->event, &server), 0);
        assert_int_equal(ttrpc_client_attach_event(f->client, f->event, &client), 0);
        for (unsigned i = 0; i < N_CALLS; i++)
                assert_int_equal(ttrpc_client_call(f->client, "S", "Echo", (const uint8_t *)"x", 1,
                                                   &options, on_end, f, NULL),
                                 0);
        assert_int_equal(sd_event_loop(f->event), 0);
        assert_int_equal(f->n_ok, N_CALLS);
        ttrpc_attachment_free(client);
        ttrpc_attachment_free(server);
        sd_event_unref(f->event);
}

static void timeout_in_sd_event(void **state) {
        const ttrpc_call_options options = { .timeout_usec = 1000 };
        fixture *f = *state;
        ttrpc_attachment *client;

        assert_true(sd_event_new(&f->event) >= 0);
        assert_int_equal(ttrpc_client_attach_event(f->client, f->event, &client), 0);
        f->n_ended = N_CALLS - 1;
        assert_int_equal(
                ttrpc_client_call(f->client, "S", "Echo", NULL, 0, &options, on_end, f, NULL), 0);
        assert_int_equal(sd_event_loop(f->event), 0);
        assert_int_equal(f->r, -ETIMEDOUT);
        ttrpc_attachment_free(client);
        sd_event_unref(f->event);
}

static void closed_peer_in_sd_event(void **state) {
        fixture *f = *state;
        ttrpc_attachment *client;

        assert_true(sd_event_new(&f->event) >= 0);
        assert_int_equal(ttrpc_client_attach_event(f->client, f->event, &client), 0);
        assert_int_equal(ttrpc_client_call(f->client, "S", "Echo", NULL, 0, NULL, on_end, f, NULL),
                         0);
        f->server = ttrpc_server_free(f->server);
        while (f->n_ended == 0)
                assert_true(sd_event_run(f->event, UINT64_MAX) >= 0);
        assert_int_equal(f->r, -ENOTCONN);
        /* the dead descriptor does not keep the loop busy */
        assert_int_equal(sd_event_run(f->event, 0), 0);
        assert_int_equal(sd_event_run(f->event, 0), 0);
        ttrpc_attachment_free(client);
        sd_event_unref(f->event);
}

/* ---- a server for others, in its own thread, at a path ---- */

typedef struct served {
        char dir[32], path[48];
        stoppable stoppable;
        pthread_t thread;
} served;

static void *serve(void *userdata) {
        served *s = userdata;
        struct pollfd p = { .fd = ttrpc_server_get_fd(s->stoppable.server), .events = POLLIN };

        do {
                uint64_t until = ttrpc_server_get_timeout(s->stoppable.server), now = ttrpc_now();
                int timeout = -1;

                if (until != UINT64_MAX)
                        timeout = until > now ? (int)((until - now) / 1000) + 1 : 0;
                (void)poll(&p, 1, timeout);
                if (ttrpc_server_process(s->stoppable.server) < 0)
                        abort();
        } while (!s->stoppable.stopped || ttrpc_server_get_pending(s->stoppable.server) > 0);
        return NULL;
}

static void start_serving(served *s) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        *s = (served){ .dir = "/tmp/ttrpc-test-XXXXXX" };
        assert_non_null(mkdtemp(s->dir));
        snprintf(s->path, sizeof(s->path), "%s/socket", s->dir);
        snprintf(address.sun_path, sizeof(address.sun_path), "%s", s->path);
        assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(listen(fd, 10), 0);
        assert_int_equal(ttrpc_server_new(&s->stoppable.server), 0);
        assert_int_equal(ttrpc_server_register(s->stoppable.server, &service, NULL, &s->stoppable),
                         0);
        assert_int_equal(ttrpc_server_listen(s->stoppable.server, fd), 0);
        assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
}

static void stop_serving(served *s, ttrpc_client *client) {
        int32_t code;
        char *message;
        uint8_t *reply;
        size_t n;

        unlink(s->path);
        assert_int_equal(ttrpc_client_call_sync(client, "S", "Stop", NULL, 0, NULL, &code, &message,
                                                &reply, &n),
                         0);
        assert_int_equal(code, TTRPC_OK);
        free(reply);
        assert_int_equal(pthread_join(s->thread, NULL), 0);
        ttrpc_server_free(s->stoppable.server);
        rmdir(s->dir);
}

static void sync_calls_over_a_path(void **state) {
        size_t n_fds = wire_count_fds();
        ttrpc_client *client;
        int32_t code;
        char *message;
        uint8_t *reply;
        size_t n;
        served s;

        start_serving(&s);
        assert_int_equal(ttrpc_client_connect(s.path, &client), 0);
        for (unsigned i = 0; i < N_CALLS; i++) {
                const ttrpc_call_options options = { .timeout_usec = 60 * 1000000 };

                assert_int_equal(ttrpc_client_call_sync(client, "S", "Echo", (const uint8_t *)&i,
                                                        sizeof(i), i % 2 ? &options : NULL, &code,
                                                        &message, &reply, &n),
                                 0);
                assert_int_equal(code, TTRPC_OK);
                assert_int_equal(n, sizeof(i));
                assert_memory_equal(reply, &i, sizeof(i));
                free(reply);
        }
        assert_int_equal(ttrpc_client_call_sync(client, "S", "Nope", NULL, 0, NULL, &code, &message,
                                                &reply, &n),
                         0);
        assert_int_equal(code, TTRPC_UNIMPLEMENTED);
        assert_string_equal(message, "method Nope");
        free(message);
        stop_serving(&s, client);
        ttrpc_client_free(client);
        assert_int_equal(ttrpc_client_connect(s.path, &client), -ENOENT);
        assert_int_equal(wire_count_fds(), n_fds);
}

static void connections_come_and_go(void **state) {
        size_t n_fds = wire_count_fds();
        ttrpc_client *client = NULL;
        served s;

        start_serving(&s);
        for (unsigned i = 0; i < 200; i++) {
                ttrpc_client_free(client);
                assert_int_equal(ttrpc_client_connect(s.path, &client), 0);
                for (unsigned k = 0; k < i % 4; k++) {
                        fixture f = { 0 };
                        ttrpc_slot *slot;

                        assert_int_equal(ttrpc_client_call(client, "S", "Echo", NULL, 0, NULL,
                                                           on_end, &f, &slot),
                                         0);
                        ttrpc_slot_cancel(slot);
                }
        }
        stop_serving(&s, client);
        ttrpc_client_free(client);
        assert_int_equal(wire_count_fds(), n_fds);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(echo_of_each_size),
                TEST(largest_request),
                TEST(largest_reply),
                TEST(largest_message_of_a_stream),
                TEST(many_calls_at_once),
                TEST(long_stream),
                TEST(stream_whose_client_leaves),
                TEST(server_goes_away),
                TEST(in_sd_event),
                TEST(timeout_in_sd_event),
                TEST(closed_peer_in_sd_event),
                cmocka_unit_test(sync_calls_over_a_path),
                cmocka_unit_test(connections_come_and_go),
        };

        return cmocka_run_group_tests_name("ttrpc-pair", tests, NULL, NULL);
}
