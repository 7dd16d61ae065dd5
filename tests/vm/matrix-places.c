/* SPDX-License-Identifier: MIT */
/* The way to each state of docs/session-matrix.txt, by real calls. What would pass is held still
 * by stopping the process that it waits for: a QEMU, or the other side's shim. */
#include "matrix-world.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define STATE_USEC (30 * USEC_PER_SEC)

static void idle(world *w) {
        world_new_session(w);
}

static void reserved_source(world *w) {
        world_new_session(w);
        world_must(w, w->source, CALL_NOTIFICATIONS);
}

static void exported(world *w) {
        world_new_session(w);
        free(w->exported.data);
        w->exported = (ProtobufCBinaryData){ .len = 0 };
        call_export(&w->p, w->source, 0, &w->exported);
}

static void reserved_destination(world *w) {
        exported(w);
        world_must(w, w->destination, CALL_NOTIFICATIONS);
}

static void imported(world *w) {
        exported(w);
        world_must(w, w->destination, CALL_IMPORT);
}

static void prepared(world *w) {
        imported(w);
        world_must(w, w->destination, CALL_PREPARE);
}

static void give_sockets(world *w) {
        world_must(w, w->source, CALL_SOCKET);
        world_must(w, w->destination, CALL_SOCKET);
        w->had_socket = true;
}

static void with_sockets(world *w) {
        prepared(w);
        give_sockets(w);
}

static void transfer_both(world *w) {
        world_must(w, w->source, CALL_TRANSFER);
        world_must(w, w->destination, CALL_TRANSFER);
}

/* ---- the source ---- */

static void s_exporting(world *w) {
        world_new_session(w);
        world_hold(w, host_qemu(w->source));
        world_lead(w, w->source, CALL_EXPORT);
        host_wait_detail(w->source, "S_EXPORTING");
}

static void s_socket_waiting(world *w) {
        exported(w);
        world_must(w, w->source, CALL_TRANSFER);
}

static void s_socket_ready(world *w) {
        exported(w);
        world_must(w, w->source, CALL_SOCKET);
        w->had_socket = true;
}

static void s_greeting(world *w) {
        with_sockets(w);
        world_must(w, w->source, CALL_TRANSFER);
}

/* So slow that it is still copying whenever we look. */
static void copying(world *w) {
        w->p.options.optional_max_bandwidth_case =
                INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH_MAX_BANDWIDTH;
        w->p.options.max_bandwidth = 65536;
        with_sockets(w);
        transfer_both(w);
        host_wait_detail(w->source, "S_COPYING");
        host_wait_detail(w->destination, "D_LOADING");
        host_wait_bytes(w->source);
        host_wait_setup(w->destination);
}

static void s_offered(world *w) {
        pid_t qemu = host_qemu(w->source);

        with_sockets(w);
        world_hold(w, qemu);
        transfer_both(w);
        host_wait_setup(w->destination);
        world_hold(w, w->destination->pid); /* its QEMU loads without it */
        world_let_go(w, qemu);
        host_wait_detail(w->source, "S_OFFERED");
}

static void ready(world *w) {
        with_sockets(w);
        transfer_both(w);
        host_wait_detail(w->source, "S_READY");
        host_wait_detail(w->destination, "D_READY");
}

static void s_spent(world *w) {
        ready(w);
        assert_int_equal(kill(host_qemu(w->source), SIGKILL), 0);
        host_wait_detail(w->source, "S_SPENT");
        w->spoiled = true; /* the guest is in a copy that only a STOP brings to life */
}

static void s_handed(world *w) {
        ready(w);
        world_hold(w, w->destination->pid);
        world_lead(w, w->source, CALL_STOP);
        host_wait_detail(w->source, "S_HANDED");
}

static void s_done(world *w) {
        ready(w);
        world_hold(w, host_qemu(w->source));
        world_must(w, w->destination, CALL_RESUME);
        host_wait_detail(w->source, "S_DONE");
}

static void s_released(world *w) {
        ready(w);
        world_must(w, w->destination, CALL_RESUME);
        host_wait_detail(w->source, "S_RELEASED");
}

static void s_given_up(world *w) {
        s_done(w);
        world_must(w, w->source, CALL_STOP);
        host_wait_detail(w->source, "S_GIVEN_UP");
}

static void s_ended(world *w) {
        s_released(w);
        world_must(w, w->source, CALL_STOP);
}

static void s_cancelling(world *w) {
        s_socket_ready(w);
        world_hold(w, host_qemu(w->source));
        world_lead(w, w->source, CALL_CANCEL);
        host_wait_detail(w->source, "S_CANCELLING");
}

static void s_cancelled(world *w) {
        s_socket_ready(w);
        world_must(w, w->source, CALL_CANCEL);
}

static void s_resuming(world *w) {
        s_cancelled(w);
        world_hold(w, host_qemu(w->source));
        world_lead(w, w->source, CALL_RESUME);
        host_wait_detail(w->source, "S_RESUMING");
}

