/* SPDX-License-Identifier: MIT */
#pragma once

/* How much of its memory a guest changes, and how fast: pages taken at random out of the memory's
 * descriptor are looked at several times within a second. Only reads, QEMU is not asked, and the
 * guest does not notice.
 *
 * QEMU's own calc-dirty-rate measures over a whole second at least, so it cannot tell a small set
 * that is rewritten without rest from a large one that is written once (docs/check.md). */

#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/cleanup.h"

#define VM_DIRTY_LOOKS 6U

typedef struct vm_dirty_curve {
        uint64_t total, filled; /* bytes of memory, and of it those that are not zero */
        /* After usec[i], bytes[i] were no longer what they had been at the beginning. */
        uint64_t usec[VM_DIRTY_LOOKS], bytes[VM_DIRTY_LOOKS];
} vm_dirty_curve;

/* What writes one page after the other at `rate` over `hot` bytes looks like that. */
typedef struct vm_dirty_model {
        uint64_t rate; /* bytes per second; of a hot set that is rewritten within the first look, a
                          lower bound */
        uint64_t hot;  /* bytes; all of the memory when no end of it was seen */
} vm_dirty_model;

typedef struct vm_dirty vm_dirty;

/* r: 0, or the errno of reading it, negative. Once, never from inside the start. */
typedef void (*vm_dirty_done)(int r, const vm_dirty_curve *curve, void *userdata);

int vm_dirty_start(sd_event *event, int memory_fd, uint64_t total, vm_dirty_done done,
                   void *userdata, vm_dirty **ret);
/* Legal from `done`. Returns NULL. */
vm_dirty *vm_dirty_free(vm_dirty *dirty);

void vm_dirty_fit(const vm_dirty_curve *curve, vm_dirty_model *ret);

DEFINE_CLEANUP(vm_dirty *, vm_dirty_free)
