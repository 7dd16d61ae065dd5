/* SPDX-License-Identifier: MIT */
#pragma once

/* Which state the journal and QEMU speak for when a shim is started again: pure. *ret_event is what
 * goes on from there, _MIG_EVENT_MAX: nothing. */

#include <stdbool.h>

#include "migration/journal.h"
#include "migration/machine.h"

/* Of QEMU's migration, as far as it matters here. */
typedef enum mig_stream {
        MIG_STREAM_OTHER,
        MIG_STREAM_PAUSED,   /* the source's QEMU waits before the switchover */
        MIG_STREAM_POSTCOPY, /* the guest's state has gone over, not all of its memory */
} mig_stream;

/* What is found of QEMU. */
typedef struct mig_found {
        bool has_vm;
        bool running; /* the guest runs, or has run */
        bool loaded;  /* at a destination: it could run */
        mig_stream stream;
        bool stream_paused; /* of a post-copy: QEMU knows that it broke */
} mig_found;

mig_state mig_recover_source(journal_mark mark, const mig_found *found, mig_event *ret_event);
/* `postcopy`: the session may have come to that. */
mig_state mig_recover_destination(journal_mark mark, bool this_boot, bool postcopy,
                                  const mig_found *found, mig_event *ret_event);
