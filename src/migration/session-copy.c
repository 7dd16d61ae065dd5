/* SPDX-License-Identifier: MIT */
/* QEMU's part: the copy at the source, the load at the destination, and what the VM says. */
#include "migration/session-internal.h"

#define PROGRESS_USEC  (100 * USEC_PER_MSEC)
#define RATE_SPAN_USEC (20 * USEC_PER_MSEC)

/* ---- the copy, at the source ---- */

static uint32_t to_u32(uint64_t value) {
        return value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static uint64_t known(uint64_t value) {
        return value == VM_ABSENT ? 0 : value;
}

/* QEMU's own figure is that of its last 100 ms, and nothing at all at first. */
static uint64_t measure_rate(session *s, uint64_t sent) {
        uint64_t now = now_usec();

        if (s->rate_usec == 0)
                s->rate_usec = s->began_usec;
        if (sent > s->rate_sent && now - s->rate_usec >= RATE_SPAN_USEC) {
                uint64_t sample = (sent - s->rate_sent) * USEC_PER_SEC / (now - s->rate_usec);

                s->rate = s->rate ? (s->rate * 3 + sample * 2) / 5 : sample;
                s->rate_sent = sent;
                s->rate_usec = now;
        }
        return s->rate;
}

void session_publish_progress(session *s, const vm_migration_info *info) {
        Progress progress = PROGRESS__INIT;
        uint64_t rate, remaining;

        if (info->ram_total == VM_ABSENT) /* asked before the copy began, answered after */
                return;
        rate = measure_rate(s, known(info->ram_transferred));
        remaining = known(info->ram_remaining);
        progress.bytes_total = known(info->ram_total);
        progress.bytes_sent = known(info->ram_transferred);
        progress.bytes_remaining = remaining;
        progress.pass = s->policy.pass;
        /* QEMU's is of a second or more, which a short move has not */
        progress.dirty_bytes_per_second =
                s->dirty_rate ? s->dirty_rate : known(info->dirty_bytes_per_second);
        progress.bytes_per_second = rate;
        progress.throttle_percentage =
                s->auto_converge ? to_u32(known(info->throttle_percentage)) : s->policy.throttle;
        progress.downtime_limit_ms = s->policy.limit_ms;
        progress.expected_blackout_ms = policy_expect_ms(&s->policy, remaining);
        s->report.bytes = progress.bytes_sent;
        if (!s->setup_told) /* the first pass's event comes before `active` does */
                return;
        session_publish(s, &(notification_entry){
                                   .phase = PHASE__PHASE_TRANSFER_IN_PROGRESS,
                                   .state = PHASE_STATE__PHASE_STATE_SUCCESS,
                                   .has_progress = true,
                                   .progress = progress,
                           });
}

void session_ignore_done(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        if (r < 0 && r != -ECANCELED)
                log_debug("QEMU: %s", ferry_error_message(error));
}

/* Not while the guest stands: QEMU has better to do. */
static bool makes_progress(const session *s) {
        return (s->state == MIG_S_COPYING && !s->stopped_usec) || s->state == MIG_S_FEEDING;
}

static void on_progress_info(ferry_vm *v, int r, const ferry_error *error,
                             const vm_migration_info *info, void *userdata) {
        session *s = userdata;

        s->query_under_way = false;
        if (r == 0 && makes_progress(s))
                session_publish_progress(s, info);
}

static int on_progress_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;
        ferry_vm *v = sandbox_vm(s->sb);

        if (!makes_progress(s) || !v) {
                s->progress_timer = sd_event_source_disable_unref(s->progress_timer);
                return 0;
        }
        if (!s->query_under_way && vm_query_migrate(v, on_progress_info, s) == 0)
                s->query_under_way = true;
        (void)sd_event_source_set_time(source, now_usec() + PROGRESS_USEC);
        (void)sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

void session_on_final_info(ferry_vm *v, int r, const ferry_error *error,
                           const vm_migration_info *info, void *userdata) {
        session *s = userdata;

        if (r == 0 && session_is_open(s) && known(info->ram_transferred) > s->report.bytes)
                s->report.bytes = info->ram_transferred;
        if (r == 0 && session_is_open(s))
                s->report.blackout_bytes = known(info->downtime_bytes);
}

static void on_failure_info(ferry_vm *v, int r, const ferry_error *error,
                            const vm_migration_info *info, void *userdata) {
        _cleanup_(freep) char *below = NULL;
        const char *why = "";
        session *s = userdata;

        if (r == -ECANCELED || mig_lookup(s->state, MIG_EV_TRANSFER_FAILED)->verdict == MIG_ILLEGAL)
                return;
        below = session_connection_problem(s);
        if (below) /* QEMU only knows that its stream ended */
                why = below;
        else if (r == 0 && info->error_description)
                why = info->error_description;
        session_set_reason(s, FERRY_ABORTED, "QEMU's migration failed%s%s", why[0] ? ": " : "",
                           why);
        session_post(s, MIG_EV_TRANSFER_FAILED);
}

static void on_copy_started(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r < 0 && r != -ECANCELED && s->state == MIG_S_COPYING) {
                session_set_reason_from(s, "QEMU did not start the migration", error);
                session_post(s, MIG_EV_TRANSFER_FAILED);
        }
}

