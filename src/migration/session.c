/* SPDX-License-Identifier: MIT */
/*
 * Everything that happens becomes an event: post() takes it to the table, runs the cell's action,
 * then tries the waiting calls again. An action may post more events; they queue behind, so that a
 * step is never entered twice. An answer of the VM's that comes when the session has moved on is
 * recognised by the state, and dropped.
 */
#include "migration/session.h"

#include <stdarg.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "migration/link.h"
#include "migration/options.h"
#include "migration/policy.h"
#include "migration/state.h"

#define SOCKET_WAIT_USEC   (600 * USEC_PER_SEC)
#define SOCKET_WAIT_MAX    (86400 * USEC_PER_SEC)
#define GREETING_USEC      (10 * USEC_PER_SEC)
#define READY_WAIT_USEC    (10 * USEC_PER_SEC)
#define CALLER_WAIT_USEC   (60 * USEC_PER_SEC)
#define CANCEL_WAIT_USEC   (10 * USEC_PER_SEC)
#define FINALIZE_WAIT_USEC (10 * USEC_PER_SEC)
#define PROGRESS_USEC      (100 * USEC_PER_MSEC)
#define RATE_SPAN_USEC     (20 * USEC_PER_MSEC)
#define CONT_RETRY_USEC    (20 * USEC_PER_MSEC)
#define CONT_RETRIES       10
#define ROLLBACK_RETRIES   100
#define ANNOUNCE_ROUNDS    5
#define QUEUE_MAX          32
#define WAITERS_MAX        64

typedef struct waiter {
        mig_event rpc;
        session_reply reply;
        void *userdata;
        uint64_t deadline_usec; /* USEC_INFINITY: none */
} waiter;

struct session {
        sandbox *sb;
        journal *journal;

        mig_state state;
        mig_event queue[QUEUE_MAX];
        size_t n_queue;
        bool stepping;

        char id[JOURNAL_SESSION_ID_MAX + 1];
        uint8_t secret[DIGEST_SIZE], state_digest[DIGEST_SIZE];
        migration_options options;
        InitializeOptions *options_message; /* the source's, that both sides go by */
        migration_state *imported;
        uint8_t *exported;
        size_t n_exported;

        mig_link *link;
        bool link_is_ours; /* QEMU is done with it: messages may go over it */

        notifications *notifications;
        policy policy;
        waiter waiters[WAITERS_MAX];
        size_t n_waiters;

        sd_event_source *timer; /* the one that the state has: socket, greeting, READY... */
        mig_event timer_event;
        sd_event_source *progress_timer;
        sd_event_source *waiter_timer;
        sd_event_source *retry_timer;
        unsigned n_cont_tries;

        char *reason; /* why it failed or was given up */
        int code;
        bool guest_initiated;
        bool refused;       /* the source told us that it runs the sandbox again */
        bool setup_told;    /* SETUP_DONE was published, by the source */
        bool failed_told;   /* FAILED was published */
        bool recovery_told; /* RECOVERY_DONE was */

        /* times: CLOCK_MONOTONIC */
        uint64_t began_usec, stopped_usec, completed_usec, offered_usec, round_trip_usec;
        uint64_t go_usec, stopped_for_usec, resumed_usec;
        uint64_t stopped_wall_usec;
        uint32_t pass;
        bool query_under_way;
        uint64_t rate, rate_sent, rate_usec; /* bytes per second, and the last sample's ends */
        session_report report;

        session_reply retire_reply;
        void *retire_userdata;
};

static void post(session *s, mig_event event);

/* ---- small things ---- */

static bool is_source(const session *s) {
        return mig_state_get(s->state)->side == MIG_SIDE_SOURCE;
}

bool session_is_open(const session *s) {
        return s->state != MIG_IDLE;
}

static uint64_t limit_usec(const session *s, uint64_t usec) {
        return s->options.slow_move ? usec * MIGRATION_SLOW_FACTOR : usec;
}

static void _printf_(3, 4) set_reason(session *s, ferry_code code, const char *format, ...) {
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

static void set_reason_from(session *s, const char *what, const ferry_error *error) {
        set_reason(s, error && error->code ? error->code : FERRY_INTERNAL, "%s: %s", what,
                   ferry_error_message(error));
}

static void publish(session *s, notification_entry *entry) {
        if (s->notifications && notifications_publish(s->notifications, entry) < 0)
                log_warning("session %s: a notification could not be kept", s->id);
}

static void publish_phase(session *s, Phase phase, PhaseState state) {
        publish(s, &(notification_entry){ .phase = phase, .state = state });
}

static void publish_blackout(session *s) {
        publish(s, &(notification_entry){
                           .phase = PHASE__PHASE_BLACKOUT_EXITED,
                           .state = PHASE_STATE__PHASE_STATE_SUCCESS,
                           .has_blackout = true,
                           .blackout_usec = s->report.blackout_usec,
                           .blackout_stop_usec = s->stopped_wall_usec,
                   });
}

static void publish_end(session *s, Phase phase, PhaseState state) {
        publish(s, &(notification_entry){
                           .phase = phase, .state = state, .reason = s->reason, .code = s->code });
}

/* Once a session, whatever follows. */
static void publish_failure(session *s) {
        PhaseState state;

        if (s->failed_told)
                return;
        s->failed_told = true;
        if (s->guest_initiated)
                state = PHASE_STATE__PHASE_STATE_GUEST_INITIATED_CANCELLATION;
        else if (is_source(s))
                state = PHASE_STATE__PHASE_STATE_SOURCE_FAILED;
        else
                state = PHASE_STATE__PHASE_STATE_DESTINATION_FAILED;
        publish_end(s, PHASE__PHASE_FAILED, state);
}

static void publish_cancelled(session *s) {
        if (s->failed_told)
                return;
        s->failed_told = true;
        s->code = FERRY_CANCELLED;
        if (!s->reason)
                s->reason = strdup("cancelled");
        publish_end(s, is_source(s) ? PHASE__PHASE_FAILED : PHASE__PHASE_DONE,
                    PHASE_STATE__PHASE_STATE_CANCELLED);
}

/* Once too: a RESUME of what runs already is no second recovery. */
static void publish_recovery(session *s) {
        if (s->recovery_told)
                return;
        s->recovery_told = true;
        if (sandbox_vm(s->sb))
                publish_phase(s, PHASE__PHASE_RECOVERY_DONE, PHASE_STATE__PHASE_STATE_SUCCESS);
        else
                publish_end(s, PHASE__PHASE_RECOVERY_DONE,
                            PHASE_STATE__PHASE_STATE_RECOVERY_FAILED);
}

/* ---- timers ---- */

static void stop_timer(session *s) {
        s->timer = sd_event_source_disable_unref(s->timer);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;
        mig_event event = s->timer_event;

        stop_timer(s);
        switch ((int)event) {
        case MIG_EV_SOCKET_TIMEOUT:
                set_reason(s, FERRY_DEADLINE_EXCEEDED,
                           "no socket came in time (CreateDuplicateSocket)");
                break;
        case MIG_EV_LINK_LOST:
                set_reason(s, FERRY_DEADLINE_EXCEEDED, "the other shim did not answer the hello");
                break;
        case MIG_EV_ROLLBACK_FAILED:
                set_reason(s, FERRY_DEADLINE_EXCEEDED, "QEMU did not end the migration in time");
                break;
        default:
                set_reason(s, FERRY_DEADLINE_EXCEEDED,
                           s->state == MIG_S_READY
                                   ? "nobody finalized in time; the guest was stopped all the while"
                                   : "the destination did not say that it is ready");
        }
        post(s, event);
        return 0;
}

/* One at a time: it belongs to the state. */
static void start_timer(session *s, uint64_t usec, mig_event event) {
        stop_timer(s);
        s->timer_event = event;
        if (sd_event_add_time_relative(sandbox_event(s->sb), &s->timer, CLOCK_MONOTONIC, usec, 0,
                                       on_timer, s) < 0)
                log_error("session %s: no timer", s->id);
}

/* ---- waiting calls ---- */

static void complete(session *s, size_t i, int r, const ferry_error *error) {
        waiter w = s->waiters[i];

        memmove(&s->waiters[i], &s->waiters[i + 1], (s->n_waiters - i - 1) * sizeof(s->waiters[0]));
        s->n_waiters--;
        w.reply(r, error, w.userdata);
}

static void complete_all_of(session *s, mig_event rpc, int r, const ferry_error *error) {
        for (size_t i = 0; i < s->n_waiters;)
                if (s->waiters[i].rpc == rpc) {
                        complete(s, i, r, error);
                        i = 0;
                } else
                        i++;
}

static void complete_all_with_reason(session *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        ferry_error_set(&error, FERRY_FAILED_PRECONDITION, -EREMOTEIO, "%s",
                        s->reason ? s->reason : "the rollback failed");
        while (s->n_waiters > 0)
                complete(s, 0, -EREMOTEIO, &error);
}

static int on_waiter_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        session *s = userdata;
        uint64_t next = USEC_INFINITY, now = now_usec();

        for (size_t i = 0; i < s->n_waiters;) {
                if (s->waiters[i].deadline_usec <= now) {
                        ferry_error_set(&error, FERRY_FAILED_PRECONDITION, -ETIMEDOUT,
                                        "session %s is %s: undecided, see Status", s->id,
                                        mig_state_get(s->state)->wire);
                        complete(s, i, -ETIMEDOUT, &error);
                        i = 0;
                        continue;
                }
                if (s->waiters[i].deadline_usec < next)
                        next = s->waiters[i].deadline_usec;
                i++;
        }
        s->waiter_timer = sd_event_source_disable_unref(s->waiter_timer);
        if (next != USEC_INFINITY)
                (void)sd_event_add_time(sandbox_event(s->sb), &s->waiter_timer, CLOCK_MONOTONIC,
                                        next, 0, on_waiter_timer, s);
        return 0;
}

