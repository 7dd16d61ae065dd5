/* SPDX-License-Identifier: MIT */
/* Two real QEMUs, and what happens when the shims or their connection end in the handover: a new
 * socket, a tombstone's answer, force. After each: exactly one guest runs. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "steps.h"

static int setup(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 100, 256);
        *state = p;
        return 0;
}

static const grounds good = { "kvm-b is powered off: ipmi, 05:20", "the rack burnt", true };

/* The source has handed over; the destination, held since READY, has not read it. */
static void hand_over_unheard(pair *p) {
        assert_int_equal(kill(p->b.pid, SIGSTOP), 0);
        call_finalize_and_go(p, &p->a, STOP);
        host_wait_detail(&p->a, "S_HANDED");
}

static void let_go(host *h) {
        assert_int_equal(kill(h->pid, SIGCONT), 0);
}

static void restart(host *h) {
        host_kill_shim(h, SIGKILL);
        host_start(h, NULL);
}

/* GO is lost with the destination's shim: nobody runs the guest, and only the two together know. */
static void become_undecided(pair *p) {
        reach_ready(p);
        hand_over_unheard(p);
        restart(&p->b);
        host_wait_detail(&p->b, "D_UNDECIDED");
        host_wait_undecided(&p->a);
        assert_false(host_runs(&p->a));
        assert_false(host_runs(&p->b));
}

static void join_again(pair *p) {
        connect_hosts(p);
        call_socket(p, &p->a, 0);
        call_socket_by_token(p, &p->b, 0);
}

/* ---- a new socket ---- */

static void test_go_again(void **state) {
        pair *p = *state;

        become_undecided(p);
        join_again(p);
        host_wait_detail(&p->b, "D_RUNNING");
        host_wait_detail(&p->a, "S_RELEASED");
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        cleanup_both(p);
        expect_verdict(&p->a, "done");
        expect_verdict(&p->b, "running");
        assert_exactly_one_runs(p, &p->b);
}

/* Both shims were started again, so neither has the state that was exported, nor its options. */
static void test_go_again_between_new_shims(void **state) {
        pair *p = *state;

        become_undecided(p);
        restart(&p->a);
        host_wait_detail(&p->a, "S_HANDED");
        join_again(p);
        host_wait_detail(&p->b, "D_RUNNING");
        host_wait_detail(&p->a, "S_RELEASED");
        cleanup_both(p);
        assert_exactly_one_runs(p, &p->b);
}

static void test_running_again_on_a_socket_beside_the_old(void **state) {
        pair *p = *state;

        reach_ready(p);
        hand_over_unheard(p);
        connect_hosts(p);
        call_socket(p, &p->a, 0); /* the source gives the old one up; GO is on its way */
        let_go(&p->b);
        host_wait_detail(&p->b, "D_RUNNING");
        host_wait_detail(&p->a, "S_HANDED");
        assert_true(host_runs(&p->b));
        call_socket(p, &p->b, 0);
        host_wait_detail(&p->a, "S_RELEASED");
        cleanup_both(p);
        assert_exactly_one_runs(p, &p->b);
}

static void test_declined_again(void **state) {
        pair *p = *state;

        become_undecided(p);
        call_cancel(p, &p->b, 0);
        host_wait_detail(&p->a, "S_HANDED");
        join_again(p);
        host_wait_detail(&p->a, "S_FAILED");
        assert_true(host_runs(&p->a));
        cleanup_both(p);
        expect_verdict(&p->b, "declined");
        assert_exactly_one_runs(p, &p->a);
}

static void test_refused_again(void **state) {
        pair *p = *state;

        reach_ready(p);
        restart(&p->b);
        host_wait_detail(&p->b, "D_UNDECIDED");
        host_wait_detail(&p->a, "S_FAILED"); /* the connection broke before the handover */
        assert_true(host_runs(&p->a));
        join_again(p);
        host_wait_detail(&p->b, "D_FAILED");
        cleanup_both(p);
        expect_verdict(&p->b, "declined");
        assert_exactly_one_runs(p, &p->a);
}

/* Its QEMU is gone, so it cannot refuse: the new socket brings OFFER and READY again. */
static void test_a_spent_source_offers_again(void **state) {
        pair *p = *state;

        reach_ready(p);
        assert_int_equal(kill(host_qemu(&p->a), SIGKILL), 0);
        host_wait_detail(&p->a, "S_SPENT");
        restart(&p->a);
        host_wait_detail(&p->a, "S_SPENT");
        host_wait_detail(&p->b, "D_UNDECIDED");
        join_again(p);
        host_wait_detail(&p->b, "D_READY");
        call_finalize(p, &p->b, RESUME, 0); /* WANT, GO */
        host_wait_detail(&p->a, "S_RELEASED");
        cleanup_both(p);
        assert_exactly_one_runs(p, &p->b);
}

static size_t count_events(host *h, const char *name) {
        Ferry__Shim__V1__TraceResponse *t = host_trace(h, "", 0);
        size_t n = 0;

        for (size_t i = 0; i < t->n_events; i++)
                n += strcmp(t->events[i]->name, name) == 0;
        ferry__shim__v1__trace_response__free_unpacked(t, NULL);
        return n;
}

