/* SPDX-License-Identifier: MIT */
/* The shims' messages, and who may run the guest (docs/handover.md). */
#include "migration/session-internal.h"

#define CONT_RETRIES 10
#define AGAIN_USEC   (1 * USEC_PER_SEC)

/* ---- messages ---- */

static int send_message(session *s, mig_message *message) {
        if (!s->link || !s->link_is_ours)
                return -ENOTCONN;
        return mig_link_send(s->link, message);
}

static int send_go(mig_link *link, const ProtobufCBinaryData *record, uint64_t stopped_for_usec,
                   uint64_t round_trip_usec) {
        Ferry__Handover__V1__Go go = FERRY__HANDOVER__V1__GO__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        go.record = *record;
        go.stopped_for_usec = stopped_for_usec;
        go.round_trip_usec = round_trip_usec;
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_GO;
        m.go = &go;
        return mig_link_send(link, &m);
}

static int send_running(mig_link *link, const ProtobufCBinaryData *record,
                        const session_report *report) {
        Ferry__Handover__V1__Running running = FERRY__HANDOVER__V1__RUNNING__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        running.record = *record;
        if (report) {
                running.blackout_usec = report->blackout_usec;
                running.resume_usec = report->resume_usec;
        }
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_RUNNING;
        m.running = &running;
        return mig_link_send(link, &m);
}

static int send_declined(mig_link *link, const ProtobufCBinaryData *record, const char *reason) {
        Ferry__Handover__V1__Declined declined = FERRY__HANDOVER__V1__DECLINED__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        declined.record = *record;
        declined.reason = (char *)reason;
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_DECLINED;
        m.declined = &declined;
        return mig_link_send(link, &m);
}

static int send_refused(mig_link *link, const char *reason) {
        Ferry__Handover__V1__Refused refused = FERRY__HANDOVER__V1__REFUSED__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        refused.reason = (char *)reason;
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_REFUSED;
        m.refused = &refused;
        return mig_link_send(link, &m);
}

static int send_lost(mig_link *link, const char *reason) {
        Ferry__Handover__V1__Lost lost = FERRY__HANDOVER__V1__LOST__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        lost.reason = (char *)reason;
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_LOST;
        m.lost = &lost;
        return mig_link_send(link, &m);
}

void session_say_offer(session *s) {
        Ferry__Handover__V1__Offer offer = FERRY__HANDOVER__V1__OFFER__INIT;
        char *disks[SESSION_DISKS_MAX];
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;
        int r;

        r = session_send_guest(s);
        if (r < 0) {
                session_set_reason(s, FERRY_INTERNAL, "the guest's programs: %s", strerror(-r));
                session_post(s, MIG_EV_TRANSFER_FAILED);
                return;
        }
        offer.n_disks = session_offered_disks(s, disks);
        offer.disks = disks;
        offer.memory = session_offered_memory(s);
        offer.postcopy = s->state == MIG_S_PAUSED;
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_OFFER;
        m.offer = &offer;
        (void)send_message(s, &m);
}

void session_say_ready(session *s) {
        Ferry__Handover__V1__Ready ready = FERRY__HANDOVER__V1__READY__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_READY;
        m.ready = &ready;
        (void)send_message(s, &m);
}

void session_say_want(session *s) {
        Ferry__Handover__V1__Want want = FERRY__HANDOVER__V1__WANT__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_WANT;
        m.want = &want;
        (void)send_message(s, &m);
}

/* What the journal says, or said: `mark` may be an earlier one. */
static void record_of(const session *s, journal_mark mark, char text[JOURNAL_RECORD_MAX],
                      ProtobufCBinaryData *ret) {
        const journal_session *js = journal_current(s->journal);
        journal_session then;

        *ret = (ProtobufCBinaryData){ .len = 0 };
        if (!js)
                return;
        then = *js;
        then.mark = mark;
        if (journal_record(&then, text) == 0)
                *ret = (ProtobufCBinaryData){ strlen(text), (uint8_t *)text };
        explicit_bzero(&then, sizeof(then));
}

