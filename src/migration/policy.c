/* SPDX-License-Identifier: MIT */
#include "migration/policy.h"

#include <math.h>

#define THROTTLE_STEP      20.0
#define THROTTLE_FROM_PASS 3U
#define PASSES_TO_CONVERGE 3
#define PERIOD_MS          5.0 /* of the cpu controller, and longer for small shares */
#define QUOTA_MS           1.0 /* the shortest that the kernel takes */

#define BANDWIDTH_WEIGHT 0.4        /* of a new sample */
#define SAMPLE_BYTES     (1U << 20) /* shorter passes say more about the look than */
#define SAMPLE_USEC      20000U     /* about the link */
#define PASS_SHARE       0.75       /* of what was dirty has been sent: the pass has ended */
#define STANDS_STILL     0.9        /* as much is dirtied as is sent */
/* So little is not worth slowing the guest down for. Passes that are all look and hardly any bytes
 * also make QEMU believe that the link is slow, so that it goes on: the limit grows by this factor
 * each pass then. */
#define NEARLY_THERE_MS 10
#define MISTRUST        4
#define HEADROOM        1.25 /* over what the rest takes, when the limit jumps to it */

static uint32_t at_least(uint32_t value, uint32_t least) {
        return value < least ? least : value;
}

static uint32_t at_most(uint32_t value, uint32_t most) {
        return value > most ? most : value;
}

static uint32_t to_ms(double ms) {
        return ms < 0 ? 0 : ms >= UINT32_MAX ? UINT32_MAX : (uint32_t)(ms + 0.999);
}

/* Where the closing in is over, one way or the other. */
static uint32_t last_pass(const policy_options *o) {
        return at_most(o->target_passes, o->maximum_passes);
}

static void set_default(uint32_t *value, uint32_t otherwise) {
        if (*value == 0)
                *value = otherwise;
}

void policy_init(policy *p, const policy_options *options) {
        policy_options *o = &p->options;

        *p = (policy){ .options = *options };
        set_default(&o->first_ms, POLICY_FIRST_MS);
        set_default(&o->target_ms, POLICY_TARGET_MS);
        set_default(&o->target_passes, POLICY_TARGET_PASSES);
        set_default(&o->maximum_passes, POLICY_MAXIMUM_PASSES);
        set_default(&o->threshold_ms, o->target_ms);
        set_default(&o->throttle_from_pass,
                    at_least(at_most(THROTTLE_FROM_PASS, last_pass(o) - 1), 2));
        /* what would be cancelled is not aimed at */
        if (o->cancel_over_threshold)
                o->target_ms = at_most(o->target_ms, o->threshold_ms);
        o->first_ms = at_most(o->first_ms, o->target_ms);
        p->limit_ms = o->first_ms;
        p->pass = 1;
}

void policy_start(policy *p, uint64_t usec) {
        p->begin_usec = usec;
}

/* QEMU waits for each vCPU, and one that has used its quota up waits for its next period. */
static double stop_ms(uint32_t throttle) {
        return throttle == 0 ? 0 : fmax(PERIOD_MS, QUOTA_MS * 100 / (100 - throttle));
}

static double rest_ms(const policy *p, uint64_t remaining) {
        return p->bandwidth > 0 ? (double)remaining * 1000 / p->bandwidth : 0;
}

uint32_t policy_expect_ms(const policy *p, uint64_t remaining) {
        if (p->bandwidth <= 0)
                return 0;
        return to_ms(rest_ms(p, remaining) + p->options.overhead_ms + stop_ms(p->throttle));
}

bool policy_may_go_on(const policy *p, uint64_t elapsed_usec, uint64_t remaining,
                      uint32_t *ret_ms) {
        *ret_ms =
                to_ms((double)elapsed_usec / 1000 + rest_ms(p, remaining) + p->options.overhead_ms);
        return !p->options.cancel_over_threshold || *ret_ms <= p->options.threshold_ms;
}

/* QEMU's limit is for the memory alone: the rest of the blackout is not its to count. */
static uint32_t highest_limit(const policy *p) {
        double limit = p->options.target_ms - stop_ms(p->throttle) - p->options.overhead_ms;

        return at_least(limit < 1 ? 1 : (uint32_t)limit, p->options.first_ms);
}

