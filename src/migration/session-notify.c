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

void session_publish(session *s, notification_entry *entry) {
        if (s->notifications && notifications_publish(s->notifications, entry) < 0)
                log_warning("session %s: a notification could not be kept", s->id);
}

void session_publish_phase(session *s, Phase phase, PhaseState state) {
        session_publish(s, &(notification_entry){ .phase = phase, .state = state });
}

void session_publish_blackout(session *s) {
        session_publish(s, &(notification_entry){
                                   .phase = PHASE__PHASE_BLACKOUT_EXITED,
                                   .state = PHASE_STATE__PHASE_STATE_SUCCESS,
                                   .has_blackout = s->report.blackout_usec > 0,
                                   .blackout_usec = s->report.blackout_usec,
                                   .blackout_stop_usec = s->stopped_wall_usec,
                           });
}

void session_publish_end(session *s, Phase phase, PhaseState state) {
        session_publish(
                s, &(notification_entry){
                           .phase = phase, .state = state, .reason = s->reason, .code = s->code });
}

/* Once a session, whatever follows. */
void session_publish_failure(session *s) {
        PhaseState state;

        if (s->failed_told)
                return;
        s->failed_told = true;
        if (s->guest_initiated)
                state = PHASE_STATE__PHASE_STATE_GUEST_INITIATED_CANCELLATION;
        else if (session_is_source(s))
                state = PHASE_STATE__PHASE_STATE_SOURCE_FAILED;
        else
                state = PHASE_STATE__PHASE_STATE_DESTINATION_FAILED;
        session_publish_end(s, PHASE__PHASE_FAILED, state);
}

void session_publish_cancelled(session *s) {
        if (s->failed_told)
                return;
        s->failed_told = true;
        s->code = FERRY_CANCELLED;
        if (!s->reason)
                s->reason = strdup("cancelled");
        session_publish_end(s, session_is_source(s) ? PHASE__PHASE_FAILED : PHASE__PHASE_DONE,
                            PHASE_STATE__PHASE_STATE_CANCELLED);
}

/* Once too: a RESUME of what runs already is no second recovery. */
void session_publish_recovery(session *s) {
        if (s->recovery_told)
                return;
        s->recovery_told = true;
        if (sandbox_vm(s->sb))
                session_publish_phase(s, PHASE__PHASE_RECOVERY_DONE,
                                      PHASE_STATE__PHASE_STATE_SUCCESS);
        else
                session_publish_end(s, PHASE__PHASE_RECOVERY_DONE,
                                    PHASE_STATE__PHASE_STATE_RECOVERY_FAILED);
}
