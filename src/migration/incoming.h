/* SPDX-License-Identifier: MIT */
#pragma once

/* Can this host take an exported sandbox? Everything that can be known before anything changes:
 * what the VM was started from, its disks, and what this host's QEMU would give the guest (which
 * a QEMU without a guest is asked for: asynchronous). */

#include <systemd/sd-event.h>

#include "migration/compatibility.h"
#include "migration/state.h"
#include "vm/ability.h"
#include "vm/probe.h"

typedef struct incoming_check incoming_check;

typedef struct incoming_host {
        const char *qemu;        /* its binary */
        const char *disk_root;   /* NULL: no writable disk may move here */
        const char *probe_cache; /* NULL: none */
        vm_user user;            /* whom QEMU would run as */
} incoming_host;

/* Once, never from inside the start. The reasons against it, none: it can. Borrowed. */
typedef void (*incoming_done)(const differences *reasons, void *userdata);

/* `state` must outlive the check. */
int incoming_check_start(sd_event *event, const migration_state *state, const incoming_host *host,
                         incoming_done done, void *userdata, incoming_check **ret,
                         ferry_error *reterr);
/* Legal from `done`. Returns NULL. */
incoming_check *incoming_check_free(incoming_check *check);

/* As one error: FailedPrecondition. */
int incoming_report(const differences *reasons, ferry_error *reterr);

DEFINE_CLEANUP(incoming_check *, incoming_check_free)
