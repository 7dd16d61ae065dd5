/* SPDX-License-Identifier: MIT */
/* The switchover's options on real QEMUs: each does what it says, read from what the shim decided
 * pass by pass. No figure of time is judged: the guest's hot set is far more than the capped link
 * carries, so that what is decided does not hang on the machine. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "harness.h"

#define OUT_OF_RANGE  11
#define DEADLINE_USEC (60 * USEC_PER_SEC)
#define PASSES_MAX    64
#define HOT_PAGES     1024 /* 4 MB, all of them rewritten in a blink */
#define HOT_RATE      500000
#define CALM_RATE     100
#define BANDWIDTH     20000000

#define SOME(group, field) MEMORY_TRANSFER_THROTTLE_PARAMS__OPTIONAL_##group##_##field

static int start(void **state, unsigned rate) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, rate, HOT_PAGES);
        p->options.memory_transfer_throttle_params = &p->throttle;
        p->options.optional_max_bandwidth_case =
                INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH_MAX_BANDWIDTH;
        p->options.max_bandwidth = BANDWIDTH;
        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        *state = p;
        return 0;
}

static int setup_hot(void **state) {
        return start(state, HOT_RATE);
}

static int setup_calm(void **state) {
        return start(state, CALM_RATE);
}

static int teardown(void **state) {
        pair_end(*state);
        free(*state);
        return 0;
}

/* ---- options ---- */

static void skip_throttling(pair *p) {
        p->throttle.optional_skip_throttling_case = SOME(SKIP_THROTTLING, SKIP_THROTTLING);
        p->throttle.skip_throttling = true;
}

static void throttle_by(pair *p, uint32_t from_pass, uint32_t minimum, double scale) {
        p->throttle.optional_starting_pass_case =
                SOME(STARTING_PASS, STARTING_BROWNOUT_PASS_NUMBER_FOR_THROTTLING);
        p->throttle.starting_brownout_pass_number_for_throttling = from_pass;
        p->throttle.optional_minimum_throttle_percentage_case =
                SOME(MINIMUM_THROTTLE_PERCENTAGE, MINIMUM_THROTTLE_PERCENTAGE);
        p->throttle.minimum_throttle_percentage = minimum;
        p->throttle.optional_throttling_scale_case = SOME(THROTTLING_SCALE, THROTTLING_SCALE);
        p->throttle.throttling_scale = scale;
}

static void passes(pair *p, uint32_t target, uint32_t maximum) {
        p->throttle.optional_target_passes_case =
                SOME(TARGET_PASSES, TARGET_NUMBER_OF_BROWNOUT_TRANSFER_PASSES);
        p->throttle.target_number_of_brownout_transfer_passes = target;
        p->throttle.optional_maximum_passes_case =
                SOME(MAXIMUM_PASSES, MAXIMUM_NUMBER_OF_BROWNOUT_TRANSFER_PASSES);
        p->throttle.maximum_number_of_brownout_transfer_passes = maximum;
}

static void blackout(pair *p, uint32_t target_ms) {
        p->throttle.optional_target_blackout_case =
                SOME(TARGET_BLACKOUT, TARGET_BLACKOUT_TRANSFER_TIME);
        p->throttle.target_blackout_transfer_time = target_ms;
}

static void cancel_over(pair *p, uint32_t threshold_ms) {
        p->options.cancel_if_blackout_threshold_exceeds = true;
        p->throttle.optional_blackout_threshold_case =
                SOME(BLACKOUT_THRESHOLD, BLACKOUT_TIME_THRESHOLD_FOR_CANCELLING_MIGRATION);
        p->throttle.blackout_time_threshold_for_cancelling_migration = threshold_ms;
}

/* ---- what was decided ---- */

typedef struct decision {
        unsigned pass, throttle, limit, expected;
} decision;

typedef struct decisions {
        decision of[PASSES_MAX];
        size_t n;
        bool forced;
} decisions;

