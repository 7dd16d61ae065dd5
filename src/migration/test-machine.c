/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/fd.h"
#include "migration/machine.h"

/* The whole table as text: what docs/session-table.txt holds. */
static void print_table(FILE *f) {
        for (int s = 0; s < _MIG_STATE_MAX; s++) {
                const mig_state_info *info = mig_state_get((mig_state)s);

                fprintf(f, "%s (%s, guest: %s)\n", info->name, info->wire,
                        mig_owner_name(info->owner));
                for (int e = 0; e < _MIG_EVENT_MAX; e++) {
                        const mig_cell *cell = mig_lookup((mig_state)s, (mig_event)e);

                        if (cell->verdict == MIG_ILLEGAL)
                                continue;
                        fprintf(f, "  %-28s %s", mig_event_name((mig_event)e),
                                mig_verdict_name(cell->verdict));
                        if (cell->verdict == MIG_OK || cell->verdict == MIG_START)
                                fprintf(f, " -> %s / %s", mig_state_get(cell->next)->name,
                                        mig_action_name(cell->action));
                        fputc('\n', f);
                }
        }
}

static void test_golden(void **state) {
        _cleanup_(freep) char *golden = NULL, *text = NULL;
        _cleanup_(fclosep) FILE *f = NULL;
        size_t n;

        f = open_memstream(&text, &n);
        assert_non_null(f);
        print_table(f);
        fflush(f);
        assert_int_equal(file_read(AT_FDCWD, getenv("FERRY_SESSION_TABLE"), 1 << 20, &golden, &n),
                         0);
        /* to accept a change on purpose: test-machine --print > docs/session-table.txt */
        assert_string_equal(text, golden);
}

#define FOR_EACH_CELL(s, e, cell)                                                                  \
        for (int s = 0; s < _MIG_STATE_MAX; s++)                                                   \
                for (int e = 0; e < _MIG_EVENT_MAX; e++)                                           \
                        for (const mig_cell *cell = mig_lookup((mig_state)s, (mig_event)e); cell;  \
                             cell = NULL)

static bool moves(const mig_cell *cell) {
        return cell->verdict == MIG_OK || cell->verdict == MIG_START;
}

static void test_every_cell_is_whole(void **state) {
        for (int s = 0; s < _MIG_STATE_MAX; s++)
                assert_non_null(mig_state_get((mig_state)s)->name);
        FOR_EACH_CELL(s, e, cell) {
                mig_state at = (mig_state)s;

                assert_true((size_t)cell->verdict < _MIG_VERDICT_MAX);
                assert_ptr_equal(mig_step(&at, (mig_event)e), cell);
                if (moves(cell)) {
                        assert_true((size_t)cell->next < _MIG_STATE_MAX);
                        assert_true((size_t)cell->action < _MIG_ACTION_MAX);
                        assert_int_equal(at, cell->next);
                } else
                        assert_int_equal(at, s);
                /* what happens has no verdicts of calls; what waits is a call */
                if (e >= _MIG_RPC_MAX)
                        assert_true(cell->verdict == MIG_ILLEGAL || cell->verdict == MIG_OK);
        }
}

/* A session keeps its side until it ends. */
static void test_sides_do_not_mix(void **state) {
        FOR_EACH_CELL(s, e, cell) {
                mig_side from = mig_state_get((mig_state)s)->side;

                if (!moves(cell) || s == MIG_IDLE || cell->next == MIG_IDLE)
                        continue;
                assert_int_equal(from, mig_state_get(cell->next)->side);
        }
}

