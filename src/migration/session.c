/* SPDX-License-Identifier: MIT */
/*
 * Everything that happens becomes an event: session_post() takes it to the table, runs the cell's
 * action, then tries the waiting calls again. An action may post more events; they queue behind, so
 * that a step is never entered twice. An answer of the VM's that comes when the session has moved
 * on is recognised by the state, and dropped.
 */
#include <poll.h>

#include "migration/session-internal.h"
#include "relay/frame.h"

#define GREETING_USEC    (10 * USEC_PER_SEC)
#define DRAIN_USEC       (1 * USEC_PER_SEC)
#define RETRY_USEC       (2 * USEC_PER_SEC)
#define CALLER_WAIT_USEC (60 * USEC_PER_SEC)

/* ---- timers ---- */

void session_stop_timer(session *s) {
        s->timer = sd_event_source_disable_unref(s->timer);
        s->timer_event = _MIG_EVENT_MAX;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;
        mig_event event = s->timer_event;

        session_stop_timer(s);
        switch ((int)event) {
        case MIG_EV_SOCKET_TIMEOUT:
                session_set_reason(s, FERRY_DEADLINE_EXCEEDED,
                                   "no socket came in time (CreateDuplicateSocket)");
                break;
        case MIG_EV_LINK_LOST:
                session_set_reason(s, FERRY_DEADLINE_EXCEEDED,
                                   "the other shim did not answer the hello");
                break;
        case MIG_EV_ROLLBACK_FAILED:
                session_set_reason(s, FERRY_DEADLINE_EXCEEDED,
                                   "QEMU did not end the migration in time");
                break;
        default:
                session_set_reason(
                        s, FERRY_DEADLINE_EXCEEDED,
                        s->state == MIG_S_READY || s->state == MIG_S_POISED
                                ? "nobody finalized in time; the guest was stopped all the while"
                        : s->state == MIG_S_COMMITTED
                                ? "the destination did not take the guest"
                                : "the destination did not say that it is ready");
        }
        session_post(s, event);
        return 0;
}

/* One at a time: it belongs to the state. */
void session_start_timer(session *s, uint64_t usec, mig_event event) {
        session_stop_timer(s);
        s->timer_event = event;
        if (sd_event_add_time_relative(sandbox_event(s->sb), &s->timer, CLOCK_MONOTONIC, usec,
                                       TIMER_ACCURACY_USEC, on_timer, s) < 0)
                log_error("session %s: no timer", s->id);
}

/* ---- the session's own life ---- */

static void greet(session *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) uint8_t *options = NULL;
        size_t n_options = 0;
        mig_link_identity identity = { .source = session_is_source(s), .session_id = s->id };
        int r;

        s->began_usec = now_usec();
        notifications_set_start(s->notifications, wall_usec());
        if (s->options_message) {
                n_options = initialize_options__get_packed_size(s->options_message);
                options = malloc(n_options + 1);
                if (options)
                        initialize_options__pack(s->options_message, options);
                else
                        n_options = 0;
        }
        memcpy(identity.secret, s->secret, DIGEST_SIZE);
        memcpy(identity.state_digest, s->state_digest, DIGEST_SIZE);
        identity.options = options;
        identity.n_options = n_options;
        if (migration_options_want_relay(&s->options))
                identity.relay_version = RELAY_VERSION;
        session_start_timer(s, session_limit_usec(s, GREETING_USEC), MIG_EV_LINK_LOST);
        identity.encryption = s->options.encryption;
        r = session_greet_all(s, &identity, &error);
        explicit_bzero(&identity, sizeof(identity));
        if (r < 0) {
                session_set_reason(s, (ferry_code)error.code, "%s", ferry_error_message(&error));
                session_post(s, MIG_EV_TRANSFER_FAILED);
        }
}

void session_end_notifications(session *s) {
        s->notifications = notifications_close(s->notifications);
}

