/* SPDX-License-Identifier: MIT */
/* The policy on thousands of modelled guests, and on some telling ones whose traces are kept in
 * policy-traces/: `tools/policy-traces BUILD` writes them anew. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/fd.h"
#include "migration/policy-sim.h"

#define N_GUESTS 4000
#define MB       1e6

static const policy_options defaults = {
        .first_ms = 2,
        .target_ms = 300,
        .target_passes = POLICY_TARGET_PASSES,
        .maximum_passes = POLICY_MAXIMUM_PASSES,
        .overhead_ms = 10,
};

/* ---- golden traces ---- */

typedef struct story {
        sim_guest guest;
        policy_options options;
} story;

#define GUEST(name_, hot_, rate_, bandwidth_)                                                      \
        .guest = { .name = name_,                                                                  \
                   .total = 268 * MB,                                                              \
                   .filled = 60 * MB + (hot_)*MB,                                                  \
                   .hot = (hot_)*MB,                                                               \
                   .rate = (rate_)*MB,                                                             \
                   .noise = .5 * MB,                                                               \
                   .bandwidth = (bandwidth_)*MB,                                                   \
                   .look_ms = 3 }

#define OPTIONS(...) .options = { .first_ms = 2, .target_ms = 300, .overhead_ms = 10, __VA_ARGS__ }

static const story stories[] = {
        { GUEST("idle-loopback", 0, 0, 600), OPTIONS() },
        { GUEST("10mb-loopback", 64, 10, 600), OPTIONS() },
        { GUEST("100mb-loopback", 64, 100, 600), OPTIONS() },
        { GUEST("hot-loopback", 64, 3000, 600), OPTIONS() },
        { GUEST("idle-gigabit", 0, 0, 117), OPTIONS() },
        { GUEST("10mb-gigabit", 64, 10, 117), OPTIONS() },
        { GUEST("100mb-gigabit", 64, 100, 117), OPTIONS() },
        { GUEST("hot-gigabit", 64, 3000, 117), OPTIONS() },
        { GUEST("hot-gigabit-without-throttle", 64, 3000, 117),
          OPTIONS(.skip_throttling = true, .target_passes = 4, .maximum_passes = 6) },
        { GUEST("hot-loopback-without-throttle", 64, 3000, 600), OPTIONS(.skip_throttling = true) },
        { GUEST("steps-as-asked", 64, 3000, 117),
          OPTIONS(.throttle_from_pass = 4, .first_throttle = 10, .throttle_step = 12.5) },
        { GUEST("over-the-threshold", 64, 3000, 117),
          OPTIONS(.skip_throttling = true, .cancel_over_threshold = true, .threshold_ms = 100,
                  .maximum_passes = 5) },
        { GUEST("futile", 4, 9000, 20), OPTIONS() },
        { GUEST("few-passes", 64, 3000, 117), OPTIONS(.maximum_passes = 4) },
};

static void print_story(const story *s, FILE *to) {
        sim_result r;

        fprintf(to, "%s: %.0f MB rewritten at %.0f MB/s, link %.0f MB/s\n", s->guest.name,
                s->guest.hot / MB, s->guest.rate / MB, s->guest.bandwidth / MB);
        sim_run(&s->guest, &s->options, 0, 1, to, &r);
        if (r.cancelled)
                fprintf(to, "cancelled after %u passes, %.0f ms\n", r.passes, r.total_ms);
        else
                fprintf(to,
                        "over after %u passes, %.0f ms; blackout %.0f ms and what is not memory\n",
                        r.passes, r.total_ms, r.blackout_ms);
}