static void own_record(const session *s, char text[JOURNAL_RECORD_MAX], ProtobufCBinaryData *ret) {
        const journal_session *js = journal_current(s->journal);

        record_of(s, js ? js->mark : JOURNAL_OPEN, text, ret);
}

static bool link_takes_messages(const session *s) {
        return s->link && s->link_is_ours;
}

void session_say_go(session *s) {
        ProtobufCBinaryData record;
        char text[JOURNAL_RECORD_MAX];

        own_record(s, text, &record);
        if (link_takes_messages(s))
                (void)send_go(s->link, &record, s->stopped_usec ? now_usec() - s->stopped_usec : 0,
                              s->round_trip_usec);
}

void session_say_taken(session *s) {
        Ferry__Handover__V1__Taken taken = FERRY__HANDOVER__V1__TAKEN__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;
        char text[JOURNAL_RECORD_MAX];

        /* the mark may be a later one by now: that TAKEN was true is what this says */
        record_of(s, JOURNAL_TAKEN, text, &taken.record);
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_TAKEN;
        m.taken = &taken;
        (void)send_message(s, &m);
}

void session_say_runs(session *s) {
        Ferry__Handover__V1__Runs runs = FERRY__HANDOVER__V1__RUNS__INIT;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;

        runs.blackout_usec = s->report.blackout_usec;
        runs.resume_usec = s->report.resume_usec;
        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_RUNS;
        m.runs = &runs;
        (void)send_message(s, &m);
}

void session_say_running(session *s) {
        ProtobufCBinaryData record;
        char text[JOURNAL_RECORD_MAX];

        own_record(s, text, &record);
        if (link_takes_messages(s))
                (void)send_running(s->link, &record, &s->report);
}

void session_say_declined(session *s) {
        ProtobufCBinaryData record;
        char text[JOURNAL_RECORD_MAX];

        own_record(s, text, &record);
        if (link_takes_messages(s))
                (void)send_declined(s->link, &record, s->reason ? s->reason : "");
}

/* One that has no guest to run has nothing to refuse for: the destination's copy may be the last.
 */
void session_say_refused(session *s) {
        if (!sandbox_vm(s->sb))
                session_say_lost(s);
        else if (link_takes_messages(s))
                (void)send_refused(s->link, s->reason ? s->reason : "the source was resumed");
}

void session_say_lost(session *s) {
        if (link_takes_messages(s))
                (void)send_lost(s->link, s->reason ? s->reason : "");
}

/* What a tombstone has to say. A destination's that never took over is closed with *declined*. */
int session_say_verdict(mig_link *link, const journal_session *js) {
        ProtobufCBinaryData record = { .len = 0 };
        char text[JOURNAL_RECORD_MAX];

        if (journal_record(js, text) == 0)
                record = (ProtobufCBinaryData){ strlen(text), (uint8_t *)text };
        switch (js->mark) {
        case JOURNAL_HANDED:
        case JOURNAL_DONE:
                return send_go(link, &record, 0, 0);
        case JOURNAL_RUNNING:
                return send_running(link, &record, NULL);
        case JOURNAL_DECLINED:
                return send_declined(link, &record, "the copy was given up");
        case JOURNAL_RAN_AGAIN:
                return send_refused(link, "the source was resumed");
        case JOURNAL_OPEN:
        case JOURNAL_COMPLETED:
        case JOURNAL_OWNER:
        case JOURNAL_TAKEN:
        case _JOURNAL_MARK_MAX:
        default:
                /* a destination's may have run; a source's ended with its QEMU, nothing decided */
                return send_lost(link, js->source
                                               ? "the source's VM ended before it was handed over"
                                               : "the copy is gone, and may have run");
        }
}

/* The reason of another host, for people: capped and one line (the log cleans it). */
static void peer_reason(session *s, const char *what, const char *text) {
        session_set_reason(s, FERRY_ABORTED, "%s%s%.200s", what, *text ? ": " : "", text);
}