void session_start_copy(session *s) {
        if (s->n_disks > 0)
                session_start_disks(s);
        else
                session_start_memory(s);
}

void session_watch_progress(session *s) {
        s->progress_timer = sd_event_source_disable_unref(s->progress_timer);
        (void)sd_event_add_time_relative(sandbox_event(s->sb), &s->progress_timer, CLOCK_MONOTONIC,
                                         PROGRESS_USEC, TIMER_ACCURACY_USEC, on_progress_timer, s);
}

void session_start_memory(session *s) {
        vm_migrate_options options;
        int fd = -EBADF, r;

        session_begin_policy(s, &options);
        r = session_give_stream(s, &fd);
        if (r == 0)
                r = vm_migrate_out(sandbox_vm(s->sb), fd, &options, on_copy_started, s);
        if (r < 0) {
                session_set_reason(s, FERRY_INTERNAL, "start the migration: %s", strerror(-r));
                session_post(s, MIG_EV_TRANSFER_FAILED);
                return;
        }
        s->report.setup_usec = now_usec() - s->began_usec;
        session_watch_stall(s);
        session_watch_progress(s);
}

static void on_load_started(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED || s->state != MIG_D_LOADING)
                return;
        if (r < 0) {
                session_set_reason_from(s, "QEMU did not take the migration", error);
                session_post(s, MIG_EV_TRANSFER_FAILED);
                return;
        }
        s->report.setup_usec = now_usec() - s->began_usec;
        session_publish_phase(s, PHASE__PHASE_SETUP_DONE, PHASE_STATE__PHASE_STATE_SUCCESS);
}

void session_start_load(session *s) {
        int fd = -EBADF, r;

        if (!session_disks_have_sockets(s)) {
                session_post(s, MIG_EV_TRANSFER_FAILED);
                return;
        }
        r = session_give_stream(s, &fd);
        if (r == 0)
                r = vm_migrate_in(sandbox_vm(s->sb), fd, on_load_started, s);
        if (r == 0 && session_may_postcopy(s))
                session_make_spare(s);
        if (r < 0) {
                session_set_reason(s, FERRY_INTERNAL, "take the migration: %s", strerror(-r));
                session_post(s, MIG_EV_TRANSFER_FAILED);
        }
}

/* ---- what the VM says ---- */

void session_vm_stopped(session *s, uint64_t usec) {
        if (s->state != MIG_S_COPYING || s->stopped_usec)
                return;
        s->stopped_usec = usec;
        vm_throttle_lift(sandbox_vm(s->sb));
        s->stopped_wall_usec = wall_usec() - (now_usec() - usec);
        s->report.copy_usec = usec - s->began_usec;
        s->report.passes = s->policy.pass > 1 ? s->policy.pass - 1 : 1;
        session_trace_stopped(s, usec);
        session_watch_stall(s);
        session_publish_phase(s, PHASE__PHASE_BLACKOUT_STARTED, PHASE_STATE__PHASE_STATE_SUCCESS);
        /* a short copy has seen no progress yet, and its report wants a figure */
        (void)vm_query_migrate(sandbox_vm(s->sb), session_on_final_info, s);
}

void session_vm_resumed(session *s, uint64_t usec) {
        session_trace_resumed(s, usec);
        if ((s->state == MIG_D_OWNER || s->state == MIG_D_STARTING) && s->resumed_usec == 0)
                s->resumed_usec = usec;
        if (s->state == MIG_D_STARTING && s->cont_accepted)
                session_post(s, MIG_EV_CONTINUED);
        if (s->state == MIG_S_COMMITTED || s->state == MIG_S_SERVING || s->state == MIG_S_FEEDING)
                session_hold_guest(s);
        if (session_is_rolling_back(s) && s->stopped_usec && s->report.blackout_usec == 0) {
                s->report.blackout_usec = usec - s->stopped_usec;
                log_info("session %s: the guest stood for %llu us and runs on here", s->id,
                         (unsigned long long)s->report.blackout_usec);
        }
}

/* In the transfer, and until the handover: what was asked for just before the guest was stopped is
 * not in the copy. Before the transfer nothing was sent that it could make untrue. */
