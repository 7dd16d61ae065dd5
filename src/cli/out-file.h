/* SPDX-License-Identifier: MIT */
#pragma once

/* A file that is to be written at the end of something long: that it can be is found out at the
 * beginning. */

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

typedef struct out_file {
        int folder_fd; /* -EBADF: it was not asked for */
        const char *option, *path, *name;
} out_file;

#define OUT_FILE_INIT                                                                              \
        { .folder_fd = -EBADF }

/* `path` NULL: nothing happens, and nothing will be written. What it names now is not touched.
 * Both are borrowed. */
int out_file_open(const char *option, const char *path, out_file *ret, ferry_error *reterr);
/* The old file, or the new one whole. When it fails a line on stderr says so, no more: what was
 * done is done. */
void out_file_write(const out_file *file, const char *data, size_t n);
bool out_file_is_wanted(const out_file *file);
void out_file_done(out_file *file);