/* Who may run the guest changes by these actions and no others. */
static void test_ownership_moves_only_by_the_handover(void **state) {
        FOR_EACH_CELL(s, e, cell) {
                const mig_state_info *from = mig_state_get((mig_state)s);
                const mig_state_info *to = mig_state_get(moves(cell) ? cell->next : (mig_state)s);

                if (!moves(cell) || from->side == MIG_SIDE_NONE || to->side == MIG_SIDE_NONE)
                        continue;
                /* or the destination proves that it runs it: the source's own word is lost */
                if (from->side == MIG_SIDE_SOURCE && from->owner == MIG_OWNER_HERE &&
                    to->owner == MIG_OWNER_THERE && e != MIG_EV_RUNNING &&
                    e != MIG_EV_RECORD_RUNNING)
                        assert_int_equal(cell->action, MIG_ACT_HAND_OVER);
                if (from->side == MIG_SIDE_SOURCE && from->owner == MIG_OWNER_THERE &&
                    to->owner == MIG_OWNER_HERE)
                        assert_int_equal(cell->action, MIG_ACT_TAKE_BACK);
                if (from->side == MIG_SIDE_DESTINATION && from->owner != MIG_OWNER_HERE &&
                    to->owner == MIG_OWNER_HERE && cell->action != MIG_ACT_KILL)
                        assert_int_equal(cell->action, MIG_ACT_TAKE_OVER);
        }
}

/* The guest is only ever run by a side that may. */
static void test_nobody_else_runs_it(void **state) {
        FOR_EACH_CELL(s, e, cell) {
                if (!moves(cell))
                        continue;
                if (cell->action == MIG_ACT_ROLL_BACK || cell->action == MIG_ACT_TAKE_BACK) {
                        assert_int_equal(mig_state_get(cell->next)->side, MIG_SIDE_SOURCE);
                        assert_int_equal(mig_state_get(cell->next)->owner, MIG_OWNER_HERE);
                }
                if (cell->action == MIG_ACT_TAKE_OVER)
                        assert_int_equal(cell->next, MIG_D_OWNER);
                /* a copy is discarded only while it is not ours, or when QEMU refused to run it */
                if (cell->action == MIG_ACT_DISCARD && e != MIG_EV_CONT_REFUSED)
                        assert_int_not_equal(mig_state_get((mig_state)s)->owner, MIG_OWNER_HERE);
        }
}

/* A call that waits must be able to end: from its state some event leads on. */
static void test_no_call_waits_for_ever(void **state) {
        FOR_EACH_CELL(s, e, cell) {
                bool leaves = false;

                if (cell->verdict != MIG_WAIT)
                        continue;
                for (int k = _MIG_RPC_MAX; k < _MIG_EVENT_MAX; k++)
                        leaves |= mig_lookup((mig_state)s, (mig_event)k)->verdict == MIG_OK;
                assert_true(leaves);
        }
}

/* The way out of everything that is not the other side's: from any state of an owner, Cancel,
 * RESUME, or what happens by itself, leads to a state where Cleanup is answered. */
static void test_every_session_can_end(void **state) {
        bool ends[_MIG_STATE_MAX] = { [MIG_IDLE] = true };
        bool more = true;

        while (more) {
                more = false;
                FOR_EACH_CELL(s, e, cell) {
                        if (!ends[s] && moves(cell) && ends[cell->next])
                                ends[s] = more = true;
                }
        }
        for (int s = 0; s < _MIG_STATE_MAX; s++)
                assert_true(ends[s]);
}

/*
 * Both sides' tables at once, with a connection that may break and lose what is in flight, callers
 * that may do anything at any time, and QEMUs that finish whenever they like: everything reachable
 * is visited, and the guest never runs on both sides.
 */
#define QUEUE 4

typedef struct world {
        uint8_t source, destination;
        uint8_t to_d[QUEUE], to_s[QUEUE]; /* events, 0xff: none */
        uint8_t up, s_sent, d_loaded, s_runs, d_runs, s_back, d_cont;
} world;

static world *worlds;
static size_t n_worlds, n_worlds_max, *buckets, n_buckets;

static size_t hash(const world *w) {
        const uint8_t *bytes = (const uint8_t *)w;
        size_t h = 1469598103934665603ULL;

        for (size_t i = 0; i < sizeof(*w); i++)
                h = (h ^ bytes[i]) * 1099511628211ULL;
        return h;
}

