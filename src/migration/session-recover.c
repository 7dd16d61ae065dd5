/* SPDX-License-Identifier: MIT */
/* The session across the shim's own end. */
#include "migration/session-internal.h"

/* Which state the journal and QEMU speak for, and the event that goes on from there. */
static mig_state recovered_source(const session *s, journal_mark mark, mig_event *ret_event) {
        *ret_event = _MIG_EVENT_MAX;
        switch (mark) {
        case JOURNAL_HANDED:
                return MIG_S_HANDED;
        case JOURNAL_DONE:
                *ret_event = MIG_EV_RECORD_RUNNING; /* quit QEMU, if it still stands */
                return MIG_S_HANDED;
        case JOURNAL_COMPLETED:
                if (!sandbox_vm(s->sb))
                        return MIG_S_SPENT;
                *ret_event = MIG_EV_TRANSFER_FAILED;
                return MIG_S_COPYING;
        case JOURNAL_OPEN:
        case JOURNAL_RAN_AGAIN:
        case JOURNAL_OWNER:
        case JOURNAL_RUNNING:
        case JOURNAL_DECLINED:
        case _JOURNAL_MARK_MAX:
        default:
                *ret_event = MIG_EV_TRANSFER_FAILED;
                return sandbox_vm(s->sb) ? MIG_S_COPYING : MIG_S_FAILED;
        }
}

static mig_state recovered_destination(const session *s, const journal_session *js, bool running,
                                       mig_event *ret_event) {
        bool alive = sandbox_vm(s->sb) != NULL;

        *ret_event = _MIG_EVENT_MAX;
        switch (js->mark) {
        case JOURNAL_DECLINED:
                *ret_event = MIG_EV_QEMU_GONE; /* declines again, and kills what is left */
                return MIG_D_LOADED;
        case JOURNAL_RUNNING:
                return MIG_D_RUNNING;
        case JOURNAL_OWNER:
                if (!alive)
                        return MIG_D_LOST;
                *ret_event = running ? MIG_EV_CONTINUED : MIG_EV_RECORD_HANDED;
                return running ? MIG_D_OWNER : MIG_D_UNDECIDED;
        case JOURNAL_OPEN:
        case JOURNAL_COMPLETED:
        case JOURNAL_RAN_AGAIN:
        case JOURNAL_HANDED:
        case JOURNAL_DONE:
        case _JOURNAL_MARK_MAX:
        default:
                if (!js->this_boot)
                        return MIG_D_LOST;
                if (!alive)
                        *ret_event = MIG_EV_QEMU_GONE;
                return MIG_D_UNDECIDED;
        }
}

int session_recover(session *s, bool running, ferry_error *reterr) {
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
        migration_options_init(&options);
        if (js->direct)
                options.handover = HANDOVER__HANDOVER_DIRECT;
        session_begin(s, js->session_id, js->source, &options);
        memcpy(s->secret, js->secret, DIGEST_SIZE);
        s->had_socket = true;
        s->state = js->source ? recovered_source(s, js->mark, &event)
                              : recovered_destination(s, js, running, &event);
        session_set_reason(s, FERRY_UNAVAILABLE, "the shim was restarted during the migration");
        log_info("session %s: recovered as %s", s->id, mig_state_get(s->state)->name);
        if (event != _MIG_EVENT_MAX)
                session_post(s, event);
        return 0;
}

static bool is_rolling(const session *s) {
        return session_is_rolling_back(s) || s->state == MIG_D_CANCELLING ||
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