static int add_waiter(session *s, mig_event rpc, session_reply reply, void *userdata) {
        bool is_finalize =
                rpc == MIG_RPC_STOP || rpc == MIG_RPC_STOP_FORCE || rpc == MIG_RPC_RESUME;
        waiter *w;

        if (s->n_waiters == WAITERS_MAX)
                return -EBUSY;
        w = &s->waiters[s->n_waiters++];
        *w = (waiter){
                .rpc = rpc,
                .reply = reply,
                .userdata = userdata,
                .deadline_usec = is_finalize ? now_usec() + limit_usec(s, FINALIZE_WAIT_USEC)
                                             : USEC_INFINITY,
        };
        if (is_finalize && !s->waiter_timer)
                (void)sd_event_add_time(sandbox_event(s->sb), &s->waiter_timer, CLOCK_MONOTONIC,
                                        w->deadline_usec, 0, on_waiter_timer, s);
        return 0;
}

void session_forget(session *s, void *userdata) {
        for (size_t i = 0; i < s->n_waiters; i++)
                if (s->waiters[i].userdata == userdata) {
                        memmove(&s->waiters[i], &s->waiters[i + 1],
                                (s->n_waiters - i - 1) * sizeof(s->waiters[0]));
                        s->n_waiters--;
                        return;
                }
}

/* What a verdict that is not a success says. */
static int refuse(const session *s, mig_event rpc, const mig_cell *cell, ferry_error *reterr) {
        const mig_state_info *info = mig_state_get(s->state);

        if (cell->verdict == MIG_NO_SESSION)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "%s: this shim has no session", mig_event_name(rpc));
        if (cell->verdict == MIG_ALREADY)
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST,
                                       "%s: session %s has its socket", mig_event_name(rpc), s->id);
        if (cell->verdict == MIG_STILL_OWNER)
                return ferry_error_set(
                        reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                        "session %s: this side still owns the sandbox: RESUME it, or stop it as a "
                        "task",
                        s->id);
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                               "%s: not while session %s is %s%s%s", mig_event_name(rpc), s->id,
                               info->wire, s->reason ? ": " : "", s->reason ? s->reason : "");
}

/* A call that cannot be answered from the table's cell alone: it would resume a dead VM. */
static int check_resume(session *s, mig_event rpc, ferry_error *reterr) {
        if (rpc == MIG_RPC_RESUME && is_source(s) && !sandbox_vm(s->sb) &&
            mig_state_get(s->state)->owner == MIG_OWNER_HERE)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "session %s: there is no VM to resume: %s", s->id,
                                       sandbox_exit_reason(s->sb) ? sandbox_exit_reason(s->sb)
                                                                  : "it has ended");
        return 0;
}

static void retry_waiters(session *s) {
        for (size_t i = 0; i < s->n_waiters;) {
                _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
                mig_event rpc = s->waiters[i].rpc;
                const mig_cell *cell = mig_lookup(s->state, rpc);

                if (cell->verdict == MIG_WAIT) {
                        i++;
                        continue;
                }
                /* they answer when their work is done; what is left here was cut off */
                if (rpc == MIG_RPC_EXPORT || rpc == MIG_RPC_PREPARE) {
                        int r = ferry_error_set(&error, FERRY_CANCELLED, -ECANCELED,
                                                "%s was cut off: %s", mig_event_name(rpc),
                                                s->reason ? s->reason : "cancelled");

                        complete(s, i, r, &error);
                        i = 0;
                        continue;
                }
                if (cell->verdict == MIG_OK || cell->verdict == MIG_START) {
                        int r = check_resume(s, rpc, &error);

                        if (r < 0) {
                                complete(s, i, r, &error);
                                return;
                        }
                        if (cell->verdict == MIG_OK)
                                complete(s, i, 0, NULL);
                        post(s, rpc); /* comes back here after the step */
                        return;
                }
                if (cell->verdict == MIG_NOP)
                        complete(s, i, 0, NULL);
                else {
                        int r = refuse(s, rpc, cell, &error);

                        complete(s, i, r, &error);
                }
                i = 0;
        }
}

/* Takes a call to the table; replies now, or when the table says so. */
static void call(session *s, mig_event rpc, session_reply reply, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const mig_cell *cell = mig_lookup(s->state, rpc);
        int r = 0;

        switch (cell->verdict) {
        case MIG_NOP:
                break;
        case MIG_OK:
        case MIG_START:
        case MIG_WAIT:
                r = check_resume(s, rpc, &error);
                if (r < 0)
                        break;
                if (cell->verdict != MIG_OK) {
                        r = add_waiter(s, rpc, reply, userdata);
                        if (r >= 0) {
                                if (cell->verdict == MIG_START)
                                        post(s, rpc);
                                return;
                        }
                        ferry_error_set(&error, FERRY_RESOURCE_EXHAUSTED, r,
                                        "too many calls wait for session %s", s->id);
                        break;
                }
                post(s, rpc);
                break;
        case MIG_ILLEGAL:
        case MIG_NO_SESSION:
        case MIG_ALREADY:
        case MIG_STILL_OWNER:
                r = refuse(s, rpc, cell, &error);
                break;
        case _MIG_VERDICT_MAX:
        default:
                r = -EINVAL;
        }
        reply(r, r < 0 ? &error : NULL, userdata);
}

/* Every call but Cleanup names the open session, even where the state would refuse it anyway. */
static int check_id(const session *s, const char *id, ferry_error *reterr) {
        if (!id || !*id)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "session_id is empty");
        if (!journal_session_id_is_valid(id))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "session_id: 1 to %u of letters, digits and ._:@+=-",
                                       JOURNAL_SESSION_ID_MAX);
        if (s->state == MIG_IDLE)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "this shim has no session %s", id);
        if (strcmp(id, s->id) != 0)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "this shim is in another session than %s", id);
        return 0;
}

/* The call's verdict in this state, before anything is looked at. */
static int check_state(const session *s, mig_event rpc, ferry_error *reterr) {
        const mig_cell *cell = mig_lookup(s->state, rpc);

        switch (cell->verdict) {
        case MIG_OK:
        case MIG_START:
        case MIG_NOP:
        case MIG_WAIT:
                return 0;
        case MIG_ILLEGAL:
        case MIG_NO_SESSION:
        case MIG_ALREADY:
        case MIG_STILL_OWNER:
        case _MIG_VERDICT_MAX:
        default:
                return refuse(s, rpc, cell, reterr);
        }
}

/* ---- messages ---- */

static int send_message(session *s, mig_message *message) {
        if (!s->link || !s->link_is_ours)
                return -ENOTCONN;
        return mig_link_send(s->link, message);
}

static void say_offer(session *s) {
        Ferry__Handover__V1__Offer offer = FERRY__HANDOVER__V1__OFFER__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_OFFER;
        m.offer = &offer;
        (void)send_message(s, &m);
}

static void say_ready(session *s) {
        Ferry__Handover__V1__Ready ready = FERRY__HANDOVER__V1__READY__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_READY;
        m.ready = &ready;
        (void)send_message(s, &m);
}

