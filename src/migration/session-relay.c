/* SPDX-License-Identifier: MIT */
/* Where an option asks for it QEMU does not get the migration socket but one of the relay's, which
 * carries its stream (docs/relay-protocol.md). While that runs the connection is the relay's: the
 * handover's messages wait behind the END, or where a post-copy may come go between QEMU's blocks.
 */
#include <sys/socket.h>

#include "base/fd.h"
#include "migration/session-internal.h"

/* What a peer that takes nothing is waited for; and QEMU in its switchover, if it says nothing. */
#define PARTING_USEC        (2 * USEC_PER_SEC)
#define PARTING_SWITCH_USEC (15 * USEC_PER_SEC)

static void log_figures(const session *s) {
        relay_figures f;

        relay_get_figures(s->relay, &f);
        log_info("session %s: the relay sent %llu bytes as %llu, received %llu as %llu, level %d",
                 s->id, (unsigned long long)f.sent, (unsigned long long)f.sent_wire,
                 (unsigned long long)f.received, (unsigned long long)f.received_wire, f.level);
}

bool session_look_at_relay(session *s) {
        _cleanup_(freep) char *below = NULL;
        const char *problem = NULL;
        relay_state state;

        if (!s->relay || !s->relay_io)
                return false;
        state = relay_get_state(s->relay, &problem);
        if (state == RELAY_RUNS)
                return false;
        s->relay_io = sd_event_source_disable_unref(s->relay_io);
        log_figures(s);
        if (state == RELAY_ENDED) {
                s->relay = relay_stop(s->relay);
                mig_link_release(s->link);
                return false;
        }
        below = session_connection_problem(s);
        if (below)
                problem = below;
        if (s->state == MIG_S_COPYING || s->state == MIG_D_LOADING) {
                session_set_reason(s, FERRY_UNAVAILABLE, "%s", problem);
                session_post(s, MIG_EV_TRANSFER_FAILED);
        } else
                session_link_broke(s, problem); /* may stop the relay */
        return true;
}

static int on_relay(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        (void)session_look_at_relay(userdata);
        return 0;
}

static int start(session *s, int local, int messages, const int *remotes, size_t n) {
        bool source = session_is_source(s);
        relay_options options = {
                .side = source ? RELAY_SOURCE : RELAY_DESTINATION,
                .workers = s->options.compress_workers,
                .messages = messages >= 0,
                .messages_fd_consume = messages,
                .hides_failure = messages >= 0 && source,
        };
        int r = relay_start(local, remotes, n, &options, &s->relay);

        if (r == 0)
                r = sd_event_add_io(sandbox_event(s->sb), &s->relay_io, relay_get_fd(s->relay),
                                    EPOLLIN, on_relay, s);
        /* as the link: the handover waits for it; but after the messages that it brought, whose
         * last one may be all that the other side had to say */
        if (r >= 0)
                r = sd_event_source_set_priority(s->relay_io,
                                                 SD_EVENT_PRIORITY_IMPORTANT + (messages >= 0));
        if (r < 0)
                session_end_relay(s);
        return r < 0 ? r : 0;
}

int session_carry_stream(session *s, int local_consume) {
        _cleanup_(closep) int ours = local_consume, link = -EBADF, messages = -EBADF;
        int r, pair[2], remotes[RELAY_CHANNELS_MAX];
        size_t n;

        if (session_may_postcopy(s)) {
                if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                        return -errno;
                link = pair[0];
                messages = pair[1];
        }
        r = session_dup_all(s, remotes, &n);
        if (r == 0)
                r = start(s, TAKE_FD(ours), TAKE_FD(messages), remotes, n);
        if (r == 0 && link >= 0) {
                r = mig_link_divert(s->link, TAKE_FD(link));
                s->link_is_ours = r == 0;
                mig_link_listen(s->link);
        } else if (r == 0)
                mig_link_hold(s->link);
        return r;
}

int session_give_stream(session *s, int *ret_fd) {
        _cleanup_(closep) int qemu = -EBADF;
        int r, pair[2];

        if (!migration_options_want_relay(&s->options))
                return mig_link_dup(s->link, ret_fd);
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        qemu = pair[0];
        r = session_carry_stream(s, pair[1]);
        if (r == 0)
                *ret_fd = TAKE_FD(qemu);
        return r;
}

static int on_parting(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        session_end_parting(userdata, false);
        return 0;
}

static int on_parting_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        session_end_parting(userdata, false);
        return 0;
}

void session_end_parting(session *s, bool switched) {
        if (switched && s->parting_io) /* it still sends, which ends by itself */
                return;
        s->parting_io = sd_event_source_disable_unref(s->parting_io);
        s->parting_timer = sd_event_source_disable_unref(s->parting_timer);
        s->parting = relay_stop(s->parting);
}

/* Of a relay that carries messages: nobody says more, but what was said counts. */
static void part(session *s) {
        bool runs = relay_get_state(s->relay, NULL) == RELAY_RUNS;
        int r = 0;

        session_end_parting(s, false);
        s->parting = TAKE_PTR(s->relay);
        if (runs && !s->switching)
                r = sd_event_add_io(sandbox_event(s->sb), &s->parting_io, relay_get_fd(s->parting),
                                    EPOLLIN, on_parting, s);
        if (r >= 0)
                r = sd_event_add_time_relative(sandbox_event(s->sb), &s->parting_timer,
                                               CLOCK_MONOTONIC,
                                               s->switching ? PARTING_SWITCH_USEC : PARTING_USEC,
                                               TIMER_ACCURACY_USEC, on_parting_timer, s);
        if (r < 0)
                session_end_parting(s, false);
}

void session_end_relay(session *s) {
        s->relay_io = sd_event_source_disable_unref(s->relay_io);
        session_drop_stream(s);
        if (s->relay && session_may_postcopy(s) &&
            (s->switching || relay_get_state(s->relay, NULL) == RELAY_RUNS))
                part(s);
        else
                s->relay = relay_stop(s->relay);
}