static void session_clear(session *s) {
        session_stop_timer(s);
        s->progress_timer = sd_event_source_disable_unref(s->progress_timer);
        session_end_switchover(s);
        s->retry_timer = sd_event_source_disable_unref(s->retry_timer);
        s->rejoin_timer = sd_event_source_disable_unref(s->rejoin_timer);
        s->again_timer = sd_event_source_disable_unref(s->again_timer);
        s->switch_timer = sd_event_source_disable_unref(s->switch_timer);
        session_trace_end(s);
        session_close_link(s);
        session_drop_spare(s);
        session_drop_guest(s);
        session_drop_disks(s);
        session_drop_memory_check(s);
        s->notifications = notifications_close(s->notifications);
        if (s->options_message)
                initialize_options__free_unpacked(s->options_message, NULL);
        s->options_message = NULL;
        s->imported = migration_state_free(s->imported);
        if (s->exported)
                explicit_bzero(s->exported, s->n_exported);
        free(s->exported);
        s->exported = NULL;
        s->n_exported = 0;
        explicit_bzero(s->secret, sizeof(s->secret));
        free(s->reason);
        s->reason = NULL;
        s->code = 0;
        free(s->notice);
        s->notice = NULL;
        s->id[0] = '\0';
        s->is_reserved = s->had_socket = s->rejoining = s->peer_lost = false;
        s->was_cancelled = false;
        s->guest_initiated = s->refused = s->query_under_way = false;
        s->setup_told = s->failed_told = s->done_told = s->blackout_told = false;
        s->postcopy = s->switching = s->stream_broke = s->is_whole = s->offer_came = false;
        s->no_way_back = s->cont_accepted = false;
        free(s->early_offer);
        s->early_offer = NULL;
        s->n_early_offer = 0;
        s->recovery_told = s->no_recovery_told = false;
        s->began_usec = s->stopped_usec = s->completed_usec = s->offered_usec = 0;
        s->round_trip_usec = s->go_usec = s->stopped_for_usec = s->resumed_usec = 0;
        s->stopped_wall_usec = 0;
        s->rate = s->rate_sent = s->rate_usec = s->dirty_rate = 0;
        s->look_usec = 0;
        s->auto_converge = false;
        s->n_tap_tries = 0;
        s->report = (session_report){ .total_usec = 0 };
        migration_options_init(&s->options);
}

/* A session that ended before anything was decided leaves a verdict all the same. */
static void settle_verdict(session *s) {
        const journal_session *js = journal_current(s->journal);
        int r;

        if (!js || (js->mark != JOURNAL_OPEN && js->mark != JOURNAL_COMPLETED))
                return;
        /* a copy of before the reboot may have run: nobody can say that it never will; and a source
         * whose VM has ended did not run on: the destination may have the last copy */
        if (js->source ? !sandbox_vm(s->sb) : !js->this_boot)
                return;
        r = journal_set(s->journal, js->source ? JOURNAL_RAN_AGAIN : JOURNAL_DECLINED, false);
        if (r < 0)
                log_error("session %s: journal: %s", s->id, strerror(-r));
}

static void forget(session *s) {
        int r;

        settle_verdict(s);
        r = journal_end(s->journal);
        if (r < 0)
                log_error("session %s: journal: %s", s->id, strerror(-r));
        session_clear(s);
}

/* The subscribers stay, for the next try. */
static void undo_export(session *s) {
        notifications *history = TAKE_PTR(s->notifications);
        char id[sizeof(s->id)];

        strcpy(id, s->id);
        session_clear(s);
        strcpy(s->id, id);
        s->notifications = history;
        s->is_reserved = true;
}

