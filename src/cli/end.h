/* SPDX-License-Identifier: MIT */
#pragma once

/* The end of a sandbox's shim: it exits by itself when told to stop; what it leaves is removed. */

#include "cli/host.h"
#include "cli/rpc.h"

/* Stops a shim that has no VM and no session, waits for its exit and removes the directory. Also
 * for one that is gone already, when it left no VM. */
int end_empty_shim(const host *h, rpc_group *group, const char *name, ferry_error *reterr);

/* Waits until no shim holds the sandbox; its log is complete then. */
int end_wait(const host *h, rpc_group *group, const char *name, ferry_error *reterr);

/* The same, then removes the directory, unless its VM lives on. */
int end_wait_and_remove(const host *h, rpc_group *group, const char *name, ferry_error *reterr);

/* What its QEMU and kernel say of the VM: false also when there never was one. */
bool end_has_living_vm(const char *root, const char *name);

/* The error of a sandbox that has no shim: what became of it and what to do. */
int end_explain_no_shim(const char *root, const char *name, ferry_error *reterr);
