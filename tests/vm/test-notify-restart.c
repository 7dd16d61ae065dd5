/* SPDX-License-Identifier: MIT */
/* What a shim that was started again tells of how a session ended in the time of the one before. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "steps.h"

#define FAILED   PHASE__PHASE_FAILED
#define DONE     PHASE__PHASE_DONE
#define BY_GUEST PHASE_STATE__PHASE_STATE_GUEST_INITIATED_CANCELLATION

static const char by_reset[] = "the guest was reset during the transfer",
                  by_power_off[] = "the guest powered off during the migration",
                  by_restart[] = "the shim was restarted during the migration";

static int setup(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 1000, 2048);
        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        *state = p;
        return 0;
}

/* A new shim tells how it ended as the old one did, with numbers above those. */
static void restart_and_compare(pair *p, host *h, const char *detail, follower *before,
                                Phase phase) {
        static follower after;
        const told *was = follower_find(before, phase), *is;

        host_kill_shim(h, SIGKILL);
        host_start(h, NULL);
        host_wait_detail(h, detail);
        follower_catch_up(&after, p, h, phase);
        is = follower_find(&after, phase);
        assert_true(is->id > before->told[before->n - 1].id);
        assert_int_equal(is->state, was->state);
        assert_int_equal(is->code, was->code);
        assert_string_equal(is->reason, was->reason);
}

static void test_a_new_shim_knows_of_the_reset(void **state) {
        static follower f;
        pair *p = *state;

        copy_slowly(p);
        guest_resets(&p->a);
        host_wait_detail(&p->a, "S_FAILED");
        expect_end(&f, p, &p->a, FAILED, BY_GUEST, ABORTED, by_reset);
        for (int i = 0; i < 2; i++)
                restart_and_compare(p, &p->a, "S_FAILED", &f, FAILED);
        /* its side broke off with the connection, and knows no more than that */
        host_wait_detail(&p->b, "D_FAILED");
        expect_end(&f, p, &p->b, FAILED, PHASE_STATE__PHASE_STATE_DESTINATION_FAILED, ABORTED,
                   "QEMU's migration failed");
        restart_and_compare(p, &p->b, "D_FAILED", &f, FAILED);
        cleanup_both(p);
        assert_exactly_one_runs(p, &p->a);
}

static void test_a_new_shim_knows_of_the_power_off(void **state) {
        static follower f;
        pair *p = *state;

        session_open(p, false);
        guest_powers_off(&p->a);
        host_wait_detail(&p->a, "S_FAILED");
        expect_end(&f, p, &p->a, FAILED, BY_GUEST, ABORTED, by_power_off);
        for (int i = 0; i < 2; i++)
                restart_and_compare(p, &p->a, "S_FAILED", &f, FAILED);
        cleanup_both(p);
        assert_false(host_runs(&p->a) || host_runs(&p->b));
}

static void test_a_new_shim_knows_of_the_cancel(void **state) {
        static follower f;
        pair *p = *state;

        /* without a connection: when one side closes it the other may see that before it is asked
         */
        session_open(p, false);
        transfer_both(p);
        call_cancel(p, &p->a, 0);
        call_cancel(p, &p->b, 0);
        expect_end(&f, p, &p->a, FAILED, PHASE_STATE__PHASE_STATE_CANCELLED, CANCELLED,
                   "cancelled");
        restart_and_compare(p, &p->a, "S_FAILED", &f, FAILED);
        expect_end(&f, p, &p->b, DONE, PHASE_STATE__PHASE_STATE_CANCELLED, CANCELLED, "cancelled");
        restart_and_compare(p, &p->b, "D_FAILED", &f, DONE);
        cleanup_both(p);
        assert_exactly_one_runs(p, &p->a);
}

static void test_a_new_shim_knows_of_the_timeout(void **state) {
        static follower f;
        pair *p = *state;

        session_open(p, false);
        call_transfer(p, &p->a, 20, 0);
        host_wait_detail(&p->a, "S_FAILED");
        expect_end(&f, p, &p->a, FAILED, PHASE_STATE__PHASE_STATE_SOURCE_FAILED, DEADLINE_EXCEEDED,
                   "no socket came in time");
        restart_and_compare(p, &p->a, "S_FAILED", &f, FAILED);
        cleanup_both(p);
        assert_exactly_one_runs(p, &p->a);
}

