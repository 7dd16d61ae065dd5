/* SPDX-License-Identifier: MIT */
/* What subscribers are told, when and how often; and what a guest that powers off or resets itself
 * does to a session, phase by phase. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "follower.h"

#define CANCELLED           1
#define DEADLINE_EXCEEDED   4
#define FAILED_PRECONDITION 9
#define ABORTED             10
#define UNAVAILABLE         14

#define STOP   FINALIZE_ACTION__FINALIZE_ACTION_STOP
#define RESUME FINALIZE_ACTION__FINALIZE_ACTION_RESUME

#define FAILED        PHASE__PHASE_FAILED
#define DONE          PHASE__PHASE_DONE
#define RECOVERY_DONE PHASE__PHASE_RECOVERY_DONE
#define BY_GUEST      PHASE_STATE__PHASE_STATE_GUEST_INITIATED_CANCELLATION

#define VM_RUNNING FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING
#define VM_STOPPED FERRY__SHIM__V1__VM_STATE__VM_STATE_STOPPED

#define MOVED_DIRECTLY                                                                             \
        "SETUP_DONE/SUCCESS BLACKOUT_STARTED/SUCCESS OFFLINE_DONE/SUCCESS "                        \
        "BLACKOUT_EXITED/SUCCESS DONE/SUCCESS"
#define ARRIVED_DIRECTLY "SETUP_DONE/SUCCESS BLACKOUT_EXITED/SUCCESS DONE/SUCCESS"

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

static int teardown(void **state) {
        pair *p = *state;

        pair_end(p);
        free(p);
        return 0;
}

static void make_slow(pair *p) {
        p->options.optional_max_bandwidth_case =
                INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH_MAX_BANDWIDTH;
        p->options.max_bandwidth = 65536;
}

static void make_fast(pair *p) {
        p->options.optional_max_bandwidth_case =
                INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH__NOT_SET;
}

static void transfer_both(pair *p) {
        call_transfer(p, &p->a, 0, 0);
        call_transfer(p, &p->b, 0, 0);
}

static void copy_slowly(pair *p) {
        make_slow(p);
        session_open(p, true);
        transfer_both(p);
        host_wait_detail(&p->a, "S_COPYING");
        host_wait_detail(&p->b, "D_LOADING");
        host_wait_bytes(&p->a);
        make_fast(p);
}

static void move_directly(pair *p) {
        transfer_both(p);
        host_wait_detail(&p->b, "D_RUNNING");
        host_wait_detail(&p->a, "S_RELEASED");
}

static void clean_up(pair *p) {
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
}

static void expect_text(const follower *f, const char *expected) {
        char *text = follower_text(f);

        assert_string_equal(text, expected);
        free(text);
}

static void expect_history(pair *p, host *h, const char *expected) {
        char *text = history_and_cleanup(p, h);

        assert_string_equal(text, expected);
        free(text);
}

/* Until it has begun anew. */
static void guest_resets(host *h) {
        size_t offset = guest_console_end(h);

        guest_send(h, "r");
        guest_wait(h, "TINY ", &offset);
        guest_wait(h, "H ", &offset);
}

static void guest_powers_off(host *h) {
        guest_send(h, "p");
        host_wait_vm(h, VM_STOPPED);
}

static void moves_and_is_finalized(pair *p) {
        move_directly(p);
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        expect_history(p, &p->a, MOVED_DIRECTLY);
        expect_history(p, &p->b, ARRIVED_DIRECTLY);
        assert_exactly_one_runs(p, &p->b);
}

/* Of a session that the guest's power-off ends: `history` is what went before. */
static void is_over_for_good(pair *p) {
        static follower f;
        const told *t;

        host_wait_detail(&p->a, "S_FAILED");
        follower_start(&f, p, &p->a);
        t = follower_wait(&f, FAILED);
        assert_int_equal(t->state, BY_GUEST);
        assert_int_equal(t->code, ABORTED);
        assert_string_equal(t->reason, by_power_off);
        call_finalize(p, &p->a, RESUME, FAILED_PRECONDITION); /* there is nothing to resume */
        clean_up(p);
        follower_wait_end(&f);
        assert_non_null(follower_find(&f, FAILED));
        assert_false(host_runs(&p->a) || host_runs(&p->b));
        follower_leave(&f);
}

/* ---- before the transfer: a reset does no harm ---- */

static void test_reset_before_the_export(void **state) {
        pair *p = *state;

        guest_resets(&p->a);
        session_open(p, true);
        moves_and_is_finalized(p);
}

