/* SPDX-License-Identifier: MIT */
/* Two real QEMUs: what succeeds, and every way to fail before the handover. After each: exactly one
 * guest runs (or none, when its QEMU was killed), its memory is intact, nothing is left behind. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/clock.h"

#include "steps.h"

static int setup(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 1000, 2048);
        *state = p;
        return 0;
}

static int setup_with_few_writes(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 100, 2048);
        *state = p;
        return 0;
}

static void rolled_back(pair *p) {
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        expect_verdict(&p->a, "ran-again");
        expect_verdict(&p->b, "declined");
        assert_exactly_one_runs(p, &p->a);
        then_it_moves(p);
}

/* ---- success ---- */

static void test_caller_finalizes_the_source_first(void **state) {
        pair *p = *state;

        reach_ready(p);
        call_finalize(p, &p->a, STOP, 0);
        assert_true(host_runs(&p->b)); /* the answer comes after RUNNING */
        call_finalize(p, &p->b, RESUME, 0);
        expect_history(p, &p->a,
                       "SETUP_DONE/SUCCESS BLACKOUT_STARTED/SUCCESS OFFLINE_DONE/SUCCESS "
                       "DONE/SUCCESS BLACKOUT_EXITED/SUCCESS");
        expect_history(p, &p->b, "SETUP_DONE/SUCCESS DONE/SUCCESS BLACKOUT_EXITED/SUCCESS");
        assert_exactly_one_runs(p, &p->b);
}

static void test_caller_finalizes_the_destination_first(void **state) {
        pair *p = *state;

        reach_ready(p);
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        assert_exactly_one_runs(p, &p->b);
}

static void test_direct_needs_no_caller(void **state) {
        pair *p = *state;

        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        session_open(p, true);
        transfer_both(p);
        host_wait_detail(&p->b, "D_RUNNING");
        host_wait_detail(&p->a, "S_RELEASED");
        assert_exactly_one_runs(p, &p->b);
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        expect_history(p, &p->a,
                       "SETUP_DONE/SUCCESS BLACKOUT_STARTED/SUCCESS OFFLINE_DONE/SUCCESS "
                       "BLACKOUT_EXITED/SUCCESS DONE/SUCCESS");
        expect_history(p, &p->b, "SETUP_DONE/SUCCESS BLACKOUT_EXITED/SUCCESS DONE/SUCCESS");
        /* and back, and there again, by the same two shims */
        migrate_whole(p, &p->b, &p->a);
        assert_exactly_one_runs(p, &p->a);
        migrate_whole(p, &p->a, &p->b);
        assert_exactly_one_runs(p, &p->b);
}

static void test_the_report_is_filled_in(void **state) {
        Ferry__Shim__V1__StatusResponse *s, *d;
        pair *p = *state;

        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        session_open(p, true);
        transfer_both(p);
        host_wait_detail(&p->a, "S_RELEASED");
        host_wait_detail(&p->b, "D_RUNNING");
        s = host_status(&p->a);
        d = host_status(&p->b);
        assert_true(s->session->report->blackout_usec > 0);
        assert_true(s->session->report->blackout_usec == d->session->report->blackout_usec);
        assert_true(s->session->report->total_usec >= s->session->report->blackout_usec);
        assert_true(s->session->report->passes >= 1);
        assert_true(s->session->report->journal_sync_usec > 0);
        assert_true(s->session->handover_record.len > 0);
        assert_true(d->session->handover_record.len > 0);
        ferry__shim__v1__status_response__free_unpacked(s, NULL);
        ferry__shim__v1__status_response__free_unpacked(d, NULL);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        s = host_status(&p->a);
        assert_int_equal(s->n_tombstones, 1);
        assert_string_equal(s->tombstones[0]->verdict, "done");
        ferry__shim__v1__status_response__free_unpacked(s, NULL);
}

static void expect_trace(host *h, const char *session, const char *outcome, uint64_t blackout) {
        Ferry__Shim__V1__TraceResponse *t = host_trace(h, session, 0);

        assert_string_equal(t->outcome, outcome);
        assert_true(t->n_phases > 4 && t->n_events > 4 && t->n_versions > 4 && t->n_options > 4);
        assert_true(t->report->blackout_usec == blackout);
        assert_true(t->stopped_usec > t->greeted_usec && t->greeted_usec > 0);
        ferry__shim__v1__trace_response__free_unpacked(t, NULL);
}