/* By the same factor each pass: first_ms in the first, the highest in the target pass. */
static uint32_t ramp(const policy *p) {
        const policy_options *o = &p->options;
        uint32_t highest = highest_limit(p);
        double part;

        if (p->pass >= last_pass(o))
                return highest;
        part = (double)(p->pass - 1) / (last_pass(o) - 1);
        return at_most((uint32_t)(o->first_ms * pow((double)highest / o->first_ms, part)), highest);
}

/* Would the rest, shrinking as in the last pass, be below the first limit in the target pass? */
static bool is_on_course(const policy *p, double rest, double shrink) {
        if (p->pass > last_pass(&p->options))
                return false;
        return rest * pow(shrink, last_pass(&p->options) - p->pass + 1) <= p->options.first_ms;
}

static bool has_throttle_left(const policy *p, const policy_pass *ended) {
        const policy_options *o = &p->options;

        return !o->skip_throttling && !p->throttle_is_futile &&
               ended->throttle < POLICY_THROTTLE_MAX &&
               (p->pass >= o->throttle_from_pass || o->throttle_from_pass <= last_pass(o));
}

/* What the guest dirties goes with its time: the throttle that would bring the rest below the
 * first limit in some passes more. Short and hard costs the guest no more than long and soft. */
static double throttle_needed(const policy *p, double rest, double shrink) {
        double wanted = pow(p->options.first_ms / rest, 1.0 / PASSES_TO_CONVERGE);

        return 100 - (100 - p->throttle) * fmin(1, wanted / shrink);
}

/* Some sets are rewritten within a pass with any time at all. */
static bool is_futile(const policy *p, const policy_pass *ended, double shrink) {
        return ended->throttle == POLICY_THROTTLE_MAX && !p->options.throttle_lags &&
               shrink >= STANDS_STILL &&
               (double)ended->remaining >= STANDS_STILL * (double)p->unthrottled_remaining;
}

static void raise_throttle(policy *p, const policy_pass *ended, double rest, double shrink) {
        const policy_options *o = &p->options;
        double throttle;

        if (o->skip_throttling || p->throttle_is_futile || p->pass < o->throttle_from_pass)
                return;
        if (p->throttle == 0) {
                p->unthrottled_remaining = ended->remaining;
                throttle = o->first_throttle > 0
                                   ? o->first_throttle
                                   : fmax(throttle_needed(p, rest, shrink), THROTTLE_STEP);
        } else
                throttle = o->throttle_step > 0 ? p->exact_throttle + o->throttle_step
                                                : fmax(throttle_needed(p, rest, shrink),
                                                       p->exact_throttle + THROTTLE_STEP);
        p->exact_throttle = fmin(throttle, POLICY_THROTTLE_MAX);
        p->throttle = (uint32_t)p->exact_throttle;
}

static void decide(policy *p, const policy_pass *ended, policy_orders *ret) {
        const policy_options *o = &p->options;
        double shrink = ended->shrink;
        double rest = rest_ms(p, ended->remaining);

        if (o->postcopy == POLICY_POSTCOPY_SOON ||
            (o->postcopy == POLICY_POSTCOPY_LAST && p->pass > o->maximum_passes)) {
                p->postcopy = true;
                p->throttle = 0;
                return;
        }
        if (p->pass > o->maximum_passes) {
                if (o->cancel_over_threshold && ended->expected_blackout_ms > o->threshold_ms) {
                        ret->cancel = true;
                        return;
                }
                p->forced = true;
                p->limit_ms = POLICY_FORCED_MS;
                return;
        }
        if (rest > o->first_ms && is_on_course(p, rest, shrink)) {
                p->limit_ms = at_most(p->limit_ms, o->first_ms);
                return;
        }
        if (rest <= NEARLY_THERE_MS) {
                p->limit_ms = at_least(at_least(p->limit_ms, to_ms(rest)) * MISTRUST, ramp(p));
                p->limit_ms = at_most(p->limit_ms, highest_limit(p));
                return;
        }
        if (is_futile(p, ended, shrink)) {
                p->throttle_is_futile = true;
                p->throttle = 0;
        } else
                raise_throttle(p, ended, rest, shrink);
        p->limit_ms = ramp(p);
        if (shrink >= STANDS_STILL && !has_throttle_left(p, ended))
                p->limit_ms =
                        at_least(p->limit_ms, at_most(to_ms(rest * HEADROOM), highest_limit(p)));
}