static void test_traces_are_as_they_were(void **state) {
        const char *folder = getenv("FERRY_POLICY_TRACES");

        assert_non_null(folder);
        for (size_t i = 0; i < ELEMENTS(stories); i++) {
                char path[512], *golden = NULL, *now = NULL;
                size_t n_golden = 0, n_now = 0;
                FILE *f = open_memstream(&now, &n_now);

                assert_non_null(f);
                print_story(&stories[i], f);
                fclose(f);
                snprintf(path, sizeof(path), "%s/%s.txt", folder, stories[i].guest.name);
                assert_int_equal(file_read(-1, path, 1 << 20, &golden, &n_golden), 0);
                if (strcmp(golden, now) != 0)
                        fail_msg("%s is not what the policy does now:\n%s", path, now);
                free(golden);
                free(now);
        }
}

/* ---- what holds for every guest ---- */

static uint64_t random_state;

static double next_random(void) {
        random_state ^= random_state << 13;
        random_state ^= random_state >> 7;
        random_state ^= random_state << 17;
        return (double)(random_state >> 11) / (double)(1ULL << 53);
}

static double between(double low, double high) {
        return low * pow(high / low, next_random());
}

static sim_guest random_guest(uint64_t seed) {
        sim_guest g = { .name = "random" };

        random_state = seed * 0x9e3779b97f4a7c15ULL | 1;
        g.total = between(64 * MB, 8000 * MB);
        g.filled = g.total * (.1 + .9 * next_random());
        g.hot = g.filled * between(.001, 1);
        g.rate = next_random() < .1 ? 0 : between(.1 * MB, 9000 * MB);
        g.scattered = next_random() < .5;
        g.noise = between(.01 * MB, 2 * MB);
        g.bandwidth = between(10 * MB, 3000 * MB);
        g.jitter = next_random() < .5 ? 0 : .3 * next_random();
        g.look_ms = between(.2, 10);
        if (next_random() < .1)
                g.calm_after_ms = between(200, 20000);
        return g;
}

static policy_options random_options(void) {
        policy_options o = defaults;

        if (next_random() < .3)
                return o;
        o.skip_throttling = next_random() < .3;
        o.target_ms = (uint32_t)between(1, 2000);
        o.target_passes = (uint32_t)between(1, 40);
        o.maximum_passes = (uint32_t)between(1, 60);
        if (next_random() < .5)
                o.throttle_from_pass = (uint32_t)between(1, 20);
        if (next_random() < .5)
                o.first_throttle = (uint32_t)between(1, 100);
        if (next_random() < .5)
                o.throttle_step = between(1, 100);
        o.cancel_over_threshold = next_random() < .3;
        if (next_random() < .5)
                o.threshold_ms = (uint32_t)between(1, 2000);
        return o;
}

static void test_every_guest_is_moved_as_the_options_say(void **state) {
        for (uint64_t seed = 1; seed <= N_GUESTS; seed++) {
                sim_guest g = random_guest(seed);
                policy_options o = random_options();
                uint32_t from = o.throttle_from_pass > 2 ? o.throttle_from_pass : 2;
                sim_result r;

                sim_run(&g, &o, 0, seed, NULL, &r);
                if (!r.ended && !r.cancelled)
                        fail_msg("guest %llu never ends", (unsigned long long)seed);
                if (r.cancelled && (!o.cancel_over_threshold || r.expected_ms <= o.threshold_ms))
                        fail_msg("guest %llu is cancelled for nothing", (unsigned long long)seed);
                if (r.passes > o.maximum_passes)
                        fail_msg("guest %llu takes %u passes, not %u", (unsigned long long)seed,
                                 r.passes, o.maximum_passes);
                if (r.over_target)
                        fail_msg("guest %llu: the limit is over the target",
                                 (unsigned long long)seed);
                if (r.throttle_pass && (o.skip_throttling || r.throttle_pass < from))
                        fail_msg("guest %llu is throttled in pass %u", (unsigned long long)seed,
                                 r.throttle_pass);
                if (r.throttle_pass && o.first_throttle && r.first_throttle != o.first_throttle &&
                    r.first_throttle != POLICY_THROTTLE_MAX)
                        fail_msg("guest %llu: throttle %u %%", (unsigned long long)seed,
                                 r.first_throttle);
                if (r.throttle > POLICY_THROTTLE_MAX)
                        fail_msg("guest %llu: throttle %u %%", (unsigned long long)seed,
                                 r.throttle);
        }
}