/* From the source's log: a line for each pass that has ended, with what was in force in it. */
static decisions read_decisions(pair *p, host *h) {
        char path[128], *text = NULL, head[64];
        decisions all = { .n = 0 };
        size_t n;

        snprintf(path, sizeof(path), "%s/shim.log", h->dir);
        assert_int_equal(file_read(AT_FDCWD, path, 64 << 20, &text, &n), 0);
        snprintf(head, sizeof(head), "session %s: ", p->session);
        for (char *at = text; (at = strstr(at, head));) {
                decision *d = &all.of[all.n];
                const char *rest;

                at += strlen(head);
                if (strncmp(at, "no pass is left", 15) == 0)
                        all.forced = true;
                if (all.n == PASSES_MAX || sscanf(at, "pass %u:", &d->pass) != 1)
                        continue;
                rest = strstr(at, "throttle ");
                assert_non_null(rest);
                assert_int_equal(sscanf(rest, "throttle %u %%, limit %u ms, expected blackout %u",
                                        &d->throttle, &d->limit, &d->expected),
                                 3);
                print_message("# %.*s\n", (int)strcspn(at, "\n"), at);
                all.n++;
        }
        free(text);
        return all;
}

static decisions move(pair *p) {
        decisions all;

        migrate_whole(p, &p->a, &p->b);
        assert_exactly_one_runs(p, &p->b);
        all = read_decisions(p, &p->a);
        for (size_t i = 0; i < all.n; i++)
                assert_int_equal(all.of[i].pass, i + 1);
        return all;
}

static void transfer_both(pair *p) {
        call_transfer(p, &p->a, 0, 0);
        call_transfer(p, &p->b, 0, 0);
}

/* The file says where the cgroups are. Where the machine has no cpu controller for us there is
 * none, and the shim says so. */
static bool is_throttled(host *h) {
        char path[128];

        snprintf(path, sizeof(path), "%s/throttle", h->dir);
        return access(path, F_OK) == 0;
}

static bool has_notice(host *h) {
        Ferry__Shim__V1__StatusResponse *s = host_status(h);
        bool has = s->session && strstr(s->session->notice, "auto-converge");

        ferry__shim__v1__status_response__free_unpacked(s, NULL);
        return has;
}

/* The kernel has made a vCPU wait. */
static bool has_waited(const char *folder, int pid) {
        char path[512], *text = NULL, *count;
        unsigned long n = 0;
        size_t length;

        snprintf(path, sizeof(path), "%s/ferry-%d-0/cpu.stat", folder, pid);
        if (file_read(AT_FDCWD, path, 65536, &text, &length) < 0)
                return false;
        count = strstr(text, "nr_throttled ");
        if (count)
                n = strtoul(count + strlen("nr_throttled "), NULL, 10);
        free(text);
        return n > 0;
}

/* False where the shim has told that it cannot. */
static bool wait_slowed_down(host *h, bool in_effect, char folder[256]) {
        uint64_t deadline = now_usec() + DEADLINE_USEC;
        char path[128], *text = NULL;
        int version = 0, pid = 0;
        size_t n;

        snprintf(path, sizeof(path), "%s/throttle", h->dir);
        for (;; usleep(1000)) {
                if (now_usec() > deadline)
                        fail_msg("the guest was never slowed down");
                if (has_notice(h))
                        return false;
                if (file_read(AT_FDCWD, path, 4096, &text, &n) < 0)
                        continue;
                assert_int_equal(sscanf(text, "v%d %d %255s", &version, &pid, folder), 3);
                free(text);
                if (!in_effect || has_waited(folder, pid))
                        break;
        }
        assert_int_equal(pid, host_qemu(h));
        snprintf(folder + strlen(folder), 256 - strlen(folder), "/ferry-%d-0", pid);
        return true;
}

/* ---- what subscribers see ---- */

typedef struct watch {
        bool (*is_it)(const Progress *);
        bool seen, ended;
} watch;

static void on_notification(const NotificationsResponse *m, void *userdata) {
        watch *w = userdata;

        if (m->notification->progress && w->is_it(m->notification->progress))
                w->seen = true;
}

static void on_end(int r, const ttrpc_status *status, void *userdata) {
        ((watch *)userdata)->ended = true;
}