static void say_want(session *s) {
        Ferry__Handover__V1__Want want = FERRY__HANDOVER__V1__WANT__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_WANT;
        m.want = &want;
        (void)send_message(s, &m);
}

static void own_record(const session *s, char text[JOURNAL_RECORD_MAX], ProtobufCBinaryData *ret) {
        const journal_session *js = journal_current(s->journal);

        *ret = (ProtobufCBinaryData){ .len = 0 };
        if (js && journal_record(js, text) == 0)
                *ret = (ProtobufCBinaryData){ strlen(text), (uint8_t *)text };
}

static void say_go(session *s) {
        Ferry__Handover__V1__Go go = FERRY__HANDOVER__V1__GO__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;
        char text[JOURNAL_RECORD_MAX];

        own_record(s, text, &go.record);
        go.stopped_for_usec = s->stopped_usec ? now_usec() - s->stopped_usec : 0;
        go.round_trip_usec = s->round_trip_usec;
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_GO;
        m.go = &go;
        (void)send_message(s, &m);
}

static void say_running(session *s) {
        Ferry__Handover__V1__Running running = FERRY__HANDOVER__V1__RUNNING__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;
        char text[JOURNAL_RECORD_MAX];

        own_record(s, text, &running.record);
        running.blackout_usec = s->report.blackout_usec;
        running.resume_usec = s->report.resume_usec;
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_RUNNING;
        m.running = &running;
        (void)send_message(s, &m);
}

static void say_declined(session *s) {
        Ferry__Handover__V1__Declined declined = FERRY__HANDOVER__V1__DECLINED__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;
        char text[JOURNAL_RECORD_MAX];

        own_record(s, text, &declined.record);
        declined.reason = s->reason ? s->reason : "";
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_DECLINED;
        m.declined = &declined;
        (void)send_message(s, &m);
}

static void say_refused(session *s) {
        Ferry__Handover__V1__Refused refused = FERRY__HANDOVER__V1__REFUSED__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        refused.reason = s->reason ? s->reason : "the source was resumed";
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_REFUSED;
        m.refused = &refused;
        (void)send_message(s, &m);
}

static void say_lost(session *s) {
        Ferry__Handover__V1__Lost lost = FERRY__HANDOVER__V1__LOST__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        lost.reason = s->reason ? s->reason : "";
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_LOST;
        m.lost = &lost;
        (void)send_message(s, &m);
}

/* The reason of another host, for people: capped and one line (the log cleans it). */
static void peer_reason(session *s, const char *what, const char *text) {
        set_reason(s, FERRY_ABORTED, "%s%s%.200s", what, *text ? ": " : "", text);
}

static void receive_running(session *s, const Ferry__Handover__V1__Running *running) {
        uint64_t day = 86400 * USEC_PER_SEC;

        if (s->state == MIG_S_HANDED && s->report.blackout_usec == 0) {
                if (running->blackout_usec < day)
                        s->report.blackout_usec = running->blackout_usec;
                if (running->resume_usec < day)
                        s->report.resume_usec = running->resume_usec;
        }
        post(s, MIG_EV_RUNNING);
}

static void receive_go(session *s, const Ferry__Handover__V1__Go *go) {
        uint64_t day = 86400 * USEC_PER_SEC;

        if (s->go_usec == 0) {
                s->go_usec = now_usec();
                if (go->stopped_for_usec < day && go->round_trip_usec < day)
                        s->stopped_for_usec = go->stopped_for_usec + go->round_trip_usec / 2;
                s->stopped_wall_usec = wall_usec() - s->stopped_for_usec;
        }
        post(s, MIG_EV_GO);
}

static void on_message(const mig_message *m, void *userdata) {
        session *s = userdata;

        switch ((int)m->kind_case) {
        case FERRY__HANDOVER__V1__MESSAGE__KIND_OFFER:
                post(s, MIG_EV_OFFER);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_READY:
                post(s, MIG_EV_READY);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_WANT:
                post(s, MIG_EV_WANT);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_GO:
                receive_go(s, m->go);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_RUNNING:
                receive_running(s, m->running);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_DECLINED:
                peer_reason(s, "the destination gave its copy up", m->declined->reason);
                post(s, MIG_EV_DECLINED);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_REFUSED:
                peer_reason(s, "the source runs the sandbox again", m->refused->reason);
                s->refused = true;
                post(s, MIG_EV_REFUSED);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_LOST:
                log_error("session %s: the destination has lost its copy: %.200s", s->id,
                          m->lost->reason);
                post(s, MIG_EV_LOST);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_HELLO:
        case FERRY__HANDOVER__V1__MESSAGE__KIND_PROOF:
        case FERRY__HANDOVER__V1__MESSAGE__KIND__NOT_SET:
        default:
                log_warning("session %s: a message of an unknown kind was ignored", s->id);
        }
}

static void on_greeted(void *userdata) {
        post(userdata, MIG_EV_GREETED);
}

static void on_broken(const char *reason, void *userdata) {
        session *s = userdata;
        mig_owner owner = mig_state_get(s->state)->owner;
        bool settled = mig_lookup(s->state, MIG_EV_LINK_LOST)->verdict == MIG_ILLEGAL;

        if (!settled && !(s->state == MIG_S_HANDED || owner == MIG_OWNER_UNKNOWN))
                set_reason(s, FERRY_UNAVAILABLE, "%s", reason);
        else
                log_info("session %s: %s", s->id, reason);
        post(s, MIG_EV_LINK_LOST);
}

static const mig_link_handlers link_handlers = {
        .on_greeted = on_greeted,
        .on_message = on_message,
        .on_broken = on_broken,
};

/* No message is lost by it: what was sent goes out before the end of the stream does. */
static void close_link(session *s) {
        if (!s->link)
                return;
        if (!s->link_is_ours)
                mig_link_shutdown(s->link); /* QEMU and the peer notice at once */
        s->link = mig_link_free(s->link);
        s->link_is_ours = false;
}

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

static void publish_progress(session *s, const vm_migration_info *info) {
        Progress progress = PROGRESS__INIT;
        uint64_t rate = measure_rate(s, known(info->ram_transferred));
        uint64_t remaining = known(info->ram_remaining);

        progress.bytes_total = known(info->ram_total);
        progress.bytes_sent = known(info->ram_transferred);
        progress.bytes_remaining = remaining;
        progress.pass = s->pass;
        progress.dirty_bytes_per_second = known(info->dirty_bytes_per_second);
        progress.bytes_per_second = rate;
        progress.throttle_percentage = to_u32(known(info->throttle_percentage));
        progress.downtime_limit_ms = s->policy.limit_ms;
        progress.expected_blackout_ms = rate > 0 ? to_u32(remaining * 1000 / rate) : 0;
        s->report.bytes = progress.bytes_sent;
        if (!s->setup_told) /* the first pass's event comes before `active` does */
                return;
        publish(s, &(notification_entry){
                           .phase = PHASE__PHASE_TRANSFER_IN_PROGRESS,
                           .state = PHASE_STATE__PHASE_STATE_SUCCESS,
                           .has_progress = true,
                           .progress = progress,
                   });
}

static void ignore_done(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        if (r < 0 && r != -ECANCELED)
                log_debug("QEMU: %s", ferry_error_message(error));
}

static void on_pass_info(ferry_vm *v, int r, const ferry_error *error,
                         const vm_migration_info *info, void *userdata) {
        session *s = userdata;
        uint32_t limit;

        if (r < 0 || s->state != MIG_S_COPYING || s->stopped_usec)
                return;
        publish_progress(s, info);
        if (s->pass < 2)
                return; /* the event marks a pass's beginning: pass 2's says what pass 1 left */
        limit = policy_pass_done(&s->policy, s->pass - 1, known(info->ram_remaining));
        if (limit > 0) {
                log_info("session %s: pass %u: downtime limit %u ms", s->id, s->pass, limit);
                (void)vm_set_downtime_limit(v, limit, ignore_done, s);
        }
}

static void on_progress_info(ferry_vm *v, int r, const ferry_error *error,
                             const vm_migration_info *info, void *userdata) {
        session *s = userdata;

        s->query_under_way = false;
        if (r == 0 && s->state == MIG_S_COPYING && !s->stopped_usec)
                publish_progress(s, info);
}

static int on_progress_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;
        ferry_vm *v = sandbox_vm(s->sb);

        if (s->state != MIG_S_COPYING || s->stopped_usec || !v) {
                s->progress_timer = sd_event_source_disable_unref(s->progress_timer);
                return 0;
        }
        if (!s->query_under_way && vm_query_migrate(v, on_progress_info, s) == 0)
                s->query_under_way = true;
        (void)sd_event_source_set_time(source, now_usec() + PROGRESS_USEC);
        (void)sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

