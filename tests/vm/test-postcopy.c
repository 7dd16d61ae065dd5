/* SPDX-License-Identifier: MIT */
/* Post-copy over two real QEMUs: the guest runs at the destination before its memory is there; and
 * what happens when the connection, a shim or a QEMU ends at each step of it. */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"

#include "gate.h"
#include "steps.h"

static void limit_bandwidth(pair *p, uint64_t bytes_per_second) {
        p->options.optional_max_bandwidth_case =
                INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH_MAX_BANDWIDTH;
        p->options.max_bandwidth = bytes_per_second;
}

/* The guest writes more than goes over, so that pre-copy alone never ends; and what it writes on is
 * more than all sockets on the way hold: a QEMU of before 8.2 whose connection breaks when it has
 * just sent the last page hears nothing of it, and does not go on over another. */
static int setup_with(void **state, unsigned rate, unsigned wss) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, rate, wss);
        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        p->options.postcopy = POSTCOPY__POSTCOPY_ALWAYS;
        limit_bandwidth(p, 16 << 20);
        *state = p;
        return 0;
}

static int setup(void **state) {
        return setup_with(state, 20000, 4096);
}

static int setup_large(void **state) {
        return setup_with(state, 20000, 16384);
}

static int setup_calm(void **state) {
        return setup_with(state, 100, 256);
}

static bool went_through(host *h, const char *session, const char *phase) {
        Ferry__Shim__V1__TraceResponse *t = host_trace(h, session, 0);
        bool found = false;

        for (size_t i = 0; i < t->n_phases; i++)
                found |= strcmp(t->phases[i]->name, phase) == 0;
        ferry__shim__v1__trace_response__free_unpacked(t, NULL);
        return found;
}

static unsigned count_told(host *h, const char *session, const char *name) {
        Ferry__Shim__V1__TraceResponse *t = host_trace(h, session, 0);
        unsigned n = 0;

        for (size_t i = 0; i < t->n_events; i++)
                n += strcmp(t->events[i]->name, name) == 0;
        ferry__shim__v1__trace_response__free_unpacked(t, NULL);
        return n;
}

/* Until its QEMU has said so `n` times. */
static void wait_told(pair *p, host *h, const char *name, unsigned n) {
        uint64_t end = now_usec() + 60 * USEC_PER_SEC;

        while (count_told(h, p->session, name) < n) {
                if (now_usec() > end)
                        fail_msg("%s never said %s", h->id, name);
                (void)poll(NULL, 0, 2);
        }
}

static void settled_at(pair *p, host *at) {
        assert_exactly_one_runs(p, at);
        guest_check(at);
}

/* ---- what does not fail ---- */

static void test_there_and_back(void **state) {
        pair *p = *state;

        migrate_whole(p, &p->a, &p->b);
        assert_true(went_through(&p->a, p->session, "post-copy"));
        assert_true(went_through(&p->b, p->session, "post-copy"));
        settled_at(p, &p->b);
        migrate_whole(p, &p->b, &p->a);
        assert_true(went_through(&p->a, p->session, "post-copy"));
        settled_at(p, &p->a);
        p->options.postcopy = POSTCOPY__POSTCOPY_NEVER; /* the same QEMUs, without it */
        p->options.memory_transfer_throttle_params = &p->throttle;
        p->throttle.optional_maximum_passes_case =
                MEMORY_TRANSFER_THROTTLE_PARAMS__OPTIONAL_MAXIMUM_PASSES_MAXIMUM_NUMBER_OF_BROWNOUT_TRANSFER_PASSES;
        p->throttle.maximum_number_of_brownout_transfer_passes = 2;
        migrate_whole(p, &p->a, &p->b);
        assert_false(went_through(&p->b, p->session, "post-copy"));
        settled_at(p, &p->b);
}

static void limit_passes(pair *p, uint32_t passes) {
        p->options.postcopy = POSTCOPY__POSTCOPY_FALLBACK;
        p->options.memory_transfer_throttle_params = &p->throttle;
        p->throttle.optional_maximum_passes_case =
                MEMORY_TRANSFER_THROTTLE_PARAMS__OPTIONAL_MAXIMUM_PASSES_MAXIMUM_NUMBER_OF_BROWNOUT_TRANSFER_PASSES;
        p->throttle.maximum_number_of_brownout_transfer_passes = passes;
        p->throttle.optional_skip_throttling_case =
                MEMORY_TRANSFER_THROTTLE_PARAMS__OPTIONAL_SKIP_THROTTLING_SKIP_THROTTLING;
        p->throttle.skip_throttling = true;
        p->throttle.optional_target_blackout_case =
                MEMORY_TRANSFER_THROTTLE_PARAMS__OPTIONAL_TARGET_BLACKOUT_TARGET_BLACKOUT_TRANSFER_TIME;
        p->throttle.target_blackout_transfer_time = 10;
}