static void test_power_off_before_the_export(void **state) {
        ProtobufCBinaryData exported = { .len = 0 };
        pair *p = *state;

        guest_powers_off(&p->a);
        strcpy(p->session, "late");
        call_export(p, &p->a, FAILED_PRECONDITION, &exported);
        assert_non_null(strstr(call_message(), "no running VM"));
        host_wait_detail(&p->a, "");
}

static void test_reset_after_the_export(void **state) {
        pair *p = *state;

        session_open(p, false);
        host_wait_detail(&p->a, "S_EXPORTED");
        guest_resets(&p->a);
        host_wait_detail(&p->a, "S_EXPORTED");
        connect_hosts(p);
        call_socket(p, &p->a, 0);
        call_socket(p, &p->b, 0);
        guest_resets(&p->a);
        host_wait_detail(&p->a, "S_SOCKET_READY");
        moves_and_is_finalized(p);
}

static void test_power_off_after_the_export(void **state) {
        pair *p = *state;

        session_open(p, false);
        guest_powers_off(&p->a);
        is_over_for_good(p);
}

static void test_power_off_with_the_socket_there(void **state) {
        pair *p = *state;

        session_open(p, true);
        guest_powers_off(&p->a);
        is_over_for_good(p);
}

static void test_reset_while_waiting_for_the_socket(void **state) {
        pair *p = *state;

        session_open(p, false);
        transfer_both(p);
        host_wait_detail(&p->a, "S_SOCKET_WAITING");
        guest_resets(&p->a);
        host_wait_detail(&p->a, "S_SOCKET_WAITING");
        connect_hosts(p);
        call_socket(p, &p->a, 0);
        call_socket(p, &p->b, 0);
        moves_and_is_finalized(p);
}

static void test_power_off_while_waiting_for_the_socket(void **state) {
        pair *p = *state;

        session_open(p, false);
        transfer_both(p);
        guest_powers_off(&p->a);
        is_over_for_good(p);
}

/* ---- in the copy ---- */

static void test_reset_in_the_copy(void **state) {
        static follower f;
        pair *p = *state;
        const told *t;

        copy_slowly(p);
        guest_resets(&p->a);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        follower_catch_up(&f, p, &p->a, RECOVERY_DONE);
        expect_text(&f, "SETUP_DONE/SUCCESS FAILED/GUEST_INITIATED_CANCELLATION "
                        "RECOVERY_DONE/SUCCESS");
        t = follower_find(&f, FAILED);
        assert_int_equal(t->code, ABORTED);
        assert_string_equal(t->reason, by_reset);
        clean_up(p);
        assert_exactly_one_runs(p, &p->a);
        session_open(p, true);
        moves_and_is_finalized(p);
}

static void test_power_off_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        guest_powers_off(&p->a);
        host_wait_detail(&p->b, "D_FAILED");
        is_over_for_good(p);
}

/* ---- at the destination ---- */

static void test_reset_after_the_move(void **state) {
        pair *p = *state;

        session_open(p, true);
        move_directly(p);
        guest_resets(&p->b);
        host_wait_detail(&p->b, "D_RUNNING");
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        guest_resets(&p->b);
        expect_history(p, &p->a, MOVED_DIRECTLY);
        expect_history(p, &p->b, ARRIVED_DIRECTLY);
        assert_exactly_one_runs(p, &p->b);
}

/* It moved, and then ended by itself: nobody failed, and the source has nothing left. */
static void test_power_off_after_the_move(void **state) {
        pair *p = *state;

        session_open(p, true);
        move_directly(p);
        guest_powers_off(&p->b);
        host_wait_detail(&p->b, "D_RUNNING");
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        expect_history(p, &p->a, MOVED_DIRECTLY);
        expect_history(p, &p->b, ARRIVED_DIRECTLY);
        assert_false(host_runs(&p->a) || host_runs(&p->b));
}

/* ---- subscribing ---- */