static void s_recovering(world *w) {
        exported(w);
        world_hold(w, host_qemu(w->source));
        call_transfer(&w->p, w->source, 1, 0);
        host_wait_detail(w->source, "S_RECOVERING");
}

static void s_failed(world *w) {
        exported(w);
        call_transfer(&w->p, w->source, 1, 0);
        host_wait_detail(w->source, "S_FAILED");
}

static void s_resumed(world *w) {
        s_cancelled(w);
        world_must(w, w->source, CALL_RESUME);
}

static void s_killed(world *w) {
        s_cancelled(w);
        world_must(w, w->source, CALL_STOP_FORCE);
        w->spoiled = true;
}

/* ---- post-copy, at both ---- */

/* Slowly, so that there is memory left to send when the guest runs. */
static void postcopy(world *w, Handover handover, gate_word last) {
        world_be_hot(w);
        w->p.options.postcopy = POSTCOPY__POSTCOPY_ALWAYS;
        w->p.options.handover = handover;
        w->p.options.optional_max_bandwidth_case =
                INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH_MAX_BANDWIDTH;
        w->p.options.max_bandwidth = 8 << 20;
        prepared(w);
        if (handover == HANDOVER__HANDOVER_DIRECT)
                world_gate(w, last);
        give_sockets(w);
        connect_hosts(&w->p); /* our copies, which would keep a connection open, are of another */
        transfer_both(w);
}

static void paused(world *w) {
        postcopy(w, HANDOVER__HANDOVER_DIRECT, GATE_NOTHING);
        host_wait_detail(w->source, "S_PAUSED");
        host_wait_detail(w->destination, "D_POISED");
}

static void poised(world *w) {
        postcopy(w, HANDOVER__HANDOVER_CALLER, GATE_NOTHING);
        host_wait_detail(w->source, "S_POISED");
        host_wait_detail(w->destination, "D_POISED");
}

static void d_claimed(world *w) {
        poised(w);
        world_hold(w, w->source->pid);
        world_lead(w, w->destination, CALL_RESUME);
        host_wait_detail(w->destination, "D_CLAIMED");
}

static void taken(world *w) {
        postcopy(w, HANDOVER__HANDOVER_DIRECT, GATE_READY);
        host_wait_detail(w->source, "S_COMMITTED");
        host_wait_detail(w->destination, "D_TAKEN");
}

/* QEMU and the shim by turns: the shim hears that the state has come while QEMU, which is to run
 * the guest then, stands. */
static void d_starting(world *w) {
        uint64_t deadline;
        pid_t qemu;
        host *h;

        taken(w);
        h = w->destination;
        qemu = host_qemu(h);
        deadline = now_usec() + STATE_USEC;
        world_hold(w, qemu);
        gate_open(&w->gate);
        while (!look_finds(h, "D_STARTING")) {
                if (now_usec() > deadline)
                        fail_msg("the guest's state does not come");
                world_hold(w, h->pid);
                world_let_go(w, qemu);
                (void)poll(NULL, 0, 1);
                world_hold(w, qemu);
                world_let_go(w, h->pid);
        }
}

static void s_serving(world *w) {
        postcopy(w, HANDOVER__HANDOVER_DIRECT, GATE_TAKEN);
        host_wait_detail(w->destination, "D_FETCHING");
        host_wait_detail(w->source, "S_SERVING");
}

static void feeding(world *w) {
        postcopy(w, HANDOVER__HANDOVER_DIRECT, GATE_RUNS);
        host_wait_detail(w->destination, "D_FETCHING");
        host_wait_detail(w->source, "S_FEEDING");
}

/* ---- the destination ---- */

static void d_socket_waiting(world *w) {
        prepared(w);
        world_must(w, w->destination, CALL_TRANSFER);
}

static void d_greeting(world *w) {
        with_sockets(w);
        world_must(w, w->destination, CALL_TRANSFER);
}

static void d_loaded(world *w) {
        pid_t qemu;

        with_sockets(w);
        qemu = host_qemu(w->destination);
        world_hold(w, qemu);
        transfer_both(w);
        host_wait_bytes(w->source);
        world_hold(w, w->source->pid); /* its QEMU sends without it */
        world_let_go(w, qemu);
        host_wait_detail(w->destination, "D_LOADED");
}

static void d_wanted(world *w) {
        ready(w);
        world_hold(w, w->source->pid);
        world_lead(w, w->destination, CALL_RESUME);
        host_wait_detail(w->destination, "D_WANTED");
}

static void d_owner(world *w) {
        ready(w);
        world_hold(w, host_qemu(w->destination));
        world_lead(w, w->source, CALL_STOP);
        host_wait_detail(w->destination, "D_OWNER");
}

static void d_running(world *w) {
        ready(w);
        world_must(w, w->source, CALL_STOP);
}

