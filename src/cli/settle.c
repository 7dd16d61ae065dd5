/* SPDX-License-Identifier: MIT */

/* The way out of a migration that did not go through: mover_settle() of mover.h.
 *
 * What decides is the source's answer to Cancel. OK: it had not handed the guest over, and runs it
 * again; whatever the destination has is a copy that may be discarded. Refused: it is handed over,
 * and then only the destination's journal knows. The two shims normally tell each other; where
 * their connection is gone the caller carries the records (docs/handover.md). */

#include <string.h>

#include "base/clock.h"
#include "cli/mover.h"

#define GIVE_UP     (30 * USEC_PER_SEC)
#define LEAVE_ALONE (3 * USEC_PER_SEC) /* a transfer that nobody said to cancel */
#define HOPELESS    (2 * USEC_PER_SEC) /* when neither side will learn more */
#define PATIENCE    (5 * USEC_PER_SEC) /* for the shims to settle it between themselves */
#define INTERVAL    (100 * USEC_PER_MSEC)

#define HERE         FERRY__SHIM__V1__OWNER__OWNER_THIS_SIDE
#define THERE        FERRY__SHIM__V1__OWNER__OWNER_OTHER_SIDE
#define NOBODY_KNOWS FERRY__SHIM__V1__OWNER__OWNER_UNDECIDED

typedef struct sides {
        shim_status *source, *destination;  /* NULL: cannot be asked */
        bool source_gone, destination_gone; /* nothing of it is left on its host */
} sides;

static void sides_done(sides *v) {
        if (v->source)
                protobuf_c_message_free_unpacked(&v->source->base, NULL);
        if (v->destination)
                protobuf_c_message_free_unpacked(&v->destination->base, NULL);
        *v = (sides){ 0 };
}

/* Asks, over a new connection when the old one is gone; a shim that died is started again. */
static shim_status *ask(mover *m, peer *p, const char *label, rpc **connection, bool *ret_gone) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        shim_status *status = NULL;

        *ret_gone = false;
        if (*connection && !rpc_is_open(*connection))
                *connection = rpc_close(*connection);
        if (!*connection &&
            p->operations->open(p, m->group, m->name, true, label, connection, &error) < 0) {
                *ret_gone = error.code == FERRY_NOT_FOUND;
                return NULL;
        }
        if (call_status(*connection, &status, NULL) < 0)
                return NULL;
        /* A new shim that looks for its VM does not know its session yet. */
        if (status->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_STARTING && !status->session) {
                protobuf_c_message_free_unpacked(&status->base, NULL);
                return NULL;
        }
        return status;
}

static bool in_session(const mover *m, const shim_status *s) {
        return s && s->session && strcmp(s->session->session_id, m->session_id) == 0;
}

static const char *past_verdict(const mover *m, const shim_status *s) {
        for (size_t i = 0; i < s->n_tombstones; i++)
                if (strcmp(s->tombstones[i]->session_id, m->session_id) == 0)
                        return s->tombstones[i]->verdict;
        return NULL;
}

/* Not another sandbox of that name. */
static bool has_part(const mover *m, const shim_status *s) {
        return s && (in_session(m, s) || past_verdict(m, s));
}

static bool has_vm(const shim_status *s) {
        return s->vm_state != FERRY__SHIM__V1__VM_STATE__VM_STATE_NONE &&
               s->vm_state != FERRY__SHIM__V1__VM_STATE__VM_STATE_STOPPED;
}

/* The side's record of this session: of the open one, or of its tombstone. */
static const ProtobufCBinaryData *find_record(const mover *m, const shim_status *s) {
        if (!s)
                return NULL;
        if (in_session(m, s) && s->session->handover_record.len > 0)
                return &s->session->handover_record;
        for (size_t i = 0; i < s->n_tombstones; i++)
                if (strcmp(s->tombstones[i]->session_id, m->session_id) == 0 &&
                    s->tombstones[i]->handover_record.len > 0)
                        return &s->tombstones[i]->handover_record;
        return NULL;
}

static bool is_running(const shim_status *s) {
        return s->owner == HERE && s->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING;
}

/* Neither call's answer is looked at: what counts is what the sides say next. */
static void finalize(const mover *m, rpc *shim, FinalizeAction action,
                     const ProtobufCBinaryData *record) {
        (void)call_finalize(shim, m->session_id, action, record, NULL);
}