static void test_only_when_the_passes_run_out(void **state) {
        pair *p = *state;

        limit_passes(p, 3);
        migrate_whole(p, &p->a, &p->b);
        assert_true(went_through(&p->b, p->session, "post-copy"));
        settled_at(p, &p->b);
}

static void test_not_where_it_converges(void **state) {
        pair *p = *state;

        limit_passes(p, 30);
        migrate_whole(p, &p->a, &p->b);
        assert_false(went_through(&p->b, p->session, "post-copy"));
        settled_at(p, &p->b);
}

/* ---- the caller decides ---- */

static void reach_poised(pair *p) {
        p->options.handover = HANDOVER__HANDOVER_CALLER;
        session_open(p, true);
        transfer_both(p);
        host_wait_detail(&p->a, "S_POISED");
        host_wait_detail(&p->b, "D_POISED");
}

static void test_the_caller_cancels(void **state) {
        pair *p = *state;

        reach_poised(p);
        call_cancel(p, &p->a, 0);
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
        p->options.postcopy = POSTCOPY__POSTCOPY_ALWAYS;
        reach_poised(p);
        call_cancel(p, &p->b, 0);
        host_wait_detail(&p->a, "S_FAILED");
        cleanup_both(p);
        settled_at(p, &p->a);
        reach_poised(p);
        call_finalize(p, &p->a, RESUME, 0);
        host_wait_detail(&p->b, "D_FAILED");
        cleanup_both(p);
        settled_at(p, &p->a);
}

static void test_the_caller_stops_the_source(void **state) {
        pair *p = *state;

        reach_poised(p);
        call_finalize(p, &p->a, STOP, 0);
        call_finalize(p, &p->b, RESUME, 0);
        cleanup_both(p);
        expect_verdict(&p->a, "done");
        expect_verdict(&p->b, "running");
        settled_at(p, &p->b);
}

static void test_the_caller_resumes_the_destination(void **state) {
        pair *p = *state;

        reach_poised(p);
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        cleanup_both(p);
        settled_at(p, &p->b);
}

static void test_the_connection_breaks_before_it_is_settled(void **state) {
        pair *p = *state;

        reach_poised(p);
        cut_connection(p);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
}

static void test_a_shim_ends_before_it_is_settled(void **state) {
        pair *p = *state;

        reach_poised(p);
        host_kill_shim(&p->a, SIGKILL);
        host_wait_detail(&p->b, "D_FAILED");
        host_start(&p->a, NULL);
        host_wait_detail(&p->a, "S_FAILED");
        cleanup_both(p);
        settled_at(p, &p->a);
        reach_poised(p);
        host_kill_shim(&p->b, SIGKILL);
        host_wait_detail(&p->a, "S_FAILED");
        host_start(&p->b, NULL);
        host_wait_detail(&p->b, "D_FAILED");
        cleanup_both(p);
        settled_at(p, &p->a);
}

/* The guest may stand there, waiting for its memory. */
static void belongs_to(pair *p, host *h) {
        host *other = h == &p->a ? &p->b : &p->a;

        host_wait_vm(h, FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING);
        if (other->pid)
                assert_false(host_runs(other));
}

/* ---- what the destination says passes up to a word ---- */

/* Slowly, so that there is something left to send when it is held. */
static void start_to(pair *p, gate *g, gate_word last) {
        limit_bandwidth(p, 8 << 20);
        gate_start(g, p, last);
}

static void join_again(pair *p) {
        connect_hosts(p);
        call_socket(p, &p->a, 0);
        call_socket_by_token(p, &p->b, 0);
}

static void expect_moved(pair *p) {
        host_wait_detail(&p->a, "S_RELEASED");
        host_wait_detail(&p->b, "D_RUNNING");
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        cleanup_both(p);
        expect_verdict(&p->a, "done");
        expect_verdict(&p->b, "running");
        settled_at(p, &p->b);
}

