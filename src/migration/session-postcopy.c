/* SPDX-License-Identifier: MIT */
/* Post-copy: the guest runs at the destination before its memory is there (docs/postcopy.md). Who
 * may run it is settled while the source's QEMU waits before the switchover, since there is no way
 * back after that; so the handover's messages go between the stream's blocks, by the relay. When
 * the connection breaks later on the two QEMUs wait, and go on over a new one. */
#include <fcntl.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "migration/session-internal.h"

/* A QEMU that has just sent the guest's state must not see its stream break: it would run the guest
 * on, which the other side may have by then. Some moments after it says that it is past that, it
 * is. */
#define PAST_SWITCHOVER_USEC (200 * USEC_PER_MSEC)
#define READY_WAIT_USEC      (10 * USEC_PER_SEC)
#define TAKEN_WAIT_USEC      (10 * USEC_PER_SEC)

bool session_may_postcopy(const session *s) {
        return s->options.postcopy != POSTCOPY__POSTCOPY_NEVER;
}

mig_stream session_stream_of(vm_migration_status status) {
        switch (status) {
        case VM_MIGRATION_PRE_SWITCHOVER:
                return MIG_STREAM_PAUSED;
        case VM_MIGRATION_DEVICE:
        case VM_MIGRATION_POSTCOPY_ACTIVE:
        case VM_MIGRATION_POSTCOPY_PAUSED:
        case VM_MIGRATION_POSTCOPY_RECOVER_SETUP:
        case VM_MIGRATION_POSTCOPY_RECOVER:
                return MIG_STREAM_POSTCOPY;
        case VM_MIGRATION_NONE:
        case VM_MIGRATION_SETUP:
        case VM_MIGRATION_CANCELLING:
        case VM_MIGRATION_CANCELLED:
        case VM_MIGRATION_ACTIVE:
        case VM_MIGRATION_COMPLETED:
        case VM_MIGRATION_FAILED:
        case VM_MIGRATION_COLO:
        case VM_MIGRATION_WAIT_UNPLUG:
        case VM_MIGRATION_UNKNOWN:
        case _VM_MIGRATION_STATUS_MAX:
                break;
        }
        return MIG_STREAM_OTHER;
}

/* What a shim before this one left under way. */
void session_find_postcopy(session *s, const mig_found *found) {
        if (session_is_source(s) && found->running &&
            mig_state_get(s->state)->owner == MIG_OWNER_THERE)
                session_hold_guest(s);
        s->postcopy = found->stream != MIG_STREAM_OTHER;
        s->stream_broke = found->stream_paused; /* else QEMU will say so in a moment */
}

/* ---- source ---- */

static void on_started(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        /* refused: all was sent meanwhile, and it is as if it had not been asked for */
        if (r < 0 && r != -ECANCELED)
                log_info("session %s: post-copy: %s", s->id, ferry_error_message(error));
}

void session_order_postcopy(session *s) {
        if (s->postcopy || vm_start_postcopy(sandbox_vm(s->sb), on_started, s) < 0)
                return;
        s->postcopy = true;
        session_trace_order(s, "post-copy");
        log_info("session %s: the rest goes by post-copy", s->id);
}

void session_propose(session *s) {
        s->offered_usec = now_usec();
        if (s->stopped_usec)
                s->report.stop_to_completed_usec = s->offered_usec - s->stopped_usec;
        session_start_timer(s, session_limit_usec(s, READY_WAIT_USEC), MIG_EV_WAIT_TIMEOUT);
        session_say_offer(s);
}

/* A destination that hangs must not keep the guest standing: QEMU has not sent its state yet. */
void session_await_taken(session *s) {
        session_start_timer(s, session_limit_usec(s, TAKEN_WAIT_USEC), MIG_EV_WAIT_TIMEOUT);
}

static void on_switched(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r != -EREMOTEIO || s->state != MIG_S_SERVING) /* only what it refused it has not done */
                return;
        /* then the destination gets no state, and gives the guest back */
        session_set_reason_from(s, "QEMU did not go on with the switchover", error);
        s->switching = false;
        session_lose_link(s);
}

void session_switch(session *s) {
        ferry_vm *v = sandbox_vm(s->sb);

        session_stop_timer(s);
        s->switching = true;
        if (v && vm_migrate_continue(v, on_switched, s) < 0) /* QEMU's end follows */
                log_error("session %s: QEMU does not take the order to go on", s->id);
}