/* Nothing had gone wrong before: that is it. */
static void test_a_new_shim_is_the_reason(void **state) {
        static follower f;
        pair *p = *state;

        copy_slowly(p);
        host_kill_shim(&p->a, SIGKILL);
        host_start(&p->a, NULL);
        host_wait_detail(&p->a, "S_FAILED");
        expect_end(&f, p, &p->a, FAILED, PHASE_STATE__PHASE_STATE_SOURCE_FAILED, UNAVAILABLE,
                   by_restart);
        restart_and_compare(p, &p->a, "S_FAILED", &f, FAILED);
        host_wait_detail(&p->b, "D_FAILED");
        cleanup_both(p);
        assert_exactly_one_runs(p, &p->a);
}

/* The guest ended while nobody looked: who ended it, nobody can say. */
static void test_a_new_shim_does_not_guess(void **state) {
        static follower f;
        pair *p = *state;
        pid_t qemu;

        session_open(p, false);
        qemu = host_qemu(&p->a);
        host_kill_shim(&p->a, SIGKILL);
        guest_send(&p->a, "p");
        assert_int_equal(waitpid(qemu, NULL, 0), qemu); /* ours, when its shim is gone */
        host_start(&p->a, NULL);
        expect_end(&f, p, &p->a, FAILED, PHASE_STATE__PHASE_STATE_SOURCE_FAILED, UNAVAILABLE,
                   "the VM ended while there was no shim");
        cleanup_both(p);
        assert_false(host_runs(&p->a) || host_runs(&p->b));
}

static void test_new_shims_know_that_it_moved(void **state) {
        static const Handover handovers[] = { HANDOVER__HANDOVER_DIRECT,
                                              HANDOVER__HANDOVER_CALLER };
        static follower source, destination, f;
        pair *p = *state;

        for (size_t i = 0; i < 2; i++) {
                p->options.handover = handovers[i];
                session_open(p, true);
                transfer_both(p);
                if (handovers[i] == HANDOVER__HANDOVER_CALLER) {
                        host_wait_detail(&p->a, "S_READY");
                        host_wait_detail(&p->b, "D_READY");
                        call_finalize(p, &p->a, STOP, 0);
                }
                host_wait_detail(&p->b, "D_RUNNING");
                host_wait_vm(&p->a, FERRY__SHIM__V1__VM_STATE__VM_STATE_NONE);
                follower_catch_up(&source, p, &p->a, DONE);
                follower_catch_up(&destination, p, &p->b, DONE);
                restart_and_compare(p, &p->a, "S_RELEASED", &source, DONE);
                restart_and_compare(p, &p->b, "D_RUNNING", &destination, DONE);
                follower_catch_up(&f, p, &p->b, PHASE__PHASE_BLACKOUT_EXITED);
                follower_catch_up(&f, p, &p->a, PHASE__PHASE_BLACKOUT_EXITED);
                call_finalize(p, &p->b, RESUME, 0);
                call_finalize(p, &p->a, STOP, 0);
                cleanup_both(p);
                assert_exactly_one_runs(p, &p->b);
                if (i == 0) {
                        p->options.handover = HANDOVER__HANDOVER_DIRECT;
                        migrate_whole(p, &p->b, &p->a);
                }
        }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, end_pair)

/* One argument: a pattern, to run only the tests that it names. */
int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                TEST(test_a_new_shim_knows_of_the_reset),
                TEST(test_a_new_shim_knows_of_the_power_off),
                TEST(test_a_new_shim_knows_of_the_cancel),
                TEST(test_a_new_shim_knows_of_the_timeout),
                TEST(test_a_new_shim_is_the_reason),
                TEST(test_a_new_shim_does_not_guess),
                TEST(test_new_shims_know_that_it_moved),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("notify-restart", tests, NULL, NULL);
}