static void test_who_comes_again_is_told_the_same(void **state) {
        static follower early, leaving, late, later;
        pair *p = *state;
        size_t at = 0;

        make_slow(p);
        session_open(p, true);
        follower_start(&early, p, &p->a);
        follower_start(&leaving, p, &p->a);
        transfer_both(p);
        (void)follower_wait(&leaving, PHASE__PHASE_TRANSFER_IN_PROGRESS);
        follower_leave(&leaving);
        host_wait_detail(&p->b, "D_LOADING");
        call_cancel(p, &p->a, 0);
        call_cancel(p, &p->b, 0);
        follower_catch_up(&late, p, &p->a, RECOVERY_DONE);
        follower_catch_up(&later, p, &p->a, RECOVERY_DONE);
        clean_up(p);
        follower_wait_end(&early);
        expect_text(&early, "SETUP_DONE/SUCCESS FAILED/CANCELLED RECOVERY_DONE/SUCCESS");

        assert_int_equal(early.told[0].id, 1);
        assert_int_equal(late.n, later.n);
        for (size_t i = 0; i < late.n; i++)
                assert_told_the_same(&late.told[i], &later.told[i]);
        /* the early one was told of each, and of more progress */
        for (size_t i = 0; i < late.n; i++) {
                while (at < early.n && early.told[at].id < late.told[i].id)
                        assert_int_equal(early.told[at++].phase, PHASE__PHASE_TRANSFER_IN_PROGRESS);
                assert_true(at < early.n);
                assert_told_the_same(&late.told[i], &early.told[at++]);
        }
        assert_int_equal(at, early.n);
        assert_told_the_same(&leaving.told[0], &early.told[0]);
        follower_leave(&early);
}

static void test_who_comes_after_the_end_has_all(void **state) {
        static follower early, late;
        pair *p = *state;

        session_open(p, true);
        follower_start(&early, p, &p->b);
        move_directly(p);
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        follower_catch_up(&late, p, &p->b, DONE);
        expect_text(&late, ARRIVED_DIRECTLY);
        clean_up(p);
        follower_wait_end(&early);
        assert_int_equal(early.n, late.n);
        for (size_t i = 0; i < late.n; i++)
                assert_told_the_same(&late.told[i], &early.told[i]);
        follower_leave(&early);
}

/* ---- what each has ---- */

static void expect_plain(const follower *f, Origin origin) {
        for (size_t i = 0; i < f->n; i++) {
                const told *t = &f->told[i];

                assert_int_equal(t->origin, origin);
                assert_true(t->update_usec >= (i ? t[-1].update_usec : 1));
                /* when the transfer began: nothing is told before it */
                assert_int_equal(t->start_usec, f->told[0].start_usec);
                assert_true(t->start_usec > 0 && t->start_usec <= t->update_usec);
                assert_int_equal(t->has_progress, t->phase == PHASE__PHASE_TRANSFER_IN_PROGRESS);
                assert_int_equal(t->has_blackout, t->phase == PHASE__PHASE_BLACKOUT_EXITED);
        }
}

static void expect_no_fault(const follower *f) {
        for (size_t i = 0; i < f->n; i++) {
                assert_int_equal(f->told[i].code, 0);
                /* SETUP_DONE may have a notice */
                if (f->told[i].phase != PHASE__PHASE_SETUP_DONE)
                        assert_string_equal(f->told[i].reason, "");
        }
}

static void expect_blackout(const follower *f) {
        const told *t = follower_find(f, PHASE__PHASE_BLACKOUT_EXITED);

        assert_true(t->blackout_usec > 0);
        assert_int_equal(t->blackout_ms, (t->blackout_usec + 999) / 1000);
        assert_true(t->blackout_stop_usec <= t->update_usec);
}

static void test_the_fields_of_a_move(void **state) {
        static follower source, destination;
        pair *p = *state;
        const told *last = NULL;

        p->options.optional_max_bandwidth_case =
                INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH_MAX_BANDWIDTH;
        p->options.max_bandwidth = 20000000; /* so that there is progress to see */
        session_open(p, true);
        follower_start(&source, p, &p->a);
        follower_start(&destination, p, &p->b);
        move_directly(p);
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        clean_up(p);
        follower_wait_end(&source);
        follower_wait_end(&destination);

        expect_plain(&source, ORIGIN__ORIGIN_SOURCE);
        expect_plain(&destination, ORIGIN__ORIGIN_DESTINATION);
        expect_no_fault(&source);
        expect_no_fault(&destination);
        expect_blackout(&destination);
        assert_true(follower_find(&source, PHASE__PHASE_BLACKOUT_EXITED)->blackout_stop_usec >=
                    source.told[0].start_usec);
        for (size_t i = 0; i < source.n; i++) {
                const told *t = &source.told[i];

                if (!t->has_progress)
                        continue;
                /* the guest has 128 MiB, and what else has memory is some */
                assert_true(t->progress.bytes_total >= 128000000 &&
                            t->progress.bytes_total < 256000000);
                assert_true(t->progress.bytes_remaining <= t->progress.bytes_total);
                assert_true(t->progress.pass >= 1 && t->progress.downtime_limit_ms >= 1);
                assert_true(t->progress.throttle_percentage < 100);
                if (last) {
                        assert_true(t->progress.bytes_sent >= last->progress.bytes_sent);
                        assert_true(t->progress.pass >= last->progress.pass);
                }
                last = t;
        }
        assert_non_null(last);
        assert_true(last->progress.bytes_sent > 0);
        follower_leave(&source);
        follower_leave(&destination);
}

