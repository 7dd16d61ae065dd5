/* SPDX-License-Identifier: MIT */
/*
 * Both sides' tables at once, with a connection that may break and lose what is in flight, callers
 * that may do anything at any time, carry true records and bring new sockets, shims that may be
 * killed and started again at any point, QEMUs that finish or die whenever they like, hosts that
 * lose their power, and force where the other host is really fenced. Everything reachable is
 * visited: the guest never runs on both sides, and from everywhere there is a way on which nothing
 * more has to fail, and which ends with one guest running and both sides knowing where.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "migration/machine.h"
#include "migration/recovery.h"

#define QUEUE       7
#define NO_EVENT    0xff
#define WORLDS_MAX  6000000U
#define BUCKETS_MAX 16000057U

enum { BACK_NOT, BACK_TO_JOURNAL, BACK_TO_CONT, BACK_RUNS };
enum { LOAD_GOES_ON, LOAD_DONE, LOAD_KILLED };
/* How far a post-copy has come. What was sent and has not come is lost with the connection. */
enum { STATE_KEPT, STATE_WAITS, STATE_SENT, STATE_CAME, MEMORY_CAME };
enum { TELL_SOURCE = 1, TELL_DESTINATION = 2 };

typedef struct world {
        uint8_t source, destination, s_mark, d_mark;
        uint8_t to_d[QUEUE], to_s[QUEUE]; /* events */
        uint8_t up, rejoined;             /* whom the new connection's hello has not told yet */
        uint8_t s_sent, s_vm, s_runs, s_back;
        uint8_t d_load, d_vm, d_runs, d_cont, d_boot;
        uint8_t postcopy;
} world;

static world *worlds;
static uint32_t *buckets;
static size_t n_worlds;
static bool only_good; /* no failures from here on */
static bool found_way; /* a step led to a world that is known to end well */
static uint8_t *ends_well;

static size_t hash(const world *w) {
        const uint8_t *bytes = (const uint8_t *)w;
        size_t h = 1469598103934665603ULL;

        for (size_t i = 0; i < sizeof(*w); i++)
                h = (h ^ bytes[i]) * 1099511628211ULL;
        return h;
}

static const char *name_of(uint8_t state) {
        return mig_state_get((mig_state)state)->name;
}

static void visit(const world *w) {
        size_t at = hash(w) % BUCKETS_MAX;

        while (buckets[at]) {
                if (!memcmp(&worlds[buckets[at] - 1], w, sizeof(*w))) {
                        if (only_good && ends_well[buckets[at] - 1])
                                found_way = true;
                        return;
                }
                at = (at + 1) % BUCKETS_MAX;
        }
        if (w->s_runs && w->d_runs)
                fail_msg("both run: %s and %s", name_of(w->source), name_of(w->destination));
        assert_false(only_good); /* the good steps are among all steps */
        assert_true(n_worlds < WORLDS_MAX);
        worlds[n_worlds++] = *w;
        buckets[at] = (uint32_t)n_worlds;
}

static void push(uint8_t *queue, const world *w, mig_event event) {
        if (!w->up)
                return;
        for (int i = 0; i < QUEUE; i++) {
                if (queue[i] == event)
                        return; /* all are idempotent */
                if (queue[i] == NO_EVENT) {
                        queue[i] = (uint8_t)event;
                        return;
                }
        }
        fail_msg("queue full");
}

static void pop(uint8_t *queue) {
        memmove(queue, queue + 1, QUEUE - 1);
        queue[QUEUE - 1] = NO_EVENT;
}

static void empty(uint8_t *queue) {
        memset(queue, NO_EVENT, QUEUE);
}

static void cut(world *w) {
        w->up = 0;
        w->rejoined = 0;
}

static bool moves(const mig_cell *cell) {
        return cell->verdict == MIG_OK || cell->verdict == MIG_START;
}