static void act(session *s, mig_action action) {
        switch (action) {
        case MIG_ACT_NONE:
                break;
        case MIG_ACT_RESERVE: /* the call did it, with its arguments */
                break;
        case MIG_ACT_UNDO_EXPORT:
                undo_export(s);
                break;
        case MIG_ACT_EXPORT:
                session_start_export(s);
                break;
        case MIG_ACT_START_QEMU:
                session_start_qemu(s);
                break;
        case MIG_ACT_WAIT_SOCKET:
        case MIG_ACT_ADOPT: /* the call did it, with its arguments */
                break;
        case MIG_ACT_GREET:
                session_stop_timer(s);
                greet(s);
                break;
        case MIG_ACT_REJOIN:
                session_rejoin(s);
                break;
        case MIG_ACT_START_COPY:
                session_stop_timer(s);
                session_start_copy(s);
                break;
        case MIG_ACT_START_LOAD:
                session_stop_timer(s);
                session_start_load(s);
                break;
        case MIG_ACT_OFFER:
                s->link_is_ours = true;
                /* should our QEMU die now, the other copy is the only one: a restart must know */
                if (journal_set(s->journal, JOURNAL_COMPLETED, false) < 0)
                        log_error("session %s: journal", s->id);
                session_offer(s);
                mig_link_listen(s->link);
                if (s->stopped_usec)
                        s->report.stop_to_completed_usec = s->completed_usec - s->stopped_usec;
                break;
        case MIG_ACT_SAY_OFFER:
                s->offered_usec = now_usec();
                session_say_offer(s);
                break;
        case MIG_ACT_PROPOSE:
                session_propose(s);
                break;
        case MIG_ACT_LISTEN:
                s->link_is_ours = true;
                session_read_memory(s);
                mig_link_listen(s->link);
                session_take_early_offer(s);
                break;
        case MIG_ACT_SAY_READY:
                session_say_ready(s);
                if (s->options.handover == HANDOVER__HANDOVER_CALLER)
                        session_publish_done(s);
                break;
        case MIG_ACT_MARK_READY:
                s->round_trip_usec = now_usec() - s->offered_usec;
                s->report.handover_usec = s->round_trip_usec;
                if (s->options.handover == HANDOVER__HANDOVER_DIRECT) {
                        session_post(s, MIG_EV_DUE);
                        break;
                }
                if (!s->done_told) /* else said again, on another connection */
                        session_publish_phase(s, PHASE__PHASE_OFFLINE_DONE,
                                              PHASE_STATE__PHASE_STATE_SUCCESS);
                session_publish_done(s);
                session_start_timer(s, session_limit_usec(s, CALLER_WAIT_USEC),
                                    MIG_EV_WAIT_TIMEOUT);
                break;
        case MIG_ACT_SAY_WANT:
                session_say_want(s);
                break;
        case MIG_ACT_HAND_OVER:
                session_hand_over(s);
                if (s->options.handover == HANDOVER__HANDOVER_DIRECT)
                        session_publish_phase(s, PHASE__PHASE_OFFLINE_DONE,
                                              PHASE_STATE__PHASE_STATE_SUCCESS);
                if (sandbox_vm(s->sb))
                        (void)vm_query_migrate(sandbox_vm(s->sb), session_on_final_info, s);
                break;
        case MIG_ACT_SAY_GO:
                session_say_go(s);
                break;
        case MIG_ACT_TAKE:
                session_take(s);
                break;
        case MIG_ACT_SAY_TAKEN:
                session_say_taken(s);
                break;
        case MIG_ACT_SWITCH:
                session_switch(s);
                break;
        case MIG_ACT_TAKE_OVER:
                session_take_over(s);
                break;
        case MIG_ACT_TELL_RUNS:
                session_tell_runs(s);
                break;
        case MIG_ACT_SAY_RUNS:
                session_say_runs(s);
                break;
        case MIG_ACT_HEAR_RUNS:
                session_hear_runs(s);
                break;
        case MIG_ACT_CONFIRM:
                session_confirm(s);
                break;
        case MIG_ACT_SAY_RUNNING:
                session_say_running(s);
                break;
        case MIG_ACT_RELEASE:
                session_release(s);
                break;
        case MIG_ACT_SAY_REFUSED:
                if (sandbox_vm(s->sb)) /* one that cannot run it does not refuse */
                        session_say_refused(s);
                break;
        case MIG_ACT_TAKE_BACK: {
                int r = journal_set(s->journal, JOURNAL_OWNER, true);

                if (r < 0) {
                        session_set_reason(s, FERRY_INTERNAL, "journal: %s", strerror(-r));
                        session_post(s, MIG_EV_ROLLBACK_FAILED);
                        break;
                }
                session_roll_back(s);
                break;
        }
        case MIG_ACT_ROLL_BACK:
                session_roll_back(s);
                break;
        case MIG_ACT_DISCARD:
                session_discard(s);
                break;
        case MIG_ACT_SAY_DECLINED:
                session_say_declined(s);
                break;
        case MIG_ACT_SAY_LOST:
                session_say_lost(s);
                break;
        case MIG_ACT_FAIL:
                session_stop_timer(s);
                session_close_link(s);
                break;
        case MIG_ACT_SETTLE:
                break;
        case MIG_ACT_KILL:
                if (sandbox_discard_vm(s->sb, session_on_discarded, s) < 0)
                        session_post(s, MIG_EV_DISCARDED);
                break;
        case MIG_ACT_FORGET:
                forget(s);
                break;
        case _MIG_ACTION_MAX:
                break;
        }
}