static void on_final_info(ferry_vm *v, int r, const ferry_error *error,
                          const vm_migration_info *info, void *userdata) {
        session *s = userdata;

        if (r == 0 && session_is_open(s) && info->ram_transferred != VM_ABSENT)
                s->report.bytes = info->ram_transferred;
}

static void on_failure_info(ferry_vm *v, int r, const ferry_error *error,
                            const vm_migration_info *info, void *userdata) {
        session *s = userdata;

        if (s->state != MIG_S_COPYING && s->state != MIG_D_LOADING)
                return;
        set_reason(s, FERRY_ABORTED, "QEMU's migration failed%s%s",
                   r == 0 && info->error_description ? ": " : "",
                   r == 0 && info->error_description ? info->error_description : "");
        post(s, MIG_EV_TRANSFER_FAILED);
}

static void on_copy_started(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r < 0 && r != -ECANCELED && s->state == MIG_S_COPYING) {
                set_reason_from(s, "QEMU did not start the migration", error);
                post(s, MIG_EV_TRANSFER_FAILED);
        }
}

static void start_copy(session *s) {
        vm_migrate_options options = {
                .downtime_limit_msec = s->policy.limit_ms,
                .max_bytes_per_second = s->options.max_bandwidth,
        };
        int fd = -EBADF, r;

        r = mig_link_dup(s->link, &fd);
        if (r == 0)
                r = vm_migrate_out(sandbox_vm(s->sb), fd, &options, on_copy_started, s);
        if (r < 0) {
                set_reason(s, FERRY_INTERNAL, "start the migration: %s", strerror(-r));
                post(s, MIG_EV_TRANSFER_FAILED);
                return;
        }
        s->report.setup_usec = now_usec() - s->began_usec;
        (void)sd_event_add_time_relative(sandbox_event(s->sb), &s->progress_timer, CLOCK_MONOTONIC,
                                         PROGRESS_USEC, 0, on_progress_timer, s);
}

static void on_load_started(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r < 0 && r != -ECANCELED && s->state == MIG_D_LOADING) {
                set_reason_from(s, "QEMU did not take the migration", error);
                post(s, MIG_EV_TRANSFER_FAILED);
        }
}

static void start_load(session *s) {
        int fd = -EBADF, r;

        r = mig_link_dup(s->link, &fd);
        if (r == 0)
                r = vm_migrate_in(sandbox_vm(s->sb), fd, on_load_started, s);
        if (r < 0) {
                set_reason(s, FERRY_INTERNAL, "take the migration: %s", strerror(-r));
                post(s, MIG_EV_TRANSFER_FAILED);
                return;
        }
        s->report.setup_usec = now_usec() - s->began_usec;
        publish_phase(s, PHASE__PHASE_SETUP_DONE, PHASE_STATE__PHASE_STATE_SUCCESS);
}

/* ---- what the VM says ---- */

void session_vm_stopped(session *s, uint64_t usec) {
        if (s->state != MIG_S_COPYING || s->stopped_usec)
                return;
        s->stopped_usec = usec;
        s->stopped_wall_usec = wall_usec() - (now_usec() - usec);
        s->report.copy_usec = usec - s->began_usec;
        s->report.passes = s->pass;
        publish_phase(s, PHASE__PHASE_BLACKOUT_STARTED, PHASE_STATE__PHASE_STATE_SUCCESS);
}

void session_vm_resumed(session *s, uint64_t usec) {
        if (s->state == MIG_D_OWNER && s->resumed_usec == 0)
                s->resumed_usec = usec;
}

void session_vm_reset(session *s) {
        if (s->state != MIG_S_GREETING && s->state != MIG_S_COPYING)
                return;
        s->guest_initiated = true;
        set_reason(s, FERRY_ABORTED, "the guest was reset during the transfer");
        post(s, MIG_EV_TRANSFER_FAILED);
}

/* The migration's own failure may come before QEMU's end: this is the cause of both. */
void session_vm_shutdown(session *s) {
        if (mig_lookup(s->state, MIG_EV_QEMU_GONE)->verdict == MIG_ILLEGAL)
                return;
        s->guest_initiated = true;
        set_reason(s, FERRY_ABORTED, "the guest powered off during the migration");
}

void session_vm_pass(session *s, uint64_t pass, uint64_t usec) {
        if (s->state != MIG_S_COPYING || s->stopped_usec)
                return; /* the blackout's own sync is no pass */
        s->pass = to_u32(pass);
        (void)vm_query_migrate(sandbox_vm(s->sb), on_pass_info, s);
}

static void ask_why_it_failed(session *s) {
        if (vm_query_migrate(sandbox_vm(s->sb), on_failure_info, s) < 0) {
                set_reason(s, FERRY_ABORTED, "QEMU's migration failed");
                post(s, MIG_EV_TRANSFER_FAILED);
        }
}

static void cancel_is_over(session *s);

void session_vm_migration(session *s, vm_migration_status status, uint64_t usec) {
        bool rolling_back = s->state == MIG_S_CANCELLING || s->state == MIG_S_RECOVERING ||
                            s->state == MIG_S_RESUMING;

        switch (status) {
        case VM_MIGRATION_ACTIVE:
                if (s->state == MIG_S_COPYING && !s->setup_told) {
                        s->setup_told = true;
                        publish_phase(s, PHASE__PHASE_SETUP_DONE, PHASE_STATE__PHASE_STATE_SUCCESS);
                }
                break;
        case VM_MIGRATION_COMPLETED:
                s->completed_usec = usec;
                if (s->state == MIG_S_COPYING)
                        post(s, MIG_EV_COMPLETED);
                else if (s->state == MIG_D_LOADING)
                        post(s, MIG_EV_LOADED);
                else if (rolling_back)
                        cancel_is_over(s);
                break;
        case VM_MIGRATION_FAILED:
                if (s->state == MIG_S_COPYING || s->state == MIG_D_LOADING)
                        ask_why_it_failed(s);
                else if (rolling_back)
                        cancel_is_over(s);
                break;
        case VM_MIGRATION_CANCELLED:
                if (s->state == MIG_S_COPYING) {
                        set_reason(s, FERRY_CANCELLED, "QEMU's migration was cancelled");
                        post(s, MIG_EV_TRANSFER_FAILED);
                } else if (rolling_back)
                        cancel_is_over(s);
                break;
        case VM_MIGRATION_NONE:
        case VM_MIGRATION_SETUP:
        case VM_MIGRATION_CANCELLING:
        case VM_MIGRATION_POSTCOPY_ACTIVE:
        case VM_MIGRATION_POSTCOPY_PAUSED:
        case VM_MIGRATION_POSTCOPY_RECOVER_SETUP:
        case VM_MIGRATION_POSTCOPY_RECOVER:
        case VM_MIGRATION_COLO:
        case VM_MIGRATION_PRE_SWITCHOVER:
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
        else
                set_reason(s, FERRY_UNAVAILABLE, "QEMU has ended: %s", reason);
        post(s, MIG_EV_QEMU_GONE);
}

/* ---- rollback, at the source ---- */

static void rollback_failed(session *s, const char *what, const ferry_error *error) {
        if (s->code == FERRY_CANCELLED) { /* that is what was asked for, not what went wrong */
                free(s->reason);
                s->reason = NULL;
        }
        set_reason_from(s, what, error);
        post(s, MIG_EV_ROLLBACK_FAILED);
}

static bool rolling_back(const session *s) {
        return s->state == MIG_S_CANCELLING || s->state == MIG_S_RECOVERING ||
               s->state == MIG_S_RESUMING;
}

static void on_rolled_back(ferry_vm *v, int r, const ferry_error *error, void *userdata);

static int on_rollback_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;
        int r;

        s->retry_timer = sd_event_source_disable_unref(s->retry_timer);
        if (!rolling_back(s) || !sandbox_vm(s->sb))
                return 0;
        r = vm_cont(sandbox_vm(s->sb), on_rolled_back, s);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "cont");
                rollback_failed(s, "resume the guest", &own);
        }
        return 0;
}

