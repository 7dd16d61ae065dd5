/* SPDX-License-Identifier: MIT */
/* Two real QEMUs whose stream goes through the relay: it moves, and whatever breaks it, or changes
 * a byte on the way, leaves the guest running at the source. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fd.h"

#include "middle.h"
#include "steps.h"

typedef enum kind { CHECKSUMS, COMPRESSION, BOTH, _KIND_MAX } kind;

static CompressionSettings compression;

static void use(pair *p, kind what) {
        p->options.checksum_verification = what != COMPRESSION;
        compression_settings__init(&compression);
        compression.optional_throttle_worker_count_case =
                COMPRESSION_SETTINGS__OPTIONAL_THROTTLE_WORKER_COUNT_THROTTLE_WORKER_COUNT;
        compression.throttle_worker_count = 2;
        p->options.compression_settings = what != CHECKSUMS ? &compression : NULL;
}

static int setup(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 1000, 2048);
        use(p, BOTH);
        *state = p;
        return 0;
}

static void test_each_option_moves_it_there_and_back(void **state) {
        pair *p = *state;

        for (kind what = 0; what < _KIND_MAX; what++) {
                use(p, what);
                p->options.handover = HANDOVER__HANDOVER_CALLER;
                migrate_whole(p, &p->a, &p->b);
                assert_exactly_one_runs(p, &p->b);
                guest_check(&p->b);
                p->options.handover = HANDOVER__HANDOVER_DIRECT;
                migrate_whole(p, &p->b, &p->a);
                assert_exactly_one_runs(p, &p->a);
                guest_check(&p->a);
        }
}

static void test_cancel_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        call_cancel(p, &p->a, 0);
        host_wait_detail(&p->a, "S_CANCELLED");
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
}

static void test_cancel_at_the_destination_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        call_cancel(p, &p->b, 0);
        host_wait_detail(&p->b, "D_CANCELLED");
        host_wait_detail(&p->a, "S_FAILED");
        expect_rolled_back(p);
}

static void test_cancel_while_the_guest_stands(void **state) {
        pair *p = *state;

        reach_ready(p);
        call_cancel(p, &p->a, 0);
        host_wait_detail(&p->a, "S_CANCELLED");
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
}

static void test_connection_cut_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        cut_connection(p);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
}

static void test_destination_qemu_dies_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        assert_int_equal(kill(host_qemu(&p->b), SIGKILL), 0);
        host_wait_detail(&p->b, "D_FAILED");
        host_wait_detail(&p->a, "S_FAILED");
        expect_rolled_back(p);
}

/* The relay dies with its shim: for QEMU that is a broken connection, and the guest runs on. */
static void test_source_shim_dies_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        p->a.socket = fd_close(p->a.socket); /* ours would keep the connection up */
        host_kill_shim(&p->a, SIGKILL);
        host_wait_detail(&p->b, "D_FAILED");
        host_start(&p->a, NULL);
        host_wait_detail(&p->a, "S_FAILED");
        expect_rolled_back(p);
}

static void test_destination_shim_dies_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        p->b.socket = fd_close(p->b.socket);
        host_kill_shim(&p->b, SIGKILL);
        host_wait_detail(&p->a, "S_FAILED");
        host_start(&p->b, NULL);
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
}

/* ---- somebody in the middle ---- */

typedef struct fault {
        bool of_source; /* whose first frame is changed */
        size_t at;      /* which byte of it */
        bool found;     /* the frame's beginning has gone by */
        size_t n_seen;
} fault;

static void change(uint8_t *data, size_t n, bool of_source, void *userdata) {
        fault *f = userdata;

        for (size_t i = 0; of_source == f->of_source && i < n; i++) {
                if (!f->found && n - i >= 4 && memcmp(data + i, "FRl\1", 4) == 0)
                        f->found = true;
                if (f->found && f->n_seen++ == f->at)
                        data[i] ^= 4;
        }
}

static void change_a_byte(pair *p, bool of_source, size_t at) {
        fault f = { .of_source = of_source, .at = at };
        middle m = { .look = change, .userdata = &f };

        middle_start(&m, p);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        expect_reason(of_source ? &p->b : &p->a, "broken");
        middle_end(&m);
        assert_true(f.found && f.n_seen > at);
        cleanup_both(p);
        assert_exactly_one_runs(p, &p->a);
        guest_check(&p->a);
}

/* Magic, version, type, flags, channel, lengths, sequence, checks; then the block. */
static void test_a_changed_byte_is_found(void **state) {
        static const size_t places[] = { 2, 3, 4, 5, 7, 11, 14, 23, 31, 39, 40, 60 };
        pair *p = *state;

        for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
                use(p, (kind)(i % _KIND_MAX));
                change_a_byte(p, true, places[i]);
        }
        change_a_byte(p, false, 11);
        change_a_byte(p, false, 40);
        then_it_moves(p);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, end_pair)

/* One argument: a pattern, to run only the tests that it names. */
int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                TEST(test_each_option_moves_it_there_and_back),
                TEST(test_cancel_in_the_copy),
                TEST(test_cancel_at_the_destination_in_the_copy),
                TEST(test_cancel_while_the_guest_stands),
                TEST(test_connection_cut_in_the_copy),
                TEST(test_destination_qemu_dies_in_the_copy),
                TEST(test_source_shim_dies_in_the_copy),
                TEST(test_destination_shim_dies_in_the_copy),
                TEST(test_a_changed_byte_is_found),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("relay-real", tests, NULL, NULL);
}