static void wait_progress(pair *p, host *h, bool (*is_it)(const Progress *)) {
        uint64_t deadline = now_usec() + DEADLINE_USEC;
        NotificationsRequest q = NOTIFICATIONS_REQUEST__INIT;
        ttrpc_client *client = NULL;
        watch w = { .is_it = is_it };
        char path[128];

        snprintf(path, sizeof(path), "%s/shim.sock", h->dir);
        assert_int_equal(ttrpc_client_connect(path, &client), 0);
        q.session_id = p->session;
        assert_int_equal(
                migration_notifications_start(client, &q, NULL, on_notification, on_end, &w, NULL),
                0);
        while (!w.seen) {
                struct pollfd f = { .fd = ttrpc_client_get_fd(client), .events = POLLIN };

                if (w.ended || now_usec() > deadline ||
                    poll(&f, 1, (int)(DEADLINE_USEC / 1000)) != 1)
                        fail_msg("no notification had the figures");
                assert_int_equal(ttrpc_client_process(client), 0);
        }
        ttrpc_client_free(client);
}

static bool is_slow(const Progress *progress) {
        return progress->throttle_percentage >= 90 && progress->pass >= 2 &&
               progress->downtime_limit_ms >= 1 && progress->expected_blackout_ms > 0;
}

/* ---- the throttle ---- */

static void test_it_starts_at_the_pass_and_by_the_steps_asked_for(void **state) {
        static const unsigned expected[] = { 0, 0, 10, 22, 35, 47 };
        char folder[256] = "/nonexistent";
        pair *p = *state;
        decisions all;

        throttle_by(p, 3, 10, 12.5);
        passes(p, 20, 6);
        blackout(p, 20);
        session_open(p, true);
        transfer_both(p);
        wait_slowed_down(&p->a, false, folder); /* a busy host may give it less anyway */
        host_wait_detail(&p->a, "S_RELEASED");
        assert_true(access(folder, F_OK) < 0 && errno == ENOENT);
        host_wait_detail(&p->b, "D_RUNNING");
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        assert_exactly_one_runs(p, &p->b);
        all = read_decisions(p, &p->a);
        assert_int_equal(all.n, 6);
        assert_true(all.forced);
        for (size_t i = 0; i < 6; i++)
                assert_int_equal(all.of[i].throttle, expected[i]);
        assert_false(is_throttled(&p->a));
}

static void test_never_when_it_is_to_be_skipped(void **state) {
        pair *p = *state;
        decisions all;

        throttle_by(p, 1, 50, 10);
        skip_throttling(p);
        passes(p, 3, 5);
        blackout(p, 20);
        all = move(p);
        assert_int_equal(all.n, 5);
        assert_true(all.forced);
        for (size_t i = 0; i < all.n; i++)
                assert_int_equal(all.of[i].throttle, 0);
}

static bool copy_throttled(pair *p, char folder[256]) {
        throttle_by(p, 2, 90, 1); /* not the highest soon, which would be found futile */
        passes(p, 1000, 1000);
        blackout(p, 1);
        session_open(p, true);
        transfer_both(p);
        return wait_slowed_down(&p->a, true, folder);
}

static void expect_full_speed(pair *p, const char *folder) {
        assert_false(is_throttled(&p->a));
        assert_true(access(folder, F_OK) < 0 && errno == ENOENT);
        assert_exactly_one_runs(p, &p->a);
}

static void test_cancel_lifts_it(void **state) {
        pair *p = *state;
        char folder[256] = "/nonexistent";

        (void)copy_throttled(p, folder);
        wait_progress(p, &p->a, is_slow);
        call_cancel(p, &p->a, 0);
        expect_full_speed(p, folder);
        call_cancel(p, &p->b, 0);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
}

static void test_a_shim_that_comes_back_lifts_it(void **state) {
        pair *p = *state;
        char folder[256] = "/nonexistent";

        if (copy_throttled(p, folder)) {
                host_kill_shim(&p->a, SIGKILL);
                assert_int_equal(access(folder, F_OK), 0);
        } else
                host_kill_shim(&p->a, SIGKILL);
        host_start(&p->a, NULL);
        host_wait_detail(&p->a, "S_FAILED");
        expect_full_speed(p, folder);
        host_wait_detail(&p->b, "D_FAILED");
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
}

/* As on a machine without cgroups: for this process and the shims that it starts. The last test:
 * there is no way back. */
static int setup_without_cgroups(void **state) {
        assert_int_equal(unshare(CLONE_NEWNS), 0);
        assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
        if (umount2("/sys/fs/cgroup", MNT_DETACH) < 0)
                assert_int_equal(errno, EINVAL); /* it is none here */
        return setup_hot(state);
}

