/* SPDX-License-Identifier: MIT */
#pragma once

/* The logs that a sandbox's folder has, to be printed from their ends and read on as they grow. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

#define LOG_PART_FILES_MAX 3U
#define LOG_PART_ALL       UINT64_MAX

/* What the guest wrote on its console before the sandbox came here (log-carry.h). */
#define LOG_PART_BEFORE "console.before"

/* Files that continue each other, the oldest first. Only the last one grows. */
typedef struct log_part {
        const char *title;
        const char *files[LOG_PART_FILES_MAX + 1];
} log_part;

extern const log_part log_part_console, log_part_shim, log_part_qemu;

/* Where it is printed to: standard output. */
typedef struct log_output {
        bool titles; /* "==> shim <==" where another log begins */
        bool clean;  /* control characters are shown as ^X: what a guest wrote does not get to a
                        terminal */
        const char *title;
        bool in_line;
} log_output;

/* The last file of a log, up to where it has been read. It stays open: what is written to a file
 * that was removed meanwhile is not lost. */
typedef struct log_reader {
        const log_part *part;
        int fd; /* -EBADF: it is not there yet */
        off_t offset;
} log_reader;

#define LOG_READER_INIT(p) ((log_reader){ .part = (p), .fd = -EBADF })

/* The last lines, or LOG_PART_ALL; at most a MiB when they are counted. What is not there is
 * nothing. A negative errno of reading or writing. */
int log_reader_print(log_reader *reader, int folder_fd, uint64_t n_lines, log_output *output);

/* What has come since. */
int log_reader_go_on(log_reader *reader, int folder_fd, log_output *output);

static inline void log_reader_done(log_reader *reader) {
        reader->fd = fd_close(reader->fd);
}

/* The last `max` bytes of all its files, from the beginning of a line on; NULL: there are none.
 * Caller frees. */
char *log_part_tail(const log_part *part, int folder_fd, size_t max, size_t *ret_n);