static void source_step(world w, mig_event event) {
        mig_state s = w.source;
        const mig_cell *cell = mig_step(&s, event);

        if (!moves(cell))
                return;
        w.source = (uint8_t)s;
        switch ((int)cell->action) {
        case MIG_ACT_OFFER:
                w.s_mark = JOURNAL_COMPLETED;
                push(w.to_d, &w, MIG_EV_OFFER);
                break;
        case MIG_ACT_SAY_OFFER:
                push(w.to_d, &w, MIG_EV_OFFER);
                break;
        case MIG_ACT_PROPOSE:
                push(w.to_d, &w, MIG_EV_OFFER_POSTCOPY);
                break;
        case MIG_ACT_SWITCH:
                if (w.s_vm)
                        w.postcopy = STATE_SENT;
                break;
        case MIG_ACT_SAY_LOST:
                push(w.to_d, &w, MIG_EV_LOST);
                break;
        case MIG_ACT_HAND_OVER: /* the journal's line fails, or GO is sent */
                if (!only_good)
                        source_step(w, MIG_EV_JOURNAL_FAILED);
                w.s_mark = JOURNAL_HANDED;
                push(w.to_d, &w, MIG_EV_GO);
                break;
        case MIG_ACT_SAY_GO:
                push(w.to_d, &w, MIG_EV_GO);
                break;
        case MIG_ACT_SAY_REFUSED:
                if (w.s_vm)
                        push(w.to_d, &w, MIG_EV_REFUSED);
                break;
        case MIG_ACT_TAKE_BACK:
                if (!only_good)
                        source_step(w, MIG_EV_ROLLBACK_FAILED);
                w.s_mark = JOURNAL_OWNER;
                if (w.s_vm)
                        push(w.to_d, &w, MIG_EV_REFUSED);
                w.s_back = BACK_TO_JOURNAL;
                break;
        case MIG_ACT_ROLL_BACK:
                if ((w.s_sent || w.postcopy) && w.s_vm)
                        push(w.to_d, &w, MIG_EV_REFUSED);
                w.s_back = BACK_TO_JOURNAL;
                break;
        case MIG_ACT_RELEASE:
                w.s_mark = JOURNAL_DONE;
                break;
        case MIG_ACT_FORGET:
        case MIG_ACT_KILL:
                return; /* the session is over: nothing of it can run the guest by itself */
        default:
                break;
        }
        visit(&w);
}

static void destination_step(world w, mig_event event) {
        mig_state d = w.destination;
        const mig_cell *cell = mig_step(&d, event);

        if (!moves(cell))
                return;
        w.destination = (uint8_t)d;
        switch ((int)cell->action) {
        case MIG_ACT_SAY_READY:
                push(w.to_s, &w, MIG_EV_READY);
                break;
        case MIG_ACT_SAY_WANT:
                push(w.to_s, &w, MIG_EV_WANT);
                break;
        case MIG_ACT_TAKE_OVER: /* QEMU has just ended or the line fails, or `cont` is sent */
                if (!only_good || !w.d_vm)
                        destination_step(w, MIG_EV_JOURNAL_FAILED);
                if (!w.d_vm)
                        return;
                w.d_mark = JOURNAL_OWNER;
                w.d_cont = 1;
                break;
        case MIG_ACT_TAKE:
                if (!only_good || !w.d_vm)
                        destination_step(w, MIG_EV_JOURNAL_FAILED);
                if (!w.d_vm)
                        return;
                w.d_mark = JOURNAL_TAKEN;
                push(w.to_s, &w, MIG_EV_TAKEN);
                break;
        case MIG_ACT_SAY_TAKEN:
                push(w.to_s, &w, MIG_EV_TAKEN);
                break;
        case MIG_ACT_TELL_RUNS:
        case MIG_ACT_SAY_RUNS:
                push(w.to_s, &w, MIG_EV_RUNS);
                break;
        case MIG_ACT_CONFIRM:
                w.d_mark = JOURNAL_RUNNING;
                push(w.to_s, &w, MIG_EV_RUNNING);
                break;
        case MIG_ACT_SAY_RUNNING:
                push(w.to_s, &w, MIG_EV_RUNNING);
                break;
        case MIG_ACT_DISCARD:
                w.d_cont = 0;
                if (!only_good)
                        visit(&w); /* the line cannot be written now */
                w.d_load = LOAD_KILLED;
                w.d_mark = JOURNAL_DECLINED;
                break;
        case MIG_ACT_SAY_DECLINED:
                if (w.d_mark == JOURNAL_DECLINED)
                        push(w.to_s, &w, MIG_EV_DECLINED);
                break;
        case MIG_ACT_SAY_LOST:
                push(w.to_s, &w, MIG_EV_LOST);
                break;
        case MIG_ACT_FORGET:
        case MIG_ACT_KILL:
                return;
        default:
                break;
        }
        visit(&w);
}