static void visit(const world *w) {
        size_t at = hash(w) % n_buckets;

        while (buckets[at]) {
                if (!memcmp(&worlds[buckets[at] - 1], w, sizeof(*w)))
                        return;
                at = (at + 1) % n_buckets;
        }
        if (w->s_runs && w->d_runs)
                fail_msg("both run: %s and %s", mig_state_get(w->source)->name,
                         mig_state_get(w->destination)->name);
        assert_true(n_worlds < n_worlds_max);
        worlds[n_worlds++] = *w;
        buckets[at] = n_worlds;
}

static void push(uint8_t *queue, const world *w, mig_event event) {
        if (!w->up)
                return;
        for (int i = 0; i < QUEUE; i++) {
                if (queue[i] == event)
                        return; /* all are idempotent */
                if (queue[i] == 0xff) {
                        queue[i] = (uint8_t)event;
                        return;
                }
        }
        fail_msg("queue full");
}

static void pop(uint8_t *queue) {
        memmove(queue, queue + 1, QUEUE - 1);
        queue[QUEUE - 1] = 0xff;
}

static void source_step(world w, mig_event event) {
        mig_state s = w.source;
        const mig_cell *cell = mig_step(&s, event);

        if (!moves(cell))
                return;
        w.source = (uint8_t)s;
        switch ((int)cell->action) {
        case MIG_ACT_OFFER:
                push(w.to_d, &w, MIG_EV_OFFER);
                break;
        case MIG_ACT_HAND_OVER: /* the journal's line fails, or GO is sent */
                source_step(w, MIG_EV_JOURNAL_FAILED);
                push(w.to_d, &w, MIG_EV_GO);
                break;
        case MIG_ACT_SAY_GO:
                push(w.to_d, &w, MIG_EV_GO);
                break;
        case MIG_ACT_SAY_REFUSED:
                push(w.to_d, &w, MIG_EV_REFUSED);
                break;
        case MIG_ACT_ROLL_BACK:
        case MIG_ACT_TAKE_BACK:
                if (w.s_sent)
                        push(w.to_d, &w, MIG_EV_REFUSED);
                w.s_back = 1;
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
        case MIG_ACT_TAKE_OVER: /* the journal's line fails, or `cont` is sent */
                destination_step(w, MIG_EV_JOURNAL_FAILED);
                w.d_cont = 1;
                break;
        case MIG_ACT_CONFIRM:
        case MIG_ACT_SAY_RUNNING:
                push(w.to_s, &w, MIG_EV_RUNNING);
                break;
        case MIG_ACT_DISCARD:
                w.d_cont = 0;
                w.d_loaded = 2; /* QEMU is being killed */
                break;
        case MIG_ACT_SAY_DECLINED:
                push(w.to_s, &w, MIG_EV_DECLINED);
                break;
        case MIG_ACT_FORGET:
        case MIG_ACT_KILL:
                return;
        default:
                break;
        }
        visit(&w);
}