/* The words that move ownership carry the other side's record: nobody else can say them. */
static bool is_authentic(const session *s, const char *word, const ProtobufCBinaryData *record,
                         journal_mark expected) {
        const journal_session *js = journal_current(s->journal);
        journal_mark mark;

        if (js && journal_record_check(js, record->data, record->len, &mark) == 0 &&
            mark == expected)
                return true;
        log_warning("session %s: %s without an authentic record was ignored", s->id, word);
        return false;
}

static void take_figures(session *s, uint64_t blackout_usec, uint64_t resume_usec) {
        uint64_t day = 86400 * USEC_PER_SEC;

        if (mig_state_get(s->state)->owner != MIG_OWNER_THERE || s->report.blackout_usec > 0)
                return;
        if (blackout_usec < day)
                s->report.blackout_usec = blackout_usec;
        if (resume_usec < day)
                s->report.resume_usec = resume_usec;
}

static void receive_running(session *s, const Ferry__Handover__V1__Running *running) {
        take_figures(s, running->blackout_usec, running->resume_usec);
        session_post(s, MIG_EV_RUNNING);
}

/* One that has its QEMU still, in S_HANDED, has sent all of it: RUNNING follows. */
static void receive_runs(session *s, const Ferry__Handover__V1__Runs *runs) {
        take_figures(s, runs->blackout_usec, runs->resume_usec);
        if (s->state != MIG_S_HANDED || !sandbox_vm(s->sb))
                session_post(s, MIG_EV_RUNS);
}

static void receive_go(session *s, const Ferry__Handover__V1__Go *go) {
        uint64_t day = 86400 * USEC_PER_SEC;

        if (s->go_usec == 0) {
                s->go_usec = now_usec();
                if (go->stopped_for_usec > 0 && go->stopped_for_usec < day &&
                    go->round_trip_usec < day)
                        s->stopped_for_usec = go->stopped_for_usec + go->round_trip_usec / 2;
                if (s->stopped_for_usec > 0)
                        s->stopped_wall_usec = wall_usec() - s->stopped_for_usec;
        }
        session_post(s, MIG_EV_GO);
}

/* Where messages come while QEMU still loads, this one may come before QEMU's last word. */
static void keep_for_later(session *s, const mig_message *m) {
        size_t n = ferry__handover__v1__message__get_packed_size(m);
        uint8_t *copy = malloc(n + 1);

        free(s->early_offer);
        s->early_offer = copy;
        s->n_early_offer = copy ? ferry__handover__v1__message__pack(m, copy) : 0;
}

static void receive_offer(session *s, const mig_message *m) {
        s->offer_came = true;
        if (m->offer->postcopy)
                session_receive_proposal(s, m->offer);
        else if (s->state == MIG_D_LOADING)
                keep_for_later(s, m);
        else if (session_take_disks(s, m->offer->disks, m->offer->n_disks) &&
                 session_take_memory(s, &m->offer->memory) && session_take_guest(s))
                session_post(s, MIG_EV_OFFER);
}

void session_take_early_offer(session *s) {
        _cleanup_(freep) uint8_t *data = TAKE_PTR(s->early_offer);
        mig_message *m =
                data ? ferry__handover__v1__message__unpack(NULL, s->n_early_offer, data) : NULL;

        s->n_early_offer = 0;
        if (m)
                receive_offer(s, m);
        ferry__handover__v1__message__free_unpacked(m, NULL);
}

