/* SPDX-License-Identifier: MIT */
#pragma once

/* Makes the kernel hand over all of a guest's memory now, in a thread of its own. A destination
 * does so before anything is sent: else it would fault its pages in while they arrive, lag behind
 * the source by more than the sockets hold, and catch up in the blackout (0.5 s and more for an
 * idle guest of 256 MiB on a busy host). And a host without the memory says so while nothing has
 * moved yet. */

#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/cleanup.h"

typedef struct memory_reserve memory_reserve;

/* `r`: 0, or -ENOMEM, -ENOSPC... from fallocate. Once, from the loop. */
typedef void (*memory_reserve_done)(int r, void *userdata);

/* `fd` is a memfd of `bytes`; borrowed. */
int memory_reserve_start(sd_event *event, int fd, uint64_t bytes, memory_reserve_done done,
                         void *userdata, memory_reserve **ret);
/* Stops it where it is; `done` does not come any more. NULL is fine. */
memory_reserve *memory_reserve_free(memory_reserve *reserve);
