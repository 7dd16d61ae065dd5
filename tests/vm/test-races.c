/* SPDX-License-Identifier: MIT */
/*
 * What comes at the same time, in both orders. Two calls at one shim stand in its socket in the
 * order given before it reads any; of two at different shims the first is taken to the table, and
 * what it sends to the other side is on its way, before the other shim goes on. (A shim reads the
 * other shim's words before its callers'.) Whatever the order: at most one side runs the guest, and
 * one side can.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "matrix-world.h"

#define OK 0
#define FP 9

typedef struct move {
        bool at_destination;
        matrix_call call;
        int code;
} move;

typedef struct race {
        const char *name;
        const char *from; /* a state of the matrix */
        move first, second;
        const char *source, *destination; /* their states after it */
} race;

#define S_(call, code)                                                                             \
        { false, CALL_##call, code }
#define D_(call, code)                                                                             \
        { true, CALL_##call, code }

static const race races[] = {
        { "the source: Cancel, socket", "S_SOCKET_WAITING", S_(CANCEL, OK), S_(SOCKET, FP),
          "S_CANCELLED", "IDLE" },
        { "the source: socket, Cancel", "S_SOCKET_WAITING", S_(SOCKET, OK), S_(CANCEL, OK),
          "S_CANCELLED", "IDLE" },
        { "the destination: Cancel, socket", "D_SOCKET_WAITING", D_(CANCEL, OK), D_(SOCKET, FP),
          "S_EXPORTED", "D_CANCELLED" },
        { "the destination: socket, Cancel", "D_SOCKET_WAITING", D_(SOCKET, OK), D_(CANCEL, OK),
          "S_EXPORTED", "D_CANCELLED" },
        { "Cancel, TransferSandbox", "S_SOCKET_READY", S_(CANCEL, OK), S_(TRANSFER, FP),
          "S_CANCELLED", "IDLE" },
        { "TransferSandbox, Cancel", "S_SOCKET_READY", S_(TRANSFER, OK), S_(CANCEL, OK),
          "S_CANCELLED", "IDLE" },
        { "Cancel, Cleanup in the copy", "S_COPYING", S_(CANCEL, OK), S_(CLEANUP, OK), "IDLE",
          "D_FAILED" },
        { "PrepareSandbox, Cancel", "D_IMPORTED", D_(PREPARE, 1), D_(CANCEL, OK), "S_EXPORTED",
          "D_CANCELLED" },
        { "Cancel, PrepareSandbox", "D_IMPORTED", D_(CANCEL, OK), D_(PREPARE, FP), "S_EXPORTED",
          "D_CANCELLED" },

        { "the source: STOP, Cancel", "S_READY", S_(STOP, OK), S_(CANCEL, FP), "S_ENDED",
          "D_RUNNING" },
        { "the source: Cancel, STOP", "S_READY", S_(CANCEL, OK), S_(STOP, FP), "S_CANCELLED",
          "D_FAILED" },
        { "the source: RESUME, Cancel", "S_READY", S_(RESUME, OK), S_(CANCEL, FP), "S_RESUMED",
          "D_FAILED" },
        { "the source: Cancel, RESUME", "S_READY", S_(CANCEL, OK), S_(RESUME, FP), "S_CANCELLED",
          "D_FAILED" },
        { "the source: STOP, RESUME", "S_READY", S_(STOP, OK), S_(RESUME, FP), "S_ENDED",
          "D_RUNNING" },
        { "the source: RESUME, STOP", "S_READY", S_(RESUME, OK), S_(STOP, FP), "S_RESUMED",
          "D_FAILED" },
        { "the source: STOP, Cleanup", "S_READY", S_(STOP, OK), S_(CLEANUP, FP), "S_ENDED",
          "D_RUNNING" },
        { "the source: Cleanup, STOP", "S_READY", S_(CLEANUP, OK), S_(STOP, FP), "IDLE",
          "D_FAILED" },
        { "the destination: RESUME, Cancel", "D_READY", D_(RESUME, FP), D_(CANCEL, OK), "S_FAILED",
          "D_CANCELLED" },
        { "the destination: Cancel, RESUME", "D_READY", D_(CANCEL, OK), D_(RESUME, FP), "S_FAILED",
          "D_CANCELLED" },
        { "the destination: RESUME, STOP", "D_READY", D_(RESUME, FP), D_(STOP, OK), "S_FAILED",
          "D_STOPPED" },
        { "the destination: STOP, RESUME", "D_READY", D_(STOP, OK), D_(RESUME, FP), "S_FAILED",
          "D_STOPPED" },

        { "STOP there, RESUME here", "S_READY", S_(STOP, OK), D_(RESUME, OK), "S_ENDED",
          "D_FINALIZED" },
        { "RESUME here, STOP there", "S_READY", D_(RESUME, OK), S_(STOP, OK), "S_ENDED",
          "D_FINALIZED" },
        { "RESUME at both, the source first", "S_READY", S_(RESUME, OK), D_(RESUME, FP),
          "S_RESUMED", "D_FAILED" },
        { "RESUME at both, the destination first", "S_READY", D_(RESUME, OK), S_(RESUME, FP),
          "S_RELEASED", "D_FINALIZED" },
        { "STOP at both, the source first", "S_READY", S_(STOP, OK), D_(STOP, FP), "S_ENDED",
          "D_RUNNING" },
        { "STOP at both, the destination first", "S_READY", D_(STOP, OK), S_(STOP, FP), "S_FAILED",
          "D_STOPPED" },
        { "STOP at the source, Cancel at the destination", "S_READY", S_(STOP, OK), D_(CANCEL, FP),
          "S_ENDED", "D_RUNNING" },
        { "Cancel at the destination, STOP at the source", "S_READY", D_(CANCEL, OK), S_(STOP, FP),
          "S_FAILED", "D_CANCELLED" },
        { "Cancel at the source, RESUME at the destination", "S_READY", S_(CANCEL, OK),
          D_(RESUME, FP), "S_CANCELLED", "D_FAILED" },
        { "RESUME at the destination, Cancel at the source", "S_READY", D_(RESUME, OK),
          S_(CANCEL, FP), "S_RELEASED", "D_FINALIZED" },
        { "Cancel at both, the source first", "S_READY", S_(CANCEL, OK), D_(CANCEL, OK),
          "S_CANCELLED", "D_CANCELLED" },
        { "Cancel at both, the destination first", "S_READY", D_(CANCEL, OK), S_(CANCEL, OK),
          "S_CANCELLED", "D_CANCELLED" },
        { "Cleanup at both, the source first", "S_READY", S_(CLEANUP, OK), D_(CLEANUP, OK), "IDLE",
          "IDLE" },
        { "Cleanup at both, the destination first", "S_READY", D_(CLEANUP, OK), S_(CLEANUP, OK),
          "IDLE", "IDLE" },
        { "Cleanup at the destination, STOP at the source", "S_READY", D_(CLEANUP, OK),
          S_(STOP, FP), "S_FAILED", "IDLE" },
};

static void reach(world *w, const char *state) {
        size_t n;
        const place *places = matrix_places(&n);

        for (size_t i = 0; i < n; i++)
                if (strcmp(places[i].state, state) == 0) {
                        places[i].reach(w);
                        return;
                }
        fail_msg("no way to %s", state);
}

static host *host_of(world *w, const move *m) {
        return m->at_destination ? w->destination : w->source;
}

static void check_code(const move *m, const answer *a) {
        if (a->code != m->code)
                fail_msg("%s: code %d, expected %d: %s", matrix_call_name(m->call), a->code,
                         m->code, a->message);
}

static void wait_detail(host *h, const char *detail) {
        host_wait_detail(h, strcmp(detail, "IDLE") == 0 ? "" : detail);
}

/* One side has it, and goes on. */
static void one_runs(world *w, host *h) {
        assert_exactly_one_runs(&w->p, h);
}

static void test_race(void **state) {
        const race *r = *state;
        world *w = world_get();
        answer first, second;
        host *h1, *h2;
        bool moved;

        reach(w, r->from);
        h1 = host_of(w, &r->first);
        h2 = host_of(w, &r->second);
        world_hold(w, h1->pid);
        world_hold(w, h2->pid);
        world_send(w, h1, h1->client, r->first.call, w->p.session, &first);
        world_send(w, h2, h2->client, r->second.call, w->p.session, &second);
        world_let_go(w, h1->pid);
        world_taken(h1->client);
        world_let_go(w, h2->pid);
        world_collect(h1->client, &first);
        world_collect(h2->client, &second);
        check_code(&r->first, &first);
        check_code(&r->second, &second);
        wait_detail(w->source, r->source);
        wait_detail(w->destination, r->destination);
        moved = strcmp(r->destination, "D_RUNNING") == 0 ||
                strcmp(r->destination, "D_FINALIZED") == 0;
        one_runs(w, moved ? w->destination : w->source);
        world_finish(w);
}

/* ---- what is no call ---- */

static void expect_history(world *w, host *h, const char *expected) {
        char *text = history_and_cleanup(&w->p, h);

        assert_string_equal(text, expected);
        free(text);
}

/* QEMU has sent everything, READY is there, and then a Cancel: it counts. */
static void test_ready_then_cancel(void **state) {
        world *w = world_get();
        answer a;

        reach(w, "S_OFFERED");
        world_hold(w, w->source->pid);
        world_let_go(w, w->destination->pid);
        host_wait_detail(w->destination, "D_READY"); /* READY is on its way */
        world_send(w, w->source, w->source->client, CALL_CANCEL, w->p.session, &a);
        world_let_go(w, w->source->pid);
        world_collect(w->source->client, &a);
        assert_int_equal(a.code, OK);
        host_wait_detail(w->source, "S_CANCELLED");
        host_wait_detail(w->destination, "D_FAILED");
        one_runs(w, w->source);
        world_finish(w);
}

static void test_cancel_then_ready(void **state) {
        world *w = world_get();

        reach(w, "S_OFFERED");
        world_must(w, w->source, CALL_CANCEL);
        world_let_go(w, w->destination->pid); /* it says READY, to nobody */
        host_wait_detail(w->destination, "D_FAILED");
        host_wait_detail(w->source, "S_CANCELLED");
        one_runs(w, w->source);
        world_finish(w);
}

/* The transfer is over before the Cancel is read: a Cancel wins all the same. */
static void test_completed_then_cancel(void **state) {
        world *w = world_get();
        answer a;

        reach(w, "D_LOADED"); /* the source's shim stands; its QEMU is done */
        world_send(w, w->source, w->source->client, CALL_CANCEL, w->p.session, &a);
        world_let_go(w, w->source->pid);
        world_collect(w->source->client, &a);
        assert_int_equal(a.code, OK);
        host_wait_detail(w->source, "S_CANCELLED");
        one_runs(w, w->source);
        world_finish(w);
}

/* The transfer fails while it is being cancelled, or after: nobody hears of a failure. */
static void test_cancel_then_failure(void **state) {
        world *w = world_get();

        reach(w, "S_COPYING");
        world_hold(w, host_qemu(w->source));
        world_lead(w, w->source, CALL_CANCEL);
        host_wait_detail(w->source, "S_CANCELLING");
        assert_int_equal(kill(host_qemu(w->destination), SIGKILL), 0);
        cut_connection(&w->p);
        world_let_go_all(w);
        world_collect(w->source->client, &w->lead);
        assert_int_equal(w->lead.code, OK);
        host_wait_detail(w->source, "S_CANCELLED");
        one_runs(w, w->source);
        expect_history(w, w->source, "SETUP_DONE/SUCCESS FAILED/CANCELLED RECOVERY_DONE/SUCCESS");
        world_finish(w);
}

/* The other order: it has failed, and a Cancel only settles it. */
static void test_failure_then_cancel(void **state) {
        world *w = world_get();

        reach(w, "S_COPYING");
        cut_connection(&w->p);
        host_wait_detail(w->source, "S_FAILED");
        world_must(w, w->source, CALL_CANCEL);
        host_wait_detail(w->source, "S_CANCELLED");
        one_runs(w, w->source);
        expect_history(w, w->source,
                       "SETUP_DONE/SUCCESS FAILED/SOURCE_FAILED RECOVERY_DONE/SUCCESS");
        world_finish(w);
}

/* The socket comes within its time, if only just: the clock is stopped with it. */
static void test_socket_then_timeout(void **state) {
        world *w = world_get();
        answer a;

        reach(w, "S_EXPORTED");
        world_hold(w, w->source->pid);
        w->transfer_timeout_ms = 1;
        world_lead(w, w->source, CALL_TRANSFER);
        w->transfer_timeout_ms = 0;
        world_send(w, w->source, w->source->client, CALL_SOCKET, w->p.session, &a);
        world_let_go_all(w);
        world_collect(w->source->client, &a);
        assert_int_equal(a.code, OK);
        host_wait_detail(w->source, "S_GREETING");
        call_transfer(&w->p, w->source, 1, OK); /* a later call's timeout is nothing */
        host_wait_detail(w->source, "S_GREETING");
        world_finish(w);
}

static void test_timeout_then_socket(void **state) {
        world *w = world_get();

        reach(w, "S_FAILED");              /* by that timeout */
        call_socket(&w->p, w->source, OK); /* only to tell the other side that it was refused */
        host_wait_detail(w->source, "S_FAILED");
        one_runs(w, w->source);
        expect_history(w, w->source, "FAILED/SOURCE_FAILED RECOVERY_DONE/SUCCESS");
        world_finish(w);
}

/* QEMU dies under a Cleanup that waits for it, and together with one. */
static void test_cleanup_then_the_end_of_qemu(void **state) {
        world *w = world_get();
        pid_t qemu;

        reach(w, "S_EXPORTED");
        qemu = host_qemu(w->source);
        world_hold(w, qemu);
        world_lead(w, w->source, CALL_CLEANUP);
        host_wait_detail(w->source, "S_CANCELLING");
        assert_int_equal(kill(qemu, SIGKILL), 0);
        world_collect(w->source->client, &w->lead);
        assert_int_equal(w->lead.code, OK);
        host_wait_detail(w->source, "");
        assert_false(host_runs(w->source) || host_runs(w->destination));
        w->spoiled = true;
        world_finish(w);
}

static void test_the_end_of_qemu_with_cleanup(void **state) {
        world *w = world_get();
        pid_t qemu;
        answer a;

        reach(w, "D_READY");
        qemu = host_qemu(w->destination);
        world_hold(w, w->destination->pid);
        assert_int_equal(kill(qemu, SIGKILL), 0);
        world_send(w, w->destination, w->destination->client, CALL_CLEANUP, w->p.session, &a);
        world_let_go_all(w);
        world_collect(w->destination->client, &a);
        assert_int_equal(a.code, OK);
        host_wait_detail(w->source, "S_FAILED");
        one_runs(w, w->source);
        world_finish(w);
}

/* A source's QEMU that quits is waited for; one that is killed meanwhile has quit too. */
static void test_cleanup_of_a_source_that_quits(void **state) {
        world *w = world_get();

        reach(w, "S_DONE");
        world_lead(w, w->source, CALL_CLEANUP);
        world_taken(w->source->client);
        assert_false(w->lead.done);
        assert_int_equal(kill(w->held[0], SIGKILL), 0);
        world_collect(w->source->client, &w->lead);
        assert_int_equal(w->lead.code, OK);
        host_wait_detail(w->source, "");
        one_runs(w, w->destination);
        world_finish(w);
}

#define TEST(function)                                                                             \
        { .name = #function, .test_func = function, .setup_func = world_setup }

/* One argument: a pattern, to run only the tests that it names. */
int main(int argc, char **argv) {
        static const struct CMUnitTest others[] = {
                TEST(test_ready_then_cancel),
                TEST(test_cancel_then_ready),
                TEST(test_completed_then_cancel),
                TEST(test_cancel_then_failure),
                TEST(test_failure_then_cancel),
                TEST(test_socket_then_timeout),
                TEST(test_timeout_then_socket),
                TEST(test_cleanup_then_the_end_of_qemu),
                TEST(test_the_end_of_qemu_with_cleanup),
                TEST(test_cleanup_of_a_source_that_quits),
        };
        struct CMUnitTest tests[ELEMENTS(races) + ELEMENTS(others)];
        size_t n = 0;

        for (size_t i = 0; i < ELEMENTS(races); i++)
                tests[n++] = (struct CMUnitTest){
                        .name = races[i].name,
                        .test_func = test_race,
                        .setup_func = world_setup,
                        .initial_state = (void *)&races[i],
                };
        memcpy(&tests[n], others, sizeof(others));
        n += ELEMENTS(others);
        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return _cmocka_run_group_tests("races", tests, n, world_group_start, world_group_end);
}
