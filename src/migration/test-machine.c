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

                if (!moves(cell) || from == MIG_SIDE_NONE ||
                    mig_state_get(cell->next)->side == MIG_SIDE_NONE)
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
                        assert_true(cell->action == MIG_ACT_TAKE_OVER ||
                                    cell->action == MIG_ACT_TAKE);
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
                        assert_int_equal(cell->next,
                                         s == MIG_D_TAKEN ? MIG_D_STARTING : MIG_D_OWNER);
                /* a copy is discarded only while it is not ours, or when QEMU refused to run it, or
                 * its state did not come */
                if (cell->action == MIG_ACT_DISCARD && e != MIG_EV_CONT_REFUSED && s != MIG_D_TAKEN)
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

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_golden),
                cmocka_unit_test(test_every_cell_is_whole),
                cmocka_unit_test(test_sides_do_not_mix),
                cmocka_unit_test(test_ownership_moves_only_by_the_handover),
                cmocka_unit_test(test_nobody_else_runs_it),
                cmocka_unit_test(test_no_call_waits_for_ever),
                cmocka_unit_test(test_every_session_can_end),
        };

        if (argc > 1 && strcmp(argv[1], "--print") == 0) {
                print_table(stdout);
                return 0;
        }
        return cmocka_run_group_tests_name("machine", tests, NULL, NULL);
}