static void wait_events(host *h, const char *name, size_t n) {
        time_t deadline = time(NULL) + 60;

        while (count_events(h, name) < n) {
                assert_true(time(NULL) < deadline);
                usleep(10000);
        }
}

/* It was told to run it, its QEMU had the order, and is gone: it may have run. Neither side starts
 * a guest for that; a person who knows that nothing runs there may. */
static void test_the_guest_is_lost_as_it_starts_there(void **state) {
        pair *p = *state;
        pid_t qemu;

        reach_ready(p);
        qemu = host_qemu(&p->b);
        assert_int_equal(kill(qemu, SIGSTOP), 0);
        call_finalize_and_go(p, &p->a, STOP);
        host_wait_detail(&p->b, "D_OWNER");
        assert_int_equal(kill(qemu, SIGKILL), 0);
        host_wait_detail(&p->b, "D_LOST");
        wait_events(&p->a, "LOST", 1);
        host_wait_detail(&p->a, "S_HANDED");
        assert_false(host_runs(&p->a));
        assert_false(host_runs(&p->b));
        call_finalize(p, &p->a, RESUME, FAILED_PRECONDITION);
        call_cleanup(p, &p->b, FAILED_PRECONDITION);
        join_again(p);
        wait_events(&p->a, "LOST", 2);
        host_wait_detail(&p->a, "S_HANDED");
        call_finalize_forced(p, &p->b, STOP, &(grounds){ "", "its QEMU is gone", false }, 0);
        call_cleanup(p, &p->b, 0);
        cut_connection(p);
        host_wait_undecided(&p->a);
        call_finalize_forced(p, &p->a, RESUME, &good, 0);
        call_cleanup(p, &p->a, 0);
        assert_exactly_one_runs(p, &p->a);
}

/* The connection breaks behind OFFER, and the source's QEMU is gone: with a new socket they go on
 * where they were, and nobody has to say anything. */
static void test_direct_goes_on_after_a_break(void **state) {
        pair *p = *state;

        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        make_slow(p);
        p->options.max_bandwidth *= 16;
        session_open(p, true);
        transfer_both(p);
        host_wait_setup(&p->b);
        assert_int_equal(kill(p->b.pid, SIGSTOP), 0); /* its QEMU loads without it */
        host_wait_detail(&p->a, "S_OFFERED");
        assert_int_equal(kill(host_qemu(&p->a), SIGKILL), 0);
        host_wait_detail(&p->a, "S_SPENT");
        cut_connection(p);
        let_go(&p->b);
        host_wait_detail(&p->b, "D_UNDECIDED");
        join_again(p);
        host_wait_detail(&p->b, "D_RUNNING");
        host_wait_detail(&p->a, "S_RELEASED");
        cleanup_both(p);
        expect_verdict(&p->b, "running");
        assert_exactly_one_runs(p, &p->b);
}

/* ---- tombstones ---- */

static void test_a_tombstone_says_declined(void **state) {
        pair *p = *state;

        become_undecided(p);
        call_cleanup(p, &p->b, 0);
        host_wait_detail(&p->b, "");
        join_again(p);
        host_wait_detail(&p->a, "S_FAILED");
        call_cleanup(p, &p->a, 0);
        assert_exactly_one_runs(p, &p->a);
}

static void test_a_tombstone_says_running(void **state) {
        pair *p = *state;

        reach_ready(p);
        hand_over_unheard(p);
        host_kill_shim(&p->a, SIGKILL);
        let_go(&p->b);
        host_wait_detail(&p->b, "D_RUNNING");
        call_finalize(p, &p->b, RESUME, 0);
        call_cleanup(p, &p->b, 0);
        host_start(&p->a, NULL);
        host_wait_detail(&p->a, "S_HANDED");
        call_finalize(p, &p->a, RESUME, FAILED_PRECONDITION);
        join_again(p);
        host_wait_detail(&p->a, "S_RELEASED");
        call_cleanup(p, &p->a, 0);
        assert_exactly_one_runs(p, &p->b);
}

/* ---- force ---- */

static void expect_audit(host *h, const char *text) {
        char path[160], line[2048];
        FILE *f;

        snprintf(path, sizeof(path), "%s/audit.log", h->dir);
        f = fopen(path, "re");
        assert_non_null(f);
        assert_non_null(fgets(line, sizeof(line), f));
        if (!strstr(line, text))
                fail_msg("%s is not in: %s", text, line);
        assert_null(fgets(line, sizeof(line), f));
        fclose(f);
}

static void expect_no_audit(host *h) {
        char path[160];
        FILE *f;

        snprintf(path, sizeof(path), "%s/audit.log", h->dir);
        f = fopen(path, "re");
        assert_null(f);
}