/* A shim that died comes back as what its journal and its QEMU say. */
static void restart_source(world w) {
        mig_found found = { .has_vm = w.s_vm,
                            .stream = w.postcopy == STATE_WAITS ? MIG_STREAM_PAUSED
                                      : w.postcopy == STATE_SENT || w.postcopy == STATE_CAME
                                              ? MIG_STREAM_POSTCOPY
                                              : MIG_STREAM_OTHER };
        mig_event event;

        cut(&w);
        empty(w.to_s);
        w.s_back = BACK_NOT;
        w.source = (uint8_t)mig_recover_source((journal_mark)w.s_mark, &found, &event);
        if (event == _MIG_EVENT_MAX)
                visit(&w);
        else if (moves(mig_lookup((mig_state)w.source, event)))
                source_step(w, event);
        else
                visit(&w);
}

static void restart_destination(world w) {
        mig_found found = { .has_vm = w.d_vm,
                            .running = w.d_runs,
                            .loaded = w.d_load == LOAD_DONE || w.postcopy >= STATE_CAME,
                            .stream = w.postcopy == STATE_CAME ? MIG_STREAM_POSTCOPY
                                                               : MIG_STREAM_OTHER };
        mig_event event;

        cut(&w);
        empty(w.to_d);
        w.d_cont = 0;
        w.destination = (uint8_t)mig_recover_destination((journal_mark)w.d_mark, w.d_boot,
                                                         w.postcopy != STATE_KEPT, &found, &event);
        if (event == _MIG_EVENT_MAX)
                visit(&w);
        else if (moves(mig_lookup((mig_state)w.destination, event)))
                destination_step(w, event);
        else
                visit(&w);
}

static void explore_failures(const world *w) {
        world next = *w;

        if (w->source == MIG_S_COPYING)
                source_step(*w, MIG_EV_TRANSFER_FAILED);
        if (w->destination == MIG_D_LOADING)
                destination_step(*w, MIG_EV_TRANSFER_FAILED);
        source_step(*w, MIG_EV_WAIT_TIMEOUT);
        if (w->s_back == BACK_TO_JOURNAL || w->s_back == BACK_TO_CONT) {
                next.s_back = BACK_NOT;
                source_step(next, MIG_EV_ROLLBACK_FAILED);
                next = *w;
        }
        if (w->d_cont && w->destination == MIG_D_OWNER && !w->d_runs) {
                next.d_cont = 0;
                destination_step(next, MIG_EV_CONT_REFUSED);
                next = *w;
        }
        /* the connection breaks: either side may have read what had arrived, or not */
        cut(&next);
        visit(&next);
        /* what had arrived is lost with the side that should have read it */
        next = *w;
        pop(next.to_s);
        visit(&next);
        next = *w;
        pop(next.to_d);
        visit(&next);
        restart_source(*w);
        restart_destination(*w);
        /* a QEMU dies */
        next = *w;
        next.s_vm = next.s_runs = 0;
        source_step(next, MIG_EV_QEMU_GONE);
        restart_source(next);
        next = *w;
        next.d_vm = next.d_runs = next.d_cont = 0;
        destination_step(next, MIG_EV_QEMU_GONE);
        restart_destination(next);
        /* the power fails, and takes with it what was not synced */
        next = *w;
        next.s_vm = next.s_runs = 0;
        restart_source(next);
        if (next.s_mark == JOURNAL_COMPLETED) {
                next.s_mark = JOURNAL_OPEN;
                restart_source(next);
        }
        next = *w;
        next.d_vm = next.d_runs = next.d_boot = 0;
        restart_destination(next);
        if (next.d_mark == JOURNAL_OWNER && next.postcopy) {
                next.d_mark = JOURNAL_TAKEN;
                restart_destination(next);
        }
        if (next.d_mark == JOURNAL_OWNER || next.d_mark == JOURNAL_TAKEN) {
                next.d_mark = JOURNAL_OPEN;
                restart_destination(next);
        }
}