static void on_rolled_back(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED || !rolling_back(s))
                return;
        /* QEMU says `completed` a moment before it takes a cont ("Migration is not finalized yet")
         */
        if (r == -EREMOTEIO && ++s->n_cont_tries <= ROLLBACK_RETRIES &&
            sd_event_add_time_relative(sandbox_event(s->sb), &s->retry_timer, CLOCK_MONOTONIC,
                                       CONT_RETRY_USEC, 0, on_rollback_retry, s) >= 0) {
                log_info("session %s: cont: %s; again", s->id, ferry_error_message(error));
                return;
        }
        if (r < 0) {
                rollback_failed(s, "resume the guest", error);
                return;
        }
        (void)vm_announce_self(v, ANNOUNCE_ROUNDS, ignore_done, s);
        post(s, MIG_EV_RAN_AGAIN);
}

static void on_rollback_status(ferry_vm *v, int r, const ferry_error *error,
                               const vm_status *status, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;

        if (r == -ECANCELED || !rolling_back(s))
                return;
        if (r < 0) {
                rollback_failed(s, "ask QEMU for its status", error);
                return;
        }
        if (status->running) {
                post(s, MIG_EV_RAN_AGAIN);
                return;
        }
        /* the copy at the destination is stale from here on: that comes first */
        r = journal_set(s->journal, JOURNAL_RAN_AGAIN, true);
        if (r == 0)
                r = vm_cont(v, on_rolled_back, s);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "journal or cont");
                rollback_failed(s, "resume the guest", &own);
        }
}

static void query_rollback_status(session *s) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        int r = vm_query_status(sandbox_vm(s->sb), on_rollback_status, s);

        if (r < 0) {
                ferry_error_set_errno(&own, r, "query-status");
                rollback_failed(s, "ask QEMU for its status", &own);
        }
}

static void cancel_is_over(session *s) {
        if (s->timer_event == MIG_EV_ROLLBACK_FAILED && s->timer) {
                stop_timer(s);
                query_rollback_status(s);
        }
}

static void on_rollback_migration(ferry_vm *v, int r, const ferry_error *error,
                                  const vm_migration_info *info, void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED || !rolling_back(s))
                return;
        if (r < 0) {
                rollback_failed(s, "ask QEMU for the migration", error);
                return;
        }
        switch (info->status) {
        case VM_MIGRATION_NONE:
        case VM_MIGRATION_CANCELLED:
        case VM_MIGRATION_COMPLETED:
        case VM_MIGRATION_FAILED:
                query_rollback_status(s);
                break;
        case VM_MIGRATION_SETUP:
        case VM_MIGRATION_CANCELLING:
        case VM_MIGRATION_ACTIVE:
        case VM_MIGRATION_POSTCOPY_ACTIVE:
        case VM_MIGRATION_POSTCOPY_PAUSED:
        case VM_MIGRATION_POSTCOPY_RECOVER_SETUP:
        case VM_MIGRATION_POSTCOPY_RECOVER:
        case VM_MIGRATION_COLO:
        case VM_MIGRATION_PRE_SWITCHOVER:
        case VM_MIGRATION_DEVICE:
        case VM_MIGRATION_WAIT_UNPLUG:
        case VM_MIGRATION_UNKNOWN:
        case _VM_MIGRATION_STATUS_MAX:
                /* on_migration says when it is over */
                start_timer(s, CANCEL_WAIT_USEC, MIG_EV_ROLLBACK_FAILED);
                (void)vm_migrate_cancel(v, ignore_done, s);
        }
}

static void roll_back(session *s) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        ferry_vm *v = sandbox_vm(s->sb);
        int r;

        stop_timer(s);
        s->n_cont_tries = 0;
        if (s->link_is_ours)
                say_refused(s);
        if (!v) {
                post(s, MIG_EV_RAN_AGAIN); /* nothing is left to run */
                return;
        }
        r = vm_query_migrate(v, on_rollback_migration, s);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "query-migrate");
                rollback_failed(s, "ask QEMU for the migration", &own);
        }
}

/* ---- handover ---- */

static void hand_over(session *s) {
        uint64_t begin = now_usec();
        int r;

        stop_timer(s);
        r = journal_set(s->journal, JOURNAL_HANDED, true);
        if (r < 0) {
                set_reason(s, FERRY_INTERNAL, "journal: %s", strerror(-r));
                post(s, MIG_EV_JOURNAL_FAILED);
                return;
        }
        s->report.journal_sync_usec = now_usec() - begin;
        say_go(s);
}

static void try_cont(session *s);

static int on_cont_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;

        s->retry_timer = sd_event_source_disable_unref(s->retry_timer);
        if (s->state == MIG_D_OWNER)
                try_cont(s);
        return 0;
}

static void on_continued(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (s->state != MIG_D_OWNER)
                return;
        if (r == 0) {
                post(s, MIG_EV_CONTINUED);
                return;
        }
        /* gone: on_exit says so. Refused (a lock that the source still holds?), or not known (a
         * time-out: then cont on a running guest is a success): again. Only an explicit refusal
         * is ever final. */
        if (r == -ENOTCONN || r == -ECANCELED)
                return;
        log_warning("session %s: cont: %s", s->id, ferry_error_message(error));
        if (r == -EREMOTEIO && ++s->n_cont_tries > CONT_RETRIES) {
                set_reason_from(s, "QEMU refuses to run the guest", error);
                post(s, MIG_EV_CONT_REFUSED);
                return;
        }
        if (sd_event_add_time_relative(sandbox_event(s->sb), &s->retry_timer, CLOCK_MONOTONIC,
                                       CONT_RETRY_USEC, 0, on_cont_retry, s) < 0)
                log_error("session %s: no timer for another cont", s->id);
}

static void try_cont(session *s) {
        ferry_vm *v = sandbox_vm(s->sb);

        if (v && vm_cont(v, on_continued, s) < 0)
                log_error("session %s: cont could not be sent", s->id);
}

static void take_over(session *s) {
        int r = journal_set(s->journal, JOURNAL_OWNER, false);

        if (r < 0) {
                set_reason(s, FERRY_INTERNAL, "journal: %s", strerror(-r));
                post(s, MIG_EV_JOURNAL_FAILED);
                return;
        }
        s->n_cont_tries = 0;
        try_cont(s);
}

static void confirm(session *s) {
        uint64_t resumed = s->resumed_usec ? s->resumed_usec : now_usec();
        int r;

        r = journal_set(s->journal, JOURNAL_RUNNING, true);
        if (r < 0)
                log_error("session %s: journal: %s", s->id, strerror(-r));
        if (s->go_usec) {
                s->report.resume_usec = resumed - s->go_usec;
                s->report.blackout_usec = s->stopped_for_usec + s->report.resume_usec;
                s->report.total_usec = resumed - s->began_usec;
        }
        if (r == 0)
                say_running(s);
        (void)vm_announce_self(sandbox_vm(s->sb), ANNOUNCE_ROUNDS, ignore_done, s);
        publish_blackout(s);
        if (s->options.handover == HANDOVER__HANDOVER_DIRECT)
                publish_phase(s, PHASE__PHASE_DONE, PHASE_STATE__PHASE_STATE_SUCCESS);
}

static void on_discarded(int r, const ferry_error *error, void *userdata) {
        post(userdata, MIG_EV_DISCARDED);
}

static void release(session *s) {
        int r = journal_set(s->journal, JOURNAL_DONE, true);

        if (r < 0) /* handed is as good: it stays stopped either way */
                log_error("session %s: journal: %s", s->id, strerror(-r));
        s->report.total_usec = now_usec() - s->began_usec;
        publish_blackout(s);
        if (s->options.handover == HANDOVER__HANDOVER_DIRECT)
                publish_phase(s, PHASE__PHASE_DONE, PHASE_STATE__PHASE_STATE_SUCCESS);
        r = sandbox_release_vm(s->sb, on_discarded, s);
        if (r < 0)
                log_error("session %s: quit QEMU: %s", s->id, strerror(-r));
}

static void discard(session *s) {
        int r;

        stop_timer(s);
        r = journal_set(s->journal, JOURNAL_DECLINED, true);
        if (r < 0)
                log_error("session %s: journal: %s", s->id, strerror(-r));
        if (s->state == MIG_D_CANCELLING && !s->reason)
                set_reason(s, FERRY_CANCELLED, "cancelled");
        if (!s->link_is_ours)
                close_link(s);
        r = sandbox_discard_vm(s->sb, on_discarded, s);
        if (r < 0) {
                log_error("session %s: kill QEMU: %s", s->id, strerror(-r));
                if (r != -EBUSY)
                        post(s, MIG_EV_DISCARDED);
        }
}

/* ---- export and prepare ---- */

static void export_failed(session *s, int r, const ferry_error *error) {
        complete_all_of(s, MIG_RPC_EXPORT, r, error);
        post(s, MIG_EV_EXPORT_FAILED);
}

