/* SPDX-License-Identifier: MIT */
/* The switchover, at the source: takes what QEMU says to the policy, and its orders to QEMU. */
#include "migration/session-internal.h"

#include <stdarg.h>

/* Of a blackout, beside the memory: device state, the handover, `cont`; and the handover's round
 * trips. */
#define OVERHEAD_MS 5U
#define ROUND_TRIPS 2U

void session_note(session *s, const char *format, ...) {
        va_list ap;

        free(s->notice);
        va_start(ap, format);
        if (vasprintf(&s->notice, format, ap) < 0)
                s->notice = NULL;
        va_end(ap);
        if (s->notice)
                log_warning("session %s: %s", s->id, s->notice);
}

static void find_throttle(session *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        s->auto_converge = false;
        if (s->options.skip_throttling)
                return;
        if (vm_throttle_check(sandbox_vm(s->sb), &error) == 0) {
                session_trace_throttle(s, "cpu controller");
                return;
        }
        session_trace_throttle(s, "auto-converge");
        s->auto_converge = true;
        session_note(
                s, "the throttle is QEMU's auto-converge, and follows its steps within seconds: %s",
                ferry_error_message(&error));
}

void session_policy_options(const migration_options *o, policy_options *ret) {
        *ret = (policy_options){
                .target_ms = o->blackout_target_ms,
                .target_passes = o->target_passes,
                .maximum_passes = o->maximum_passes,
                .overhead_ms = OVERHEAD_MS,
                .skip_throttling = o->skip_throttling,
                .cancel_over_threshold = o->cancel_over_threshold,
                .postcopy = o->postcopy == POSTCOPY__POSTCOPY_ALWAYS     ? POLICY_POSTCOPY_SOON
                            : o->postcopy == POSTCOPY__POSTCOPY_FALLBACK ? POLICY_POSTCOPY_LAST
                                                                         : POLICY_POSTCOPY_NEVER,
                .threshold_ms = o->threshold_ms,
                .throttle_from_pass = o->throttle_from_pass,
                .first_throttle = o->first_throttle,
                .throttle_step = o->throttle_step,
        };
}

void session_begin_policy(session *s, vm_migrate_options *ret) {
        uint64_t round_trips = mig_link_round_trip_usec(s->link) * ROUND_TRIPS;
        const migration_options *o = &s->options;
        policy_options options;

        find_throttle(s);
        session_policy_options(o, &options);
        options.overhead_ms += (uint32_t)(round_trips / USEC_PER_MSEC);
        options.throttle_lags = s->auto_converge;
        policy_init(&s->policy, &options);
        *ret = (vm_migrate_options){
                .downtime_limit_msec = s->policy.limit_ms,
                .max_bytes_per_second = o->max_bandwidth,
                .auto_converge = s->auto_converge,
                /* a stop more in the blackout: only for what must be decided there */
                .pause_before_switchover =
                        o->cancel_over_threshold || s->n_disks > 0 || session_may_postcopy(s),
                .postcopy = session_may_postcopy(s),
        };
}

static uint64_t known(uint64_t value) {
        return value == VM_ABSENT ? 0 : value;
}

static unsigned long long kib(uint64_t bytes) {
        return bytes / 1024;
}

static void note_pass(session *s, const policy_pass *pass) {
        s->report.passes = pass->pass;
        s->dirty_rate = pass->dirty_rate;
        log_info(
                "session %s: pass %u: %llu ms, sent %llu KiB, left %llu KiB, dirtied %llu KiB/s at "
                "%llu KiB/s, throttle %u %%, limit %u ms, expected blackout %u ms",
                s->id, pass->pass, (pass->end_usec - pass->begin_usec) / USEC_PER_MSEC,
                kib(pass->sent), kib(pass->remaining), kib(pass->dirty_rate), kib(pass->bandwidth),
                pass->throttle, pass->limit_ms, pass->expected_blackout_ms);
        session_trace_pass(s, pass);
}

static void set_throttle(session *s, uint32_t percentage) {
        ferry_vm *v = sandbox_vm(s->sb);

        if (!s->auto_converge)
                (void)vm_throttle(v, percentage);
        else
                (void)vm_set_auto_converge(v, percentage > 0 ? percentage : 1, session_ignore_done,
                                           s);
}

static void fail_over_threshold(session *s, uint32_t expected_ms, const char *what) {
        session_set_reason(s, FERRY_OUT_OF_RANGE,
                           "the blackout %s %u ms, over the threshold of %u ms", what, expected_ms,
                           s->policy.options.threshold_ms);
        session_post(s, MIG_EV_TRANSFER_FAILED);
}

static void carry_out(session *s, const policy_orders *orders) {
        if (orders->cancel) {
                fail_over_threshold(s, orders->pass.expected_blackout_ms, "would be of");
                return;
        }
        if (orders->postcopy)
                session_order_postcopy(s);
        if (orders->set_limit)
                (void)vm_set_downtime_limit(sandbox_vm(s->sb), orders->limit_ms,
                                            session_ignore_done, s);
        if (orders->set_throttle) {
                set_throttle(s, orders->throttle);
                session_trace_order(s, orders->throttle > 0 ? "throttle" : "throttle lifted");
        }
        if (orders->set_limit && orders->forced) {
                log_info("session %s: no pass is left: the switchover is forced", s->id);
                session_trace_order(s, "forced");
        }
}