/* QEMU: loaded at the destination, then completed at the source. */
static void explore_copy(const world *w) {
        world next = *w;

        if (w->source == MIG_S_COPYING && w->destination == MIG_D_LOADING && w->s_vm && w->d_vm &&
            w->d_load == LOAD_GOES_ON && !w->postcopy) {
                next.d_load = LOAD_DONE;
                next.s_runs = 0;
                visit(&next);
        }
        if (w->d_load == LOAD_DONE && w->destination == MIG_D_LOADING)
                destination_step(*w, MIG_EV_LOADED);
        if (w->d_load != LOAD_GOES_ON && w->source == MIG_S_COPYING && w->s_vm && !w->s_runs) {
                next = *w;
                next.s_sent = 1;
                source_step(next, MIG_EV_COMPLETED);
        }
}

/* QEMU: stopped before the switchover; then the state goes over, then the memory. */
static void explore_postcopy(const world *w) {
        world next = *w;
        bool carries = w->up && w->s_vm && w->d_vm && w->d_load == LOAD_GOES_ON;

        if (w->source == MIG_S_COPYING && w->destination == MIG_D_LOADING && carries && w->s_runs) {
                next.postcopy = STATE_WAITS;
                next.s_runs = 0;
                visit(&next);
                next = *w;
        }
        if (w->postcopy == STATE_WAITS && w->source == MIG_S_COPYING && !w->s_runs && w->s_vm)
                source_step(*w, MIG_EV_PAUSED);
        /* without the rest of its stream the destination's QEMU ends */
        if (w->d_vm &&
            ((w->postcopy == STATE_KEPT && w->destination == MIG_D_TAKEN) ||
             ((w->postcopy == STATE_WAITS || w->postcopy == STATE_SENT) && (!w->up || !w->s_vm)))) {
                next.d_vm = 0;
                destination_step(next, MIG_EV_QEMU_GONE);
                visit(&next);
                next = *w;
        }
        if (w->postcopy == STATE_SENT && carries) {
                next.postcopy = STATE_CAME;
                visit(&next);
                next = *w;
        }
        if (w->postcopy >= STATE_CAME && w->destination == MIG_D_TAKEN && w->d_vm)
                destination_step(*w, MIG_EV_STATE_CAME);
        if (w->postcopy == STATE_CAME && carries && !w->rejoined &&
            (w->source == MIG_S_SERVING || w->source == MIG_S_FEEDING)) {
                next.postcopy = MEMORY_CAME;
                visit(&next);
        }
        if (w->postcopy == MEMORY_CAME && w->destination == MIG_D_FETCHING && w->d_vm)
                destination_step(*w, MIG_EV_LOADED);
}

static bool can_rejoin(uint8_t state) {
        return mig_lookup((mig_state)state, MIG_RPC_SOCKET)->action == MIG_ACT_REJOIN;
}

static void explore_connection(const world *w) {
        world next = *w;

        if (w->to_s[0] != NO_EVENT) {
                pop(next.to_s);
                visit(&next); /* the state does not take it */
                /* the driver's: what was said of a QEMU that has sent all is no news */
                if (w->to_s[0] != MIG_EV_RUNS || w->source != MIG_S_HANDED || !w->s_vm)
                        source_step(next, (mig_event)w->to_s[0]);
                next = *w;
        }
        if (w->to_d[0] != NO_EVENT) {
                pop(next.to_d);
                visit(&next);
                destination_step(next, (mig_event)w->to_d[0]);
                next = *w;
        }
        if (!w->up) {
                if ((w->s_sent || w->postcopy) && w->to_s[0] == NO_EVENT)
                        source_step(*w, MIG_EV_LINK_LOST);
                if ((w->d_load != LOAD_GOES_ON || w->postcopy) && w->to_d[0] == NO_EVENT)
                        destination_step(*w, MIG_EV_LINK_LOST);
        }
        /* the caller brings a new socket: to both, or to one that it leads nowhere for */
        if (can_rejoin(w->source) && can_rejoin(w->destination)) {
                empty(next.to_s);
                empty(next.to_d);
                next.up = 1;
                next.rejoined = TELL_SOURCE | TELL_DESTINATION;
                next.destination =
                        (uint8_t)mig_lookup((mig_state)w->destination, MIG_RPC_SOCKET)->next;
                source_step(next, MIG_RPC_SOCKET);
                next = *w;
        }
        cut(&next);
        if (can_rejoin(w->source)) {
                empty(next.to_s);
                source_step(next, MIG_RPC_SOCKET);
        }
        next = *w;
        cut(&next);
        if (can_rejoin(w->destination)) {
                empty(next.to_d);
                destination_step(next, MIG_RPC_SOCKET);
        }
        if (w->rejoined & TELL_SOURCE) {
                next = *w;
                next.rejoined &= (uint8_t)~TELL_SOURCE;
                visit(&next);
                source_step(next, MIG_EV_REJOINED);
        }
        if (w->rejoined & TELL_DESTINATION) {
                next = *w;
                next.rejoined &= (uint8_t)~TELL_DESTINATION;
                visit(&next);
                destination_step(next, MIG_EV_REJOINED);
        }
}

