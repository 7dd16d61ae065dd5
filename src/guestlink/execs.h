/* SPDX-License-Identifier: MIT */
#pragma once

/* execs.json: which programs the host has in its guest, for the shim that comes after this one. */

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"

typedef struct exec_record {
        struct exec_record *next;
        char *id;
        uint32_t stream;
        bool terminal;
        bool detached;      /* its streams wait for FIFOs */
        uint64_t oom_kills; /* of a container: those that were told */
        char *stdio[3];     /* paths; NULL: none */
} exec_record;

typedef struct exec_records {
        uint32_t next_stream;
        exec_record *first;
} exec_records;

/* Nothing, and 0, when there is no file, it is of another generation, or makes no sense. */
int exec_records_read(int dir_fd, const char *name, const char *generation, exec_records *ret);
/* Temp file and rename. */
int exec_records_write(int dir_fd, const char *name, const char *generation,
                       const exec_records *records);
exec_record *exec_record_free(exec_record *record);

DEFINE_CLEANUP(exec_record *, exec_record_free)
