/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdint.h>
#include <time.h>

#define TTRPC_NEVER UINT64_MAX

static inline uint64_t ttrpc_now(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000U + (uint64_t)t.tv_nsec / 1000U;
}

/* `now` + `usec`, never past the end of time. */
static inline uint64_t ttrpc_later(uint64_t now, uint64_t usec) {
        return usec > TTRPC_NEVER - 1 - now ? TTRPC_NEVER - 1 : now + usec;
}