static bool is_one_of(uint8_t state, const mig_state *states, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (states[i] == state)
                        return true;
        return false;
}

/* What actions end in. */
static void explore_actions(const world *w) {
        static const mig_state discarding[] = { MIG_D_CANCELLING, MIG_D_STOPPING, MIG_D_FAILING };
        world next = *w;

        if (w->s_back == BACK_TO_JOURNAL && !w->s_vm) {
                next.s_back = BACK_NOT;
                source_step(next, MIG_EV_RAN_AGAIN); /* nothing is left to run */
        } else if (w->s_back == BACK_TO_JOURNAL && w->postcopy >= STATE_CAME) {
                /* QEMU cannot go back: this rollback fails for good */
        } else if (w->s_back == BACK_TO_JOURNAL) {
                next.postcopy = STATE_KEPT; /* it failed before it had sent all of the state */
                next.s_mark = JOURNAL_RAN_AGAIN;
                next.s_back = BACK_TO_CONT;
                visit(&next);
        } else if (w->s_back == BACK_TO_CONT && w->s_vm) {
                next.s_runs = 1;
                next.s_back = BACK_RUNS;
                visit(&next);
        } else if (w->s_back == BACK_RUNS) {
                next.s_back = BACK_NOT;
                source_step(next, MIG_EV_RAN_AGAIN);
        }
        next = *w;
        if (w->d_cont && (w->destination == MIG_D_OWNER || w->destination == MIG_D_STARTING)) {
                next.d_cont = 0;
                next.d_runs = 1;
                visit(&next); /* it runs before we know */
                destination_step(next, MIG_EV_CONTINUED);
        }
        if (w->d_runs && (w->destination == MIG_D_OWNER || w->destination == MIG_D_STARTING))
                destination_step(*w, MIG_EV_CONTINUED);
        if (w->d_load != LOAD_KILLED &&
            is_one_of(w->destination, discarding, ELEMENTS(discarding))) {
                next = *w;
                next.d_load = LOAD_KILLED;
                next.d_mark = JOURNAL_DECLINED;
                visit(&next);
        }
        if (w->d_load == LOAD_KILLED) {
                next = *w;
                next.d_vm = next.d_runs = 0;
                destination_step(next, MIG_EV_DISCARDED);
        }
        if (w->source == MIG_S_DONE || w->source == MIG_S_GIVEN_UP) {
                next = *w;
                next.s_vm = 0;
                source_step(next, MIG_EV_DISCARDED);
        }
}

static void explore_caller(const world *w) {
        static const mig_event calls[] = { MIG_RPC_STOP, MIG_RPC_STOP_FORCE, MIG_RPC_RESUME,
                                           MIG_RPC_CANCEL, MIG_RPC_CLEANUP };

        for (size_t i = 0; i < ELEMENTS(calls); i++) {
                source_step(*w, calls[i]);
                destination_step(*w, calls[i]);
        }
        source_step(*w, MIG_EV_DUE);
        source_step(*w, MIG_EV_RETRY);
        /* records, as the journals have them; `declined` once QEMU is gone */
        if (w->s_mark == JOURNAL_HANDED || w->s_mark == JOURNAL_DONE)
                destination_step(*w, MIG_EV_RECORD_HANDED);
        if (w->d_mark == JOURNAL_RUNNING)
                source_step(*w, MIG_EV_RECORD_RUNNING);
        if (w->d_mark == JOURNAL_DECLINED && !w->d_vm)
                source_step(*w, MIG_EV_RECORD_DECLINED);
        /* force, where the proof is a true one; as a way out only where nothing else is */
        if (!w->d_vm && (!only_good || w->destination == MIG_D_LOST))
                source_step(*w, MIG_EV_FENCED);
        if (!w->s_vm && (!only_good || w->s_mark == JOURNAL_OPEN))
                destination_step(*w, MIG_EV_FENCED);
}

