/* SPDX-License-Identifier: MIT */
#pragma once

#include "agent/memory.h"

/* `ferry.run=demo`: an HTTP/1.1 server on port 8080 with a count and the memory writer's figures
 * (docs/guest-image.md). Says "ferry-guest: ready" once it listens. Returns only on failure, with
 * a negative errno. `memory` may be NULL. */
int server_run(memory_state *memory);
