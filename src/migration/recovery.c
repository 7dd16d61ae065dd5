/* SPDX-License-Identifier: MIT */
#include "migration/recovery.h"

static mig_state recover_handed(const mig_found *found, mig_event *ret_event) {
        if (!found->has_vm || found->stream == MIG_STREAM_OTHER)
                return MIG_S_HANDED;
        if (found->stream != MIG_STREAM_PAUSED)
                return MIG_S_SERVING;
        *ret_event = MIG_EV_LINK_LOST; /* its stream ended with the shim */
        return MIG_S_COMMITTED;
}

mig_state mig_recover_source(journal_mark mark, const mig_found *found, mig_event *ret_event) {
        *ret_event = _MIG_EVENT_MAX;
        switch (mark) {
        case JOURNAL_HANDED:
                return recover_handed(found, ret_event);
        case JOURNAL_DONE:
                *ret_event = MIG_EV_RECORD_RUNNING; /* quit QEMU, if it still stands */
                return MIG_S_HANDED;
        case JOURNAL_COMPLETED:
                if (!found->has_vm)
                        return MIG_S_SPENT;
                *ret_event = MIG_EV_TRANSFER_FAILED;
                return MIG_S_COPYING;
        case JOURNAL_OPEN:
        case JOURNAL_RAN_AGAIN:
        case JOURNAL_OWNER:
        case JOURNAL_RUNNING:
        case JOURNAL_DECLINED:
        case JOURNAL_TAKEN:
        case _JOURNAL_MARK_MAX:
        default:
                *ret_event = MIG_EV_TRANSFER_FAILED;
                return found->has_vm ? MIG_S_COPYING : MIG_S_FAILED;
        }
}

/* `cont` was not sent: without all of its state the copy is worth nothing. */
static mig_state recover_taken(bool this_boot, const mig_found *found, mig_event *ret_event) {
        if (!this_boot) /* a line that came after may be lost */
                return MIG_D_LOST;
        *ret_event = !found->has_vm ? MIG_EV_QEMU_GONE
                     /* or all of it is with QEMU, which has not come to its end yet */
                     : found->loaded || found->stream == MIG_STREAM_POSTCOPY
                             ? MIG_EV_STATE_CAME
                             : MIG_EV_TRANSFER_FAILED;
        return MIG_D_TAKEN;
}

static mig_state recover_owner(const mig_found *found, mig_event *ret_event) {
        if (!found->has_vm)
                return MIG_D_LOST;
        if (found->stream == MIG_STREAM_POSTCOPY) {
                *ret_event = found->running ? MIG_EV_CONTINUED : MIG_EV_STATE_CAME;
                return found->running ? MIG_D_STARTING : MIG_D_TAKEN;
        }
        *ret_event = found->running ? MIG_EV_CONTINUED : MIG_EV_RECORD_HANDED;
        return found->running ? MIG_D_OWNER : MIG_D_UNDECIDED;
}

mig_state mig_recover_destination(journal_mark mark, bool this_boot, bool postcopy,
                                  const mig_found *found, mig_event *ret_event) {
        *ret_event = _MIG_EVENT_MAX;
        switch (mark) {
        case JOURNAL_DECLINED:
                *ret_event = MIG_EV_QEMU_GONE; /* declines again, and kills what is left */
                return MIG_D_LOADED;
        case JOURNAL_RUNNING:
                return MIG_D_RUNNING;
        case JOURNAL_TAKEN:
                return recover_taken(this_boot, found, ret_event);
        case JOURNAL_OWNER:
                return recover_owner(found, ret_event);
        case JOURNAL_OPEN:
        case JOURNAL_COMPLETED:
        case JOURNAL_RAN_AGAIN:
        case JOURNAL_HANDED:
        case JOURNAL_DONE:
        case _JOURNAL_MARK_MAX:
        default:
                if (!this_boot)
                        return MIG_D_LOST;
                if (found->has_vm && postcopy && !found->loaded) {
                        *ret_event = MIG_EV_TRANSFER_FAILED; /* its stream ended with the shim */
                        return MIG_D_LOADING;
                }
                if (!found->has_vm)
                        *ret_event = MIG_EV_QEMU_GONE;
                return MIG_D_UNDECIDED;
        }
}
