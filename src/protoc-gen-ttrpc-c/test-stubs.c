/* SPDX-License-Identifier: MIT */
/*
 * Generated stubs at both ends of a socket pair. That this compiles, tricky.ttrpc.c too, shows that
 * the names are protoc-c's.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "plain.ttrpc.h"
#include "tricky.ttrpc.h"

#define LARGE 100000U /* more than a stub keeps on its stack */

/* ---- the server ---- */

static int answer_to; /* what the methods get as userdata */

/* Unary: value + 1. A negative one is refused, as a caller must see it. */
static void add(ttrpc_call *call, const Number *request, void *userdata) {
        Number response = NUMBER__INIT;

        assert_ptr_equal(userdata, &answer_to);
        if (request->value < 0) {
                (void)ttrpc_call_fail(call, TTRPC_OUT_OF_RANGE, "negative");
                return;
        }
        response.value = request->value + 1;
        response.padding = request->padding;
        assert_int_equal(counter_add_reply(call, &response), 0);
        assert_int_equal(counter_add_reply(call, NULL), -EALREADY);
}

/* Counts up to the value; the 0 among it is sent as NULL. */
static void watch(ttrpc_call *call, const Number *request, void *userdata) {
        for (int64_t i = 0; i < request->value; i++) {
                Number message = NUMBER__INIT;

                message.value = i;
                assert_int_equal(counter_watch_send(call, i > 0 ? &message : NULL), 0);
        }
        assert_int_equal(ttrpc_call_finish(call), 0);
}

static const counter_methods methods = { .add = add, .watch = watch };

/* Answers with what is no Number. */
static void send_garbage(ttrpc_call *call, const uint8_t *payload, size_t n, const void *unused,
                         void *userdata) {
        static const uint8_t garbage[] = { 0x08 };

        if (!ttrpc_call_is_stream(call)) {
                assert_int_equal(ttrpc_call_reply(call, garbage, sizeof(garbage)), 0);
                return;
        }
        assert_int_equal(ttrpc_call_send(call, NULL, 0), 0);
        assert_int_equal(ttrpc_call_send(call, garbage, sizeof(garbage)), 0);
        assert_int_equal(ttrpc_call_send(call, NULL, 0), 0);
        assert_int_equal(ttrpc_call_finish(call), 0);
}

static const ttrpc_method garbage_methods[] = {
        { "Add", 0, send_garbage },
        { "Watch", 1, send_garbage },
};
static const ttrpc_service garbage_service = { COUNTER_SERVICE, garbage_methods, 2 };

/* ---- both ends ---- */

typedef struct peers {
        ttrpc_server *server;
        ttrpc_client *client;
        /* what the callbacks saw */
        unsigned n_ends, n_messages;
        int64_t sum;
        int r;
        int32_t code;
        char *message;
        size_t n_padding;
} peers;

static int set_up(void **state) {
        peers *p = calloc(1, sizeof(*p));
        int fds[2];

        if (!p || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0 ||
            ttrpc_server_new(&p->server) < 0 ||
            ttrpc_server_add_connection(p->server, fds[0]) < 0 ||
            ttrpc_client_new(fds[1], &p->client) < 0)
                return -1;
        *state = p;
        return 0;
}

static int tear_down(void **state) {
        peers *p = *state;

        ttrpc_client_free(p->client);
        ttrpc_server_free(p->server);
        free(p->message);
        free(p);
        return 0;
}

static void pump(peers *p, unsigned n_ends) {
        while (p->n_ends < n_ends) {
                struct pollfd fds[] = {
                        { .fd = ttrpc_server_get_fd(p->server), .events = POLLIN },
                        { .fd = ttrpc_client_get_fd(p->client),
                          .events = (short)ttrpc_client_get_events(p->client) },
                };

                assert_true(poll(fds, 2, -1) > 0);
                assert_int_equal(ttrpc_server_process(p->server), 0);
                assert_int_equal(ttrpc_client_process(p->client), 0);
        }
}

static void note_end(peers *p, int r, const ttrpc_status *status) {
        p->n_ends++;
        p->r = r;
        p->code = status->code;
        free(p->message);
        p->message = strdup(status->message);
        assert_non_null(p->message);
}

static void on_reply(int r, const ttrpc_status *status, const Number *response, void *userdata) {
        peers *p = userdata;

        note_end(p, r, status);
        assert_int_equal(response != NULL, r == 0 && status->code == TTRPC_OK);
        if (response) {
                p->sum += response->value;
                p->n_padding = response->padding.len;
        }
}