/* QEMU with its default limit of 300 ms, and no throttle; it has a minute. */
static void test_no_guest_fares_worse_than_with_a_fixed_limit(void **state) {
        double ours = 0, theirs = 0;
        unsigned n = 0;

        for (uint64_t seed = 1; seed <= N_GUESTS; seed++) {
                unsigned long long number = seed;
                sim_guest g = random_guest(seed);
                sim_result r, fixed;

                sim_run(&g, NULL, 300, seed, NULL, &fixed);
                if (!fixed.ended)
                        continue;
                sim_run(&g, &defaults, 0, seed, NULL, &r);
                /* passes of a few milliseconds run out before QEMU has taken a limit */
                if (r.forced && r.blackout_ms > 10)
                        fail_msg("guest %llu is forced", number);
                if (r.blackout_ms > fixed.blackout_ms + 10)
                        fail_msg("guest %llu: blackout %.0f ms, not %.0f", number, r.blackout_ms,
                                 fixed.blackout_ms);
                if (r.total_ms > 1.5 * fixed.total_ms + 1000)
                        fail_msg("guest %llu takes %.0f ms, not %.0f", number, r.total_ms,
                                 fixed.total_ms);
                ours += r.blackout_ms;
                theirs += fixed.blackout_ms;
                n++;
        }
        assert_true(n > N_GUESTS / 2);
        assert_true(ours < theirs / 4);
}

static void test_a_small_rest_is_not_waited_for(void **state) {
        /* passes of nothing but looking: QEMU takes the link for a slow one */
        sim_guest g = stories[0].guest;
        sim_result r;

        g.noise = 40 * MB;
        g.look_ms = 20;
        g.total = g.filled = 1000 * MB;
        sim_run(&g, &defaults, 0, 1, NULL, &r);
        assert_true(r.ended && !r.forced && r.throttle_pass == 0);
        assert_true(r.passes <= 12);
}

static void test_a_guest_that_calms_down_is_left_alone(void **state) {
        sim_guest g = stories[7].guest; /* the hot set, gigabit */
        sim_result r;

        g.calm_after_ms = 1500;
        g.rate = 200 * MB;
        sim_run(&g, &defaults, 0, 1, NULL, &r);
        assert_true(r.ended && !r.forced);
        assert_true(r.blackout_ms < 20);
}

static void feed(policy *p, policy_sample *s, uint64_t sent, uint64_t dirtied, policy_orders *ret) {
        s->usec += 100000;
        s->processed += sent;
        s->sent += sent;
        s->remaining = s->remaining - sent + dirtied;
        policy_step(p, s, ret);
}

/* QEMU 10 with auto-converge looks every five seconds, whatever it has sent. */
static void test_looks_in_between_are_no_passes(void **state) {
        policy_sample s = { .total = 1000000, .remaining = 1000000 };
        policy_orders orders;
        policy p;

        policy_init(&p, &defaults);
        policy_start(&p, 0);
        feed(&p, &s, 300000, 100000, &orders);
        assert_false(orders.pass_ended);
        feed(&p, &s, 300000, 100000, &orders);
        assert_false(orders.pass_ended);
        feed(&p, &s, 400000, 100000, &orders);
        assert_true(orders.pass_ended);
        assert_int_equal(orders.pass.pass, 1);
        assert_int_equal(orders.pass.sent, 1000000);
        assert_int_equal(orders.pass.dirtied, 300000);
        assert_int_equal(orders.pass.remaining, 300000);
        feed(&p, &s, 100000, 1000, &orders);
        assert_false(orders.pass_ended);
        feed(&p, &s, 130000, 1000, &orders);
        assert_true(orders.pass_ended);
        assert_int_equal(orders.pass.pass, 2);
}

