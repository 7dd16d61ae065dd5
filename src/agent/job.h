/* SPDX-License-Identifier: MIT */
#pragma once

/* A child that does one thing and ends, while the agent goes on; what it says is kept. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/process.h"

#define JOB_TEXT_MAX 2048U

typedef struct job job;

typedef struct job_table {
        job *first;
} job_table;

struct job {
        job *next;
        pid_t pid;
        int log; /* a memfd: what it has said */
        /* ok: it has ended with 0. `text`: what it said, without a newline at its end. */
        void (*done)(bool ok, const char *text, void *userdata);
        void *userdata;
};

/* `run`, in the child, returns its exit status, if it does not exec. Its standard streams are
 * `ends` (NULL: nothing, and standard error is the log); `log` is a descriptor for the log in any
 * case. */
int job_start(job_table *t, int (*run)(int log, const void *argument), const void *argument,
              const process_ends *ends, void (*done)(bool ok, const char *text, void *userdata),
              void *userdata);

/* What waitpid() said; false when it is none of these. */
bool job_reaped(job_table *t, pid_t pid, int status);
