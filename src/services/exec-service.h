/* SPDX-License-Identifier: MIT */
#pragma once

/* ferry.exec.v1.Exec: programs in the guest. */

#include "migration/sandbox.h"
#include "ttrpc/ttrpc.h"

typedef struct exec_service exec_service;

/* All are borrowed. While there are programs the sandbox is not exported: their streams do not move
 * yet. */
int exec_service_new(ttrpc_server *server, sd_event *event, sandbox *sb, exec_service **ret);
/* The shim knows by now whether there is a VM, and which. No call comes before. */
void exec_service_begin(exec_service *service);
/* Waits end with Unavailable: the programs run on, and the next shim is asked again. */
void exec_service_end(exec_service *service);
exec_service *exec_service_free(exec_service *service);

DEFINE_CLEANUP(exec_service *, exec_service_free)