static void finish_at_destination(mover *m, const sides *v) {
        if (in_session(m, v->destination))
                finalize(m, m->destination, FINALIZE_ACTION__FINALIZE_ACTION_RESUME, NULL);
        if (in_session(m, v->source))
                finalize(m, m->source, FINALIZE_ACTION__FINALIZE_ACTION_STOP,
                         v->source->owner == THERE ? find_record(m, v->destination) : NULL);
}

static void finish_at_source(mover *m, const sides *v) {
        if (in_session(m, v->source))
                finalize(m, m->source, FINALIZE_ACTION__FINALIZE_ACTION_RESUME, NULL);
        if (!in_session(m, v->destination))
                return;
        (void)call_cancel(m->destination, m->session_id, NULL);
        finalize(m, m->destination, FINALIZE_ACTION__FINALIZE_ACTION_STOP, NULL);
}

/* Handed over, and the destination does not run it yet. */
static void help_along(mover *m, const sides *v, bool patience_is_over) {
        const ProtobufCBinaryData *of_destination = find_record(m, v->destination);
        const ProtobufCBinaryData *of_source = find_record(m, v->source);

        if (!v->source || !v->destination)
                return;
        /* Its QEMU died when all was sent: the destination's copy is the only one, and must not be
         * cancelled. STOP hands it over; its record is carried at the next look. */
        if (!of_destination && in_session(m, v->source) && v->source->owner == NOBODY_KNOWS) {
                finalize(m, m->source, FINALIZE_ACTION__FINALIZE_ACTION_STOP, NULL);
                return;
        }
        if (of_destination)
                finalize(m, m->source,
                         v->destination->owner == HERE ? FINALIZE_ACTION__FINALIZE_ACTION_STOP
                                                       : FINALIZE_ACTION__FINALIZE_ACTION_RESUME,
                         of_destination);
        else if (of_source && in_session(m, v->destination))
                finalize(m, m->destination, FINALIZE_ACTION__FINALIZE_ACTION_RESUME, of_source);
        else if (patience_is_over && in_session(m, v->destination))
                /* declines, if it can: then the source takes it back with that record */
                (void)call_cancel(m->destination, m->session_id, NULL);
}

/* The source's session is open, the guest is its own and was not told to go on yet: it is told now,
 * and the next look sees that it does. The destination is not even asked first: it may not answer.
 */
static bool pull_back(mover *m, const sides *v, bool cancel) {
        const char *state;

        if (!in_session(m, v->source) || v->source->owner != HERE || !has_vm(v->source))
                return false;
        state = v->source->session->state;
        if (strcmp(state, "Finalized") == 0)
                return false;
        if (!cancel && strcmp(state, "Failed") != 0 && strcmp(state, "Cancelled") != 0)
                return false;
        (void)call_cancel(m->source, m->session_id, NULL);
        finalize(m, m->source, FINALIZE_ACTION__FINALIZE_ACTION_RESUME, NULL);
        return true;
}

/* This destination will not take it any more, though the source may not have noticed: its shim was
 * started again, or it has failed. */
static bool is_doomed(const mover *m, const shim_status *s) {
        return in_session(m, s) &&
               (s->owner == NOBODY_KNOWS || strcmp(s->session->state, "Failed") == 0 ||
                strcmp(s->session->state, "Cancelled") == 0);
}

/* The same, and it goes on, or nobody said to cancel, or its VM is gone. */
static bool settle_source(mover *m, const sides *v, mover_place *ret) {
        if (has_vm(v->source) && strcmp(v->source->session->state, "Finalized") != 0) {
                *ret = MOVER_UNDER_WAY;
                if (is_doomed(m, v->destination))
                        (void)call_cancel(m->source, m->session_id, NULL);
                return false;
        }
        finish_at_source(m, v);
        *ret = has_vm(v->source) ? MOVER_AT_SOURCE : MOVER_NOWHERE;
        return true;
}

/* The source has no session of this id: it never began there, or was closed. A past one is a
 * tombstone, and only these say that the guest went away. */
static bool settle_without_source(mover *m, const sides *v, mover_place *ret) {
        const char *verdict = past_verdict(m, v->source);

        if (verdict && (strcmp(verdict, "handed") == 0 || strcmp(verdict, "done") == 0))
                return false; /* and the destination does not run it now */
        *ret = has_vm(v->source) ? MOVER_AT_SOURCE : MOVER_NOWHERE;
        finish_at_source(m, v);
        return true;
}

