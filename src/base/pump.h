/* SPDX-License-Identifier: MIT */
#pragma once

/* Carries bytes between two connected sockets, both ways, in a thread of its own, without looking
 * at them (splice). What ends at one side ends at the other. */

#include "base/cleanup.h"

typedef struct pump pump;

/* Both are taken on every path. Negative errno: nothing was started. */
int pump_start(int a_consume, int b_consume, pump **ret);
/* Cuts both connections, wherever they are, and waits for the thread. NULL is fine. */
pump *pump_free(pump *p);

DEFINE_CLEANUP(pump *, pump_free)
