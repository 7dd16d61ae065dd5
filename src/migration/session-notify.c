/* SPDX-License-Identifier: MIT */
/* What subscribers hear, and why something failed. */
#include "migration/session-internal.h"

#include <stdarg.h>

void session_set_reason(session *s, ferry_code code, const char *format, ...) {
        va_list ap;

        if (s->reason) /* the first cause is the one that counts */
                return;
        va_start(ap, format);
        if (vasprintf(&s->reason, format, ap) < 0)
                s->reason = NULL;
        va_end(ap);
        s->code = (int)code;
        /* it travels as a protobuf string, and parts of it may come from a peer */
        for (char *c = s->reason; c && *c; c++)
                if (*c < ' ' || *c > '~')
                        *c = *c == '\n' ? ' ' : '?';
        log_warning("session %s: %s", s->id, s->reason ? s->reason : "out of memory");
}

void session_set_reason_from(session *s, const char *what, const ferry_error *error) {
        session_set_reason(s, error && error->code ? error->code : FERRY_INTERNAL, "%s: %s", what,
                           ferry_error_message(error));
}

void session_note_cause(session *s, journal_cause_kind kind) {
        int r;

        if (s->failed_told) /* the first cause is what was told */
                return;
        r = journal_set_cause(s->journal, kind, s->code, s->reason ? s->reason : "");
        if (r < 0)
                log_warning("session %s: why it ends is not in the journal: %s", s->id,
                            strerror(-r));
}

void session_take_cause(session *s, const journal_cause *cause) {
        if (cause->kind == JOURNAL_CAUSE_NONE)
                return;
        s->guest_initiated = cause->kind == JOURNAL_CAUSE_GUEST;
        s->was_cancelled = cause->kind == JOURNAL_CAUSE_CANCELLED;
        if (*cause->reason)
                session_set_reason(s, (ferry_code)cause->code, "%s", cause->reason);
}

bool session_publish(session *s, notification_entry *entry) {
        if (s->notifications && notifications_publish(s->notifications, entry) == 0)
                return true;
        log_warning("session %s: a notification could not be kept", s->id);
        return false;
}

void session_publish_phase(session *s, Phase phase, PhaseState state) {
        session_publish(s, &(notification_entry){ .phase = phase, .state = state });
}

void session_publish_blackout(session *s) {
        if (s->blackout_told)
                return;
        s->blackout_told = session_publish(s, &(notification_entry){
                                                      .phase = PHASE__PHASE_BLACKOUT_EXITED,
                                                      .state = PHASE_STATE__PHASE_STATE_SUCCESS,
                                                      .has_blackout = s->report.blackout_usec > 0,
                                                      .blackout_usec = s->report.blackout_usec,
                                                      .blackout_stop_usec = s->stopped_wall_usec,
                                              });
}

/* What was not kept is not told: it is tried again when the same is to be told again. */
static void tell_once(session *s, bool *told, Phase phase, PhaseState state, bool with_reason) {
        notification_entry entry = { .phase = phase, .state = state };

        if (with_reason) {
                entry.reason = s->reason;
                entry.code = s->code;
        }
        if (!*told)
                *told = session_publish(s, &entry);
}

void session_publish_done(session *s) {
        tell_once(s, &s->done_told, PHASE__PHASE_DONE, PHASE_STATE__PHASE_STATE_SUCCESS, false);
}

/* One of the two, once a session, whatever follows. */
void session_publish_failure(session *s) {
        PhaseState state;

        if (s->was_cancelled) { /* by a shim before this one */
                session_publish_cancelled(s);
                return;
        }
        session_note_cause(s, s->guest_initiated ? JOURNAL_CAUSE_GUEST : JOURNAL_CAUSE_FAILURE);
        if (s->guest_initiated)
                state = PHASE_STATE__PHASE_STATE_GUEST_INITIATED_CANCELLATION;
        else if (session_is_source(s))
                state = PHASE_STATE__PHASE_STATE_SOURCE_FAILED;
        else
                state = PHASE_STATE__PHASE_STATE_DESTINATION_FAILED;
        tell_once(s, &s->failed_told, PHASE__PHASE_FAILED, state, true);
}

void session_publish_cancelled(session *s) {
        if (s->failed_told)
                return;
        s->code = FERRY_CANCELLED;
        if (!s->reason)
                s->reason = strdup("cancelled");
        session_note_cause(s, JOURNAL_CAUSE_CANCELLED);
        tell_once(s, &s->failed_told,
                  session_is_source(s) ? PHASE__PHASE_FAILED : PHASE__PHASE_DONE,
                  PHASE_STATE__PHASE_STATE_CANCELLED, true);
}

/* Each once too: a RESUME of what runs already is no second recovery, and a rollback that fails is
 * tried again every two seconds. */
void session_publish_recovery(session *s) {
        if (sandbox_vm(s->sb))
                tell_once(s, &s->recovery_told, PHASE__PHASE_RECOVERY_DONE,
                          PHASE_STATE__PHASE_STATE_SUCCESS, false);
        else
                session_publish_no_recovery(s);
}

void session_publish_no_recovery(session *s) {
        if (!s->recovery_told)
                tell_once(s, &s->no_recovery_told, PHASE__PHASE_RECOVERY_DONE,
                          PHASE_STATE__PHASE_STATE_RECOVERY_FAILED, true);
}