/* `ferry stop --force`, say, has taken the source and its journal away. What the destination has
 * given up, or never had, needs no source; a copy that it may have to run stays undecided. */
static bool settle_without_place(mover *m, const sides *v, mover_place *ret) {
        if (v->destination && (has_vm(v->destination) || v->destination->owner == NOBODY_KNOWS))
                return false;
        finish_at_source(m, v);
        *ret = MOVER_NOWHERE;
        return true;
}

static bool settle_both(mover *m, const sides *v, bool patience_is_over, mover_place *ret) {
        if (v->destination && is_running(v->destination)) {
                finish_at_destination(m, v);
                *ret = MOVER_AT_DESTINATION;
                return true;
        }
        if (v->destination && v->destination->owner == HERE && !has_vm(v->destination)) {
                finish_at_destination(m, v);
                *ret = MOVER_NOWHERE;
                return true;
        }
        if (v->source_gone && (v->destination || v->destination_gone))
                return settle_without_place(m, v, ret);
        if (v->source && !in_session(m, v->source))
                return settle_without_source(m, v, ret);
        if (v->source && v->source->owner == HERE)
                return settle_source(m, v, ret);
        help_along(m, v, patience_is_over);
        return false;
}

/* It was the destination's, and its QEMU is gone: the guest may have run there, so the source's
 * copy is kept and is nobody's. */
static bool has_lost(const sides *v) {
        return v->source && v->destination && v->source->owner == THERE &&
               v->destination->session && strcmp(v->destination->session->detail, "D_LOST") == 0;
}

/* It runs at the destination, but not all of its memory is there: neither side is to be closed, and
 * where their connection broke they get another. */
static bool memory_follows(mover *m, const sides *v) {
        if (!in_session(m, v->destination) || !in_session(m, v->source))
                return false;
        if (mover_wants_connection(v->source, v->destination))
                (void)mover_connect_again(m, NULL);
        return strcmp(v->destination->session->detail, "D_FETCHING") == 0;
}

/* One look at both sides. True when the place is known and both sides were told. */
static bool try_settle(mover *m, bool cancel, bool patience_is_over, mover_place *ret,
                       bool *ret_hopeless) {
        sides v = { 0 };
        bool settled = false;

        *ret = MOVER_UNDECIDED;
        v.source = ask(m, m->from, "the source's shim", &m->source, &v.source_gone);
        if (!pull_back(m, &v, cancel)) {
                v.destination_gone = !m->made_destination;
                if (m->made_destination)
                        v.destination = ask(m, m->to, "the destination's shim", &m->destination,
                                            &v.destination_gone);
                if (v.destination && !has_part(m, v.destination)) {
                        protobuf_c_message_free_unpacked(&v.destination->base, NULL);
                        v.destination = NULL;
                }
                if (memory_follows(m, &v))
                        *ret = MOVER_FOLLOWS;
                else
                        settled = settle_both(m, &v, patience_is_over, ret);
        }
        *ret_hopeless = !settled && (v.source_gone || v.destination_gone || has_lost(&v));
        sides_done(&v);
        return settled;
}

/* For the shims to do what they were told, or to settle it between themselves. */
static void wait_a_bit(const mover *m) {
        uint64_t next = now_usec() + INTERVAL;

        while (now_usec() < next)
                if (rpc_group_wait(m->group, next, NULL) < 0)
                        return; /* given up */
}

mover_place mover_settle(mover *m, bool cancel) {
        uint64_t start = now_usec(), spent = 0;
        mover_place place = MOVER_UNDECIDED;
        bool hopeless = false;

        rpc_group_set_deaf(m->group, cancel ? "rolling back" : "asking both sides");
        while (spent < GIVE_UP && (place != MOVER_UNDER_WAY || spent < LEAVE_ALONE) &&
               (!hopeless || spent < HOPELESS)) {
                if (try_settle(m, cancel, spent > PATIENCE, &place, &hopeless)) {
                        mover_take_figures(m);
                        return place;
                }
                if (rpc_group_has_given_up(m->group))
                        return MOVER_GAVE_UP;
                wait_a_bit(m);
                spent = now_usec() - start;
        }
        return place;
}