static void explore(world w) {
        static const mig_event s_calls[] = { MIG_RPC_STOP, MIG_RPC_STOP_FORCE, MIG_RPC_RESUME,
                                             MIG_RPC_CANCEL, MIG_RPC_CLEANUP };

        for (size_t i = 0; i < ELEMENTS(s_calls); i++) {
                source_step(w, s_calls[i]);
                destination_step(w, s_calls[i]);
        }
        /* QEMU: loaded at the destination, then completed at the source */
        if (w.source == MIG_S_COPYING && w.destination == MIG_D_LOADING && w.d_loaded == 0) {
                world next = w;

                next.d_loaded = 1;
                next.s_runs = 0;
                visit(&next);
        }
        if (w.d_loaded == 1 && w.destination == MIG_D_LOADING)
                destination_step(w, MIG_EV_LOADED);
        if (w.d_loaded >= 1 && w.source == MIG_S_COPYING) {
                world next = w;

                next.s_sent = 1;
                source_step(next, MIG_EV_COMPLETED);
        }
        if (w.source == MIG_S_COPYING)
                source_step(w, MIG_EV_TRANSFER_FAILED);
        if (w.destination == MIG_D_LOADING)
                destination_step(w, MIG_EV_TRANSFER_FAILED);
        source_step(w, MIG_EV_DUE);
        source_step(w, MIG_EV_WAIT_TIMEOUT);
        if (w.to_s[0] != 0xff) {
                world next = w;

                pop(next.to_s);
                visit(&next); /* nobody there to hear it */
                source_step(next, (mig_event)w.to_s[0]);
        }
        if (w.to_d[0] != 0xff) {
                world next = w;

                pop(next.to_d);
                visit(&next);
                destination_step(next, (mig_event)w.to_d[0]);
        }
        /* the connection breaks: either side may have read what had arrived, or not */
        {
                world next = w;

                next.up = 0;
                visit(&next);
        }
        if (!w.up) {
                if (w.s_sent && w.to_s[0] == 0xff)
                        source_step(w, MIG_EV_LINK_LOST);
                if (w.d_loaded && w.to_d[0] == 0xff)
                        destination_step(w, MIG_EV_LINK_LOST);
        }
        /* what actions end in */
        if (w.s_back) {
                world next = w;

                next.s_back = 0;
                next.s_runs = 1;
                source_step(next, MIG_EV_RAN_AGAIN);
                next.s_runs = w.s_runs;
                source_step(next, MIG_EV_ROLLBACK_FAILED);
        }
        if (w.d_cont && w.destination == MIG_D_OWNER) {
                world next = w;

                next.d_cont = 0;
                destination_step(next, MIG_EV_CONT_REFUSED);
                next.d_runs = 1;
                visit(&next); /* it runs before we know */
                destination_step(next, MIG_EV_CONTINUED);
        }
        if (w.d_runs && w.destination == MIG_D_OWNER)
                destination_step(w, MIG_EV_CONTINUED);
        if (w.d_loaded == 2)
                destination_step(w, MIG_EV_DISCARDED);
        /* records, by way of the caller: true ones */
        if (w.source == MIG_S_HANDED || w.source == MIG_S_DONE)
                destination_step(w, MIG_EV_RECORD_HANDED);
        if (w.destination == MIG_D_RUNNING || w.destination == MIG_D_FINALIZED)
                source_step(w, MIG_EV_RECORD_RUNNING);
        if (w.destination == MIG_D_CANCELLED || w.destination == MIG_D_STOPPED ||
            w.destination == MIG_D_FAILED)
                source_step(w, MIG_EV_RECORD_DECLINED);
}

static void test_never_two_together(void **state) {
        world first;

        n_worlds_max = 2000000;
        n_buckets = 8000003;
        worlds = calloc(n_worlds_max, sizeof(*worlds));
        buckets = calloc(n_buckets, sizeof(*buckets));
        assert_non_null(worlds);
        assert_non_null(buckets);
        memset(&first, 0xff, sizeof(first));
        first.source = MIG_S_COPYING;
        first.destination = MIG_D_LOADING;
        first.up = first.s_runs = 1;
        first.s_sent = first.d_loaded = first.d_runs = first.s_back = first.d_cont = 0;
        visit(&first);
        for (size_t i = 0; i < n_worlds; i++)
                explore(worlds[i]);
        print_message("# %zu reachable worlds\n", n_worlds);
        assert_true(n_worlds > 500);
        free(worlds);
        free(buckets);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_golden),
                cmocka_unit_test(test_every_cell_is_whole),
                cmocka_unit_test(test_sides_do_not_mix),
                cmocka_unit_test(test_ownership_moves_only_by_the_handover),
                cmocka_unit_test(test_nobody_else_runs_it),
                cmocka_unit_test(test_no_call_waits_for_ever),
                cmocka_unit_test(test_every_session_can_end),
                cmocka_unit_test(test_never_two_together),
        };

        if (argc > 1 && strcmp(argv[1], "--print") == 0) {
                print_table(stdout);
                return 0;
        }
        return cmocka_run_group_tests_name("machine", tests, NULL, NULL);
}