/* What subscribers hear of a state as such, however it was reached. */
static void announce_state(session *s, mig_state was, mig_event event) {
        switch ((int)s->state) {
        case MIG_S_RECOVERING:
                session_publish_failure(s);
                break;
        case MIG_D_FAILING:
                if (s->refused) /* nothing failed here */
                        session_publish_cancelled(s);
                else
                        session_publish_failure(s);
                break;
        case MIG_S_CANCELLING:
        case MIG_D_CANCELLING:
                if (was != MIG_S_FAILED)
                        session_publish_cancelled(s);
                break;
        case MIG_S_RESUMING: /* a RESUME before the handover is the caller's cancel */
                if (was == MIG_S_OFFERED || was == MIG_S_READY || was == MIG_S_PAUSED ||
                    was == MIG_S_POISED)
                        session_publish_cancelled(s);
                break;
        case MIG_S_FAILED:
                session_publish_failure(s);
                if (was == MIG_S_RECOVERING && event == MIG_EV_RAN_AGAIN)
                        session_publish_recovery(s);
                else if (event == MIG_EV_ROLLBACK_FAILED)
                        session_publish_no_recovery(s);
                break;
        case MIG_S_CANCELLED:
        case MIG_S_RESUMED:
                session_publish_recovery(s);
                break;
        case MIG_D_LOST:
                session_publish_failure(s);
                break;
        case MIG_S_RELEASED: /* not all of the memory had gone over */
                if (was == MIG_S_FEEDING || was == MIG_S_HANDED)
                        session_publish_failure(s);
                break;
        default:
                break;
        }
}

/* A connection that has no more to say. A destination that declined keeps its own: a GO may be on
 * the way, and must be answered. */
static void close_settled_link(session *s) {
        switch ((int)s->state) {
        case MIG_S_CANCELLED:
        case MIG_S_RESUMED:
        case MIG_S_FAILED:
        case MIG_S_GIVEN_UP:
        case MIG_S_ENDED:
        case MIG_D_FINALIZED:
                session_close_link(s);
                break;
        default:
                break;
        }
}

static void step(session *s, mig_event event) {
        mig_state was = s->state;
        const mig_cell *cell = mig_step(&s->state, event);
        char id[sizeof(s->id)];

        if (cell->verdict != MIG_OK && cell->verdict != MIG_START) {
                log_debug("session %s: %s -%s-> ignored", s->id, mig_state_get(was)->name,
                          mig_event_name(event));
                return;
        }
        strcpy(id, s->id);
        session_trace_step(s, was, event);
        act(s, cell->action); /* the blackout first, the words after */
        log_info("session %s: %s -%s-> %s / %s", *id ? id : s->id, mig_state_get(was)->name,
                 mig_event_name(event), mig_state_get(s->state)->name,
                 mig_action_name(cell->action));
        if (s->state != was)
                announce_state(s, was, event);
        if (s->state != MIG_S_COPYING && s->state != MIG_S_OFFERED && s->state != MIG_S_READY &&
            s->state != MIG_S_PAUSED && s->state != MIG_S_POISED)
                session_end_switchover(s);
        if (s->state != MIG_S_EXPORTING)
                session_drop_export(s);
        if (s->state != was) {
                close_settled_link(s);
                session_trace_settled(s);
        }
        if (event == MIG_EV_ROLLBACK_FAILED)
                session_complete_all_with_reason(s);
        /* nobody need come to try it again */
        if (event == MIG_EV_ROLLBACK_FAILED && sandbox_vm(s->sb) && !s->no_way_back)
                session_start_timer(s, RETRY_USEC, MIG_EV_RETRY);
        sandbox_changed(s->sb);
}

