/* SPDX-License-Identifier: MIT */
#include "cli/process.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"

#define STAT_MAX 4096U

process_state process_look(pid_t pid) {
        _cleanup_(freep) char *text = NULL;
        const char *end;
        char path[32];
        size_t n;
        int r;

        if (pid <= 0)
                return PROCESS_UNKNOWN;
        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        r = file_read(AT_FDCWD, path, STAT_MAX, &text, &n);
        if (r < 0)
                return r == -ENOENT || r == -ESRCH ? PROCESS_ENDED : PROCESS_UNKNOWN;
        end = strrchr(text, ')'); /* behind the name, which may hold anything */
        if (!end || end[1] != ' ')
                return PROCESS_UNKNOWN;
        switch (end[2]) {
        case 'T':
        case 't':
                return PROCESS_STOPPED;
        case 'D':
                return PROCESS_BLOCKED;
        case 'Z':
        case 'X':
                return PROCESS_ENDED;
        default:
                return PROCESS_ALIVE;
        }
}
