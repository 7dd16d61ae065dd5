/* SPDX-License-Identifier: MIT */
/* docs/session-matrix.txt against the code's table: no cell of either is missing in the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "matrix-table.h"
#include "migration/machine.h"

/* _MIG_RPC_MAX: answered before the table is asked. */
static mig_event event_of(matrix_call call) {
        static const mig_event events[N_CALLS] = {
                [CALL_EXPORT] = MIG_RPC_EXPORT,
                [CALL_IMPORT] = MIG_RPC_IMPORT,
                [CALL_PREPARE] = MIG_RPC_PREPARE,
                [CALL_SOCKET] = MIG_RPC_SOCKET,
                [CALL_TRANSFER] = MIG_RPC_TRANSFER,
                [CALL_FINALIZE_UNSPECIFIED] = _MIG_RPC_MAX,
                [CALL_FINALIZE_UNKNOWN] = _MIG_RPC_MAX,
                [CALL_STOP] = MIG_RPC_STOP,
                [CALL_STOP_FORCE] = MIG_RPC_STOP_FORCE,
                [CALL_RESUME] = MIG_RPC_RESUME,
                [CALL_CANCEL] = MIG_RPC_CANCEL,
                [CALL_CLEANUP] = MIG_RPC_CLEANUP,
                [CALL_NOTIFICATIONS] = MIG_RPC_NOTIFICATIONS,
        };

        return events[call];
}

static void test_every_call_has_a_column(void **state) {
        bool named[_MIG_RPC_MAX] = { false };

        for (int c = 0; c < N_CALLS; c++)
                if (event_of((matrix_call)c) != _MIG_RPC_MAX) {
                        named[event_of((matrix_call)c)] = true;
                        assert_string_equal(matrix_call_name((matrix_call)c),
                                            mig_event_name(event_of((matrix_call)c)));
                }
        for (int e = 0; e < _MIG_RPC_MAX; e++)
                if (!named[e])
                        fail_msg("%s has no column", mig_event_name((mig_event)e));
}

static void test_every_state_has_a_row(void **state) {
        size_t n;

        matrix_read(&n);
        for (int s = 0; s < _MIG_STATE_MAX; s++) {
                const mig_state_info *info = mig_state_get((mig_state)s);

                assert_string_equal(matrix_find(info->name)->wire, info->wire);
        }
        assert_int_equal(n, _MIG_STATE_MAX + 2); /* IDLE and RESERVED are there twice */
}

/* From `from`, by what happens and by the waiting call itself, to a state of that coarse name. */
static bool leads_to(mig_state from, mig_event rpc, const char *wire) {
        bool seen[_MIG_STATE_MAX] = { false };
        mig_state queue[_MIG_STATE_MAX];
        size_t n = 0;

        queue[n++] = from;
        seen[from] = true;
        for (size_t i = 0; i < n; i++) {
                if (strcmp(mig_state_get(queue[i])->wire, wire) == 0)
                        return true;
                for (int e = 0; e < _MIG_EVENT_MAX; e++) {
                        const mig_cell *cell = mig_lookup(queue[i], (mig_event)e);

                        if ((e < _MIG_RPC_MAX && e != (int)rpc) ||
                            (cell->verdict != MIG_OK && cell->verdict != MIG_START) ||
                            seen[cell->next])
                                continue;
                        seen[cell->next] = true;
                        queue[n++] = cell->next;
                }
        }
        return false;
}

static bool agrees(mig_state state, const matrix_row *row, matrix_call call) {
        const mig_cell *cell = mig_lookup(state, event_of(call));
        const char *answer = row->cells[call];

        /* the driver's: as long as a connection is open that must not be lost */
        if (cell->action == MIG_ACT_REJOIN && strcmp(answer, "AE") == 0)
                return true;
        switch (cell->verdict) {
        case MIG_ILLEGAL:
                return strcmp(answer, "FP") == 0 || strcmp(answer, "AE*") == 0;
        case MIG_STILL_OWNER:
                return strcmp(answer, "FP") == 0;
        case MIG_NOP:
                return strcmp(answer, "OK") == 0;
        case MIG_OK:
        case MIG_START:
                return row->after[call] && leads_to(cell->next, event_of(call), row->after[call]);
        case MIG_WAIT:
                return row->after[call] && leads_to(state, event_of(call), row->after[call]);
        case MIG_NO_SESSION:
                return strcmp(answer, "IA") == 0;
        case MIG_ALREADY:
                return strcmp(answer, "AE") == 0;
        case _MIG_VERDICT_MAX:
                break;
        }
        return false;
}

/* Before a session begins a VM, or that there is none, may refuse what the table would allow. */
static bool depends_on_the_vm(mig_state s, matrix_call call, bool has_vm) {
        if (mig_state_get(s)->side != MIG_SIDE_NONE)
                return false;
        if (call == CALL_EXPORT || call == CALL_IMPORT)
                return call == (has_vm ? CALL_IMPORT : CALL_EXPORT);
        return s == MIG_RESERVED &&
               (has_vm ? call == CALL_STOP || call == CALL_STOP_FORCE : call == CALL_RESUME);
}

static void test_every_cell_agrees(void **state) {
        size_t n;
        const matrix_row *rows = matrix_read(&n);

        for (size_t i = 0; i < n; i++)
                for (int c = 0; c < N_CALLS; c++) {
                        matrix_call call = (matrix_call)c;
                        const char *plus = strchr(rows[i].state, '+');
                        size_t length =
                                plus ? (size_t)(plus - rows[i].state) : strlen(rows[i].state);
                        mig_state s = MIG_IDLE;

                        if (event_of(call) == _MIG_RPC_MAX) {
                                assert_string_equal(rows[i].cells[c], "IA");
                                continue;
                        }
                        while (strlen(mig_state_get(s)->name) != length ||
                               strncmp(mig_state_get(s)->name, rows[i].state, length) != 0)
                                s++;
                        if (depends_on_the_vm(s, call, plus)) {
                                assert_string_equal(rows[i].cells[c], "FP");
                                continue;
                        }
                        if (!agrees(s, &rows[i], call))
                                fail_msg("%s, %s: docs/session-matrix.txt says %s, the table %s",
                                         rows[i].state, matrix_call_name(call), rows[i].cells[c],
                                         mig_verdict_name(mig_lookup(s, event_of(call))->verdict));
                }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_every_call_has_a_column),
                cmocka_unit_test(test_every_state_has_a_row),
                cmocka_unit_test(test_every_cell_agrees),
        };

        return cmocka_run_group_tests_name("session-matrix", tests, NULL, NULL);
}
