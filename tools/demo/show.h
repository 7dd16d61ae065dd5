/* SPDX-License-Identifier: MIT */
#pragma once

/* The show itself: a guest, its client, the hops, what was measured. */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "lab.h"

#define SHOW_HOPS_MAX 100U

typedef struct show_options {
        unsigned n_hops;
        unsigned memory_rate_mb; /* that the guest writes, a second */
} show_options;

typedef struct show_hop {
        double total_ms, blackout_ms, client_stall_ms;
        uint64_t passes, bytes, requests_answered, requests_lost;
        bool connection_kept, memory_intact;
} show_hop;

typedef struct show_result {
        bool has_client; /* else stall, requests and connection were not measured */
        unsigned n_hops;
        show_hop hops[SHOW_HOPS_MAX];
} show_result;

/* Notes go to standard error. Negative: something did not work at all; what was measured until
 * then is in *ret. */
int show_run(const lab *l, const show_options *options, show_result *ret, ferry_error *reterr);

/* Every hop as it should be, and as many as were asked for. */
bool show_is_ok(const show_result *result, const show_options *options);