static uint64_t host_trace_blackout(host *h) {
        Ferry__Shim__V1__TraceResponse *t = host_trace(h, "", 0);
        uint64_t blackout = t->report->blackout_usec;

        ferry__shim__v1__trace_response__free_unpacked(t, NULL);
        return blackout;
}

/* A trace that cannot be written is told of all the same, and costs the guest nothing. */
static void test_the_trace_outlives_its_session(void **state) {
        Ferry__Shim__V1__StatusResponse *s;
        uint64_t blackout;
        char path[128];
        pair *p = *state;

        host_trace(&p->a, "", 5);
        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        p->options.perf_tracing_enabled = true;
        snprintf(path, sizeof(path), "%s/trace.json", p->b.dir);
        assert_int_equal(mkdir(path, 0700), 0);
        session_open(p, true);
        host_trace(&p->a, "another", 5);
        transfer_both(p);
        host_wait_detail(&p->a, "S_RELEASED");
        host_wait_detail(&p->b, "D_RUNNING");
        s = host_status(&p->a);
        blackout = s->session->report->blackout_usec;
        ferry__shim__v1__status_response__free_unpacked(s, NULL);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        expect_trace(&p->a, p->session, "moved", blackout);
        expect_trace(&p->b, "", "moved", blackout);
        assert_int_equal(rmdir(path), 0); /* empty still */
        snprintf(path, sizeof(path), "%s/trace.json", p->a.dir);
        assert_int_equal(access(path, R_OK), 0);
        /* the next one takes its place */
        migrate_whole(p, &p->b, &p->a);
        expect_trace(&p->a, p->session, "moved", host_trace_blackout(&p->b));
        assert_exactly_one_runs(p, &p->a);
}

/* ---- cancel ---- */

static void test_cancel_before_the_socket(void **state) {
        pair *p = *state;

        session_open(p, false);
        call_cancel(p, &p->a, 0);
        call_cancel(p, &p->b, 0);
        call_cancel(p, &p->a, 0); /* twice is once */
        call_finalize(p, &p->b, STOP, 0);
        call_finalize(p, &p->a, STOP, FAILED_PRECONDITION); /* it still owns the guest */
        call_finalize(p, &p->a, RESUME, 0);
        call_cancel(p, &p->a, FAILED_PRECONDITION);
        rolled_back(p);
}

static void test_cancel_while_waiting_for_the_socket(void **state) {
        pair *p = *state;

        session_open(p, false);
        transfer_both(p);
        host_wait_detail(&p->a, "S_SOCKET_WAITING");
        host_wait_detail(&p->b, "D_SOCKET_WAITING");
        call_cancel(p, &p->b, 0);
        call_cancel(p, &p->a, 0);
        rolled_back(p);
}

static void test_cancel_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        call_cancel(p, &p->a, 0);
        assert_exactly_one_runs(p, &p->a);
        call_cancel(p, &p->b, 0);
        call_finalize(p, &p->a, RESUME, 0);
        call_finalize(p, &p->b, STOP, 0);
        expect_history(p, &p->a, "SETUP_DONE/SUCCESS FAILED/CANCELLED RECOVERY_DONE/SUCCESS");
        call_cleanup(p, &p->b, 0);
        then_it_moves(p);
}

static void test_cancel_at_the_destination_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        call_cancel(p, &p->b, 0);
        host_wait_detail(&p->a, "S_FAILED");
        call_finalize(p, &p->a, RESUME, 0);
        expect_history(p, &p->b, "SETUP_DONE/SUCCESS DONE/CANCELLED");
        call_cleanup(p, &p->a, 0);
        assert_exactly_one_runs(p, &p->a);
        then_it_moves(p);
}

static void test_cancel_while_the_guest_stands(void **state) {
        pair *p = *state;

        reach_ready(p);
        call_cancel(p, &p->a, 0);
        assert_exactly_one_runs(p, &p->a);
        host_wait_detail(&p->b, "D_FAILED"); /* REFUSED */
        call_finalize(p, &p->b, RESUME, FAILED_PRECONDITION);
        rolled_back(p);
}