static void on_export_facts(ferry_vm *v, int r, const ferry_error *error, const vm_facts *facts,
                            void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;

        if (s->state != MIG_S_EXPORTING)
                return;
        if (r < 0) {
                export_failed(s, r, error);
                return;
        }
        r = migration_state_encode(s->id, sandbox_id(s->sb), s->secret, vm_get_config(v), facts,
                                   s->options_message, &s->exported, &s->n_exported,
                                   s->state_digest, &own);
        if (r == 0) {
                r = journal_begin(s->journal, s->id, true,
                                  s->options.handover == HANDOVER__HANDOVER_DIRECT, s->secret);
                if (r < 0)
                        ferry_error_set_errno(&own, r, "journal");
        }
        if (r < 0) {
                export_failed(s, r, &own);
                return;
        }
        complete_all_of(s, MIG_RPC_EXPORT, 0, NULL);
        post(s, MIG_EV_EXPORTED);
}

static void on_export_migration(ferry_vm *v, int r, const ferry_error *error,
                                const vm_migration_info *info, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;

        if (s->state != MIG_S_EXPORTING)
                return;
        if (r < 0) {
                export_failed(s, r, error);
                return;
        }
        if (info->n_blocked_reasons > 0) {
                r = ferry_error_set(&own, FERRY_FAILED_PRECONDITION, -EREMOTEIO,
                                    "this VM cannot migrate: %s%s", info->blocked_reasons[0],
                                    info->n_blocked_reasons > 1 ? " (and more)" : "");
                export_failed(s, r, &own);
                return;
        }
        r = vm_query_facts(v, on_export_facts, s);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "ask QEMU what it runs");
                export_failed(s, r, &own);
        }
}

static void start_export(session *s) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        int r = random_bytes(s->secret, sizeof(s->secret));

        if (r == 0)
                r = vm_query_migrate(sandbox_vm(s->sb), on_export_migration, s);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "export");
                export_failed(s, r, &own);
        }
}

static void on_prepare_discarded(int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        /* a Cancel that came meanwhile waits for the same end of QEMU */
        post(s, s->state == MIG_D_PREPARING ? MIG_EV_PREPARE_FAILED : MIG_EV_DISCARDED);
}

static void on_prepare_facts(ferry_vm *v, int r, const ferry_error *error, const vm_facts *facts,
                             void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;

        if (s->state != MIG_D_PREPARING)
                return;
        if (r == 0)
                r = migration_state_check_facts(s->imported, facts, &own);
        else
                ferry_error_set(&own, error->code, r, "%s", ferry_error_message(error));
        if (r == 0) {
                complete_all_of(s, MIG_RPC_PREPARE, 0, NULL);
                post(s, MIG_EV_PREPARED);
                return;
        }
        complete_all_of(s, MIG_RPC_PREPARE, r, &own);
        if (sandbox_discard_vm(s->sb, on_prepare_discarded, s) < 0)
                post(s, MIG_EV_PREPARE_FAILED);
}

static void on_incoming(int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;

        if (s->state != MIG_D_PREPARING)
                return;
        if (r == 0) {
                r = vm_query_facts(sandbox_vm(s->sb), on_prepare_facts, s);
                if (r == 0)
                        return;
                ferry_error_set_errno(&own, r, "ask QEMU what it runs");
                error = &own;
        }
        complete_all_of(s, MIG_RPC_PREPARE, r, error);
        if (sandbox_vm(s->sb) && sandbox_discard_vm(s->sb, on_prepare_discarded, s) == 0)
                return;
        post(s, MIG_EV_PREPARE_FAILED);
}

static void start_qemu(session *s) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        int r = sandbox_start_incoming(s->sb, s->imported->config, on_incoming, s, &own);

        if (r < 0) {
                complete_all_of(s, MIG_RPC_PREPARE, r, &own);
                post(s, MIG_EV_PREPARE_FAILED);
        }
}

/* ---- the session's own life ---- */

static void greet(session *s) {
        _cleanup_(freep) uint8_t *options = NULL;
        size_t n_options = 0;
        mig_link_identity identity = { .source = is_source(s), .session_id = s->id };
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
        start_timer(s, limit_usec(s, GREETING_USEC), MIG_EV_LINK_LOST);
        r = mig_link_greet(s->link, &identity);
        explicit_bzero(&identity, sizeof(identity));
        if (r < 0) {
                set_reason(s, FERRY_UNAVAILABLE, "migration socket: %s", strerror(-r));
                post(s, MIG_EV_TRANSFER_FAILED);
        }
}

static void clear(session *s) {
        stop_timer(s);
        s->progress_timer = sd_event_source_disable_unref(s->progress_timer);
        s->retry_timer = sd_event_source_disable_unref(s->retry_timer);
        close_link(s);
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
        s->id[0] = '\0';
        s->guest_initiated = s->refused = s->query_under_way = false;
        s->setup_told = s->failed_told = s->recovery_told = false;
        s->began_usec = s->stopped_usec = s->completed_usec = s->offered_usec = 0;
        s->round_trip_usec = s->go_usec = s->stopped_for_usec = s->resumed_usec = 0;
        s->stopped_wall_usec = 0;
        s->rate = s->rate_sent = s->rate_usec = 0;
        s->pass = 0;
        s->report = (session_report){ .total_usec = 0 };
        migration_options_init(&s->options);
}

static void forget(session *s) {
        int r = journal_end(s->journal);

        if (r < 0)
                log_error("session %s: journal: %s", s->id, strerror(-r));
        clear(s);
}

static void act(session *s, mig_action action) {
        switch (action) {
        case MIG_ACT_NONE:
                break;
        case MIG_ACT_EXPORT:
                start_export(s);
                break;
        case MIG_ACT_START_QEMU:
                start_qemu(s);
                break;
        case MIG_ACT_WAIT_SOCKET:
        case MIG_ACT_ADOPT: /* the call did it, with its arguments */
                break;
        case MIG_ACT_GREET:
                stop_timer(s);
                greet(s);
                break;
        case MIG_ACT_START_COPY:
                stop_timer(s);
                start_copy(s);
                break;
        case MIG_ACT_START_LOAD:
                stop_timer(s);
                start_load(s);
                break;
        case MIG_ACT_OFFER:
                s->link_is_ours = true;
                s->offered_usec = now_usec();
                say_offer(s);
                mig_link_listen(s->link);
                start_timer(s, limit_usec(s, READY_WAIT_USEC), MIG_EV_WAIT_TIMEOUT);
                if (s->stopped_usec)
                        s->report.stop_to_completed_usec = s->completed_usec - s->stopped_usec;
                break;
        case MIG_ACT_LISTEN:
                s->link_is_ours = true;
                mig_link_listen(s->link);
                break;
        case MIG_ACT_SAY_READY:
                say_ready(s);
                if (s->options.handover == HANDOVER__HANDOVER_CALLER)
                        publish_phase(s, PHASE__PHASE_DONE, PHASE_STATE__PHASE_STATE_SUCCESS);
                break;
        case MIG_ACT_MARK_READY:
                s->round_trip_usec = now_usec() - s->offered_usec;
                s->report.handover_usec = s->round_trip_usec;
                if (s->options.handover == HANDOVER__HANDOVER_DIRECT) {
                        post(s, MIG_EV_DUE);
                        break;
                }
                publish_phase(s, PHASE__PHASE_OFFLINE_DONE, PHASE_STATE__PHASE_STATE_SUCCESS);
                publish_phase(s, PHASE__PHASE_DONE, PHASE_STATE__PHASE_STATE_SUCCESS);
                start_timer(s, limit_usec(s, CALLER_WAIT_USEC), MIG_EV_WAIT_TIMEOUT);
                break;
        case MIG_ACT_SAY_WANT:
                say_want(s);
                break;
        case MIG_ACT_HAND_OVER:
                hand_over(s);
                if (s->options.handover == HANDOVER__HANDOVER_DIRECT)
                        publish_phase(s, PHASE__PHASE_OFFLINE_DONE,
                                      PHASE_STATE__PHASE_STATE_SUCCESS);
                if (sandbox_vm(s->sb))
                        (void)vm_query_migrate(sandbox_vm(s->sb), on_final_info, s);
                break;
        case MIG_ACT_SAY_GO:
                say_go(s);
                break;
        case MIG_ACT_TAKE_OVER:
                take_over(s);
                break;
        case MIG_ACT_CONFIRM:
                confirm(s);
                break;
        case MIG_ACT_SAY_RUNNING:
                say_running(s);
                break;
        case MIG_ACT_RELEASE:
                release(s);
                break;
        case MIG_ACT_SAY_REFUSED:
                say_refused(s);
                break;
        case MIG_ACT_TAKE_BACK: {
                int r = journal_set(s->journal, JOURNAL_OWNER, true);

                if (r < 0) {
                        set_reason(s, FERRY_INTERNAL, "journal: %s", strerror(-r));
                        post(s, MIG_EV_ROLLBACK_FAILED);
                        break;
                }
                roll_back(s);
                break;
        }
        case MIG_ACT_ROLL_BACK:
                roll_back(s);
                break;
        case MIG_ACT_DISCARD:
                discard(s);
                break;
        case MIG_ACT_SAY_DECLINED:
                say_declined(s);
                break;
        case MIG_ACT_SAY_LOST:
                say_lost(s);
                break;
        case MIG_ACT_FAIL:
                stop_timer(s);
                close_link(s);
                break;
        case MIG_ACT_SETTLE:
                break;
        case MIG_ACT_KILL:
                (void)sandbox_discard_vm(s->sb, on_discarded, s);
                break;
        case MIG_ACT_FORGET:
                forget(s);
                break;
        case _MIG_ACTION_MAX:
                break;
        }
}

