/* SPDX-License-Identifier: MIT */
#pragma once

/* Which state the journal and QEMU speak for when a shim is started again: pure. *ret_event is what
 * goes on from there, _MIG_EVENT_MAX: nothing. */

#include <stdbool.h>

#include "migration/journal.h"
#include "migration/machine.h"

mig_state mig_recover_source(journal_mark mark, bool has_vm, mig_event *ret_event);
/* `running`: the guest runs, or has run. */
mig_state mig_recover_destination(journal_mark mark, bool this_boot, bool has_vm, bool running,
                                  mig_event *ret_event);
