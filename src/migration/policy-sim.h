/* SPDX-License-Identifier: MIT */
#pragma once

/* A model of QEMU's migration loop and of a guest, to try the policy on: for its tests, and
 * for what `ferry check` says.
 *
 * As QEMU does it (7.2 and 10.0 alike): it sends for up to 50 ms at a time; when less is left than
 * the link carried in `limit` by the bandwidth of the last 100 ms, it looks for dirty pages; when
 * it is still less after that, it stops the guest. A new limit counts from the next 100 ms on. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "migration/policy.h"

typedef struct sim_guest {
        const char *name;
        double total, filled; /* bytes of memory, and of it those that are not zero */
        double hot;           /* bytes of the set that is rewritten */
        double rate;          /* bytes per second, rewritten one page after the other */
        bool scattered;       /* at random instead */
        double noise;         /* bytes per second dirtied anywhere, whatever the throttle is */
        double bandwidth;     /* bytes per second */
        double jitter;        /* bandwidth and rate vary by this part, from slice to slice */
        double look_ms;       /* what a look takes */
        double calm_after_ms; /* from then on it writes a tenth; 0: never */
} sim_guest;

typedef struct sim_result {
        bool ended, cancelled, forced, postcopy;
        bool over_target;                       /* the limit was, before forcing */
        uint32_t passes;                        /* that ended before the blackout */
        uint32_t throttle_pass, first_throttle; /* 0: never throttled */
        uint32_t throttle;                      /* at the end */
        uint32_t expected_ms;                   /* of a cancelled one */
        double blackout_ms, total_ms, sent;     /* sent: bytes */
} sim_result;

/* `options` NULL: no policy, a fixed limit of `fixed_ms`. The trace may be NULL. */
void sim_run(const sim_guest *guest, const policy_options *options, uint32_t fixed_ms,
             uint64_t seed, FILE *trace, sim_result *ret);