static void on_message(const mig_message *m, void *userdata) {
        session *s = userdata;

        switch ((int)m->kind_case) {
        case FERRY__HANDOVER__V1__MESSAGE__KIND_OFFER:
                receive_offer(s, m);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_TAKEN:
                if (is_authentic(s, "TAKEN", &m->taken->record, JOURNAL_TAKEN))
                        session_post(s, MIG_EV_TAKEN);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_RUNS:
                receive_runs(s, m->runs);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_GUEST:
                session_receive_guest(s, &m->guest->data);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_READY:
                session_post(s, MIG_EV_READY);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_WANT:
                session_post(s, MIG_EV_WANT);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_GO:
                if (is_authentic(s, "GO", &m->go->record, JOURNAL_HANDED))
                        receive_go(s, m->go);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_RUNNING:
                if (is_authentic(s, "RUNNING", &m->running->record, JOURNAL_RUNNING))
                        receive_running(s, m->running);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_DECLINED:
                /* before *handed* it only rolls back, which is always safe */
                if ((mig_state_get(s->state)->owner == MIG_OWNER_THERE ||
                     s->state == MIG_S_SPENT) &&
                    !is_authentic(s, "DECLINED", &m->declined->record, JOURNAL_DECLINED))
                        break;
                peer_reason(s, "the destination gave its copy up", m->declined->reason);
                session_post(s, MIG_EV_DECLINED);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_REFUSED:
                peer_reason(s, "the source runs the sandbox again", m->refused->reason);
                s->refused = true;
                session_post(s, MIG_EV_REFUSED);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_LOST:
                log_error("session %s: the other side has lost its copy: %.200s", s->id,
                          m->lost->reason);
                s->peer_lost = true;
                session_post(s, MIG_EV_LOST);
                break;
        case FERRY__HANDOVER__V1__MESSAGE__KIND_HELLO:
        case FERRY__HANDOVER__V1__MESSAGE__KIND_PROOF:
        case FERRY__HANDOVER__V1__MESSAGE__KIND__NOT_SET:
        default:
                log_warning("session %s: a message of an unknown kind was ignored", s->id);
        }
}

static void on_greeted(void *userdata) {
        session *s = userdata;

        if (s->rejoining)
                session_rejoined(s);
        else if (session_all_greeted(s))
                session_post(s, MIG_EV_GREETED);
}

void session_link_broke(session *s, const char *reason) {
        const mig_cell *cell = mig_lookup(s->state, MIG_EV_LINK_LOST);

        if (cell->verdict != MIG_ILLEGAL && cell->action != MIG_ACT_NONE)
                session_set_reason(s, FERRY_UNAVAILABLE, "%s", reason);
        else
                log_info("session %s: %s", s->id, reason);
        session_post(s, MIG_EV_LINK_LOST);
        /* it has nothing to carry any more; Status says undecided, and a new one may come */
        if (mig_lookup(s->state, MIG_RPC_SOCKET)->action == MIG_ACT_REJOIN)
                session_lose_link(s);
}

static void on_broken(const char *reason, void *userdata) {
        /* the relay that carried it knows more */
        if (!session_look_at_relay(userdata))
                session_link_broke(userdata, reason);
}

const mig_link_handlers session_link_handlers = {
        .on_greeted = on_greeted,
        .on_message = on_message,
        .on_broken = on_broken,
};

/* No message is lost by it: what was sent goes out before the end of the stream does. */
void session_close_link(session *s) {
        if (!s->link)
                return;
        if (!s->guest_carried) /* half of what was to come */
                session_drop_guest(s);
        s->rejoin_timer = sd_event_source_disable_unref(s->rejoin_timer);
        s->rejoining = false;
        if (!s->link_is_ours)
                mig_link_shutdown(s->link); /* QEMU and the peer notice at once */
        session_end_relay(s);
        session_drop_channels(s);
        s->n_greeted = 0;
        s->link = mig_link_free(s->link);
        s->link_is_ours = false;
}

/* Not in a step. */
void session_lose_link(session *s) {
        session_close_link(s);
        session_retry_waiters(s);
        session_retire_if_settled(s);
        sandbox_changed(s->sb);
}

/* ---- handover ---- */

