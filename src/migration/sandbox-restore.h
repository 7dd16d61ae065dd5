/* SPDX-License-Identifier: MIT */
#pragma once

/* A sandbox's VM out of a template (vm/template.h, docs/templates.md) instead of a boot: QEMU is
 * started while a thread checks and loads the memory; then the devices, and the guest runs, unseen;
 * once it has random numbers and a clock of its own, it is the sandbox's. Whatever goes wrong
 * before that is told to the log, QEMU is ended, and the VM boots. */

#include "migration/sandbox.h"

/* In the state directory, while one is under way. */
#define SANDBOX_RESTORE_MARK "restoring"

typedef struct sandbox_restore sandbox_restore;

/* How it ended, once, never from inside the start. `restored`: the guest runs. Else nothing is left
 * of it; `wanted`: because there was no template that fits, or a bad one. */
typedef void (*sandbox_restore_done)(sandbox *sb, bool restored, bool wanted);

typedef struct sandbox_restore_options {
        sandbox *sb;
        const vm_config *config;
        const char *folder, *probe_cache;
        bool own_network; /* the NIC is on no bridge, and gets its address from ConfigureNetwork */
        /* For the VM: it is the sandbox's, which hands on what that says. */
        int (*launch)(sandbox *sb, const vm_config *config, int memory_fd, ferry_error *reterr);
        /* Lets go of it: it is not ready yet, or it has ended. */
        void (*drop)(sandbox *sb);
        sandbox_restore_done done;
} sandbox_restore_options;

int sandbox_restore_start(const sandbox_restore_options *options, sandbox_restore **ret,
                          ferry_error *reterr);
/* Its VM is the caller's affair. Legal from `done`. Returns NULL. */
sandbox_restore *sandbox_restore_free(sandbox_restore *r);

/* The VM's, with what was found out of it. */
vm_config *sandbox_restore_take_config(sandbox_restore *r);

/* What the VM says meanwhile. */
void sandbox_restore_on_ready(sandbox_restore *r, int result, const ferry_error *error);
void sandbox_restore_on_migration(sandbox_restore *r, vm_migration_status status);
void sandbox_restore_on_exit(sandbox_restore *r, const char *reason);
/* And the guest: sandbox_guest.renew()'s. */
void sandbox_restore_on_renewed(sandbox_restore *r, int result, const ferry_error *error);

/* A shim that died meanwhile has left a guest that nobody may use: true when there was one, which
 * has been ended. */
bool sandbox_restore_clear(int dir_fd);
/* Another VM is about to be there. */
void sandbox_restore_unmark(int dir_fd);

DEFINE_CLEANUP(sandbox_restore *, sandbox_restore_free)
