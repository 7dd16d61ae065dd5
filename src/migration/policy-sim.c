/* SPDX-License-Identifier: MIT */
#include "migration/policy-sim.h"

#include <math.h>

#define CHUNK_MS     50.0
#define TICK_MS      100.0
#define FIXED_END_MS 60000.0 /* a fixed limit may never end */

typedef struct sim {
        const sim_guest *guest;
        uint64_t random;
        policy policy;
        bool with_policy;
        FILE *trace;
        sim_result *result;

        double ms, left, processed, sent;
        double pass_one_zero; /* bytes of zero pages that pass 1 has still to find */
        double dirty_hot;     /* of the hot set, since the last look, whole or in part again */
        double dirty_noise;
        double limit_ms, threshold, tick_ms, tick_sent;
        uint32_t throttle;
} sim;

static double next_random(sim *s) {
        s->random ^= s->random << 13;
        s->random ^= s->random >> 7;
        s->random ^= s->random << 17;
        return (double)(s->random >> 11) / (double)(1ULL << 53);
}

static double vary(sim *s, double value) {
        return value * (1 + s->guest->jitter * (2 * next_random(s) - 1));
}

static void guest_writes(sim *s, double ms) {
        double rate = vary(s, s->guest->rate) * (100 - s->throttle) / 100;

        if (s->guest->calm_after_ms > 0 && s->ms > s->guest->calm_after_ms)
                rate /= 10;
        s->dirty_hot += rate * ms / 1000;
        s->dirty_noise += s->guest->noise * ms / 1000;
}

static void tick(sim *s) {
        if (s->ms - s->tick_ms < TICK_MS)
                return;
        s->threshold = (s->sent - s->tick_sent) / (s->ms - s->tick_ms) * s->limit_ms;
        s->tick_ms = s->ms;
        s->tick_sent = s->sent;
}

/* Up to `ms` of sending: zero pages cost (nearly) nothing. */
static void send(sim *s, double ms) {
        double zero = fmin(s->pass_one_zero, s->left), bytes, took;

        s->pass_one_zero -= zero;
        s->left -= zero;
        s->processed += zero;
        bytes = fmin(vary(s, s->guest->bandwidth) * ms / 1000, s->left);
        took = bytes * 1000 / s->guest->bandwidth;
        s->left -= bytes;
        s->processed += bytes;
        s->sent += bytes;
        guest_writes(s, took);
        s->ms += took;
        tick(s);
}

static double unique_hot(const sim *s) {
        double hot = s->guest->hot;

        if (hot <= 0)
                return 0;
        return s->guest->scattered ? hot * (1 - exp(-s->dirty_hot / hot)) : fmin(s->dirty_hot, hot);
}

/* What is dirty and was to be sent anyway is not sent twice. */
static void look(sim *s) {
        double fresh = unique_hot(s);

        guest_writes(s, s->guest->look_ms);
        s->ms += s->guest->look_ms;
        if (s->guest->hot > 0)
                fresh *= 1 - fmin(1, s->left / s->guest->hot);
        s->left = fmin(s->left + fresh + s->dirty_noise, s->guest->total);
        s->dirty_hot = s->dirty_noise = 0;
        tick(s);
}

static policy_sample sample_of(const sim *s, double look_ms) {
        return (policy_sample){
                .usec = (uint64_t)(look_ms * 1000),
                .total = (uint64_t)s->guest->total,
                .processed = (uint64_t)s->processed,
                .remaining = (uint64_t)s->left,
                .sent = (uint64_t)s->sent,
        };
}

static void print_pass(const sim *s, const policy_orders *o) {
        if (!s->trace || !o->pass_ended)
                return;
        fprintf(s->trace,
                "pass %2u: %5.0f ms, sent %6.1f MB, left %6.1f MB, limit %3u ms, throttle %2u %%",
                o->pass.pass, (double)(o->pass.end_usec - o->pass.begin_usec) / 1000,
                (double)o->pass.sent / 1e6, (double)o->pass.remaining / 1e6, o->pass.limit_ms,
                o->pass.throttle);
        if (o->cancel)
                fprintf(s->trace, " -> cancel: %u ms expected", o->pass.expected_blackout_ms);
        else if (o->postcopy)
                fprintf(s->trace, " -> post-copy");
        else if (o->forced)
                fprintf(s->trace, " -> force");
        else {
                if (o->set_limit)
                        fprintf(s->trace, " -> limit %u ms", o->limit_ms);
                if (o->set_throttle)
                        fprintf(s->trace, " -> throttle %u %%", o->throttle);
        }
        fprintf(s->trace, "\n");
}

/* The answer comes some milliseconds after the look, while QEMU goes on sending. */
static void ask_policy(sim *s) {
        policy_orders orders;
        policy_sample sample;
        double looked = s->ms;

        send(s, 3 * next_random(s));
        sample = sample_of(s, looked);
        policy_step(&s->policy, &sample, &orders);
        print_pass(s, &orders);
        if (orders.cancel) {
                s->result->cancelled = true;
                s->result->expected_ms = orders.pass.expected_blackout_ms;
        }
        if (orders.postcopy) { /* what is left goes while it runs */
                s->result->ended = s->result->postcopy = true;
                s->ms += s->left * 1000 / s->guest->bandwidth;
        }
        if (orders.set_limit) {
                s->limit_ms = orders.limit_ms;
                if (!orders.forced && orders.limit_ms > s->policy.options.target_ms)
                        s->result->over_target = true;
        }
        if (orders.set_throttle) {
                if (s->throttle == 0) {
                        s->result->throttle_pass = s->policy.pass;
                        s->result->first_throttle = orders.throttle;
                }
                s->throttle = orders.throttle;
        }
}

static void stop_guest(sim *s) {
        policy_orders orders;
        policy_sample sample = sample_of(s, s->ms);

        if (s->with_policy) {
                policy_stopped(&s->policy, &sample, &orders);
                print_pass(s, &orders);
        }
        s->result->ended = true;
        s->result->forced = s->policy.forced;
        s->result->blackout_ms = s->left * 1000 / s->guest->bandwidth;
        s->ms += s->result->blackout_ms;
}

void sim_run(const sim_guest *guest, const policy_options *options, uint32_t fixed_ms,
             uint64_t seed, FILE *trace, sim_result *ret) {
        sim s = {
                .guest = guest,
                .random = seed * 0x9e3779b97f4a7c15ULL | 1,
                .with_policy = options != NULL,
                .trace = trace,
                .result = ret,
                .limit_ms = fixed_ms,
                .left = guest->total,
                .pass_one_zero = guest->total - guest->filled,
        };

        bool seen;

        *ret = (sim_result){ .ended = false };
        if (options) {
                policy_init(&s.policy, options);
                policy_start(&s.policy, 0);
                s.limit_ms = s.policy.limit_ms;
        }
        while (!ret->ended && !ret->cancelled && (options || s.ms < FIXED_END_MS)) {
                if (s.left >= s.threshold && s.left > 0) {
                        send(&s, CHUNK_MS);
                        continue;
                }
                /* all is sent before the first bandwidth is known: that is the end, unseen */
                seen = s.left < s.threshold;
                look(&s);
                if (s.left < s.threshold || !seen)
                        stop_guest(&s);
                else if (options)
                        ask_policy(&s);
        }
        ret->passes = s.policy.pass - 1;
        ret->throttle = s.throttle;
        ret->total_ms = s.ms;
        ret->sent = s.sent + (ret->ended ? s.left : 0);
}
