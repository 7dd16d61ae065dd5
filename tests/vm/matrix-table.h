/* SPDX-License-Identifier: MIT */
#pragma once

/* docs/session-matrix.txt, read: what every call is told in every state. */

#include <stdbool.h>
#include <stddef.h>

typedef enum matrix_call {
        CALL_EXPORT,
        CALL_IMPORT,
        CALL_PREPARE,
        CALL_SOCKET,
        CALL_TRANSFER,
        CALL_FINALIZE_UNSPECIFIED,
        CALL_FINALIZE_UNKNOWN,
        CALL_STOP,
        CALL_STOP_FORCE,
        CALL_RESUME,
        CALL_CANCEL,
        CALL_CLEANUP,
        CALL_NOTIFICATIONS,
        N_CALLS,
} matrix_call;

typedef struct matrix_row {
        char state[32];             /* "S_EXPORTED", "IDLE", "IDLE+VM" */
        const char *wire;           /* "SourceExported" */
        char cells[N_CALLS][8];     /* as in the file */
        const char *after[N_CALLS]; /* of "->XX": the coarse state; else NULL */
} matrix_row;

/* From the file that FERRY_SESSION_MATRIX names. Fails the test when it is not as it says. */
const matrix_row *matrix_read(size_t *ret_n);
const matrix_row *matrix_find(const char *state);
const char *matrix_call_name(matrix_call call);