static void test_cancel_at_the_destination_while_the_guest_stands(void **state) {
        pair *p = *state;

        reach_ready(p);
        call_cancel(p, &p->b, 0);
        host_wait_detail(&p->a, "S_FAILED"); /* DECLINED */
        rolled_back(p);
}

static void test_resume_at_the_source_takes_it_back(void **state) {
        pair *p = *state;

        reach_ready(p);
        call_finalize(p, &p->a, RESUME, 0);
        assert_exactly_one_runs(p, &p->a);
        host_wait_detail(&p->b, "D_FAILED");
        call_finalize(p, &p->b, STOP, 0);
        rolled_back(p);
}

static void test_cancel_after_the_handover_is_refused(void **state) {
        pair *p = *state;

        reach_ready(p);
        call_finalize(p, &p->a, STOP, 0);
        call_cancel(p, &p->a, FAILED_PRECONDITION);
        call_cancel(p, &p->b, FAILED_PRECONDITION);
        call_finalize(p, &p->a, RESUME, FAILED_PRECONDITION);
        call_finalize(p, &p->b, STOP, FAILED_PRECONDITION);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        assert_exactly_one_runs(p, &p->b);
}

/* ---- failures ---- */

static void test_destination_qemu_dies_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        assert_int_equal(kill(host_qemu(&p->b), SIGKILL), 0);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        expect_history(p, &p->a, "SETUP_DONE/SUCCESS FAILED/SOURCE_FAILED RECOVERY_DONE/SUCCESS");
        call_cleanup(p, &p->b, 0);
        assert_exactly_one_runs(p, &p->a);
        then_it_moves(p);
}

static void test_source_qemu_dies_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        assert_int_equal(kill(host_qemu(&p->a), SIGKILL), 0);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        call_finalize(p, &p->a, RESUME, FAILED_PRECONDITION); /* there is nothing to resume */
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        assert_false(host_runs(&p->a) || host_runs(&p->b));
}

static void test_connection_cut_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        cut_connection(p);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        rolled_back(p);
}

static void test_connection_cut_while_the_guest_stands(void **state) {
        pair *p = *state;

        reach_ready(p);
        cut_connection(p);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_UNDECIDED"); /* only the source knows */
        call_finalize(p, &p->b, RESUME, FAILED_PRECONDITION);
        call_finalize(p, &p->b, STOP, 0);
        rolled_back(p);
}

static void test_no_socket_in_time(void **state) {
        pair *p = *state;

        session_open(p, false);
        call_transfer(p, &p->a, 20, 0);
        call_transfer(p, &p->b, 20, 0);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        call_finalize(p, &p->a, RESUME, 0);
        rolled_back(p);
}

/* ---- the shim's own end ---- */

static void test_qemu_survives_the_shim(void **state) {
        pair *p = *state;
        pid_t qemu = host_qemu(&p->a);

        host_kill_shim(&p->a, SIGTERM);
        assert_int_equal(kill(qemu, 0), 0);
        host_start(&p->a, NULL);
        host_wait_vm(&p->a, FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING);
        assert_int_equal(host_qemu(&p->a), qemu);
        host_kill_shim(&p->a, SIGKILL);
        host_start(&p->a, NULL);
        assert_exactly_one_runs(p, &p->a);
        then_it_moves(p);
}

static void test_source_shim_dies_in_the_copy(void **state) {
        static const int signals[] = { SIGTERM, SIGKILL };
        pair *p = *state;

        for (size_t i = 0; i < 2; i++) {
                copy_slowly(p);
                host_kill_shim(&p->a, signals[i]);
                host_start(&p->a, NULL);
                host_wait_detail(&p->a, "S_FAILED");
                host_wait_detail(&p->b, "D_FAILED");
                call_cleanup(p, &p->a, 0);
                call_cleanup(p, &p->b, 0);
                assert_exactly_one_runs(p, &p->a);
        }
        then_it_moves(p);
}

static void test_destination_shim_dies_after_it_took_over(void **state) {
        pair *p = *state;

        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        session_open(p, true);
        transfer_both(p);
        host_wait_detail(&p->a, "S_RELEASED");
        host_kill_shim(&p->b, SIGKILL);
        host_start(&p->b, NULL);
        host_wait_detail(&p->b, "D_RUNNING");
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        assert_exactly_one_runs(p, &p->b);
}

