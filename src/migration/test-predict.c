/* SPDX-License-Identifier: MIT */

/* What is predicted follows from what was measured, and from the options. */

#include "migration/predict.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define MIB (1ULL << 20)

static const predict_input idle = { .total = 256 * MIB,
                                    .filled = 64 * MIB,
                                    .hot = 256 * MIB,
                                    .rate = 0,
                                    .bandwidth = 64 * MIB,
                                    .round_trip_usec = 300 };
static const policy_options defaults = { .overhead_ms = 10 };

static void test_an_idle_guest(void **state) {
        prediction p;

        assert_true(predict(&idle, &defaults, &p));
        assert_int_equal(p.passes, 1);
        assert_false(p.forced || p.cancelled);
        /* what is not zero, once, at the link's speed */
        assert_in_range(p.copy_usec, 900000, 1200000);
        assert_in_range(p.bytes, 63 * MIB, 66 * MIB);
        /* nothing is left: the overhead and two round trips */
        assert_in_range(p.blackout_usec, 10600, 12000);
}

static void test_less_bandwidth_takes_longer(void **state) {
        predict_input in = idle;
        prediction p, capped;

        assert_true(predict(&in, &defaults, &p));
        in.max_bandwidth = 16 * MIB;
        assert_true(predict(&in, &defaults, &capped));
        assert_in_range(capped.copy_usec, p.copy_usec * 35 / 10, p.copy_usec * 45 / 10);
        in.max_bandwidth = 1024 * MIB; /* more than there is */
        assert_true(predict(&in, &defaults, &capped));
        assert_int_equal(capped.copy_usec, p.copy_usec);
}

static void test_a_busy_guest_takes_passes(void **state) {
        predict_input in = idle;
        prediction calm, busy;

        in.rate = 4 * MIB;
        assert_true(predict(&in, &defaults, &calm));
        in.rate = 32 * MIB;
        assert_true(predict(&in, &defaults, &busy));
        assert_true(busy.passes > calm.passes && calm.passes > 1);
        assert_true(busy.bytes > calm.bytes);
}

/* It is the policy that is asked: its options have their effect. */
static void test_options_have_their_effect(void **state) {
        policy_options options = defaults;
        predict_input in = idle;
        prediction p;

        in.hot = 32 * MIB;
        in.rate = 3000 * MIB;
        options.skip_throttling = true;
        options.maximum_passes = 4;
        options.target_ms = 100; /* the hot set takes 500 */
        assert_true(predict(&in, &options, &p));
        assert_true(p.forced);
        assert_int_equal(p.throttle, 0);
        assert_in_range(p.blackout_usec, 400000, 600000);

        options.cancel_over_threshold = true;
        options.threshold_ms = 50;
        assert_true(predict(&in, &options, &p));
        assert_true(p.cancelled);

        in.hot = in.total;
        in.rate = 200 * MIB;
        assert_true(predict(&in, &defaults, &p));
        assert_true(p.throttle > 0);
}

static void test_postcopy_where_it_is_allowed(void **state) {
        policy_options options = defaults;
        predict_input in = idle;
        prediction forced, fallback, always;

        in.rate = 512 * MIB;
        in.hot = 64 * MIB;
        options.maximum_passes = 4;
        options.target_ms = 20;
        options.skip_throttling = true;
        assert_true(predict(&in, &options, &forced));
        assert_true(forced.forced && !forced.postcopy);
        options.postcopy = POLICY_POSTCOPY_LAST;
        assert_true(predict(&in, &options, &fallback));
        assert_true(fallback.postcopy && !fallback.forced && fallback.passes == 4);
        assert_true(fallback.blackout_usec < forced.blackout_usec / 10);
        options.postcopy = POLICY_POSTCOPY_SOON;
        assert_true(predict(&in, &options, &always));
        assert_true(always.postcopy && always.passes == 1);
        assert_true(always.bytes < fallback.bytes);
        assert_true(predict(&idle, &options, &always)); /* it is there before that */
        assert_false(always.postcopy);
        options.postcopy = POLICY_POSTCOPY_LAST;
        options.cancel_over_threshold = true; /* what would be given up is not */
        assert_true(predict(&in, &options, &fallback));
        assert_true(fallback.postcopy && !fallback.cancelled);
}

static void test_nothing_without_a_link(void **state) {
        predict_input in = idle;
        prediction p;

        in.bandwidth = 0;
        assert_false(predict(&in, &defaults, &p));
        assert_int_equal(p.made_usec, 0);
        in = idle;
        in.total = 0;
        assert_false(predict(&in, &defaults, &p));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_an_idle_guest),
                cmocka_unit_test(test_less_bandwidth_takes_longer),
                cmocka_unit_test(test_a_busy_guest_takes_passes),
                cmocka_unit_test(test_options_have_their_effect),
                cmocka_unit_test(test_postcopy_where_it_is_allowed),
                cmocka_unit_test(test_nothing_without_a_link),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