static uint64_t minus(uint64_t a, uint64_t b) {
        return a > b ? a - b : 0;
}

static void take_bandwidth(policy *p, uint64_t sent, uint64_t usec) {
        double sample;

        if (usec == 0 || sent == 0)
                return;
        sample = (double)sent * 1e6 / (double)usec;
        if (p->bandwidth <= 0)
                p->bandwidth = sample;
        else if (sent >= SAMPLE_BYTES || usec >= SAMPLE_USEC)
                p->bandwidth += (sample - p->bandwidth) * BANDWIDTH_WEIGHT;
}

/* The answer comes a moment after the look, and some of what was dirty has been sent by then: what
 * is to do and what was done add up to the same until the next look. */
static bool end_pass(policy *p, const policy_sample *s, policy_pass *ret) {
        uint64_t begin_dirty = p->pass == 1 ? s->total : p->begin_dirty;
        uint64_t work = s->processed + s->remaining;
        uint64_t dirtied = minus(work, p->begin_processed + begin_dirty);
        uint64_t remaining = s->remaining > dirtied ? s->remaining : dirtied;
        uint64_t usec = minus(s->usec, p->begin_usec);

        if ((double)minus(s->processed, p->begin_processed) < PASS_SHARE * (double)begin_dirty)
                return false;
        *ret = (policy_pass){
                .pass = p->pass,
                .begin_usec = p->begin_usec,
                .end_usec = s->usec,
                .sent = minus(s->sent, p->begin_sent),
                .dirtied = dirtied,
                .remaining = remaining,
                .dirty_rate = usec > 0 ? (uint64_t)((double)dirtied * 1e6 / (double)usec) : 0,
                .throttle = p->throttle,
                .limit_ms = p->limit_ms,
        };
        /* What is dirty again before it was sent is not dirtied: only the rest tells. But most of
         * what pass 1 had to send may have been zero. */
        if (p->pass > 1 && begin_dirty > 0)
                ret->shrink = (double)remaining / (double)begin_dirty;
        else
                ret->shrink = ret->sent > 0 ? (double)dirtied / (double)ret->sent : 0;
        take_bandwidth(p, ret->sent, usec);
        ret->bandwidth = (uint64_t)p->bandwidth;
        ret->expected_blackout_ms = policy_expect_ms(p, remaining);
        p->pass++;
        p->begin_usec = s->usec;
        p->begin_processed = minus(work, remaining);
        p->begin_sent = s->sent;
        p->begin_dirty = remaining;
        return true;
}

void policy_step(policy *p, const policy_sample *sample, policy_orders *ret) {
        uint32_t limit_ms = p->limit_ms, throttle = p->throttle;

        *ret = (policy_orders){ .forced = p->forced };
        /* the passes have run out: what QEMU sends until it stops the guest is part of that */
        if (!p->forced && !p->postcopy && end_pass(p, sample, &ret->pass)) {
                ret->pass_ended = true;
                decide(p, &ret->pass, ret);
                ret->postcopy = p->postcopy;
        }
        ret->forced = p->forced;
        ret->limit_ms = p->limit_ms;
        ret->throttle = p->throttle;
        ret->set_limit = p->limit_ms != limit_ms;
        ret->set_throttle = p->throttle != throttle;
}

void policy_stopped(policy *p, const policy_sample *sample, policy_orders *ret) {
        *ret = (policy_orders){ .forced = p->forced };
        if (!p->forced)
                ret->pass_ended = end_pass(p, sample, &ret->pass);
        ret->limit_ms = p->limit_ms;
        ret->throttle = p->throttle;
}
