/* SPDX-License-Identifier: MIT */
/* The session across the shim's own end. */
#include "migration/session-internal.h"

/* DONE was told before the shim ended: all was there, and it was due to finalize. */
static bool was_ready(const journal_session *js) {
        return js->source ? js->mark == JOURNAL_HANDED || js->mark == JOURNAL_DONE
                          : js->mark == JOURNAL_OWNER || js->mark == JOURNAL_RUNNING;
}

/* Who subscribes now was told before, by a shim that is gone, or never: it is told again. */
static void announce_as_found(session *s) {
        switch ((int)s->state) {
        case MIG_S_FAILED:
        case MIG_D_LOST:
                session_publish_failure(s);
                break;
        case MIG_D_RUNNING:
                session_publish_blackout(s);
                session_publish_done(s);
                break;
        default:
                break;
        }
}

int session_recover(session *s, const mig_found *found, ferry_error *reterr) {
        const journal_session *js = journal_current(s->journal);
        migration_options options;
        mig_event event;
        int r;

        if (!js)
                return 0;
        r = notifications_new(js->source ? ORIGIN__ORIGIN_SOURCE : ORIGIN__ORIGIN_DESTINATION,
                              &s->notifications);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "recover");
        notifications_continue(s->notifications);
        migration_options_init(&options);
        if (js->direct)
                options.handover = HANDOVER__HANDOVER_DIRECT;
        options.encryption = js->encryption;
        if (js->postcopy)
                options.postcopy = POSTCOPY__POSTCOPY_FALLBACK; /* which of them is not known */
        session_begin(s, js->session_id, js->source, &options);
        memcpy(s->secret, js->secret, DIGEST_SIZE);
        s->had_socket = true;
        s->state = js->source ? mig_recover_source(js->mark, found, &event)
                              : mig_recover_destination(js->mark, js->this_boot, js->postcopy,
                                                        found, &event);
        session_find_postcopy(s, found);
        session_take_cause(s, &js->cause);
        session_set_reason(s, FERRY_UNAVAILABLE,
                           js->source && s->state == MIG_S_FAILED
                                   ? "the VM ended while there was no shim"
                                   : "the shim was restarted during the migration");
        log_info("session %s: recovered as %s", s->id, mig_state_get(s->state)->name);
        if (!js->direct && was_ready(js))
                session_publish_done(s);
        if (event != _MIG_EVENT_MAX && mig_lookup(s->state, event)->verdict != MIG_ILLEGAL)
                session_post(s, event);
        else
                announce_as_found(s);
        return 0;
}

/* The guest's state would be lost with the shim's end. */
static bool is_switching(const session *s) {
        return s->switching ||
               (s->link && (s->state == MIG_S_COMMITTED || s->state == MIG_S_SERVING ||
                            s->state == MIG_D_TAKEN || s->state == MIG_D_STARTING));
}

static bool is_rolling(const session *s) {
        return is_switching(s) || session_is_rolling_back(s) || s->state == MIG_D_CANCELLING ||
               s->state == MIG_D_STOPPING || s->state == MIG_D_FAILING ||
               s->state == MIG_S_EXPORTING || s->state == MIG_D_PREPARING;
}

void session_retire_if_settled(session *s) {
        session_reply reply = s->retire_reply;

        if (!reply || is_rolling(s))
                return;
        s->retire_reply = NULL;
        reply(0, NULL, s->retire_userdata);
}

static void ignore_reply(int r, const ferry_error *error, void *userdata) {
}

void session_retire(session *s, session_reply reply, void *userdata) {
        bool certain = s->state != MIG_D_LOADED && s->state != MIG_D_READY &&
                       s->state != MIG_D_WANTED && s->state != MIG_D_UNDECIDED;

        s->retire_reply = reply;
        s->retire_userdata = userdata;
        if (session_is_open(s) && certain &&
            mig_lookup(s->state, MIG_RPC_CANCEL)->verdict == MIG_START) {
                session_set_reason(s, FERRY_UNAVAILABLE, "the shim was told to end");
                session_call(s, MIG_RPC_CANCEL, ignore_reply, NULL);
        }
        session_retire_if_settled(s);
}
