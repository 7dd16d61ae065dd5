/* SPDX-License-Identifier: MIT */
#pragma once

/* What most verbs begin with: the sandbox NAME of this root, its host and its shim. */

#include "cli/calls.h"
#include "cli/cli.h"
#include "cli/host.h"

typedef struct reach {
        host *host;
        rpc_group *group;
        rpc *shim;
        shim_status *status;
} reach;

/* With a shim that runs; one that does not is FERRY_FAILED_PRECONDITION with what to do. */
int reach_open(const cli_context *cli, const char *name, reach *ret, ferry_error *reterr);
/* A new status in place of the old. */
int reach_update(reach *r, ferry_error *reterr);
void reach_done(reach *r);

/* Names for tables: "running", "none"; "source", "-". */
const char *reach_vm_state(const shim_status *status, char buffer[static 64]);
const char *reach_owner(const shim_status *status, char buffer[static 64]);
