/* SPDX-License-Identifier: MIT */
#pragma once

/* Runs a program and reads what it prints. */

#include <stdio.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"

typedef struct command {
        const char *name; /* borrowed: for errors */
        pid_t pid;
        int errors;   /* where its stderr goes */
        FILE *output; /* its stdout */
} command;

#define COMMAND_INIT ((command){ .pid = -1, .errors = -EBADF })

/* argv[0] is looked up in PATH; `folder` (or NULL) is where it runs. */
int command_start(command *c, const char *const argv[], const char *folder, ferry_error *reterr);

/* Closes its stdout and waits. -EREMOTEIO when its exit status is not 0: the error then has the
 * last line of its stderr. */
int command_finish(command *c, ferry_error *reterr);

/* Ends it if it still runs. */
void command_done(command *c);

/* start, read all (at most `max` bytes), finish. `ret` may be NULL. */
int command_run(const char *const argv[], const char *folder, size_t max, char **ret,
                ferry_error *reterr);
