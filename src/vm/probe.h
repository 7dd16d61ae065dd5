/* SPDX-License-Identifier: MIT */
#pragma once

/* Does KVM really run guests here, as QEMU's user? An open /dev/kvm proves nothing (under some
 * hypervisors guests hang on it): a guest of a few bytes is run, with a time limit, and which
 * named CPU models work. Asynchronous, and cached for this boot and this QEMU binary. */

#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "vm/files.h"

typedef struct vm_probe vm_probe;

typedef struct vm_probe_result {
        bool works;
        const char *cpu;    /* the first candidate that works; "" if none */
        const char *reason; /* why not; "" if it works */
} vm_probe_result;

typedef struct vm_probe_options {
        const char *qemu; /* as in the VM configuration */
        const char *machine;
        const char *cpu;        /* the one model to try, or NULL: the usual ones, best first */
        const char *cache_path; /* may be NULL */
        vm_user user;
        uint64_t limit_usec;     /* for one guest; 0 = 2 s */
        const char *accelerator; /* NULL = "kvm"; tests run the probe guest with "tcg" */
} vm_probe_options;

/* Once, never from inside the start. `result` is borrowed. */
typedef void (*vm_probe_done)(const vm_probe_result *result, void *userdata);

/* Negative: could not ask (no such QEMU); `done` is not called. */
int vm_probe_start(sd_event *event, const vm_probe_options *options, vm_probe_done done,
                   void *userdata, vm_probe **ret, ferry_error *reterr);
/* What a configuration becomes by it: accelerator and CPU are chosen. NULL: it says TCG, and nobody
 * was asked. FailedPrecondition: it says KVM, and that does not work. */
int vm_probe_apply(const vm_probe_result *result, vm_config *config, ferry_error *reterr);
/* Kills a probe guest under way. Legal from `done`. Returns NULL. */
vm_probe *vm_probe_free(vm_probe *probe);

DEFINE_CLEANUP(vm_probe *, vm_probe_free)