static void expect_failure(follower *f, pair *p, host *h, Phase phase, PhaseState state, int code,
                           const char *reason) {
        const told *t;

        follower_catch_up(f, p, h, phase);
        t = follower_find(f, phase);
        assert_int_equal(t->state, state);
        assert_int_equal(t->code, code);
        if (strncmp(t->reason, reason, strlen(reason)) != 0)
                fail_msg("\"%s\" instead of \"%s\"", t->reason, reason);
}

/* ---- across a restart of the shim ---- */

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
        expect_failure(&f, p, &p->a, FAILED, BY_GUEST, ABORTED, by_reset);
        for (int i = 0; i < 2; i++)
                restart_and_compare(p, &p->a, "S_FAILED", &f, FAILED);
        /* its side broke off with the connection, and knows no more than that */
        host_wait_detail(&p->b, "D_FAILED");
        expect_failure(&f, p, &p->b, FAILED, PHASE_STATE__PHASE_STATE_DESTINATION_FAILED, ABORTED,
                       "QEMU's migration failed");
        restart_and_compare(p, &p->b, "D_FAILED", &f, FAILED);
        clean_up(p);
        assert_exactly_one_runs(p, &p->a);
}

static void test_a_new_shim_knows_of_the_power_off(void **state) {
        static follower f;
        pair *p = *state;

        session_open(p, false);
        guest_powers_off(&p->a);
        host_wait_detail(&p->a, "S_FAILED");
        expect_failure(&f, p, &p->a, FAILED, BY_GUEST, ABORTED, by_power_off);
        for (int i = 0; i < 2; i++)
                restart_and_compare(p, &p->a, "S_FAILED", &f, FAILED);
        clean_up(p);
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
        expect_failure(&f, p, &p->a, FAILED, PHASE_STATE__PHASE_STATE_CANCELLED, CANCELLED,
                       "cancelled");
        restart_and_compare(p, &p->a, "S_FAILED", &f, FAILED);
        expect_failure(&f, p, &p->b, DONE, PHASE_STATE__PHASE_STATE_CANCELLED, CANCELLED,
                       "cancelled");
        restart_and_compare(p, &p->b, "D_FAILED", &f, DONE);
        clean_up(p);
        assert_exactly_one_runs(p, &p->a);
}

static void test_a_new_shim_knows_of_the_timeout(void **state) {
        static follower f;
        pair *p = *state;

        session_open(p, false);
        call_transfer(p, &p->a, 20, 0);
        host_wait_detail(&p->a, "S_FAILED");
        expect_failure(&f, p, &p->a, FAILED, PHASE_STATE__PHASE_STATE_SOURCE_FAILED,
                       DEADLINE_EXCEEDED, "no socket came in time");
        restart_and_compare(p, &p->a, "S_FAILED", &f, FAILED);
        clean_up(p);
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
        expect_failure(&f, p, &p->a, FAILED, PHASE_STATE__PHASE_STATE_SOURCE_FAILED, UNAVAILABLE,
                       by_restart);
        restart_and_compare(p, &p->a, "S_FAILED", &f, FAILED);
        host_wait_detail(&p->b, "D_FAILED");
        clean_up(p);
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
        expect_failure(&f, p, &p->a, FAILED, PHASE_STATE__PHASE_STATE_SOURCE_FAILED, UNAVAILABLE,
                       "the VM ended while there was no shim");
        clean_up(p);
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
                clean_up(p);
                assert_exactly_one_runs(p, &p->b);
                if (i == 0) {
                        p->options.handover = HANDOVER__HANDOVER_DIRECT;
                        migrate_whole(p, &p->b, &p->a);
                }
        }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* One argument: a pattern, to run only the tests that it names. */
int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                TEST(test_reset_before_the_export),
                TEST(test_power_off_before_the_export),
                TEST(test_reset_after_the_export),
                TEST(test_power_off_after_the_export),
                TEST(test_power_off_with_the_socket_there),
                TEST(test_reset_while_waiting_for_the_socket),
                TEST(test_power_off_while_waiting_for_the_socket),
                TEST(test_reset_in_the_copy),
                TEST(test_power_off_in_the_copy),
                TEST(test_reset_after_the_move),
                TEST(test_power_off_after_the_move),
                TEST(test_who_comes_again_is_told_the_same),
                TEST(test_who_comes_after_the_end_has_all),
                TEST(test_the_fields_of_a_move),
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
        return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
