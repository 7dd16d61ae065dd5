/* SPDX-License-Identifier: MIT */
#pragma once

/* What the kernel says of a process of this machine, for a message about one that does not answer.
 */

#include <sys/types.h>

typedef enum process_state {
        PROCESS_UNKNOWN, /* cannot be seen, or no pid */
        PROCESS_ALIVE,
        PROCESS_STOPPED, /* by a signal or a debugger: it does nothing until SIGCONT */
        PROCESS_BLOCKED, /* in the kernel, mostly on a disk: no signal reaches it */
        PROCESS_ENDED,
} process_state;

process_state process_look(pid_t pid);
