/* SPDX-License-Identifier: MIT */
#pragma once

/* Runs a program and waits for it. Ctrl-C and SIGTERM are remembered, and passed on to the program
 * that runs (once): `ferry migrate` rolls back then. */

#include <stdbool.h>

#include "base/error.h"

#define CHILD_OUTPUT_MAX (1024U * 1024)

/* SIGINT, SIGTERM and SIGHUP are heard from here on. */
void child_listen(void);
/* The first signal that came, or 0. */
int child_signal(void);
/* Signals do no more than be remembered: for the clean-up. */
void child_set_deaf(void);

/* `argv` ends with NULL, argv[0] is looked up in PATH. Standard input is empty, errors go where
 * ours go unless `quiet`. *ret_output (NULL: it goes nowhere) is what the program wrote. 0: it ran;
 * *ret_status is its exit status, 128 + N for signal N. */
int child_run(const char *const *argv, bool quiet, char **ret_output, int *ret_status,
              ferry_error *reterr);

/* The same; any exit status but 0 is an error with what the program wrote to standard error. */
int child_must(const char *const *argv, ferry_error *reterr);
