/* SPDX-License-Identifier: MIT */
#pragma once

/* What this host's QEMU would give a guest of a machine type, CPU model and accelerator: a QEMU
 * without a guest is started, asked and ended, in some tens of milliseconds. Asynchronous, and
 * cached for this boot and this QEMU binary. */

#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "vm/files.h"
#include "vm/vm.h"

typedef struct vm_ability vm_ability;

typedef struct vm_ability_result {
        /* NULL: QEMU does not start like that. Memory, vCPUs, devices and RAM are not filled in. */
        const vm_facts *facts;
        const char *reason;       /* what QEMU said; "" with facts */
        const char *qemu_version; /* "" if not even that is known */
        bool knows_machine, knows_cpu;
} vm_ability_result;

typedef struct vm_ability_options {
        const char *qemu; /* as in the VM configuration */
        const char *machine, *cpu;
        const char *accelerator; /* "tcg" or "kvm" */
        const char *cache_path;  /* may be NULL */
        vm_user user;
        uint64_t limit_usec; /* for one QEMU; 0 = 10 s */
} vm_ability_options;

/* Once, never from inside the start. `result` is borrowed. */
typedef void (*vm_ability_done)(const vm_ability_result *result, void *userdata);

/* Negative: could not ask (no such QEMU); `done` is not called. */
int vm_ability_start(sd_event *event, const vm_ability_options *options, vm_ability_done done,
                     void *userdata, vm_ability **ret, ferry_error *reterr);
/* Ends a QEMU under way. Legal from `done`. Returns NULL. */
vm_ability *vm_ability_free(vm_ability *ability);

DEFINE_CLEANUP(vm_ability *, vm_ability_free)