void session_hand_over(session *s) {
        uint64_t begin = now_usec();
        int r;

        session_stop_timer(s);
        r = journal_set(s->journal, JOURNAL_HANDED, true);
        if (r < 0) {
                session_set_reason(s, FERRY_INTERNAL, "journal: %s", strerror(-r));
                session_post(s, MIG_EV_JOURNAL_FAILED);
                return;
        }
        s->report.journal_sync_usec = now_usec() - begin;
        session_trace_handed(s); /* before GO: sending may wake the other side on this very CPU */
        session_say_go(s);
        if (s->state == MIG_S_COMMITTED)
                session_await_taken(s);
}

static void try_cont(session *s);

static bool is_starting(const session *s) {
        return s->state == MIG_D_OWNER || s->state == MIG_D_STARTING;
}

static int on_cont_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;

        s->retry_timer = sd_event_source_disable_unref(s->retry_timer);
        if (is_starting(s))
                try_cont(s);
        return 0;
}

static void retry_cont(session *s) {
        if (!s->retry_timer &&
            sd_event_add_time_relative(sandbox_event(s->sb), &s->retry_timer, CLOCK_MONOTONIC,
                                       CONT_RETRY_USEC, TIMER_ACCURACY_USEC, on_cont_retry, s) < 0)
                log_error("session %s: no timer for another cont", s->id);
}

/* QEMU refuses; that is final only while the guest has certainly not run. */
static void on_refused_status(ferry_vm *v, int r, const ferry_error *error, const vm_status *status,
                              void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED || r == -ENOTCONN || !is_starting(s))
                return;
        /* a post-copy's is the only copy by then */
        if (r < 0 || (s->state == MIG_D_STARTING && !status->running))
                retry_cont(s);
        else
                session_post(s, strcmp(status->state, "paused") == 0 ? MIG_EV_CONT_REFUSED
                                                                     : MIG_EV_CONTINUED);
}

static void on_continued(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED || !is_starting(s))
                return;
        if (r == 0) {
                /* QEMU may still wait for the rest of a post-copy's state: RESUME tells */
                s->cont_accepted = true;
                if (s->state == MIG_D_OWNER || s->resumed_usec)
                        session_post(s, MIG_EV_CONTINUED);
                return;
        }
        if (r == -ENOTCONN) /* on_exit says what became of it */
                return;
        log_warning("session %s: cont: %s", s->id, ferry_error_message(error));
        /* Refused (a lock that the source still holds?), or could not be asked: again, then for
         * good. After a time-out it may have run: then only again. */
        if (r == -ETIMEDOUT)
                s->cont_unknown = true;
        if (!s->cont_unknown && ++s->n_cont_tries > CONT_RETRIES) {
                session_set_reason_from(s, "QEMU does not run the guest", error);
                if (vm_query_status(v, on_refused_status, s) == 0)
                        return;
        }
        retry_cont(s);
}

static void try_cont(session *s) {
        ferry_vm *v = sandbox_vm(s->sb);

        if (v && vm_cont(v, on_continued, s) < 0)
                retry_cont(s);
}

static void try_again(session *s, sd_event_time_handler_t handler) {
        s->again_timer = sd_event_source_disable_unref(s->again_timer);
        if (sd_event_add_time_relative(sandbox_event(s->sb), &s->again_timer, CLOCK_MONOTONIC,
                                       AGAIN_USEC, TIMER_ACCURACY_USEC, handler, s) < 0)
                log_error("session %s: no timer", s->id);
}

/* Its line could not be written, and the guest did not run. */
static int on_take_over_again(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;

        s->again_timer = sd_event_source_disable_unref(s->again_timer);
        if (s->state == MIG_D_TAKEN)
                session_post(s, MIG_EV_STATE_CAME);
        return 0;
}

void session_take_over(session *s) {
        bool can = sandbox_vm(s->sb) && vm_takes_orders(sandbox_vm(s->sb));
        int r = can ? journal_set(s->journal, JOURNAL_OWNER, false) : -ESRCH;

        if (r < 0) {
                session_set_reason(s, FERRY_INTERNAL, "%s",
                                   r == -ESRCH ? "QEMU has just ended"
                                               : "the journal cannot be written");
                if (s->state == MIG_D_STARTING)
                        try_again(s, on_take_over_again);
                session_post(s, MIG_EV_JOURNAL_FAILED);
                return;
        }
        s->cont_unknown = s->cont_accepted = false;
        s->n_cont_tries = 0;
        try_cont(s);
}

