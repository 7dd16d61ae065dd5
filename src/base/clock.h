/* SPDX-License-Identifier: MIT */
#pragma once

/* Times are uint64_t microseconds everywhere. */

#include <stdint.h>
#include <time.h>

#define USEC_PER_MSEC 1000ULL
#define USEC_PER_SEC  1000000ULL
#define NSEC_PER_USEC 1000ULL

/* For sd-event's timers: with 0 it may be 250 ms late, to wake the CPU less often. */
#define TIMER_ACCURACY_USEC (1 * USEC_PER_MSEC)
#define USEC_INFINITY       UINT64_MAX

static inline uint64_t clock_usec(clockid_t clock) {
        struct timespec t;

        clock_gettime(clock, &t);
        return (uint64_t)t.tv_sec * USEC_PER_SEC + (uint64_t)t.tv_nsec / NSEC_PER_USEC;
}

/* For durations and deadlines: sd-event's CLOCK_MONOTONIC. */
static inline uint64_t now_usec(void) {
        return clock_usec(CLOCK_MONOTONIC);
}

/* For people and the wire. */
static inline uint64_t wall_usec(void) {
        return clock_usec(CLOCK_REALTIME);
}
