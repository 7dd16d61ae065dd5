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

#include "steps.h"

#define FAILED        PHASE__PHASE_FAILED
#define DONE          PHASE__PHASE_DONE
#define RECOVERY_DONE PHASE__PHASE_RECOVERY_DONE
#define BY_GUEST      PHASE_STATE__PHASE_STATE_GUEST_INITIATED_CANCELLATION

#define MOVED_DIRECTLY                                                                             \
        "SETUP_DONE/SUCCESS BLACKOUT_STARTED/SUCCESS OFFLINE_DONE/SUCCESS "                        \
        "BLACKOUT_EXITED/SUCCESS DONE/SUCCESS"
#define ARRIVED_DIRECTLY "SETUP_DONE/SUCCESS BLACKOUT_EXITED/SUCCESS DONE/SUCCESS"

static const char by_reset[] = "the guest was reset during the transfer",
                  by_power_off[] = "the guest powered off during the migration";

static int setup(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 1000, 2048);
        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        *state = p;
        return 0;
}

static void move_directly(pair *p) {
        transfer_both(p);
        host_wait_detail(&p->b, "D_RUNNING");
        host_wait_detail(&p->a, "S_RELEASED");
}

static void expect_text(const follower *f, const char *expected) {
        char *text = follower_text(f);

        assert_string_equal(text, expected);
        free(text);
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
        cleanup_both(p);
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
        cleanup_both(p);
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
        cleanup_both(p);
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
        cleanup_both(p);
        follower_wait_end(&early);
        assert_int_equal(early.n, late.n);
        for (size_t i = 0; i < late.n; i++)
                assert_told_the_same(&late.told[i], &early.told[i]);
        follower_leave(&early);
}

/* It is tried again and again; that is told when it begins and when it is over. */
static void test_a_rollback_that_fails_is_told_once(void **state) {
        static follower f;
        pair *p = *state;
        pid_t qemu;

        copy_slowly(p);
        follower_start(&f, p, &p->a);
        qemu = host_qemu(&p->a);
        assert_int_equal(kill(qemu, SIGSTOP), 0);
        call_cancel(p, &p->a, FAILED_PRECONDITION);
        host_wait_detail(&p->a, "S_RECOVERING"); /* again, by itself */
        host_wait_detail(&p->a, "S_FAILED");
        assert_int_equal(kill(qemu, SIGCONT), 0);
        host_wait_vm(&p->a, FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING);
        cleanup_both(p);
        follower_wait_end(&f);
        expect_text(&f, "SETUP_DONE/SUCCESS FAILED/CANCELLED RECOVERY_DONE/RECOVERY_FAILED "
                        "RECOVERY_DONE/SUCCESS");
        follower_leave(&f);
        assert_exactly_one_runs(p, &p->a);
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
        cleanup_both(p);
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, end_pair)

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
                TEST(test_a_rollback_that_fails_is_told_once),
                TEST(test_the_fields_of_a_move),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
