/* SPDX-License-Identifier: MIT */
#pragma once

/* What a migration would do: the policy itself, run on a model of the guest and of the link that
 * were measured. Pure. */

#include <stdbool.h>
#include <stdint.h>

#include "migration/policy.h"

typedef struct predict_input {
        uint64_t total, filled; /* bytes of memory, and of it those that are not zero */
        uint64_t hot, rate;     /* bytes that are rewritten, bytes per second */
        uint64_t bandwidth;     /* bytes per second, of the link */
        uint64_t max_bandwidth; /* what was asked for; 0: no limit */
        uint64_t round_trip_usec;
} predict_input;

typedef struct prediction {
        predict_input input;
        bool cancelled, forced, postcopy;
        uint32_t passes, throttle; /* throttle: percent, at the end */
        uint64_t copy_usec, blackout_usec, bytes;
        uint64_t made_usec; /* realtime; 0: there is none */
} prediction;

/* Without a bandwidth there is nothing to predict: false. */
bool predict(const predict_input *input, const policy_options *options, prediction *ret);
