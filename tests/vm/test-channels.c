/* SPDX-License-Identifier: MIT */
/* Several connections for one session, over two real QEMUs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fd.h"

#include "steps.h"

static void use(pair *p, uint32_t channels) {
        p->options.optional_channels_case = INITIALIZE_OPTIONS__OPTIONAL_CHANNELS_CHANNELS;
        p->options.channels = channels;
}

static int setup(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 1000, 2048);
        use(p, 3);
        *state = p;
        return 0;
}

static void test_it_moves_there_and_back(void **state) {
        pair *p = *state;

        migrate_whole(p, &p->a, &p->b);
        assert_exactly_one_runs(p, &p->b);
        use(p, 64);
        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        migrate_whole(p, &p->b, &p->a);
        assert_exactly_one_runs(p, &p->a);
        guest_check(&p->a);
}

static void add(pair *p) {
        connect_hosts(p);
        call_socket(p, &p->a, 0);
        call_socket_by_token(p, &p->b, 0);
}

static void test_all_are_wanted_and_no_more(void **state) {
        pair *p = *state;

        session_open(p, false);
        call_transfer(p, &p->a, 0, FAILED_PRECONDITION);
        assert_non_null(strstr(call_message(), "3 of them are missing"));
        add(p);
        add(p);
        call_transfer(p, &p->a, 0, FAILED_PRECONDITION);
        call_transfer(p, &p->b, 0, FAILED_PRECONDITION);
        assert_non_null(strstr(call_message(), "1 of them are missing"));
        host_wait_detail(&p->a, "S_SOCKET_READY");
        add(p);
        connect_hosts(p);
        call_socket(p, &p->a, ALREADY_EXISTS);
        call_socket(p, &p->b, ALREADY_EXISTS);
        transfer_both(p);
        host_wait_detail(&p->a, "S_READY");
        host_wait_detail(&p->b, "D_READY");
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        cleanup_both(p);
        assert_exactly_one_runs(p, &p->b);
}

static void test_one_of_them_is_cut_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        cut_connection(p); /* the last one */
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
}

static void test_cancel_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        call_cancel(p, &p->a, 0);
        host_wait_detail(&p->a, "S_CANCELLED");
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
}

static void test_cancel_before_all_are_there(void **state) {
        pair *p = *state;

        session_open(p, false);
        add(p);
        add(p);
        call_cancel(p, &p->a, 0);
        call_cancel(p, &p->b, 0);
        host_wait_detail(&p->a, "S_CANCELLED");
        host_wait_detail(&p->b, "D_CANCELLED");
        expect_rolled_back(p);
}

static void test_in_another_order(void **state) {
        int first;
        pair *p = *state;

        use(p, 2);
        session_open(p, false);
        connect_hosts(p);
        call_socket(p, &p->a, 0);
        first = p->b.socket;
        p->b.socket = -EBADF;
        connect_hosts(p);
        call_socket(p, &p->a, 0);
        call_socket(p, &p->b, 0);
        fd_close(p->b.socket);
        p->b.socket = first;
        call_socket(p, &p->b, 0);
        transfer_both(p);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, end_pair)

/* One argument: a pattern, to run only the tests that it names. */
int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                TEST(test_it_moves_there_and_back),        TEST(test_all_are_wanted_and_no_more),
                TEST(test_one_of_them_is_cut_in_the_copy), TEST(test_cancel_in_the_copy),
                TEST(test_cancel_before_all_are_there),    TEST(test_in_another_order),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("channels", tests, NULL, NULL);
}