static void test_without_cgroups_qemu_does_it(void **state) {
        pair *p = *state;
        char folder[256] = "/nonexistent";

        assert_false(copy_throttled(p, folder));
        assert_false(is_throttled(&p->a));
        wait_progress(p, &p->a, is_slow);
        call_cancel(p, &p->a, 0);
        assert_exactly_one_runs(p, &p->a);
        call_cancel(p, &p->b, 0);
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
}

/* ---- the limit and the passes ---- */

static void test_the_limit_is_at_its_target_in_the_target_pass(void **state) {
        pair *p = *state;
        decisions all;

        skip_throttling(p);
        passes(p, 4, 6);
        blackout(p, 50);
        all = move(p);
        assert_int_equal(all.n, 6);
        assert_true(all.forced);
        /* what is not memory is taken off: 5 ms */
        for (size_t i = 3; i < all.n; i++)
                assert_int_equal(all.of[i].limit, 45);
        assert_int_equal(all.of[0].limit, 2);
}

static void test_a_calm_guest_goes_by_the_first_limit(void **state) {
        pair *p = *state;
        decisions all = move(p);

        assert_false(all.forced);
        assert_true(all.n >= 1 && all.n <= 10);
        assert_true(all.of[all.n - 1].limit <= 300);
        for (size_t i = 0; i < all.n; i++)
                assert_int_equal(all.of[i].throttle, 0);
}

/* ---- the threshold ---- */

static void expect_over_threshold(pair *p, const char *what) {
        Ferry__Shim__V1__StatusResponse *s;

        host_wait_detail(&p->a, "S_FAILED");
        s = host_status(&p->a);
        if (!strstr(s->session->reason, what) || !strstr(s->session->reason, "threshold"))
                fail_msg("not the threshold's reason: %s", s->session->reason);
        ferry__shim__v1__status_response__free_unpacked(s, NULL);
        assert_exactly_one_runs(p, &p->a);
        host_wait_detail(&p->b, "D_FAILED");
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
        /* and it moves, when it may */
        p->options.cancel_if_blackout_threshold_exceeds = false;
        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        passes(p, 2, 2);
        migrate_whole(p, &p->a, &p->b);
        assert_exactly_one_runs(p, &p->b);
}

static void test_what_would_be_forced_is_cancelled(void **state) {
        pair *p = *state;

        skip_throttling(p);
        passes(p, 2, 3);
        cancel_over(p, 50);
        session_open(p, true);
        transfer_both(p);
        expect_over_threshold(p, "would be of");
        assert_false(read_decisions(p, &p->a).forced);
}

/* The guest stands already: device state and handover alone are more than a millisecond. */
static void test_what_is_predicted_at_the_switchover_is_cancelled(void **state) {
        pair *p = *state;

        cancel_over(p, 1);
        session_open(p, true);
        transfer_both(p);
        expect_over_threshold(p, "would be of");
}

/* Nobody finalizes. */
static void test_what_lasts_too_long_is_cancelled(void **state) {
        pair *p = *state;

        cancel_over(p, 1500);
        p->options.handover = HANDOVER__HANDOVER_CALLER;
        session_open(p, true);
        transfer_both(p);
        host_wait_detail(&p->a, "S_READY");
        expect_over_threshold(p, "has come to");
}

static void test_below_the_threshold_it_goes_on(void **state) {
        pair *p = *state;

        cancel_over(p, 60000);
        assert_false(move(p).forced);
}

#define HOT(name)  cmocka_unit_test_setup_teardown(name, setup_hot, teardown)
#define CALM(name) cmocka_unit_test_setup_teardown(name, setup_calm, teardown)

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                HOT(test_it_starts_at_the_pass_and_by_the_steps_asked_for),
                HOT(test_never_when_it_is_to_be_skipped),
                HOT(test_cancel_lifts_it),
                HOT(test_a_shim_that_comes_back_lifts_it),
                HOT(test_the_limit_is_at_its_target_in_the_target_pass),
                CALM(test_a_calm_guest_goes_by_the_first_limit),
                HOT(test_what_would_be_forced_is_cancelled),
                CALM(test_what_is_predicted_at_the_switchover_is_cancelled),
                CALM(test_what_lasts_too_long_is_cancelled),
                CALM(test_below_the_threshold_it_goes_on),
                cmocka_unit_test_setup_teardown(test_without_cgroups_qemu_does_it,
                                                setup_without_cgroups, teardown),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
