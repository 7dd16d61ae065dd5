/* SPDX-License-Identifier: MIT */
#pragma once

/* What `ferry logs` tells of a sandbox's time on another host: the end of what its guest wrote on
 * the console there, and which host that was. Hints: what cannot be written is not there. */

#include <stdint.h>

#include "base/cleanup.h"

#define LOG_CARRY_ORIGIN "came-from"

/* For a sandbox that runs at `to_root` now, while its folder at `from_root` is still there. */
void log_carry(const char *from_root, const char *from_name, const char *to_root,
               const char *to_name);

/* The state root that it came from last, and when (microseconds, realtime); NULL: none. Caller
 * frees. */
char *log_carry_origin(const char *root, const char *name, uint64_t *ret_usec);