static int on_past_switchover(sd_event_source *source, uint64_t usec, void *userdata) {
        session *s = userdata;

        s->switch_timer = sd_event_source_disable_unref(s->switch_timer);
        s->switching = false;
        session_end_parting(s, true);
        session_retire_if_settled(s);
        return 0;
}

/* Answered: QEMU's main loop has had its turn, which it has not before all of the state is out. */
static void on_answer(ferry_vm *v, int r, const ferry_error *error, const vm_migration_info *info,
                      void *userdata) {
        session *s = userdata;

        session_on_final_info(v, r, error, info, s);
        if (r == -ECANCELED || !s->switching || s->switch_timer)
                return;
        if (sd_event_add_time_relative(sandbox_event(s->sb), &s->switch_timer, CLOCK_MONOTONIC,
                                       PAST_SWITCHOVER_USEC, TIMER_ACCURACY_USEC,
                                       on_past_switchover, s) < 0)
                log_error("session %s: no timer", s->id);
}

static void source_is_past(session *s) {
        ferry_vm *v = sandbox_vm(s->sb);

        if (s->switching && v)
                (void)vm_query_migrate(v, on_answer, s);
}

/* It is the destination's, whatever this QEMU makes of a stream that failed. */
void session_hold_guest(session *s) {
        log_error("session %s: QEMU runs a guest that was handed over: it is stopped", s->id);
        if (sandbox_vm(s->sb))
                (void)vm_stop(sandbox_vm(s->sb), session_ignore_done, s);
}

void session_hear_runs(session *s) {
        session_publish_blackout(s);
        session_watch_progress(s);
        sandbox_changed(s->sb);
}

/* ---- destination ---- */

/* Of an OFFER, once everything that belongs to it is here. */
static void take_offer(session *s) {
        if (session_take_guest(s))
                session_post(s, MIG_EV_OFFER_POSTCOPY);
}

static void on_disks_free(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED || s->state != MIG_D_LOADING)
                return;
        if (r == 0) {
                take_offer(s);
                return;
        }
        session_set_reason_from(s, "QEMU does not let go of a disk", error);
        session_post(s, MIG_EV_TRANSFER_FAILED);
}

void session_receive_proposal(session *s, const Ferry__Handover__V1__Offer *offer) {
        if (s->state != MIG_D_LOADING || !session_take_disks(s, offer->disks, offer->n_disks))
                return;
        if (session_let_go_of_disks(s, on_disks_free) == 0)
                take_offer(s);
}

void session_take(session *s) {
        ferry_vm *v = sandbox_vm(s->sb);
        int r = v && vm_takes_orders(v) ? journal_set(s->journal, JOURNAL_TAKEN, false) : -ESRCH;

        session_stop_timer(s);
        if (r < 0) {
                session_set_reason(s, FERRY_INTERNAL, "%s",
                                   r == -ESRCH ? "QEMU has just ended"
                                               : "the journal cannot be written");
                session_post(s, MIG_EV_JOURNAL_FAILED);
                return;
        }
        session_say_taken(s);
}

void session_tell_runs(session *s) {
        session_note_running(s);
        session_say_runs(s);
        (void)vm_announce_self(sandbox_vm(s->sb), ANNOUNCE_ROUNDS, session_ignore_done, s);
        session_publish_blackout(s);
        session_trace_confirmed(s);
        sandbox_changed(s->sb);
        if (s->is_whole) /* it was before it ran */
                session_post(s, MIG_EV_LOADED);
}

/* ---- both ---- */

/* False: what QEMU says means nothing here. */
bool session_postcopy_status(session *s, vm_migration_status status) {
        bool source = session_is_source(s);

        switch ((int)status) {
        case VM_MIGRATION_POSTCOPY_ACTIVE:
                s->stream_broke = false;
                if (source) {
                        source_is_past(s);
                        return true;
                }
                if (s->state == MIG_D_TAKEN)
                        session_post(s, MIG_EV_STATE_CAME);
                else if (s->spare_ours < 0)
                        session_make_spare(s);
                return true;
        case VM_MIGRATION_POSTCOPY_PAUSED:
                s->stream_broke = true;
                session_go_on_with_stream(s);
                return true;
        case VM_MIGRATION_COMPLETED:
                s->is_whole = true;
                s->switching = false;
                if (s->state == MIG_D_TAKEN)
                        session_post(s, MIG_EV_STATE_CAME);
                else if (s->state == MIG_D_FETCHING)
                        session_post(s, MIG_EV_LOADED);
                return s->postcopy || s->state == MIG_D_STARTING;
        default:
                return false;
        }
}