static policy_sample sample_of(const session *s, const vm_migration_info *info) {
        return (policy_sample){
                .usec = s->look_usec,
                .total = info->ram_total,
                .processed = known(info->ram_processed),
                .remaining = known(info->ram_remaining),
                .sent = known(info->ram_transferred),
        };
}

static void on_look(ferry_vm *v, int r, const ferry_error *error, const vm_migration_info *info,
                    void *userdata) {
        session *s = userdata;
        policy_sample sample;
        policy_orders orders;
        bool copying;

        if (r < 0 || !session_is_source(s) || info->ram_total == VM_ABSENT)
                return;
        copying = s->state == MIG_S_COPYING && !s->stopped_usec;
        if (!copying && !s->stopped_usec)
                return;
        sample = sample_of(s, info);
        if (copying)
                policy_step(&s->policy, &sample, &orders);
        else /* the guest may stand, and be gone, before the answer comes: the pass was the last */
                policy_stopped(&s->policy, &sample, &orders);
        if (orders.pass_ended)
                note_pass(s, &orders.pass);
        if (!copying)
                return;
        carry_out(s, &orders);
        if (s->state == MIG_S_COPYING)
                session_publish_progress(s, info);
}

void session_ask_policy(session *s, uint64_t pass, uint64_t usec) {
        s->look_usec = usec;
        if (pass == 1)
                policy_start(&s->policy, usec);
        else
                (void)vm_query_migrate(sandbox_vm(s->sb), on_look, s);
}

/* ---- the guest stands ---- */

static bool can_go_back(const session *s) {
        return s->state == MIG_S_COPYING || s->state == MIG_S_OFFERED || s->state == MIG_S_READY ||
               s->state == MIG_S_PAUSED || s->state == MIG_S_POISED;
}

static int on_blackout_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;

        s->blackout_timer = sd_event_source_disable_unref(s->blackout_timer);
        if (s->stopped_usec && can_go_back(s))
                fail_over_threshold(s, (uint32_t)((now_usec() - s->stopped_usec) / USEC_PER_MSEC),
                                    "has come to");
        return 0;
}

static void watch_blackout(session *s) {
        uint64_t end_usec =
                s->stopped_usec + s->policy.options.threshold_ms * (uint64_t)USEC_PER_MSEC;

        if (s->policy.options.cancel_over_threshold &&
            sd_event_add_time(sandbox_event(s->sb), &s->blackout_timer, CLOCK_MONOTONIC, end_usec,
                              TIMER_ACCURACY_USEC, on_blackout_timer, s) < 0)
                log_error("session %s: no timer", s->id);
}

static void switchover_failed(session *s, const char *what, const ferry_error *error) {
        session_set_reason_from(s, what, error);
        session_post(s, MIG_EV_TRANSFER_FAILED);
}

static void on_continued(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r < 0 && r != -ECANCELED && s->state == MIG_S_COPYING)
                switchover_failed(s, "QEMU did not go on with the switchover", error);
}

static void on_rest(ferry_vm *v, int r, const ferry_error *error, const vm_migration_info *info,
                    void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;
        uint32_t expected_ms;

        if (r == -ECANCELED || s->state != MIG_S_COPYING)
                return;
        if (r < 0) {
                switchover_failed(s, "QEMU did not say what is left to send", error);
                return;
        }
        if (s->policy.bandwidth <= 0) { /* all of it was one pass, that QEMU did not look behind */
                policy_sample sample = sample_of(s, info);
                policy_orders orders;

                sample.usec = s->stopped_usec;
                policy_stopped(&s->policy, &sample, &orders);
        }
        if (!policy_may_go_on(&s->policy, now_usec() - s->stopped_usec, known(info->ram_remaining),
                              &expected_ms)) {
                fail_over_threshold(s, expected_ms, "would be of");
                return;
        }
        log_info("session %s: expected blackout %u ms: it goes on", s->id, expected_ms);
        watch_blackout(s);
        r = vm_migrate_continue(v, on_continued, s);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "migrate-continue");
                switchover_failed(s, "QEMU did not go on with the switchover", &own);
        }
}

/* pause-before-switchover: QEMU waits for us to say that it may go on. */
void session_at_switchover(session *s) {
        if (s->n_disks > 0)
                session_finish_disks(s);
        else
                session_go_on_switching(s);
}

void session_go_on_switching(session *s) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        int r;

        if (s->postcopy) { /* what is left is not waited for */
                watch_blackout(s);
                session_post(s, MIG_EV_PAUSED);
                return;
        }
        r = vm_query_migrate(sandbox_vm(s->sb), on_rest, s);

        if (r < 0) {
                ferry_error_set_errno(&own, r, "query-migrate");
                switchover_failed(s, "QEMU did not say what is left to send", &own);
        }
}

/* The copy is over, one way or the other. A guest that has gone takes its throttle along, and so
 * does one that was let go of. */
void session_end_switchover(session *s) {
        s->blackout_timer = sd_event_source_disable_unref(s->blackout_timer);
        session_end_stall_watch(s);
        if (sandbox_vm(s->sb) && sandbox_get_vm_state(s->sb) == SANDBOX_VM_RUNNING)
                vm_throttle_end(sandbox_vm(s->sb));
}