static void d_finalized(world *w) {
        d_running(w);
        world_must(w, w->destination, CALL_RESUME);
}

static void d_undecided(world *w) {
        ready(w);
        cut_connection(&w->p);
        host_wait_detail(w->destination, "D_UNDECIDED");
        host_wait_detail(w->source, "S_FAILED");
}

static void d_failing(world *w) {
        ready(w);
        world_hold(w, w->destination->pid);
        world_must(w, w->source, CALL_CANCEL); /* REFUSED is on its way */
}

static void d_cancelled(world *w) {
        prepared(w);
        world_must(w, w->destination, CALL_CANCEL);
}

static void d_stopped(world *w) {
        ready(w);
        world_must(w, w->destination, CALL_STOP);
        host_wait_detail(w->source, "S_FAILED");
}

static void d_failed(world *w) {
        prepared(w);
        call_transfer(&w->p, w->destination, 1, 0);
        host_wait_detail(w->destination, "D_FAILED");
}

static void d_lost(world *w) {
        d_owner(w);
        assert_int_equal(kill(host_qemu(w->destination), SIGKILL), 0);
        host_wait_detail(w->destination, "D_LOST");
        w->spoiled = true;
}

static void d_killed(world *w) {
        d_running(w);
        world_must(w, w->destination, CALL_STOP_FORCE);
        w->spoiled = true;
}

#define S(state_, reach_)                                                                          \
        { .state = state_, .reach = reach_, .lead = N_CALLS }
#define D(state_, reach_)                                                                          \
        { .state = state_, .at_destination = true, .reach = reach_, .lead = N_CALLS }
#define S_PASSES(state_, reach_, lead_)                                                            \
        { .state = state_, .reach = reach_, .passes = true, .lead = lead_ }
#define D_PASSES(state_, reach_, lead_)                                                            \
        { .state = state_, .at_destination = true, .reach = reach_, .passes = true, .lead = lead_ }

const place *matrix_places(size_t *ret_n) {
        static const place places[] = {
                S("IDLE+VM", idle),
                S("RESERVED+VM", reserved_source),
                S("S_EXPORTING", s_exporting),
                S("S_EXPORTED", exported),
                S("S_SOCKET_WAITING", s_socket_waiting),
                S("S_SOCKET_READY", s_socket_ready),
                S("S_GREETING", s_greeting),
                S("S_COPYING", copying),
                S("S_OFFERED", s_offered),
                S("S_READY", ready),
                S("S_SPENT", s_spent),
                S("S_HANDED", s_handed),
                S("S_DONE", s_done),
                S("S_RELEASED", s_released),
                S("S_GIVEN_UP", s_given_up),
                S("S_ENDED", s_ended),
                S("S_CANCELLING", s_cancelling),
                S("S_RESUMING", s_resuming),
                S("S_RECOVERING", s_recovering),
                S("S_CANCELLED", s_cancelled),
                S("S_FAILED", s_failed),
                S("S_RESUMED", s_resumed),
                S_PASSES("S_KILLING", s_cancelled, CALL_STOP_FORCE),
                S("S_KILLED", s_killed),
                D("IDLE", exported),
                D("RESERVED", reserved_destination),
                D("D_IMPORTED", imported),
                D_PASSES("D_PREPARING", imported, CALL_PREPARE),
                D("D_PREPARED", prepared),
                D("D_SOCKET_WAITING", d_socket_waiting),
                D("D_SOCKET_READY", with_sockets),
                D("D_GREETING", d_greeting),
                D("D_LOADING", copying),
                D("D_LOADED", d_loaded),
                D("D_READY", ready),
                D("D_WANTED", d_wanted),
                D("D_OWNER", d_owner),
                D("D_RUNNING", d_running),
                D("D_FINALIZED", d_finalized),
                D("D_UNDECIDED", d_undecided),
                D_PASSES("D_CANCELLING", prepared, CALL_CANCEL),
                D_PASSES("D_STOPPING", ready, CALL_STOP),
                D_PASSES("D_FAILING", d_failing, N_CALLS),
                D("D_CANCELLED", d_cancelled),
                D("D_STOPPED", d_stopped),
                D("D_FAILED", d_failed),
                D("D_LOST", d_lost),
                D_PASSES("D_KILLING", d_running, CALL_STOP_FORCE),
                D("D_KILLED", d_killed),
                /* last: the world gets another guest for these */
                S("S_PAUSED", paused),
                S("S_POISED", poised),
                S("S_COMMITTED", taken),
                S("S_SERVING", s_serving),
                S("S_FEEDING", feeding),
                D("D_POISED", poised),
                D("D_CLAIMED", d_claimed),
                D("D_TAKEN", taken),
                D("D_STARTING", d_starting),
                D("D_FETCHING", feeding),
        };

        *ret_n = ELEMENTS(places);
        return places;
}