static void on_message(const Number *message, void *userdata) {
        peers *p = userdata;

        p->n_messages++;
        p->sum += message->value;
}

static void on_end(int r, const ttrpc_status *status, void *userdata) {
        note_end(userdata, r, status);
}

static void add_up(peers *p, const Number *request) {
        assert_int_equal(counter_add_start(p->client, request, NULL, on_reply, p, NULL), 0);
        pump(p, p->n_ends + 1);
}

static void register_all(peers *p) {
        assert_int_equal(counter_register(p->server, &methods, &answer_to), 0);
}

/* ---- tests ---- */

static void test_unary(void **state) {
        _cleanup_(freep) uint8_t *padding = calloc(1, LARGE);
        Number request = NUMBER__INIT;
        peers *p = *state;

        register_all(p);
        request.value = 41;
        add_up(p, &request);
        assert_int_equal(p->sum, 42);
        add_up(p, NULL);
        assert_int_equal(p->sum, 43);
        request.padding = (ProtobufCBinaryData){ LARGE, padding };
        add_up(p, &request);
        assert_int_equal(p->n_padding, LARGE);
        assert_int_equal(p->r, 0);
        assert_int_equal(p->code, TTRPC_OK);
        request.value = -1;
        add_up(p, &request);
        assert_int_equal(p->r, 0);
        assert_int_equal(p->code, TTRPC_OUT_OF_RANGE);
        assert_string_equal(p->message, "negative");
}

static void test_stream(void **state) {
        Number request = NUMBER__INIT;
        peers *p = *state;

        register_all(p);
        request.value = 5;
        assert_int_equal(
                counter_watch_start(p->client, &request, NULL, on_message, on_end, p, NULL), 0);
        pump(p, 1);
        assert_int_equal(p->n_messages, 5);
        assert_int_equal(p->sum, 0 + 1 + 2 + 3 + 4);
        assert_int_equal(p->r, 0);
        assert_int_equal(p->code, TTRPC_OK);
}

static void test_absent_method(void **state) {
        static const counter_methods none = { NULL };
        peers *p = *state;

        assert_int_equal(counter_register(p->server, &none, NULL), 0);
        add_up(p, NULL);
        assert_int_equal(p->r, 0);
        assert_int_equal(p->code, TTRPC_UNIMPLEMENTED);
        assert_string_equal(p->message, "method Add");
        assert_int_equal(counter_watch_start(p->client, NULL, NULL, on_message, on_end, p, NULL),
                         0);
        pump(p, 2);
        assert_int_equal(p->code, TTRPC_UNIMPLEMENTED);
}

static void on_raw_reply(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                         void *userdata) {
        note_end(userdata, r, status);
}

static void test_malformed_request(void **state) {
        static const uint8_t garbage[] = { 0x08 };
        peers *p = *state;

        register_all(p);
        assert_int_equal(ttrpc_client_call(p->client, COUNTER_SERVICE, "Add", garbage,
                                           sizeof(garbage), NULL, on_raw_reply, p, NULL),
                         0);
        pump(p, 1);
        assert_int_equal(p->r, 0);
        assert_int_equal(p->code, TTRPC_INTERNAL);
}

static void test_malformed_answer(void **state) {
        peers *p = *state;

        assert_int_equal(ttrpc_server_register(p->server, &garbage_service, NULL, NULL), 0);
        add_up(p, NULL);
        assert_int_equal(p->r, -EPROTO);
        assert_int_equal(p->code, TTRPC_INTERNAL);
        assert_int_equal(counter_watch_start(p->client, NULL, NULL, on_message, on_end, p, NULL),
                         0);
        pump(p, 2);
        assert_int_equal(p->n_messages, 1);
        assert_int_equal(p->r, -EPROTO);
        assert_int_equal(p->code, TTRPC_INTERNAL);
}

/* Nothing is called back, nothing leaks; an answer that comes late is dropped. */
static void test_cancel(void **state) {
        ttrpc_slot *unary, *stream;
        peers *p = *state;

        register_all(p);
        assert_int_equal(counter_add_start(p->client, NULL, NULL, on_reply, p, &unary), 0);
        assert_int_equal(counter_watch_start(p->client, NULL, NULL, on_message, on_end, p, &stream),
                         0);
        ttrpc_slot_cancel(unary);
        ttrpc_slot_cancel(stream);
        add_up(p, NULL);
        assert_int_equal(p->n_ends, 1);
        assert_int_equal(p->n_messages, 0);
}

