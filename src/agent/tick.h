/* SPDX-License-Identifier: MIT */
#pragma once

#include "agent/memory.h"

/* `ferry.run=tick`: needs only the serial line. Says "READY", then "tick N" each 50 ms; answers
 * the lines "rate N" and "check" (docs/guest-image.md). Returns only on failure, with a negative
 * errno. `memory` may be NULL. */
int tick_run(memory_state *memory);