/* The destination has the only copy: a restarted source must not say that it owns the guest. */
static void test_a_spent_source_is_remembered(void **state) {
        pair *p = *state;

        reach_ready(p);
        assert_int_equal(kill(host_qemu(&p->a), SIGKILL), 0);
        host_wait_detail(&p->a, "S_SPENT");
        host_kill_shim(&p->a, SIGKILL);
        host_start(&p->a, NULL);
        host_wait_detail(&p->a, "S_SPENT");
        call_cancel(p, &p->a, FAILED_PRECONDITION);
        call_finalize(p, &p->a, RESUME, FAILED_PRECONDITION);
        /* and a caller brings the only copy to life, by the records: what `ferry recover` does */
        host_wait_detail(&p->b, "D_UNDECIDED");
        call_finalize(p, &p->a, STOP, FAILED_PRECONDITION); /* handed; nobody to tell it to */
        host_wait_detail(&p->a, "S_HANDED");
        call_finalize_with(p, &p->b, RESUME, &p->a, 0);
        call_finalize_with(p, &p->a, STOP, &p->b, 0);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        assert_exactly_one_runs(p, &p->b);
}

/* The same with the connection up: the shims need nobody. */
static void test_a_spent_source_hands_over_by_itself(void **state) {
        pair *p = *state;

        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        make_slow(p);
        p->options.max_bandwidth = 2000000; /* seconds, so that the destination is held in time */
        session_open(p, true);
        transfer_both(p);
        host_wait_setup(&p->b);
        assert_int_equal(kill(p->b.pid, SIGSTOP), 0); /* its QEMU goes on without it */
        host_wait_detail(&p->a, "S_OFFERED");
        assert_int_equal(kill(host_qemu(&p->a), SIGKILL), 0);
        host_wait_detail(&p->a, "S_SPENT");
        assert_int_equal(kill(p->b.pid, SIGCONT), 0);
        host_wait_detail(&p->b, "D_RUNNING");
        host_wait_detail(&p->a, "S_RELEASED");
        call_finalize(p, &p->b, RESUME, 0);
        call_finalize(p, &p->a, STOP, 0);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        assert_exactly_one_runs(p, &p->b);
}

/* The copy goes on without the destination's shim, which then finds an offer. */
static void hold_destination_until_offered(pair *p) {
        make_slow(p);
        p->options.max_bandwidth = 2000000; /* seconds, so that the destination is held in time */
        session_open(p, true);
        transfer_both(p);
        host_wait_setup(&p->b);
        assert_int_equal(kill(p->b.pid, SIGSTOP), 0);
        host_wait_detail(&p->a, "S_OFFERED");
}

static void test_an_offer_that_nobody_answers_ends_the_move(void **state) {
        pair *p = *state;

        hold_destination_until_offered(p);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_vm(&p->a, FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING);
        assert_int_equal(kill(p->b.pid, SIGCONT), 0);
        host_wait_detail(&p->b, "D_FAILED"); /* it was refused */
        rolled_back(p);
}

/* HANDOVER_CALLER: the guest stands until the caller has decided, and not for ever. */
static void test_a_caller_that_never_finalizes(void **state) {
        pair *p = *state;

        reach_ready(p);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_vm(&p->a, FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING);
        host_wait_detail(&p->b, "D_FAILED");
        rolled_back(p);
}

/* An offer that waits as long, with four times the patience: it does not end the move. */
static void test_longer_limits(void **state) {
        pair *p = *state;
        uint64_t over;

        p->options.prepare_memory_transfer_mode = true;
        hold_destination_until_offered(p);
        for (over = now_usec() + 11 * USEC_PER_SEC; now_usec() < over;) /* the limit: 10 s */
                host_wait_detail(&p->a, "S_OFFERED");
        assert_int_equal(kill(p->b.pid, SIGCONT), 0);
        host_wait_detail(&p->a, "S_READY");
        call_finalize(p, &p->a, STOP, 0);
        call_finalize(p, &p->b, RESUME, 0);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        assert_exactly_one_runs(p, &p->b);
}

static int setup_with_little_memory(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 100, 128);
        *state = p;
        return 0;
}