/* Shim and QEMU are gone at once, and nobody cleaned up after them. */
static void power_off(host *h, pid_t qemu) {
        static const char *const names[] = { "console.sock", "qmp.sock" };

        host_kill_shim(h, SIGKILL);
        assert_int_equal(kill(qemu, SIGKILL), 0);
        assert_int_equal(waitpid(qemu, NULL, 0), qemu); /* we are its reaper now */
        for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
                char path[160];

                snprintf(path, sizeof(path), "%s/%s", h->dir, names[i]);
                (void)unlink(path);
        }
}

static void test_force_at_a_source_whose_destination_is_fenced(void **state) {
        pair *p = *state;
        pid_t qemu;

        reach_ready(p);
        qemu = host_qemu(&p->b);
        hand_over_unheard(p);
        call_finalize_forced(p, &p->a, RESUME, &good, FAILED_PRECONDITION); /* it can be asked */
        expect_no_audit(&p->a);
        power_off(&p->b, qemu); /* and now it is fenced */
        host_wait_undecided(&p->a);
        call_finalize_forced(p, &p->a, RESUME, NULL, INVALID_ARGUMENT);
        call_finalize_forced(p, &p->a, RESUME, &(grounds){ "proof", "", true }, INVALID_ARGUMENT);
        call_finalize_forced(p, &p->a, RESUME, &(grounds){ "", "reason", true }, INVALID_ARGUMENT);
        call_finalize_forced(p, &p->a, RESUME, &(grounds){ "a \" in it", "reason", true },
                             INVALID_ARGUMENT);
        expect_no_audit(&p->a);
        host_wait_detail(&p->a, "S_HANDED");
        call_finalize_forced(p, &p->a, RESUME, &good, 0);
        assert_true(host_runs(&p->a));
        expect_audit(&p->a, "S_HANDED: forced FinalizeSandbox(RESUME); fenced \"kvm-b is powered "
                            "off: ipmi, 05:20\", reason \"the rack burnt\"");
        call_finalize_forced(p, &p->a, RESUME, &good, 0); /* twice is once */
        call_cleanup(p, &p->a, 0);
        host_start(&p->b, NULL);
        host_wait_detail(&p->b, "D_FAILED");
        call_cleanup(p, &p->b, 0);
        assert_exactly_one_runs(p, &p->a);
}

static void test_force_at_a_destination_whose_source_is_fenced(void **state) {
        pair *p = *state;
        pid_t qemu;

        reach_ready(p);
        hand_over_unheard(p);
        qemu = host_qemu(&p->a);
        power_off(&p->a, qemu);
        restart(&p->b);
        host_wait_detail(&p->b, "D_UNDECIDED");
        call_finalize(p, &p->b, RESUME, FAILED_PRECONDITION);
        call_finalize_forced(p, &p->b, RESUME, &(grounds){ "proof", "reason", false },
                             INVALID_ARGUMENT);
        host_wait_detail(&p->b, "D_UNDECIDED");
        call_finalize_forced(p, &p->b, RESUME, &good, 0);
        assert_true(host_runs(&p->b));
        expect_audit(&p->b, "D_UNDECIDED: forced FinalizeSandbox(RESUME)");
        call_cleanup(p, &p->b, 0);
        /* the source's journal says that it is not its own; the destination proves it */
        host_start(&p->a, NULL);
        host_wait_detail(&p->a, "S_HANDED");
        join_again(p);
        host_wait_detail(&p->a, "S_RELEASED");
        call_cleanup(p, &p->a, 0);
        assert_exactly_one_runs(p, &p->b);
}

static void test_a_forced_stop_is_audited(void **state) {
        pair *p = *state;

        reach_ready(p);
        call_cancel(p, &p->a, 0);
        host_wait_detail(&p->b, "D_FAILED");
        call_finalize(p, &p->a, STOP, FAILED_PRECONDITION);
        expect_no_audit(&p->a);
        call_finalize_forced(p, &p->a, STOP, &(grounds){ "", "no longer needed", false }, 0);
        expect_audit(&p->a, "S_CANCELLED: forced FinalizeSandbox(STOP)");
        host_wait_vm(&p->a, FERRY__SHIM__V1__VM_STATE__VM_STATE_NONE);
        cleanup_both(p);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, end_pair)

/* One argument: a pattern, to run only the tests that it names. */
int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                TEST(test_go_again),
                TEST(test_go_again_between_new_shims),
                TEST(test_running_again_on_a_socket_beside_the_old),
                TEST(test_declined_again),
                TEST(test_refused_again),
                TEST(test_a_spent_source_offers_again),
                TEST(test_the_guest_is_lost_as_it_starts_there),
                TEST(test_direct_goes_on_after_a_break),
                TEST(test_a_tombstone_says_declined),
                TEST(test_a_tombstone_says_running),
                TEST(test_force_at_a_source_whose_destination_is_fenced),
                TEST(test_force_at_a_destination_whose_source_is_fenced),
                TEST(test_a_forced_stop_is_audited),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        if (getenv("FERRY_TEST_ENCRYPTED")) /* a shim that is stopped carries nothing */
                cmocka_set_skip_filter("test_direct_goes_on_after_a_break");
        return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