/* What subscribers hear of a state as such, however it was reached. */
static void announce_state(session *s, mig_state was) {
        switch ((int)s->state) {
        case MIG_S_RECOVERING:
                publish_failure(s);
                break;
        case MIG_D_FAILING:
                if (s->refused) /* nothing failed here */
                        publish_cancelled(s);
                else
                        publish_failure(s);
                break;
        case MIG_S_CANCELLING:
        case MIG_D_CANCELLING:
                if (was != MIG_S_FAILED)
                        publish_cancelled(s);
                break;
        case MIG_S_RESUMING: /* a RESUME before the handover is the caller's cancel */
                if (was == MIG_S_OFFERED || was == MIG_S_READY)
                        publish_cancelled(s);
                break;
        case MIG_S_FAILED:
                publish_failure(s);
                if (was == MIG_S_RECOVERING)
                        publish_recovery(s);
                break;
        case MIG_S_CANCELLED:
        case MIG_S_RESUMED:
                publish_recovery(s);
                break;
        case MIG_D_LOST:
                publish_failure(s);
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
                close_link(s);
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
        act(s, cell->action); /* the blackout first, the words after */
        log_info("session %s: %s -%s-> %s / %s", *id ? id : s->id, mig_state_get(was)->name,
                 mig_event_name(event), mig_state_get(s->state)->name,
                 mig_action_name(cell->action));
        if (s->state != was)
                announce_state(s, was);
        close_settled_link(s);
        if (event == MIG_EV_ROLLBACK_FAILED)
                complete_all_with_reason(s);
        sandbox_changed(s->sb);
}

static void retire_if_settled(session *s);

static void post(session *s, mig_event event) {
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
                        retry_waiters(s);
        }
        s->stepping = false;
        retire_if_settled(s);
}

/* ---- the calls ---- */

static void reply_error(session_reply reply, void *userdata, int r, ferry_error *error) {
        reply(r, error, userdata);
        ferry_error_done(error);
}

static int copy_options(const InitializeOptions *from, InitializeOptions **ret) {
        size_t n;
        uint8_t *data;

        *ret = NULL;
        if (!from)
                return 0;
        n = initialize_options__get_packed_size(from);
        data = malloc(n + 1);
        if (!data)
                return -ENOMEM;
        initialize_options__pack(from, data);
        *ret = initialize_options__unpack(NULL, n, data);
        free(data);
        return *ret ? 0 : -ENOMEM;
}

static void begin(session *s, const char *id, const migration_options *options) {
        strcpy(s->id, id);
        s->options = *options;
        policy_init(&s->policy, &(policy_options){
                                        .first_ms = MIGRATION_FIRST_DOWNTIME_MS,
                                        .target_ms = options->blackout_target_ms,
                                        .target_passes = options->target_passes,
                                        .maximum_passes = options->maximum_passes,
                                });
}

static int check_new_session(const session *s, const char *id, mig_event rpc, ferry_error *reterr) {
        if (!id || !*id)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "session_id is empty");
        if (!journal_session_id_is_valid(id))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "session_id: 1 to %u of letters, digits and ._:@+=-",
                                       JOURNAL_SESSION_ID_MAX);
        return check_state(s, rpc, reterr);
}

static int check_export(session *s, const char *id, const InitializeOptions *message,
                        migration_options *ret_options, ferry_error *reterr) {
        sandbox_vm_state vm_state = sandbox_get_vm_state(s->sb);
        int r;

        r = migration_options_parse(message, ret_options, reterr);
        if (r < 0)
                return r;
        r = check_new_session(s, id, MIG_RPC_EXPORT, reterr);
        if (r < 0)
                return r;
        if (vm_state != SANDBOX_VM_RUNNING)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       vm_state == SANDBOX_VM_PAUSED
                                               ? "the VM is paused: resume it first"
                                               : "there is no running VM to migrate");
        return 0;
}

void session_export(session *s, const char *id, const InitializeOptions *message,
                    session_reply reply, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        migration_options options;
        InitializeOptions *copy = NULL;
        int r;

        r = check_export(s, id, message, &options, &error);
        if (r == 0) {
                r = copy_options(message, &copy);
                if (r < 0)
                        ferry_error_set_errno(&error, r, "export");
        }
        if (r == 0) {
                r = notifications_new(ORIGIN__ORIGIN_SOURCE, &s->notifications);
                if (r < 0) {
                        if (copy)
                                initialize_options__free_unpacked(copy, NULL);
                        ferry_error_set_errno(&error, r, "export");
                }
        }
        if (r < 0) {
                reply_error(reply, userdata, r, &error);
                return;
        }
        begin(s, id, &options);
        s->options_message = copy;
        call(s, MIG_RPC_EXPORT, reply, userdata);
}

void session_exported(const session *s, const uint8_t **ret, size_t *ret_n) {
        *ret = s->exported;
        *ret_n = s->n_exported;
}

static int check_import(session *s, const char *id, const char *sandbox_name, const uint8_t *data,
                        size_t n, migration_state **ret, migration_options *ret_options,
                        ferry_error *reterr) {
        _cleanup_(migration_state_freep) migration_state *state = NULL;
        const journal_session *old;
        int r;

        r = check_new_session(s, id, MIG_RPC_IMPORT, reterr);
        if (r < 0)
                return r;
        if (strcmp(sandbox_name, sandbox_id(s->sb)) != 0)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "sandbox_id: this shim is for sandbox %s, not for \"%.60s\"",
                                       sandbox_id(s->sb), sandbox_name);
        if (sandbox_vm(s->sb) || sandbox_get_vm_state(s->sb) == SANDBOX_VM_STOPPED)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "this shim has a VM of its own: import into a new one");
        old = journal_find(s->journal, id);
        if (old)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "session %s has ended here (%s): export anew, with another "
                                       "session id",
                                       id, journal_mark_name(old->mark));
        r = migration_state_decode(data, n, id, &state, reterr);
        if (r < 0)
                return r;
        r = migration_options_parse(state->message->options, ret_options, reterr);
        if (r < 0)
                return ferry_error_prefix(reterr, r, "config");
        r = sandbox_check_incoming(s->sb, state->config, reterr);
        if (r < 0)
                return r;
        r = migration_state_check_files(state, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(state);
        return 0;
}

void session_import(session *s, const char *id, const char *sandbox_name, const uint8_t *data,
                    size_t n, session_reply reply, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        migration_state *state = NULL;
        migration_options options;
        InitializeOptions *copy = NULL;
        notifications *history = NULL;
        int r;

        r = check_import(s, id, sandbox_name, data, n, &state, &options, &error);
        if (r < 0) {
                reply_error(reply, userdata, r, &error);
                return;
        }
        r = copy_options(state->message->options, &copy);
        if (r == 0)
                r = notifications_new(ORIGIN__ORIGIN_DESTINATION, &history);
        if (r == 0)
                r = journal_begin(s->journal, id, false,
                                  options.handover == HANDOVER__HANDOVER_DIRECT,
                                  state->message->session_secret.data);
        if (r < 0) {
                if (copy)
                        initialize_options__free_unpacked(copy, NULL);
                notifications_close(history);
                migration_state_free(state);
                ferry_error_set_errno(&error, r, "import");
                reply_error(reply, userdata, r, &error);
                return;
        }
        begin(s, id, &options);
        s->options_message = copy;
        s->notifications = history;
        s->imported = state;
        memcpy(s->secret, state->message->session_secret.data, DIGEST_SIZE);
        memcpy(s->state_digest, state->digest, DIGEST_SIZE);
        call(s, MIG_RPC_IMPORT, reply, userdata);
}