/* The destination has committed, the source does not know, and its QEMU still waits: whatever
 * happens then, the guest's state has not gone over. */
static void hold_taken(pair *p, gate *g) {
        start_to(p, g, GATE_READY);
        host_wait_detail(&p->b, "D_TAKEN");
        host_wait_detail(&p->a, "S_COMMITTED");
        call_cancel(p, &p->a, FAILED_PRECONDITION);
        call_cancel(p, &p->b, FAILED_PRECONDITION);
        call_finalize(p, &p->b, STOP, FAILED_PRECONDITION);
        call_socket(p, &p->a, ALREADY_EXISTS);
        call_socket(p, &p->b, ALREADY_EXISTS);
}

static void test_taken_is_lost_with_the_connection(void **state) {
        pair *p = *state;
        gate g;

        hold_taken(p, &g);
        gate_cut(&g);
        host_wait_detail(&p->b, "D_FAILED");
        host_wait_detail(&p->a, "S_FAILED");
        expect_rolled_back(p);
}

static void test_taken_does_not_come(void **state) {
        pair *p = *state;
        gate g;

        hold_taken(p, &g);
        host_wait_detail(&p->a, "S_FAILED");
        expect_reason(&p->a, "the destination did not take the guest");
        assert_true(host_runs(&p->a));
        gate_open(&g);
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
        gate_end(&g);
}

static void test_taken_is_lost_with_the_source_s_shim(void **state) {
        pair *p = *state;
        gate g;

        hold_taken(p, &g);
        host_kill_shim(&p->a, SIGKILL);
        gate_cut(&g);
        host_wait_detail(&p->b, "D_FAILED");
        host_start(&p->a, NULL);
        host_wait_detail(&p->a, "S_FAILED");
        expect_rolled_back(p);
}

/* QEMU has just sent the guest's state, and must not run it again for a stream that breaks. */
static void test_the_connection_breaks_in_the_switchover(void **state) {
        pair *p = *state;
        gate g;

        start_to(p, &g, GATE_TAKEN);
        host_wait_detail(&p->b, "D_FETCHING");
        host_wait_detail(&p->a, "S_SERVING");
        gate_cut(&g);
        host_wait_undecided(&p->a);
        belongs_to(p, &p->b);
        make_fast(p);
        join_again(p);
        expect_moved(p);
}

static void test_the_connection_breaks_while_memory_follows(void **state) {
        pair *p = *state;
        gate g;

        start_to(p, &g, GATE_RUNS);
        host_wait_detail(&p->b, "D_FETCHING");
        host_wait_detail(&p->a, "S_FEEDING");
        call_cancel(p, &p->a, FAILED_PRECONDITION);
        call_finalize(p, &p->a, RESUME, FAILED_PRECONDITION);
        call_finalize(p, &p->b, STOP, FAILED_PRECONDITION);
        gate_cut(&g);
        call_cleanup(p, &p->a, FAILED_PRECONDITION); /* it does not wait for somebody to come */
        call_cleanup(p, &p->b, FAILED_PRECONDITION);
        belongs_to(p, &p->b);
        for (unsigned i = 2; i < 5; i++) { /* and again, when it has gone on */
                join_again(p);
                wait_told(p, &p->a, "postcopy-active", i);
                cut_connection(p);
        }
        make_fast(p);
        join_again(p);
        expect_moved(p);
}

static void test_the_source_s_shim_ends_while_memory_follows(void **state) {
        pair *p = *state;
        gate g;

        start_to(p, &g, GATE_RUNS);
        host_wait_detail(&p->a, "S_FEEDING");
        host_kill_shim(&p->a, SIGKILL);
        gate_cut(&g);
        host_start(&p->a, NULL);
        host_wait_detail(&p->a, "S_SERVING");
        belongs_to(p, &p->b);
        join_again(p);
        expect_moved(p);
}

static void test_the_destination_s_shim_ends_while_memory_follows(void **state) {
        pair *p = *state;
        gate g;

        start_to(p, &g, GATE_RUNS);
        host_wait_detail(&p->b, "D_FETCHING");
        host_wait_detail(&p->a, "S_FEEDING");
        host_kill_shim(&p->b, SIGKILL);
        gate_cut(&g);
        host_start(&p->b, NULL);
        host_wait_detail(&p->b, "D_FETCHING");
        belongs_to(p, &p->b);
        join_again(p);
        expect_moved(p);
}