static void test_disconnect(void **state) {
        peers *p = *state;

        register_all(p);
        assert_int_equal(counter_add_start(p->client, NULL, NULL, on_reply, p, NULL), 0);
        assert_int_equal(counter_watch_start(p->client, NULL, NULL, on_message, on_end, p, NULL),
                         0);
        p->client = ttrpc_client_free(p->client);
        assert_int_equal(p->n_ends, 2);
        assert_int_equal(p->r, -ENOTCONN);
}

/* Serves until the connection has gone: the client's thread waits for each answer. */
static void *serve(void *userdata) {
        peers *p = userdata;
        struct pollfd fd = { .fd = ttrpc_server_get_fd(p->server), .events = POLLIN };

        while (!__atomic_load_n(&p->n_ends, __ATOMIC_ACQUIRE)) {
                (void)poll(&fd, 1, 10);
                (void)ttrpc_server_process(p->server);
        }
        return NULL;
}

static void test_sync(void **state) {
        _cleanup_(freep) char *message = NULL;
        Number request = NUMBER__INIT, *response;
        peers *p = *state;
        pthread_t thread;
        int32_t code;

        register_all(p);
        assert_int_equal(pthread_create(&thread, NULL, serve, p), 0);
        request.value = 1;
        assert_int_equal(counter_add_call(p->client, &request, NULL, &code, &message, &response),
                         0);
        assert_int_equal(code, TTRPC_OK);
        assert_null(message);
        assert_int_equal(response->value, 2);
        number__free_unpacked(response, NULL);
        request.value = -1;
        assert_int_equal(counter_add_call(p->client, &request, NULL, &code, &message, &response),
                         0);
        assert_int_equal(code, TTRPC_OUT_OF_RANGE);
        assert_string_equal(message, "negative");
        assert_null(response);
        __atomic_store_n(&p->n_ends, 1, __ATOMIC_RELEASE);
        assert_int_equal(pthread_join(thread, NULL), 0);
}

static void test_sync_malformed(void **state) {
        _cleanup_(freep) char *message = NULL;
        peers *p = *state;
        Number *response;
        pthread_t thread;
        int32_t code;

        assert_int_equal(ttrpc_server_register(p->server, &garbage_service, NULL, NULL), 0);
        assert_int_equal(pthread_create(&thread, NULL, serve, p), 0);
        assert_int_equal(counter_add_call(p->client, NULL, NULL, &code, &message, &response),
                         -EPROTO);
        assert_int_equal(code, TTRPC_INTERNAL);
        assert_null(response);
        __atomic_store_n(&p->n_ends, 1, __ATOMIC_RELEASE);
        assert_int_equal(pthread_join(thread, NULL), 0);
}

/* ---- names ---- */

static void get_spec(ttrpc_call *call, const A__OCISpecs__X2__FooBar__MyPkg__OCISpec *request,
                     void *userdata) {
        assert_int_equal(a_ocispecs_x2_foo_bar_my_pkg_httpthing_get_ocispec_reply(call, NULL), 0);
}

static void delete (ttrpc_call *call, const A__OCISpecs__X2__FooBar__MyPkg__URLs *request,
                    void *userdata) {
        assert_int_equal(ttrpc_call_finish(call), 0);
}

static void test_tricky(void **state) {
        static const a_ocispecs_x2_foo_bar_my_pkg_httpthing_methods tricky = {
                .get_ocispec = get_spec,
                .delete = delete,
        };
        peers *p = *state;

        assert_int_equal(a_ocispecs_x2_foo_bar_my_pkg_httpthing_register(p->server, &tricky, NULL),
                         0);
        assert_string_equal(A_OCISPECS_X2_FOO_BAR_MY_PKG_HTTPTHING_SERVICE,
                            "a.OCISpecs.x2.fooBar.my_pkg.HTTPThing");
        assert_int_equal(ttrpc_client_call(p->client,
                                           A_OCISPECS_X2_FOO_BAR_MY_PKG_HTTPTHING_SERVICE,
                                           "GetOCISpec", NULL, 0, NULL, on_raw_reply, p, NULL),
                         0);
        pump(p, 1);
        assert_int_equal(p->code, TTRPC_OK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)

int main(void) {
        static const struct CMUnitTest tests[] = {
                TEST(unary),          TEST(stream),
                TEST(absent_method),  TEST(malformed_request),
                TEST(disconnect),     TEST(malformed_answer),
                TEST(cancel),         TEST(sync),
                TEST(sync_malformed), TEST(tricky),
        };

        return cmocka_run_group_tests_name("stubs", tests, NULL, NULL);
}
