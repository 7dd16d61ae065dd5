/* SPDX-License-Identifier: MIT */
#pragma once

/* A process that writes memory at a rate and checks what it finds there: a migration that loses,
 * mixes up or tears a page shows here. Each page carries its number, the generation that wrote it
 * and a checksum; before it is rewritten it must be as the pass before left it. */

#include <stdatomic.h>
#include <stdint.h>

#include "base/cleanup.h"

#define MEMORY_RATE_FLAT_OUT 0
#define MEMORY_RATE_PAUSE    (-1)
#define MEMORY_RATE_MAX      1000000 /* MB/s */
#define MEMORY_SIZE_MAX      1000000 /* MB */

/* Shared between the two processes. 1 MB = 1048576 bytes. */
typedef struct memory_state {
        atomic_long rate_mb; /* set by the owner; see above */
        atomic_uint checks_wanted;
        atomic_uint checks_done; /* full checks; the result is in `errors` */
        atomic_ullong passes;
        atomic_ullong errors;
        atomic_ullong bytes; /* written in all */
} memory_state;

/* Forks the writer of `size_mb` (at least 1) MB. It ends with its parent. *ret is never unmapped.
 * Negative errno. */
int memory_start(long size_mb, long rate_mb, memory_state **ret);