void session_post(session *s, mig_event event) {
        if (s->n_queue == QUEUE_MAX) {
                log_error("session %s: event %s dropped", s->id, mig_event_name(event));
                return;
        }
        s->queue[s->n_queue++] = event;
        if (s->stepping)
                return;
        s->stepping = true;
        while (s->n_queue > 0) {
                mig_event next = s->queue[0];

                memmove(s->queue, s->queue + 1, --s->n_queue * sizeof(s->queue[0]));
                step(s, next);
                if (s->n_queue == 0)
                        session_retry_waiters(s);
        }
        s->stepping = false;
        session_retire_if_settled(s);
}

/* ---- looking ---- */

bool session_is_open(const session *s) {
        return mig_state_get(s->state)->side != MIG_SIDE_NONE;
}

void session_get_status(const session *s, session_status *ret) {
        const journal_session *js = journal_current(s->journal);
        const mig_state_info *info = mig_state_get(s->state);
        bool handed = s->state == MIG_S_HANDED || s->state == MIG_S_SPENT ||
                      s->state == MIG_S_SERVING || s->state == MIG_D_TAKEN ||
                      s->state == MIG_D_STARTING;

        *ret = (session_status){
                .state = s->state,
                .session_id = s->id,
                .reason = s->reason,
                .notice = s->notice,
                .owner = info->owner,
                .wants_connection = session_wants_connection(s),
                .undecided = info->owner == MIG_OWNER_UNKNOWN || (handed && !s->link),
                .report = &s->report,
        };
        /* `declined` is true once nothing is left to run */
        if (js && !(js->mark == JOURNAL_DECLINED && sandbox_vm(s->sb)) &&
            journal_record(js, ret->record) < 0)
                ret->record[0] = '\0';
}

const journal_session *session_tombstones(const session *s, size_t *ret_n) {
        return journal_sessions(s->journal, ret_n);
}

/* ---- birth, recovery, end ---- */

int session_new(sandbox *sb, session **ret, ferry_error *reterr) {
        _cleanup_(session_freep) session *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return ferry_error_set_errno(reterr, -ENOMEM, "session");
        s->sb = sb;
        s->stream_fd = s->spare_ours = s->spare_theirs = -EBADF;
        migration_options_init(&s->options);
        r = journal_open(sandbox_dir_fd(sb), &s->journal, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

session *session_free(session *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (!s)
                return NULL;
        ferry_error_set(&error, FERRY_UNAVAILABLE, -ESHUTDOWN, "the shim ends");
        while (s->n_waiters > 0)
                session_complete(s, 0, -ESHUTDOWN, &error);
        if (s->importing)
                s->importing->reply(-ESHUTDOWN, &error, s->importing->userdata);
        session_drop_import(s);
        session_drop_export(s);
        session_clear(s);
        if (s->parting) { /* the last words of one that ends */
                struct pollfd p = { .fd = relay_get_fd(s->parting), .events = POLLIN };

                (void)poll(&p, 1, DRAIN_USEC / USEC_PER_MSEC);
                session_end_parting(s, false);
        }
        session_end_answer(s);
        s->waiter_timer = sd_event_source_disable_unref(s->waiter_timer);
        trace_done(&s->trace);
        journal_free(s->journal);
        tls_tunnel_drain_all(DRAIN_USEC);
        free(s);
        return NULL;
}
