/* SPDX-License-Identifier: MIT */
#pragma once

/* How a migration ended, for a person or as JSON, and what is cleared away then. */

#include "cli/cli.h"
#include "cli/mover.h"
#include "cli/out-file.h"

/* `ferry migrate --report` and `--trace`. */
typedef struct outcome_files {
        out_file report, trace;
} outcome_files;

/* It runs at the destination, both sides are finalized. */
cli_exit outcome_success(const cli_context *cli, mover *m);
/* It failed before anything was begun. */
cli_exit outcome_not_begun(const cli_context *cli, mover *m, const ferry_error *error);
/* What was left open is rolled back, as it was asked for. */
cli_exit outcome_rolled_back(const cli_context *cli, mover *m, const ferry_error *error);
/* mover_settle() found `place`. */
cli_exit outcome_after_failure(const cli_context *cli, mover *m, mover_place place,
                               const ferry_error *error);

/* Two paths of one directory. */
bool outcome_is_same_place(const char *a, const char *b);