void session_prepare(session *s, const char *id, const InitializeOptions *message,
                     session_reply reply, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        migration_options ignored;
        int r;

        r = migration_options_parse(message, &ignored, &error);
        if (r == 0)
                r = check_id(s, id, &error);
        if (r == 0)
                r = check_state(s, MIG_RPC_PREPARE, &error);
        if (r == 0 && message)
                r = migration_options_agree(s->options_message, message, &error);
        if (r < 0) {
                reply_error(reply, userdata, r, &error);
                return;
        }
        call(s, MIG_RPC_PREPARE, reply, userdata);
}

int session_check_socket(session *s, const char *id, ferry_error *reterr) {
        int r = check_id(s, id, reterr);

        if (r < 0)
                return r;
        if (s->link)
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST,
                                       "session %s has its socket", s->id);
        return check_state(s, MIG_RPC_SOCKET, reterr);
}

void session_socket(session *s, const char *id, int fd_consume, session_reply reply,
                    void *userdata) {
        _cleanup_(closep) int fd = fd_consume;
        ferry_error error = FERRY_ERROR_INIT;
        int r;

        r = session_check_socket(s, id, &error);
        if (r == 0) {
                r = mig_link_new(sandbox_event(s->sb), TAKE_FD(fd), &link_handlers, s, &s->link);
                if (r < 0)
                        ferry_error_set_errno(&error, r, "migration socket");
        }
        if (r < 0) {
                reply_error(reply, userdata, r, &error);
                return;
        }
        call(s, MIG_RPC_SOCKET, reply, userdata);
}

void session_transfer(session *s, const char *id, uint64_t timeout_usec, session_reply reply,
                      void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        uint64_t wait = timeout_usec ? timeout_usec : SOCKET_WAIT_USEC;
        mig_state was = s->state;
        int r;

        r = check_id(s, id, &error);
        if (r < 0) {
                reply_error(reply, userdata, r, &error);
                return;
        }
        call(s, MIG_RPC_TRANSFER, reply, userdata);
        if (s->state != was &&
            (s->state == MIG_S_SOCKET_WAITING || s->state == MIG_D_SOCKET_WAITING))
                start_timer(s, wait > SOCKET_WAIT_MAX ? SOCKET_WAIT_MAX : wait,
                            MIG_EV_SOCKET_TIMEOUT);
}

static int apply_record(session *s, const uint8_t *record, size_t n, ferry_error *reterr) {
        const journal_session *js = journal_current(s->journal);
        journal_mark mark;
        int r;

        if (n == 0)
                return 0;
        if (!js)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "handover_record: no session is in the journal");
        r = journal_record_check(js, record, n, &mark);
        if (r < 0)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, r,
                                       r == -EKEYREJECTED
                                               ? "handover_record is not authentic"
                                               : "handover_record is not one of this session's");
        if (js->source && mark == JOURNAL_RUNNING)
                post(s, MIG_EV_RECORD_RUNNING);
        else if (js->source && mark == JOURNAL_DECLINED)
                post(s, MIG_EV_RECORD_DECLINED);
        else if (!js->source && mark == JOURNAL_HANDED)
                post(s, MIG_EV_RECORD_HANDED);
        else
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "handover_record is this side's own: give it the other's");
        return 0;
}

void session_finalize(session *s, const char *id, FinalizeAction action, const uint8_t *record,
                      size_t n_record, bool force, session_reply reply, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        mig_event rpc = action == FINALIZE_ACTION__FINALIZE_ACTION_RESUME ? MIG_RPC_RESUME
                        : force                                           ? MIG_RPC_STOP_FORCE
                                                                          : MIG_RPC_STOP;
        int r = 0;

        if (action == FINALIZE_ACTION__FINALIZE_ACTION_UNSPECIFIED)
                r = ferry_error_set(&error, FERRY_INVALID_ARGUMENT, -EINVAL,
                                    "action must be STOP (1) or RESUME (2)");
        if (r == 0)
                r = check_id(s, id, &error);
        if (r == 0 && action != FINALIZE_ACTION__FINALIZE_ACTION_STOP &&
            action != FINALIZE_ACTION__FINALIZE_ACTION_RESUME)
                r = ferry_error_set(&error, FERRY_INVALID_ARGUMENT, -EINVAL,
                                    "action %d: must be STOP (1) or RESUME (2)", (int)action);
        if (r == 0 && force && action == FINALIZE_ACTION__FINALIZE_ACTION_RESUME)
                r = ferry_error_set(&error, FERRY_UNIMPLEMENTED, -EOPNOTSUPP,
                                    "RESUME with force needs proof that the other host is fenced, "
                                    "which this version cannot take");
        if (r == 0)
                r = apply_record(s, record, n_record, &error);
        if (r < 0) {
                reply_error(reply, userdata, r, &error);
                return;
        }
        call(s, rpc, reply, userdata);
}

void session_cancel(session *s, const char *id, session_reply reply, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        int r = check_id(s, id, &error);

        if (r < 0) {
                reply_error(reply, userdata, r, &error);
                return;
        }
        call(s, MIG_RPC_CANCEL, reply, userdata);
}

void session_cleanup(session *s, const char *id, session_reply reply, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        int r = 0;

        if (!id || !*id)
                r = ferry_error_set(&error, FERRY_INVALID_ARGUMENT, -EINVAL, "session_id is empty");
        else if (s->state != MIG_IDLE)
                r = check_id(s, id, &error);
        if (r < 0) {
                reply_error(reply, userdata, r, &error);
                return;
        }
        call(s, MIG_RPC_CLEANUP, reply, userdata);
}

int session_subscribe(session *s, const char *id, subscriber_send send, subscriber_end end,
                      void *userdata, subscriber **ret, ferry_error *reterr) {
        int r = check_id(s, id, reterr);

        if (r == 0)
                r = check_state(s, MIG_RPC_NOTIFICATIONS, reterr);
        if (r < 0)
                return r;
        r = notifications_subscribe(s->notifications, send, end, userdata, ret);
        if (r < 0)
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, r, "too many subscribers");
        return 0;
}

/* ---- looking ---- */

void session_get_status(const session *s, session_status *ret) {
        const journal_session *js = journal_current(s->journal);
        const mig_state_info *info = mig_state_get(s->state);
        bool handed = s->state == MIG_S_HANDED || s->state == MIG_S_SPENT;

        *ret = (session_status){
                .state = s->state,
                .session_id = s->id,
                .reason = s->reason,
                .owner = info->owner,
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
                complete(s, 0, -ESHUTDOWN, &error);
        clear(s);
        s->waiter_timer = sd_event_source_disable_unref(s->waiter_timer);
        journal_free(s->journal);
        free(s);
        return NULL;
}

/* Which state the journal and QEMU speak for, and the event that goes on from there. */
static mig_state recovered_source(const session *s, journal_mark mark, mig_event *ret_event) {
        *ret_event = _MIG_EVENT_MAX;
        switch (mark) {
        case JOURNAL_HANDED:
                return MIG_S_HANDED;
        case JOURNAL_DONE:
                *ret_event = MIG_EV_RECORD_RUNNING; /* quit QEMU, if it still stands */
                return MIG_S_HANDED;
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
        begin(s, js->session_id, &options);
        memcpy(s->secret, js->secret, DIGEST_SIZE);
        s->state = js->source ? recovered_source(s, js->mark, &event)
                              : recovered_destination(s, js, running, &event);
        set_reason(s, FERRY_UNAVAILABLE, "the shim was restarted during the migration");
        log_info("session %s: recovered as %s", s->id, mig_state_get(s->state)->name);
        if (event != _MIG_EVENT_MAX)
                post(s, event);
        return 0;
}

static bool is_rolling(const session *s) {
        return rolling_back(s) || s->state == MIG_D_CANCELLING || s->state == MIG_D_STOPPING ||
               s->state == MIG_D_FAILING || s->state == MIG_S_EXPORTING ||
               s->state == MIG_D_PREPARING;
}

static void retire_if_settled(session *s) {
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
                set_reason(s, FERRY_UNAVAILABLE, "the shim was told to end");
                call(s, MIG_RPC_CANCEL, ignore_reply, NULL);
        }
        retire_if_settled(s);
}
