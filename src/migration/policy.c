/* SPDX-License-Identifier: MIT */
#include "migration/policy.h"

void policy_init(policy *p, const policy_options *options) {
        *p = (policy){ .options = *options, .limit_ms = options->first_ms };
        if (p->options.target_ms < p->options.first_ms)
                p->options.first_ms = p->limit_ms = p->options.target_ms;
}

/* The same factor at each pass: first_ms at pass 1, target_ms at the target pass. */
static uint32_t ramp(const policy_options *o, uint32_t pass) {
        double limit = o->first_ms, ratio = (double)o->target_ms / o->first_ms;
        uint32_t steps = o->target_passes > 1 ? o->target_passes - 1 : 1;

        if (pass >= o->target_passes)
                return o->target_ms;
        /* pow() without libm: steps is small and the ramp need not be exact, only monotonic */
        limit += (double)o->first_ms * (ratio - 1) * (pass - 1) * (pass - 1) /
                 ((double)steps * steps);
        return limit > o->target_ms ? o->target_ms : (uint32_t)limit;
}

uint32_t policy_pass_done(policy *p, uint32_t pass, uint64_t remaining) {
        bool converging = p->last_remaining > 0 && remaining < p->last_remaining / 10 * 7;
        uint32_t limit;

        p->last_remaining = remaining;
        if (p->forced)
                return 0;
        if (pass >= p->options.maximum_passes) {
                p->forced = true;
                p->limit_ms = POLICY_FORCED_MS;
                return p->limit_ms;
        }
        /* a guest that still converges gets there by itself, with the smaller blackout */
        if (converging && pass < p->options.target_passes)
                return 0;
        limit = ramp(&p->options, pass);
        if (limit <= p->limit_ms)
                return 0;
        p->limit_ms = limit;
        return limit;
}