/* Nothing can be sent, and QEMU waits for ever: the move ends, the guest runs all the time. */
static void test_a_destination_qemu_that_hangs_in_the_copy(void **state) {
        pair *p = *state;
        pid_t qemu;

        make_slow(p);
        session_open(p, true);
        transfer_both(p);
        host_wait_setup(&p->b);
        qemu = host_qemu(&p->b);
        assert_int_equal(kill(qemu, SIGSTOP), 0);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_vm(&p->a, FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING);
        assert_int_equal(kill(qemu, SIGCONT), 0);
        host_wait_detail(&p->b, "D_FAILED");
        rolled_back(p);
}

/* All is sent, and its QEMU never says that it has it: the guest does not stand for ever. */
static void test_a_destination_qemu_that_hangs_in_the_blackout(void **state) {
        pair *p = *state;
        int no_limit = -1; /* as the kernel has it by itself */
        pid_t qemu;

        make_slow(p);
        p->options.max_bandwidth = 500000; /* so that it is held before all has come */
        session_open(p, true);
        /* all that is left fits into the kernel: the guest is stopped though nobody reads */
        assert_int_equal(setsockopt(p->a.socket, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &no_limit,
                                    sizeof(no_limit)),
                         0);
        transfer_both(p);
        host_wait_setup(&p->b);
        qemu = host_qemu(&p->b);
        assert_int_equal(kill(qemu, SIGSTOP), 0);
        host_wait_vm(&p->a, FERRY__SHIM__V1__VM_STATE__VM_STATE_PAUSED);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_vm(&p->a, FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING);
        assert_int_equal(kill(qemu, SIGCONT), 0);
        /* failed, or undecided, if all had come to it after all */
        host_wait_no_longer(&p->b, "D_LOADING");
        rolled_back(p);
}

/* It moved away; a later session that came to nothing does not bring it back to life. */
static void test_a_sandbox_that_moved_is_not_booted_again(void **state) {
        ProtobufCBinaryData exported = { .len = 0 };
        pair *p = *state;
        char config[128];
        int status;

        migrate_whole(p, &p->a, &p->b);
        snprintf(p->session, sizeof(p->session), "back");
        call_export(p, &p->b, 0, &exported);
        call_import(p, &p->a, &exported, 0);
        free(exported.data);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        host_kill_shim(&p->a, SIGTERM);
        snprintf(config, sizeof(config), "%s/vm.json", p->folder);
        host_spawn(&p->a, config);
        assert_int_equal(waitpid(p->a.pid, &status, 0), p->a.pid);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
        p->a.pid = 0;
        assert_exactly_one_runs(p, &p->b);
}

/* ---- bad input changes nothing ---- */