static void prove_running(session *s);

static int on_prove_again(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;

        s->again_timer = sd_event_source_disable_unref(s->again_timer);
        if (s->state == MIG_D_RUNNING || s->state == MIG_D_FINALIZED)
                prove_running(s);
        return 0;
}

/* The source keeps its copy until it has this: a line that cannot be written is tried again. */
static void prove_running(session *s) {
        int r = journal_set(s->journal, JOURNAL_RUNNING, true);

        if (r < 0) {
                log_error("session %s: journal: %s; again", s->id, strerror(-r));
                try_again(s, on_prove_again);
                return;
        }
        session_say_running(s);
        sandbox_changed(s->sb);
}

void session_note_running(session *s) {
        /* the trace's, so that its parts add up */
        uint64_t resumed = s->trace.running_usec ? s->trace.running_usec : now_usec();

        if (!s->go_usec)
                return;
        s->report.resume_usec = resumed - s->go_usec;
        /* 0: a source that was restarted meanwhile cannot tell when it stopped */
        if (s->stopped_for_usec > 0)
                s->report.blackout_usec = s->stopped_for_usec + s->report.resume_usec;
        s->report.total_usec = resumed - s->began_usec;
}

void session_confirm(session *s) {
        bool ran_before = s->blackout_told; /* of a post-copy this is the end of its memory */

        if (ran_before)
                s->report.total_usec = now_usec() - s->began_usec;
        else
                session_note_running(s);
        prove_running(s);
        if (!ran_before && sandbox_vm(s->sb))
                (void)vm_announce_self(sandbox_vm(s->sb), ANNOUNCE_ROUNDS, session_ignore_done, s);
        session_publish_blackout(s);
        session_publish_done(s);
        session_trace_confirmed(s);
}

void session_on_discarded(int r, const ferry_error *error, void *userdata) {
        session_post(userdata, MIG_EV_DISCARDED);
}

void session_release(session *s) {
        int r = journal_set(s->journal, JOURNAL_DONE, true);

        if (r < 0) /* handed is as good: it stays stopped either way */
                log_error("session %s: journal: %s", s->id, strerror(-r));
        s->report.total_usec = now_usec() - s->began_usec;
        session_publish_blackout(s);
        session_publish_done(s);
        r = sandbox_release_vm(s->sb, session_on_discarded, s);
        if (r < 0)
                log_error("session %s: quit QEMU: %s", s->id, strerror(-r));
}

static int on_discard_again(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;

        s->again_timer = sd_event_source_disable_unref(s->again_timer);
        if (s->state == MIG_D_CANCELLING || s->state == MIG_D_STOPPING || s->state == MIG_D_FAILING)
                session_discard(s);
        return 0;
}

/* The line comes first: without it nobody could ever prove that this copy will not run. And only a
 * QEMU that is gone is discarded. What does not work now is tried again. */
void session_discard(session *s) {
        int r;

        session_stop_timer(s);
        session_drop_memory_check(s);
        if (s->state == MIG_D_CANCELLING && !s->reason)
                session_set_reason(s, FERRY_CANCELLED, "cancelled");
        if (!s->link_is_ours || !s->offer_came) /* the source notices at once */
                session_close_link(s);
        r = journal_set(s->journal, JOURNAL_DECLINED, true);
        if (r < 0)
                log_error("session %s: journal: %s; again", s->id, strerror(-r));
        else {
                r = sandbox_discard_vm(s->sb, session_on_discarded, s);
                if (r < 0)
                        log_error("session %s: kill QEMU: %s; again", s->id, strerror(-r));
        }
        if (r < 0)
                try_again(s, on_discard_again);
}
