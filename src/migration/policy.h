/* SPDX-License-Identifier: MIT */
#pragma once

/* When to switch over: pure. QEMU stops the guest once it expects to send the rest within the
 * downtime limit; this decides the limit, pass by pass. */

#include <stdbool.h>
#include <stdint.h>

typedef struct policy_options {
        uint32_t first_ms;       /* the limit to begin with */
        uint32_t target_ms;      /* the highest limit before forcing */
        uint32_t target_passes;  /* the limit has risen to its target by this pass */
        uint32_t maximum_passes; /* after this pass the switchover is forced */
} policy_options;

typedef struct policy {
        policy_options options;
        uint64_t last_remaining;
        uint32_t limit_ms;
        bool forced;
} policy;

/* QEMU's highest: it switches over at once. */
#define POLICY_FORCED_MS 2000000U

void policy_init(policy *p, const policy_options *options);

/* Pass `pass` (from 1) has been sent; `remaining` bytes were dirtied meanwhile. Returns the limit
 * to set, or 0 to leave it. */
uint32_t policy_pass_done(policy *p, uint32_t pass, uint64_t remaining);
