/* SPDX-License-Identifier: MIT */
/* The way back at the source: the migration ends, the journal says so, the guest runs. */
#include "migration/session-internal.h"

#define CANCEL_WAIT_USEC (10 * USEC_PER_SEC)
#define ROLLBACK_RETRIES 100
#define TAP_TRIES        3

/* ---- rollback, at the source ---- */

static void rollback_failed(session *s, const char *what, int r, const ferry_error *error) {
        if (r == -ENOTCONN) { /* QEMU's end, if it is that, says so in a moment */
                session_start_timer(s, CANCEL_WAIT_USEC, MIG_EV_ROLLBACK_FAILED);
                return;
        }
        if (s->code == FERRY_CANCELLED) { /* that is what was asked for, not what went wrong */
                free(s->reason);
                s->reason = NULL;
        }
        session_set_reason_from(s, what, error);
        session_post(s, MIG_EV_ROLLBACK_FAILED);
}

bool session_is_rolling_back(const session *s) {
        return s->state == MIG_S_CANCELLING || s->state == MIG_S_RECOVERING ||
               s->state == MIG_S_RESUMING;
}

static void on_rolled_back(ferry_vm *v, int r, const ferry_error *error, void *userdata);

/* A guest that stands for ever is lost; one without its network is not. */
static int let_run(session *s, ferry_vm *v) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        int r = vm_tap_attach(v, &own);

        if (r == 0)
                return vm_cont(v, on_rolled_back, s);
        if (s->n_tap_tries < TAP_TRIES && ++s->n_tap_tries < TAP_TRIES) {
                rollback_failed(s, "resume the guest", r, &own);
                return 0;
        }
        log_error("session %s: the guest runs on without its network: %s", s->id,
                  ferry_error_message(&own));
        session_note(s, "the guest runs on without its network, until it can be had: %s",
                     ferry_error_message(&own));
        sandbox_await_network(s->sb);
        return vm_cont_as_it_is(v, on_rolled_back, s);
}

static int on_rollback_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;
        int r;

        s->retry_timer = sd_event_source_disable_unref(s->retry_timer);
        if (!session_is_rolling_back(s) || !sandbox_vm(s->sb))
                return 0;
        r = let_run(s, sandbox_vm(s->sb));
        if (r < 0) {
                ferry_error_set_errno(&own, r, "cont");
                rollback_failed(s, "resume the guest", r, &own);
        }
        return 0;
}

static void on_rolled_back(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED || !session_is_rolling_back(s))
                return;
        /* QEMU says `completed` a moment before it takes a cont ("Migration is not finalized yet")
         */
        if (r == -EREMOTEIO && ++s->n_cont_tries <= ROLLBACK_RETRIES &&
            sd_event_add_time_relative(sandbox_event(s->sb), &s->retry_timer, CLOCK_MONOTONIC,
                                       CONT_RETRY_USEC, TIMER_ACCURACY_USEC, on_rollback_retry,
                                       s) >= 0) {
                log_info("session %s: cont: %s; again", s->id, ferry_error_message(error));
                return;
        }
        if (r < 0) {
                rollback_failed(s, "resume the guest", r, error);
                return;
        }
        (void)vm_announce_self(v, ANNOUNCE_ROUNDS, session_ignore_done, s);
        session_post(s, MIG_EV_RAN_AGAIN);
}

static void on_rollback_status(ferry_vm *v, int r, const ferry_error *error,
                               const vm_status *status, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;

        if (r == -ECANCELED || !session_is_rolling_back(s))
                return;
        if (r < 0) {
                rollback_failed(s, "ask QEMU for its status", r, error);
                return;
        }
        if (status->running) {
                /* QEMU 10 lets a guest run that waited before a post-copy's switchover; the verdict
                 * of one that was taken back is not the caller's Cleanup to write */
                if (journal_current(s->journal) &&
                    journal_current(s->journal)->mark == JOURNAL_OWNER &&
                    journal_set(s->journal, JOURNAL_RAN_AGAIN, true) < 0)
                        log_error("session %s: journal", s->id);
                session_post(s, MIG_EV_RAN_AGAIN);
                return;
        }
        /* the copy at the destination is stale from here on: that comes first */
        r = journal_set(s->journal, JOURNAL_RAN_AGAIN, true);
        if (r == 0)
                r = let_run(s, v);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "journal or cont");
                rollback_failed(s, "resume the guest", r, &own);
        }
}

static void query_rollback_status(session *s) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        int r = vm_query_status(sandbox_vm(s->sb), on_rollback_status, s);

        if (r < 0) {
                ferry_error_set_errno(&own, r, "query-status");
                rollback_failed(s, "ask QEMU for its status", r, &own);
        }
}

void session_cancel_is_over(session *s) {
        if (s->timer_event == MIG_EV_ROLLBACK_FAILED) {
                session_stop_timer(s);
                query_rollback_status(s);
        } else
                s->cancel_is_over = true;
}

static void on_rollback_migration(ferry_vm *v, int r, const ferry_error *error,
                                  const vm_migration_info *info, void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED || !session_is_rolling_back(s))
                return;
        if (r < 0) {
                rollback_failed(s, "ask QEMU for the migration", r, error);
                return;
        }
        switch (info->status) {
        case VM_MIGRATION_NONE:
        case VM_MIGRATION_CANCELLED:
        case VM_MIGRATION_COMPLETED:
        case VM_MIGRATION_FAILED:
                query_rollback_status(s);
                break;
        case VM_MIGRATION_POSTCOPY_ACTIVE:
        case VM_MIGRATION_POSTCOPY_PAUSED:
        case VM_MIGRATION_POSTCOPY_RECOVER_SETUP:
        case VM_MIGRATION_POSTCOPY_RECOVER:
                s->no_way_back = true;
                free(s->reason);
                s->reason = NULL;
                session_set_reason(s, FERRY_DATA_LOSS,
                                   "the guest is lost: the destination gave it up after its state "
                                   "had gone there, and QEMU cannot take that back");
                session_post(s, MIG_EV_ROLLBACK_FAILED);
                break;
        case VM_MIGRATION_SETUP:
        case VM_MIGRATION_CANCELLING:
        case VM_MIGRATION_ACTIVE:
        case VM_MIGRATION_COLO:
        case VM_MIGRATION_PRE_SWITCHOVER:
        case VM_MIGRATION_DEVICE:
        case VM_MIGRATION_WAIT_UNPLUG:
        case VM_MIGRATION_UNKNOWN:
        case _VM_MIGRATION_STATUS_MAX:
                /* QEMU's event may overtake an answer that was true when it was made */
                if (s->cancel_is_over) {
                        query_rollback_status(s);
                        break;
                }
                /* on_migration says when it is over */
                session_start_timer(s, CANCEL_WAIT_USEC, MIG_EV_ROLLBACK_FAILED);
                (void)vm_migrate_cancel(v, session_ignore_done, s);
        }
}

void session_roll_back(session *s) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        ferry_vm *v = sandbox_vm(s->sb);
        int r;

        session_stop_timer(s);
        session_drop_memory_check(s);
        if (v) {
                vm_throttle_lift(v);
                vm_mirrors_drop(v);
        }
        s->n_cont_tries = 0;
        s->cancel_is_over = false;
        if (s->link_is_ours && v) /* one that cannot run it does not refuse */
                session_say_refused(s);
        if (!v) {
                session_post(s, MIG_EV_RAN_AGAIN); /* nothing is left to run */
                return;
        }
        r = vm_query_migrate(v, on_rollback_migration, s);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "query-migrate");
                rollback_failed(s, "ask QEMU for the migration", r, &own);
        }
}
