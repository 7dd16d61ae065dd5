/* SPDX-License-Identifier: MIT */
/* What QEMU sends does not get through: the destination's QEMU hangs, or its host. QEMU itself
 * waits for ever, with its monitor shut while the guest stands, so it is the connection that is
 * watched, and shut down: QEMU fails then, and the guest runs on here. A guest that runs meanwhile
 * can be patient. */
#include "migration/session-internal.h"

#define LOOK_USEC           (500 * USEC_PER_MSEC)
#define STALL_STANDING_USEC (10 * USEC_PER_SEC)
#define STALL_RUNNING_USEC  (30 * USEC_PER_SEC)

static void give_up(session *s, uint64_t usec) {
        session_end_stall_watch(s);
        session_set_reason(s, FERRY_UNAVAILABLE, "the destination took nothing for %llu s%s",
                           (unsigned long long)(usec / USEC_PER_SEC),
                           s->stopped_usec ? " while the guest stood" : "");
        mig_link_shutdown(s->link);
        session_post(s, MIG_EV_TRANSFER_FAILED);
}

static int look(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;
        uint64_t now = now_usec(), moved;

        if (s->state != MIG_S_COPYING || !s->link) {
                session_end_stall_watch(s);
                return 0;
        }
        moved = mig_link_moved(s->link);
        /* a running guest that has written nothing leaves QEMU with nothing to send */
        if (moved != s->moved || (!s->stopped_usec && !session_waits_for_peer(s))) {
                s->moved = moved;
                s->moved_usec = now;
        }
        if (now - s->moved_usec >=
            session_limit_usec(s, s->stopped_usec ? STALL_STANDING_USEC : STALL_RUNNING_USEC)) {
                give_up(s, now - s->moved_usec);
                return 0;
        }
        (void)sd_event_source_set_time(source, now + LOOK_USEC);
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

void session_watch_stall(session *s) {
        session_end_stall_watch(s);
        s->moved = mig_link_moved(s->link);
        s->moved_usec = now_usec();
        if (sd_event_add_time_relative(sandbox_event(s->sb), &s->stall_timer, CLOCK_MONOTONIC,
                                       LOOK_USEC, TIMER_ACCURACY_USEC, look, s) < 0)
                log_error("session %s: no timer", s->id);
}

void session_end_stall_watch(session *s) {
        s->stall_timer = sd_event_source_disable_unref(s->stall_timer);
}
