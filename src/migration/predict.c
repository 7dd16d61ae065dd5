/* SPDX-License-Identifier: MIT */
#include "migration/predict.h"

#include "migration/policy-sim.h"

#define LOOK_MS 1.0 /* of QEMU, for dirty pages */
/* One run of a model without jitter: any seed. */
#define SEED 1

static double least(uint64_t a, uint64_t b) {
        return (double)(b != 0 && b < a ? b : a);
}

bool predict(const predict_input *in, const policy_options *options, prediction *ret) {
        sim_guest guest = {
                .name = "measured",
                .total = (double)in->total,
                .filled = (double)in->filled,
                .hot = (double)in->hot,
                .rate = (double)in->rate,
                .bandwidth = least(in->bandwidth, in->max_bandwidth),
                .look_ms = LOOK_MS,
        };
        sim_result result;

        *ret = (prediction){ .input = *in };
        if (in->bandwidth == 0 || in->total == 0)
                return false;
        sim_run(&guest, options, 0, SEED, NULL, &result);
        ret->cancelled = result.cancelled;
        ret->forced = result.forced;
        ret->postcopy = result.postcopy;
        ret->passes = result.passes > 0 ? result.passes : 1;
        ret->throttle = result.throttle;
        /* the limit on bandwidth does not hold once the guest stands; a handover is two messages */
        ret->blackout_usec =
                (uint64_t)(result.blackout_ms * 1000 * guest.bandwidth / (double)in->bandwidth) +
                (uint64_t)options->overhead_ms * 1000 + 2 * in->round_trip_usec;
        ret->copy_usec = (uint64_t)((result.total_ms - result.blackout_ms) * 1000);
        ret->bytes = (uint64_t)result.sent;
        return true;
}