static void explore(const world *w) {
        explore_copy(w);
        explore_postcopy(w);
        explore_connection(w);
        explore_actions(w);
        explore_caller(w);
        if (!only_good)
                explore_failures(w);
}

/* One guest runs and both know where; or both QEMUs are gone, and nothing can be done. */
static bool is_settled(const world *w) {
        static const mig_state at_source[] = { MIG_S_CANCELLED, MIG_S_FAILED, MIG_S_RESUMED };
        static const mig_state given_up[] = { MIG_D_CANCELLED, MIG_D_STOPPED, MIG_D_FAILED,
                                              MIG_D_LOST };
        static const mig_state gone[] = { MIG_S_RELEASED, MIG_S_ENDED };
        static const mig_state at_destination[] = { MIG_D_RUNNING, MIG_D_FINALIZED };

        if (!w->s_vm && !w->d_vm)
                return true;
        /* what post-copy may cost: the one QEMU that could run the guest has ended ... */
        if (w->postcopy >= STATE_SENT && !w->d_vm && !w->s_runs)
                return true;
        /* ... or the one that has the rest of its memory */
        if (w->postcopy == STATE_CAME && !w->s_vm && w->d_runs)
                return w->destination == MIG_D_FETCHING;
        if (w->s_runs)
                return is_one_of(w->source, at_source, ELEMENTS(at_source)) &&
                       (is_one_of(w->destination, given_up, ELEMENTS(given_up)) || !w->d_vm);
        /* a source without a QEMU may have nothing to say: it has no session, or lost its line */
        return w->d_runs && is_one_of(w->destination, at_destination, ELEMENTS(at_destination)) &&
               (is_one_of(w->source, gone, ELEMENTS(gone)) || !w->s_vm);
}

static void setup_worlds(void) {
        world first;

        worlds = malloc(WORLDS_MAX * sizeof(*worlds));
        buckets = calloc(BUCKETS_MAX, sizeof(*buckets));
        ends_well = calloc(WORLDS_MAX, 1);
        assert_non_null(worlds);
        assert_non_null(buckets);
        assert_non_null(ends_well);
        memset(&first, 0, sizeof(first));
        empty(first.to_s);
        empty(first.to_d);
        first.source = MIG_S_COPYING;
        first.destination = MIG_D_LOADING;
        first.s_mark = first.d_mark = JOURNAL_OPEN;
        first.up = first.s_runs = first.s_vm = first.d_vm = first.d_boot = 1;
        visit(&first);
}

static void test_never_two(void **state) {
        setup_worlds();
        for (size_t i = 0; i < n_worlds; i++) {
                world w = worlds[i];

                explore(&w);
        }
        print_message("# %zu reachable worlds\n", n_worlds);
        assert_true(n_worlds > 10000);
}

/* Backwards from the settled ones, over steps in which nothing fails, until no more are found. */
static void test_never_stuck(void **state) {
        size_t n = 0, found;

        only_good = true;
        for (size_t i = 0; i < n_worlds; i++)
                n += ends_well[i] = is_settled(&worlds[i]);
        do {
                found = 0;
                for (size_t i = n_worlds; i > 0; i--) {
                        world w = worlds[i - 1];

                        if (ends_well[i - 1])
                                continue;
                        found_way = false;
                        explore(&w);
                        found += ends_well[i - 1] = found_way;
                }
                n += found;
        } while (found > 0);
        for (size_t i = 0; i < n_worlds; i++)
                if (!ends_well[i])
                        fail_msg(
                                "%zu of %zu have no way out; the first: %s (%s, QEMU %d, runs %d), "
                                "%s (%s, QEMU %d, runs %d), connection %d",
                                n_worlds - n, n_worlds, name_of(worlds[i].source),
                                journal_mark_name((journal_mark)worlds[i].s_mark), worlds[i].s_vm,
                                worlds[i].s_runs, name_of(worlds[i].destination),
                                journal_mark_name((journal_mark)worlds[i].d_mark), worlds[i].d_vm,
                                worlds[i].d_runs, worlds[i].up);
        free(worlds);
        free(buckets);
        free(ends_well);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_never_two),
                cmocka_unit_test(test_never_stuck),
        };

        return cmocka_run_group_tests_name("both-sides", tests, NULL, NULL);
}
