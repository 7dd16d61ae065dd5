/* SPDX-License-Identifier: MIT */
#pragma once

/* crun, the guest's container runtime, and the libraries it needs, as they are installed here. */

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

#define CRUN_FILES_MAX 32U

typedef struct crun_file {
        char *path; /* in the guest, relative: "usr/bin/crun", "lib/x86_64-linux-gnu/libc.so.6" */
        char *data;
        size_t n;
} crun_file;

typedef struct crun_files {
        crun_file items[CRUN_FILES_MAX]; /* sorted by path */
        size_t n;
} crun_files;

/* `crun`: the program (NULL: /usr/bin/crun). FERRY_NOT_FOUND says which package helps. */
int crun_read(const char *crun, crun_files *ret, ferry_error *reterr);
void crun_files_done(crun_files *files);