/* The rest of the memory is gone with it: the guest stands as soon as it misses something. */
static void test_the_source_s_qemu_dies_while_memory_follows(void **state) {
        pair *p = *state;
        gate g;

        start_to(p, &g, GATE_RUNS);
        host_wait_detail(&p->a, "S_FEEDING");
        assert_int_equal(kill(host_qemu(&p->a), SIGKILL), 0);
        host_wait_detail(&p->a, "S_RELEASED");
        host_wait_detail(&p->b, "D_FETCHING");
        gate_open(&g);
        call_finalize_forced(p, &p->b, STOP, NULL, 0);
        host_wait_detail(&p->b, "D_KILLED");
        cleanup_both(p);
        gate_end(&g);
        assert_false(host_runs(&p->a));
}

/* It has run there: what is at the source is of no use to anybody. */
static void test_the_destination_s_qemu_dies_while_memory_follows(void **state) {
        pair *p = *state;
        gate g;

        start_to(p, &g, GATE_RUNS);
        host_wait_detail(&p->a, "S_FEEDING");
        assert_int_equal(kill(host_qemu(&p->b), SIGKILL), 0);
        host_wait_detail(&p->b, "D_RUNNING");
        gate_open(&g);
        host_wait_detail(&p->a, "S_RELEASED");
        cleanup_both(p);
        gate_end(&g);
        assert_false(host_runs(&p->a));
        assert_false(host_runs(&p->b));
}

/* The shim first: nobody is left to say anything. */
static void test_the_destination_s_host_dies_while_memory_follows(void **state) {
        static const grounds power_off = { .fenced = "its power is off", .reason = "test" };
        pair *p = *state;
        pid_t qemu;
        gate g;

        start_to(p, &g, GATE_RUNS);
        host_wait_detail(&p->a, "S_FEEDING");
        qemu = host_qemu(&p->b);
        host_kill_shim(&p->b, SIGKILL);
        assert_int_equal(kill(qemu, SIGKILL), 0);
        gate_cut(&g);
        call_cleanup(p, &p->a, FAILED_PRECONDITION);
        call_finalize_forced(p, &p->a, STOP, NULL, 0); /* without a proof it ends nothing */
        host_wait_detail(&p->a, "S_FEEDING");
        call_finalize_forced(p, &p->a, STOP, &power_off, 0);
        host_wait_detail(&p->a, "S_ENDED");
        call_cleanup(p, &p->a, 0);
        host_start(&p->b, NULL);
        host_wait_detail(&p->b, "D_LOST");
        call_finalize_forced(p, &p->b, STOP, NULL, 0);
        call_cleanup(p, &p->b, 0);
        assert_false(host_runs(&p->a));
        assert_false(host_runs(&p->b));
}

/* One argument: a pattern, to run only the tests that it names. */
int main(int argc, char **argv) {
#define WITH(test_, setup_) cmocka_unit_test_setup_teardown(test_, setup_, end_pair)
        const struct CMUnitTest tests[] = {
                WITH(test_there_and_back, setup_large),
                WITH(test_only_when_the_passes_run_out, setup_large),
                WITH(test_not_where_it_converges, setup_calm),
                WITH(test_the_caller_cancels, setup),
                WITH(test_the_caller_stops_the_source, setup),
                WITH(test_the_caller_resumes_the_destination, setup),
                WITH(test_the_connection_breaks_before_it_is_settled, setup),
                WITH(test_a_shim_ends_before_it_is_settled, setup),
                WITH(test_taken_is_lost_with_the_connection, setup),
                WITH(test_taken_does_not_come, setup),
                WITH(test_taken_is_lost_with_the_source_s_shim, setup),
                WITH(test_the_connection_breaks_in_the_switchover, setup),
                WITH(test_the_connection_breaks_while_memory_follows, setup),
                WITH(test_the_source_s_shim_ends_while_memory_follows, setup),
                WITH(test_the_destination_s_shim_ends_while_memory_follows, setup),
                WITH(test_the_source_s_qemu_dies_while_memory_follows, setup),
                WITH(test_the_destination_s_qemu_dies_while_memory_follows, setup),
                WITH(test_the_destination_s_host_dies_while_memory_follows, setup),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("postcopy", tests, NULL, NULL);
}
