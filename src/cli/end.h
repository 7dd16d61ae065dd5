/* SPDX-License-Identifier: MIT */
#pragma once

/* The end of a sandbox's shim: it exits by itself when told to stop; what it leaves is removed. */

#include "cli/calls.h"
#include "cli/host.h"

/* Stops a shim that has no VM and no session, waits for its exit and removes the directory. Also
 * for one that is gone already, when it left no VM. */
int end_empty_shim(const host *h, rpc_group *group, const char *name, ferry_error *reterr);

/* Waits until no shim holds the sandbox; its log is complete then. FERRY_ABORTED when somebody
 * starts another one. */
int end_wait(const host *h, rpc_group *group, const char *name, ferry_error *reterr);

/* The same, then removes the directory, unless its VM lives on. */
int end_wait_and_remove(const host *h, rpc_group *group, const char *name, ferry_error *reterr);

/* What its QEMU and kernel say of the VM: false also when there never was one. */
bool end_has_living_vm(const char *root, const char *name);

/* Whether the journal has a migration session open; also when it cannot be read: for a sandbox that
 * no shim holds. */
bool end_has_open_session(const char *root, const char *name);

/* The status once the VM is no longer starting, or that of 15 s later: a shim that has just been
 * started finds its VM, and its session, a moment after it answers. */
int end_status_settled(rpc_group *group, rpc *shim, shim_status **ret, ferry_error *reterr);

/* A spin of the group until `usec` from now; streams go on meanwhile. */
int end_pause(rpc_group *group, uint64_t usec, ferry_error *reterr);

/* The error of a sandbox that has no shim: what became of it and what to do. */
int end_explain_no_shim(const char *root, const char *name, ferry_error *reterr);