/* What was sent between the look and the answer is no less dirtied. */
static void test_a_late_answer_says_the_same(void **state) {
        policy_sample s = {
                .usec = 1000000, .total = 1000, .processed = 1000, .remaining = 400, .sent = 1000
        };
        policy_orders early, late;
        policy p, q;

        policy_init(&p, &defaults);
        policy_start(&p, 0);
        q = p;
        policy_step(&p, &s, &early);
        s.processed += 300;
        s.sent += 300;
        s.remaining -= 300;
        policy_step(&q, &s, &late);
        assert_true(early.pass_ended && late.pass_ended);
        assert_int_equal(early.pass.remaining, 400);
        assert_int_equal(late.pass.remaining, 400);
        assert_int_equal(late.pass.dirtied, 400);
        assert_int_equal(q.begin_processed, p.begin_processed);
}

static void test_what_is_over_the_threshold_does_not_go_on(void **state) {
        policy_options o = defaults;
        uint32_t ms;
        policy p;

        o.cancel_over_threshold = true;
        o.threshold_ms = 100;
        policy_init(&p, &o);
        assert_int_equal(p.options.target_ms, 100); /* nothing longer is aimed at */
        p.bandwidth = 1e6;
        assert_true(policy_may_go_on(&p, 20000, 70000, &ms));
        assert_int_equal(ms, 100);
        assert_false(policy_may_go_on(&p, 20000, 71000, &ms));
        assert_int_equal(ms, 101);
        p.options.cancel_over_threshold = false;
        assert_true(policy_may_go_on(&p, 20000, 71000, &ms));
}

static void print_guest(uint64_t seed) {
        sim_guest g = random_guest(seed);
        sim_result r;

        printf("total %.0f MB, filled %.0f, %.1f rewritten at %.0f MB/s%s, noise %.1f, link %.0f, "
               "jitter %.2f, look %.1f ms\n",
               g.total / MB, g.filled / MB, g.hot / MB, g.rate / MB,
               g.scattered ? " at random" : "", g.noise / MB, g.bandwidth / MB, g.jitter,
               g.look_ms);
        sim_run(&g, NULL, 300, seed, NULL, &r);
        printf("fixed limit: blackout %.0f ms, %.0f ms in all\n", r.blackout_ms, r.total_ms);
        sim_run(&g, &defaults, 0, seed, stdout, &r);
        printf("policy: blackout %.0f ms, %.0f ms in all\n", r.blackout_ms, r.total_ms);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_traces_are_as_they_were),
                cmocka_unit_test(test_every_guest_is_moved_as_the_options_say),
                cmocka_unit_test(test_no_guest_fares_worse_than_with_a_fixed_limit),
                cmocka_unit_test(test_a_small_rest_is_not_waited_for),
                cmocka_unit_test(test_a_guest_that_calms_down_is_left_alone),
                cmocka_unit_test(test_looks_in_between_are_no_passes),
                cmocka_unit_test(test_a_late_answer_says_the_same),
                cmocka_unit_test(test_what_is_over_the_threshold_does_not_go_on),
        };

        if (argc == 3 && strcmp(argv[1], "--print") == 0) {
                for (size_t i = 0; i < ELEMENTS(stories); i++)
                        if (strcmp(stories[i].guest.name, argv[2]) == 0)
                                print_story(&stories[i], stdout);
                return 0;
        }
        if (argc == 3 && strcmp(argv[1], "--guest") == 0) { /* one that a test has named */
                print_guest(strtoull(argv[2], NULL, 10));
                return 0;
        }
        if (argc == 2 && strcmp(argv[1], "--names") == 0) {
                for (size_t i = 0; i < ELEMENTS(stories); i++)
                        puts(stories[i].guest.name);
                return 0;
        }
        return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