void session_vm_reset(session *s) {
        if (!session_is_source(s) ||
            mig_lookup(s->state, MIG_EV_TRANSFER_FAILED)->verdict == MIG_ILLEGAL)
                return;
        s->guest_initiated = true;
        session_set_reason(s, FERRY_ABORTED, "the guest was reset during the transfer");
        session_post(s, MIG_EV_TRANSFER_FAILED);
}

/* The migration's own failure may come before QEMU's end: this is the cause of both. */
void session_vm_shutdown(session *s) {
        if (mig_lookup(s->state, MIG_EV_QEMU_GONE)->verdict == MIG_ILLEGAL)
                return;
        s->guest_initiated = true;
        session_set_reason(s, FERRY_ABORTED, "the guest powered off during the migration");
        session_note_cause(s, JOURNAL_CAUSE_GUEST); /* QEMU's end is not seen yet */
}

void session_vm_pass(session *s, uint64_t pass, uint64_t usec) {
        if (s->state != MIG_S_COPYING || s->stopped_usec)
                return; /* the blackout's own sync is no pass */
        session_ask_policy(s, pass, usec);
}

static void ask_why_it_failed(session *s) {
        if (session_look_at_relay(s)) /* QEMU only knows that its stream ended */
                return;
        if (vm_query_migrate(sandbox_vm(s->sb), on_failure_info, s) < 0) {
                session_set_reason(s, FERRY_ABORTED, "QEMU's migration failed");
                session_post(s, MIG_EV_TRANSFER_FAILED);
        }
}

void session_vm_migration(session *s, vm_migration_status status, uint64_t usec) {
        bool rolling_back = s->state == MIG_S_CANCELLING || s->state == MIG_S_RECOVERING ||
                            s->state == MIG_S_RESUMING;

        session_trace_qemu(s, status, usec);
        if (session_postcopy_status(s, status))
                return;
        switch (status) {
        case VM_MIGRATION_ACTIVE:
                if (s->state == MIG_S_COPYING && !s->setup_told) {
                        s->setup_told = true;
                        session_publish(s, &(notification_entry){
                                                   .phase = PHASE__PHASE_SETUP_DONE,
                                                   .state = PHASE_STATE__PHASE_STATE_SUCCESS,
                                                   .reason = s->notice,
                                           });
                }
                break;
        case VM_MIGRATION_PRE_SWITCHOVER:
                if (s->state == MIG_S_COPYING)
                        session_at_switchover(s);
                break;
        case VM_MIGRATION_COMPLETED:
                s->completed_usec = usec;
                if (s->state == MIG_S_COPYING)
                        session_post(s, MIG_EV_COMPLETED);
                else if (s->state == MIG_D_LOADING)
                        session_loaded(s);
                else if (rolling_back)
                        session_cancel_is_over(s);
                break;
        case VM_MIGRATION_FAILED:
                s->switching = false;
                if (s->state == MIG_S_COPYING || s->state == MIG_D_LOADING ||
                    s->state == MIG_D_POISED || s->state == MIG_D_CLAIMED ||
                    s->state == MIG_D_TAKEN)
                        ask_why_it_failed(s);
                else if (rolling_back)
                        session_cancel_is_over(s);
                break;
        case VM_MIGRATION_CANCELLED:
                if (s->state == MIG_S_COPYING) {
                        session_set_reason(s, FERRY_CANCELLED, "QEMU's migration was cancelled");
                        session_post(s, MIG_EV_TRANSFER_FAILED);
                } else if (rolling_back)
                        session_cancel_is_over(s);
                break;
        case VM_MIGRATION_NONE:
        case VM_MIGRATION_SETUP:
        case VM_MIGRATION_CANCELLING:
        case VM_MIGRATION_POSTCOPY_ACTIVE:
        case VM_MIGRATION_POSTCOPY_PAUSED:
        case VM_MIGRATION_POSTCOPY_RECOVER_SETUP:
        case VM_MIGRATION_POSTCOPY_RECOVER:
        case VM_MIGRATION_COLO:
        case VM_MIGRATION_DEVICE:
        case VM_MIGRATION_WAIT_UNPLUG:
        case VM_MIGRATION_UNKNOWN:
        case _VM_MIGRATION_STATUS_MAX:
                break;
        }
}

void session_vm_gone(session *s, bool by_guest, const char *reason) {
        if (mig_lookup(s->state, MIG_EV_QEMU_GONE)->verdict == MIG_ILLEGAL)
                return;
        if (by_guest)
                session_vm_shutdown(s);
        else if (!session_look_at_relay(s))
                session_set_reason(s, FERRY_UNAVAILABLE, "QEMU has ended: %s", reason);
        session_post(s, MIG_EV_QEMU_GONE);
}
