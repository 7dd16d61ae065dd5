/* SPDX-License-Identifier: MIT */
#pragma once

/* When to switch over, and how hard to slow the guest down until then: pure, no clock, no I/O.
 *
 * QEMU stops the guest once it expects to send the rest within the downtime limit. This closes in
 * on the smallest limit that the guest gets below. A sample goes in at each of QEMU's looks for
 * dirty pages, orders come out:
 *
 * - on course: the limit is the first, small one, or goes back to it.
 * - not on course: the limit rises by the same factor each pass, to the target by the target pass;
 *   from its pass on the throttle rises by a step each pass.
 * - nearly there, some milliseconds that do not shrink further: no throttle, the limit rises fast.
 * - futile, the highest throttle has not made the rest smaller: it is lifted.
 * - standing still, with no throttle left to try: waiting gains nothing, the limit rises to what
 *   the rest takes, at most to the target.
 * - passes run out: the rest goes by post-copy where that is allowed; else the switchover is
 * forced, or given up where it would take too long.
 *
 * Passes are counted here: one has ended when what was dirty at its beginning has been sent (three
 * quarters of it: QEMU looks early, once the rest is below the limit). QEMU 10 with auto-converge
 * also looks in between. */

#include <stdbool.h>
#include <stdint.h>

/* QEMU's highest limit: it switches over at once. */
#define POLICY_FORCED_MS 2000000U
/* A vCPU keeps 2 % of its time: below, the cpu controller's periods would get longer than that. */
#define POLICY_THROTTLE_MAX 98U

#define POLICY_FIRST_MS       2U
#define POLICY_TARGET_MS      300U
#define POLICY_TARGET_PASSES  10U
#define POLICY_MAXIMUM_PASSES 30U

typedef enum policy_postcopy {
        POLICY_POSTCOPY_NEVER,
        POLICY_POSTCOPY_LAST, /* instead of forcing, or of giving up */
        POLICY_POSTCOPY_SOON, /* after the first pass */
} policy_postcopy;

/* Zeros are replaced by the defaults. */
typedef struct policy_options {
        uint32_t first_ms;       /* the limit to begin with */
        uint32_t target_ms;      /* the longest blackout before forcing */
        uint32_t target_passes;  /* the limit has risen to its target by this pass */
        uint32_t maximum_passes; /* after this pass the switchover is forced */
        uint32_t overhead_ms;    /* of a blackout: device state and handover */
        bool skip_throttling;
        bool throttle_lags; /* it follows its steps within seconds, not within a pass */
        bool cancel_over_threshold;
        policy_postcopy postcopy;

        uint32_t threshold_ms;       /* with that: the longest blackout at all; 0: the target */
        uint32_t throttle_from_pass; /* 0: the third, or one before the last if that is earlier */
        /* Percent of vCPU time. 0: by what was measured, so that it should be over in three passes
         * more; at least 20. */
        uint32_t first_throttle;
        double throttle_step;
} policy_options;

/* As QEMU has it just after it has looked. Bytes count from the migration's start. */
typedef struct policy_sample {
        uint64_t usec;      /* of the look */
        uint64_t total;     /* of guest memory */
        uint64_t processed; /* guest memory that was sent, or was found to be zero */
        uint64_t remaining; /* dirty */
        uint64_t sent;      /* on the wire */
} policy_sample;

/* A pass that has ended. */
typedef struct policy_pass {
        uint32_t pass; /* from 1 */
        uint64_t begin_usec, end_usec;
        uint64_t sent;                 /* on the wire, in this pass */
        uint64_t dirtied;              /* by the guest, meanwhile */
        uint64_t remaining;            /* at its end */
        double shrink;                 /* that, by what it had to send */
        uint64_t dirty_rate;           /* bytes per second */
        uint64_t bandwidth;            /* the same, smoothed over the passes */
        uint32_t throttle;             /* percent, in force during the pass */
        uint32_t limit_ms;             /* likewise */
        uint32_t expected_blackout_ms; /* had the guest been stopped at its end */
} policy_pass;

typedef struct policy_orders {
        bool pass_ended; /* then `pass` is filled in */
        bool set_limit, set_throttle;
        bool postcopy; /* what is left goes by post-copy; nothing is ordered after that */
        bool forced;   /* set_limit is for good */
        bool cancel;   /* the blackout would be over the threshold: pass.expected_blackout_ms */
        uint32_t limit_ms, throttle;
        policy_pass pass;
} policy_orders;

typedef struct policy {
        policy_options options;
        uint32_t pass; /* under way, from 1 */
        uint32_t limit_ms, throttle;
        double exact_throttle;          /* steps need not be whole */
        uint64_t unthrottled_remaining; /* when the throttle began */
        bool throttle_is_futile;        /* at its highest it did nothing, and was lifted */
        bool forced, postcopy;
        double bandwidth; /* bytes per second; 0: not known yet */
        uint64_t begin_usec, begin_processed, begin_sent;
        uint64_t begin_dirty; /* what the pass under way had to send */
} policy;

void policy_init(policy *p, const policy_options *options);

/* QEMU begins with its first pass. */
void policy_start(policy *p, uint64_t usec);

/* QEMU has looked for dirty pages, and goes on. */
void policy_step(policy *p, const policy_sample *sample, policy_orders *ret);

/* The guest has been stopped: counts the pass that ended with that, and orders nothing. */
void policy_stopped(policy *p, const policy_sample *sample, policy_orders *ret);

/* The blackout if the guest was stopped now. 0 while nothing is known. */
uint32_t policy_expect_ms(const policy *p, uint64_t remaining);

/* The guest stands since `elapsed_usec` and has `remaining` bytes to go: false when that would
 * be over the threshold. *ret_ms: the blackout that is expected in all. */
bool policy_may_go_on(const policy *p, uint64_t elapsed_usec, uint64_t remaining, uint32_t *ret_ms);
