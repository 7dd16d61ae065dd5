/* SPDX-License-Identifier: MIT */
/* A new socket after a break, when nothing is left to transfer: a hello that says so, then only the
 * handover's messages. Where the session is closed, its tombstone answers. */
#include "migration/session-internal.h"
#include "relay/frame.h"

#define HELLO_USEC  (10 * USEC_PER_SEC)
#define ANSWER_USEC (60 * USEC_PER_SEC)

static int start_timer(session *s, sd_event_source **source, uint64_t usec,
                       sd_event_time_handler_t handler) {
        *source = sd_event_source_disable_unref(*source);
        return sd_event_add_time_relative(sandbox_event(s->sb), source, CLOCK_MONOTONIC, usec,
                                          TIMER_ACCURACY_USEC, handler, s);
}

static int greet(mig_link *link, bool source, const char *id, tls_kind encryption,
                 bool wants_stream, const uint8_t secret[DIGEST_SIZE]) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        mig_link_identity identity = {
                .source = source,
                .session_id = id,
                .settled_before = true,
                .relay_version = wants_stream ? RELAY_VERSION : 0,
                .encryption = encryption,
        };
        int r;

        memcpy(identity.secret, secret, DIGEST_SIZE);
        r = mig_link_greet(link, &identity, &error);
        explicit_bzero(&identity, sizeof(identity));
        if (r < 0)
                log_error("session %s: %s", id, ferry_error_message(&error));
        return r;
}

/* ---- an open session ---- */

static int on_no_hello(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;

        log_warning("session %s: the other shim did not answer the hello", s->id);
        session_lose_link(s);
        return 0;
}

void session_rejoin(session *s) {
        int r;

        s->link_is_ours = false;
        s->rejoining = true;
        s->peer_lost = false;
        r = start_timer(s, &s->rejoin_timer, HELLO_USEC, on_no_hello);
        if (r >= 0)
                r = greet(s->link, session_is_source(s), s->id, s->options.encryption,
                          session_wants_stream(s), s->secret);
        if (r < 0) {
                session_close_link(s);
        }
}

void session_rejoined(session *s) {
        int r;

        s->rejoin_timer = sd_event_source_disable_unref(s->rejoin_timer);
        s->rejoining = false;
        if (session_wants_stream(s) && mig_link_get_peer_relay(s->link) == RELAY_VERSION) {
                r = session_take_up_stream(s);
                if (r < 0) {
                        log_error("session %s: the new connection: %s", s->id, strerror(-r));
                        session_close_link(s);
                        return;
                }
        } else {
                s->link_is_ours = true;
                mig_link_listen(s->link);
        }
        session_post(s, MIG_EV_REJOINED);
        session_go_on_with_stream(s);
}

/* ---- a session that has ended ---- */

static void end_answer(session *s) {
        s->answer_timer = sd_event_source_disable_unref(s->answer_timer);
        s->answer = mig_link_free(s->answer);
}

static void say_verdict(session *s) {
        const journal_session *js = journal_find(s->journal, s->answer_id);

        if (js && session_say_verdict(s->answer, js) < 0)
                log_info("session %s: its verdict could not be sent", s->answer_id);
}

static void on_answer_greeted(void *userdata) {
        session *s = userdata;

        mig_link_listen(s->answer);
        say_verdict(s);
}

/* WANT or GO: the verdict is the same. */
static void on_answer_message(const mig_message *message, void *userdata) {
        if (message->kind_case == FERRY__HANDOVER__V1__MESSAGE__KIND_WANT ||
            message->kind_case == FERRY__HANDOVER__V1__MESSAGE__KIND_GO)
                say_verdict(userdata);
}

static void on_answer_broken(const char *reason, void *userdata) {
        session *s = userdata;

        log_info("session %s has ended here; its last connection too: %s", s->answer_id, reason);
        end_answer(s);
}

static int on_answer_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        end_answer(userdata);
        return 0;
}

static const mig_link_handlers answer_handlers = {
        .on_greeted = on_answer_greeted,
        .on_message = on_answer_message,
        .on_broken = on_answer_broken,
};

const journal_session *session_find_tombstone(const session *s, const char *id) {
        const journal_session *js = NULL;

        if (id && *id && (!session_is_open(s) || strcmp(id, s->id) != 0))
                js = journal_find(s->journal, id);
        return js && js->closed ? js : NULL;
}

/* One at a time: the newest question is the one that somebody waits for. */
int session_answer_for(session *s, const journal_session *js, int fd_consume) {
        int r;

        end_answer(s);
        strcpy(s->answer_id, js->session_id);
        r = mig_link_new(sandbox_event(s->sb), fd_consume, &answer_handlers, s, &s->answer);
        if (r < 0)
                return r;
        r = start_timer(s, &s->answer_timer, ANSWER_USEC, on_answer_timer);
        if (r >= 0)
                r = greet(s->answer, js->source, js->session_id, js->encryption, false, js->secret);
        if (r < 0)
                end_answer(s);
        return r < 0 ? r : 0;
}

void session_end_answer(session *s) {
        end_answer(s);
}