static void test_bad_input_changes_nothing(void **state) {
        ProtobufCBinaryData state_bytes = { .len = 0 }, none = { .len = 0 };
        uint8_t garbage[] = { 1, 2, 3, 4 };
        ProtobufCBinaryData bad = { sizeof(garbage), garbage };
        pair *p = *state;

        /* no session yet */
        snprintf(p->session, sizeof(p->session), "nosuch");
        call_prepare(p, &p->b, INVALID_ARGUMENT);
        call_transfer(p, &p->a, 0, INVALID_ARGUMENT);
        call_cancel(p, &p->a, INVALID_ARGUMENT);
        call_finalize(p, &p->a, STOP, INVALID_ARGUMENT);
        call_cleanup(p, &p->a, 0);
        /* no id */
        p->session[0] = '\0';
        call_export(p, &p->a, INVALID_ARGUMENT, &state_bytes);
        call_import(p, &p->b, &bad, INVALID_ARGUMENT);
        call_cleanup(p, &p->a, INVALID_ARGUMENT);
        /* nonsense */
        snprintf(p->session, sizeof(p->session), "one");
        call_import(p, &p->b, &bad, INVALID_ARGUMENT);
        call_import(p, &p->b, &none, INVALID_ARGUMENT);
        p->options.memory_transport = MEMORY_TRANSPORT__MEMORY_TRANSPORT_UNSPECIFIED;
        call_export(p, &p->a, INVALID_ARGUMENT, &state_bytes);
        p->options.memory_transport = MEMORY_TRANSPORT__MEMORY_TRANSPORT_TCP;
        p->options.postcopy = POSTCOPY__POSTCOPY_ALWAYS;
        p->options.verify_memory = true;
        call_export(p, &p->a, INVALID_ARGUMENT, &state_bytes);
        p->options.postcopy = POSTCOPY__POSTCOPY_NEVER;
        p->options.verify_memory = false;
        call_export(p, &p->b, FAILED_PRECONDITION, &state_bytes); /* there is no VM */
        host_wait_detail(&p->a, "");
        host_wait_detail(&p->b, "");

        /* in a session */
        call_export(p, &p->a, 0, &state_bytes);
        call_export(p, &p->a, FAILED_PRECONDITION, &none);
        call_import(p, &p->a, &state_bytes, FAILED_PRECONDITION);
        state_bytes.data[state_bytes.len / 2] ^= 1;
        call_import(p, &p->b, &state_bytes, INVALID_ARGUMENT);
        state_bytes.data[state_bytes.len / 2] ^= 1;
        call_import(p, &p->b, &state_bytes, 0);
        call_import(p, &p->b, &state_bytes, FAILED_PRECONDITION);
        free(state_bytes.data);
        snprintf(p->session, sizeof(p->session), "other");
        call_cancel(p, &p->a, INVALID_ARGUMENT);
        call_cleanup(p, &p->b, INVALID_ARGUMENT);
        snprintf(p->session, sizeof(p->session), "one");
        call_finalize(p, &p->a, FINALIZE_ACTION__FINALIZE_ACTION_UNSPECIFIED, INVALID_ARGUMENT);
        call_finalize(p, &p->a, STOP, FAILED_PRECONDITION);
        p->a.socket = 9999;
        call_socket(p, &p->a, FAILED_PRECONDITION); /* no such descriptor of ours */
        p->a.socket = -EBADF;
        call_stop(&p->a, false, FAILED_PRECONDITION);
        host_wait_detail(&p->a, "S_EXPORTED");
        host_wait_detail(&p->b, "D_IMPORTED");
        call_prepare(p, &p->b, 0);
        connect_hosts(p);
        call_socket(p, &p->a, 0);
        call_socket(p, &p->a, ALREADY_EXISTS);
        rolled_back(p);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, end_pair)

/* One argument: a pattern, to run only the tests that it names. */
int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                TEST(test_caller_finalizes_the_source_first),
                TEST(test_caller_finalizes_the_destination_first),
                TEST(test_direct_needs_no_caller),
                TEST(test_the_report_is_filled_in),
                TEST(test_the_trace_outlives_its_session),
                TEST(test_cancel_before_the_socket),
                TEST(test_cancel_while_waiting_for_the_socket),
                TEST(test_cancel_in_the_copy),
                TEST(test_cancel_at_the_destination_in_the_copy),
                TEST(test_cancel_while_the_guest_stands),
                TEST(test_cancel_at_the_destination_while_the_guest_stands),
                TEST(test_resume_at_the_source_takes_it_back),
                TEST(test_cancel_after_the_handover_is_refused),
                TEST(test_destination_qemu_dies_in_the_copy),
                TEST(test_source_qemu_dies_in_the_copy),
                TEST(test_connection_cut_in_the_copy),
                TEST(test_connection_cut_while_the_guest_stands),
                TEST(test_no_socket_in_time),
                TEST(test_qemu_survives_the_shim),
                TEST(test_source_shim_dies_in_the_copy),
                TEST(test_destination_shim_dies_after_it_took_over),
                TEST(test_a_spent_source_is_remembered),
                cmocka_unit_test_setup_teardown(test_a_spent_source_hands_over_by_itself,
                                                setup_with_few_writes, end_pair),
                cmocka_unit_test_setup_teardown(test_an_offer_that_nobody_answers_ends_the_move,
                                                setup_with_few_writes, end_pair),
                TEST(test_a_caller_that_never_finalizes),
                cmocka_unit_test_setup_teardown(test_longer_limits, setup_with_few_writes,
                                                end_pair),
                TEST(test_a_destination_qemu_that_hangs_in_the_copy),
                cmocka_unit_test_setup_teardown(test_a_destination_qemu_that_hangs_in_the_blackout,
                                                setup_with_little_memory, end_pair),
                TEST(test_a_sandbox_that_moved_is_not_booted_again),
                TEST(test_bad_input_changes_nothing),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("migration", tests, NULL, NULL);
}