/* Whether the rest of the stream is to go over a connection that comes now. */
bool session_wants_stream(const session *s) {
        switch ((int)s->state) {
        case MIG_S_SERVING:
        case MIG_S_FEEDING:
        case MIG_D_TAKEN:
        case MIG_D_STARTING:
        case MIG_D_FETCHING:
                return !s->is_whole;
        default:
                return false;
        }
}

bool session_wants_connection(const session *s) {
        return !s->link && session_wants_stream(s);
}

static void on_going_on(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r == 0 || r == -ECANCELED || !session_is_open(s))
                return;
        session_note(s, "QEMU does not go on over the new connection: %s",
                     ferry_error_message(error));
        s->stream_broke = true; /* still: another one may do */
        session_lose_link(s);
}

static int on_stream(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        session *s = userdata;

        s->stream_io = sd_event_source_disable_unref(s->stream_io);
        s->stream_flows = true;
        session_go_on_with_stream(s);
        return 0;
}

/* QEMU says that its stream broke, and there is another connection: whichever comes last. The
 * destination's gets it when it has begun to flow: up to QEMU 8.1 a destination's that breaks while
 * QEMU recovers ends QEMU, and so the guest, so that these moments are to be few. */
void session_go_on_with_stream(session *s) {
        ferry_vm *v = sandbox_vm(s->sb);
        bool source = session_is_source(s);
        int r;

        if (!s->stream_broke || s->stream_fd < 0 || !v)
                return;
        if (!source && (!s->stream_flows || !s->spare_given))
                return;
        s->stream_broke = false;
        if (source)
                r = vm_recover_out(v, TAKE_FD(s->stream_fd), on_going_on, s);
        else {
                s->stream_fd = fd_close(s->stream_fd); /* QEMU has its own: the spare */
                s->spare_given = false;
                r = vm_recover_in(v, on_going_on, s);
        }
        if (r < 0) {
                s->stream_broke = true;
                log_error("session %s: go on with the post-copy: %s", s->id, strerror(-r));
        } else
                log_info("session %s: the post-copy goes on over a new connection", s->id);
}

void session_drop_stream(session *s) {
        s->stream_io = sd_event_source_disable_unref(s->stream_io);
        s->stream_fd = fd_close(s->stream_fd);
        s->stream_flows = false;
}

void session_drop_spare(session *s) {
        s->spare_ours = fd_close(s->spare_ours);
        s->spare_theirs = fd_close(s->spare_theirs);
        s->spare_given = false;
}

static void on_spare_given(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        if (r == -ECANCELED)
                return;
        if (r < 0)
                log_warning("session %s: for another connection: %s", s->id,
                            ferry_error_message(error));
        s->spare_given = r == 0;
        session_go_on_with_stream(s);
}

void session_make_spare(session *s) {
        int pair[2], theirs;

        session_drop_spare(s);
        if (!sandbox_vm(s->sb) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                return;
        s->spare_ours = pair[0];
        s->spare_theirs = pair[1];
        theirs = fcntl(pair[1], F_DUPFD_CLOEXEC, 3);
        if (theirs < 0 || vm_give_spare(sandbox_vm(s->sb), theirs, on_spare_given, s) < 0)
                session_drop_spare(s);
}

static int take_up_at_destination(session *s) {
        int r;

        if (s->spare_ours < 0) /* of a shim that has ended, or of a try that did not work */
                session_make_spare(s);
        if (s->spare_ours < 0)
                return -EIO;
        s->stream_fd = TAKE_FD(s->spare_theirs);
        r = session_carry_stream(s, TAKE_FD(s->spare_ours));
        if (r < 0)
                return r;
        return sd_event_add_io(sandbox_event(s->sb), &s->stream_io, s->stream_fd, EPOLLIN,
                               on_stream, s);
}

int session_take_up_stream(session *s) {
        int r;

        session_drop_stream(s);
        r = session_is_source(s) ? session_give_stream(s, &s->stream_fd)
                                 : take_up_at_destination(s);
        return r < 0 ? r : 0;
}
