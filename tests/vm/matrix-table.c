/* SPDX-License-Identifier: MIT */
#include "matrix-table.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define ROWS_MAX 64

static const char *wire_of(const char *code) {
        static const char *const names[][2] = {
                { "ID", "Idle" },
                { "SP", "SourcePrepared" },
                { "SE", "SourceExported" },
                { "DI", "DestinationImported" },
                { "DP", "DestinationPrepared" },
                { "SW", "SocketWaiting" },
                { "SR", "SocketReady" },
                { "TX", "Transferring" },
                { "TC", "TransferCompleted" },
                { "FN", "Finalized" },
                { "CA", "Cancelled" },
                { "CG", "Cancelling" },
                { "FA", "Failed" },
        };

        for (size_t i = 0; i < ELEMENTS(names); i++)
                if (strcmp(names[i][0], code) == 0)
                        return names[i][1];
        fail_msg("no such state: %s", code);
        return NULL;
}

static void check_cell(const matrix_row *row, const char *cell) {
        static const char *const known[] = { "OK", "IA", "FP", "AE", "AE*" };

        for (size_t i = 0; i < ELEMENTS(known); i++)
                if (strcmp(cell, known[i]) == 0)
                        return;
        if (strncmp(cell, "->", 2) != 0)
                fail_msg("%s: no such answer: %s", row->state, cell);
}

static void read_row(char *line, matrix_row *row) {
        char *save, *word = strtok_r(line, " ", &save);
        size_t n = 0;

        row->wire = wire_of(word);
        word = strtok_r(NULL, " ", &save);
        assert_non_null(word);
        snprintf(row->state, sizeof(row->state), "%s", word);
        while ((word = strtok_r(NULL, " ", &save))) {
                if (n == N_CALLS)
                        fail_msg("%s has too many cells", row->state);
                check_cell(row, word);
                snprintf(row->cells[n], sizeof(row->cells[n]), "%s", word);
                row->after[n] = *word == '-' ? wire_of(word + 2) : NULL;
                n++;
        }
        if (n != N_CALLS)
                fail_msg("%s has too few cells", row->state);
}

const matrix_row *matrix_read(size_t *ret_n) {
        static matrix_row rows[ROWS_MAX];
        static size_t n_rows;
        _cleanup_(freep) char *text = NULL;
        const char *path = getenv("FERRY_SESSION_MATRIX");
        char *save;
        size_t n;

        *ret_n = n_rows;
        if (n_rows > 0)
                return rows;
        if (!path || file_read(AT_FDCWD, path, 1 << 16, &text, &n) < 0)
                fail_msg("FERRY_SESSION_MATRIX does not name the table");
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                if (*line == '#')
                        continue;
                assert_true(n_rows < ROWS_MAX);
                read_row(line, &rows[n_rows++]);
        }
        *ret_n = n_rows;
        return rows;
}

const matrix_row *matrix_find(const char *state) {
        size_t n;
        const matrix_row *rows = matrix_read(&n);

        for (size_t i = 0; i < n; i++)
                if (strcmp(rows[i].state, state) == 0)
                        return &rows[i];
        fail_msg("docs/session-matrix.txt has no state %s", state);
        return NULL;
}

const char *matrix_call_name(matrix_call call) {
        static const char *const names[N_CALLS] = {
                "PrepareAndExportSandbox",
                "ImportSandbox",
                "PrepareSandbox",
                "CreateDuplicateSocket",
                "TransferSandbox",
                "FinalizeSandbox(UNSPECIFIED)",
                "FinalizeSandbox(unknown)",
                "FinalizeSandbox(STOP)",
                "FinalizeSandbox(STOP, force)",
                "FinalizeSandbox(RESUME)",
                "Cancel",
                "Cleanup",
                "Notifications",
        };

        return names[call];
}
