/* SPDX-License-Identifier: MIT */
#include "migration/recovery.h"

mig_state mig_recover_source(journal_mark mark, bool has_vm, mig_event *ret_event) {
        *ret_event = _MIG_EVENT_MAX;
        switch (mark) {
        case JOURNAL_HANDED:
                return MIG_S_HANDED;
        case JOURNAL_DONE:
                *ret_event = MIG_EV_RECORD_RUNNING; /* quit QEMU, if it still stands */
                return MIG_S_HANDED;
        case JOURNAL_COMPLETED:
                if (!has_vm)
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
                return has_vm ? MIG_S_COPYING : MIG_S_FAILED;
        }
}

mig_state mig_recover_destination(journal_mark mark, bool this_boot, bool has_vm, bool running,
                                  mig_event *ret_event) {
        *ret_event = _MIG_EVENT_MAX;
        switch (mark) {
        case JOURNAL_DECLINED:
                *ret_event = MIG_EV_QEMU_GONE; /* declines again, and kills what is left */
                return MIG_D_LOADED;
        case JOURNAL_RUNNING:
                return MIG_D_RUNNING;
        case JOURNAL_OWNER:
                if (!has_vm)
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
                if (!this_boot)
                        return MIG_D_LOST;
                if (!has_vm)
                        *ret_event = MIG_EV_QEMU_GONE;
                return MIG_D_UNDECIDED;
        }
}
