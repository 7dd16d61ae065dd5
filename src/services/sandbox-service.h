/* SPDX-License-Identifier: MIT */
#pragma once

/* containerd.runtime.sandbox.v1.Sandbox: a pod whose VM is there before its first container
 * (`sandboxer = "shim"` of containerd's CRI plugin). */

#include "services/task-service.h"

typedef struct sandbox_service sandbox_service;

/* Borrowed. `on_boot`: a pod was created that is to have a VM of its own; NULL: there can be none.
 * `on_shutdown`: ShutdownSandbox was asked for. */
int sandbox_service_new(ttrpc_server *server, sd_event *event, sandbox *sb, task_service *tasks,
                        void (*on_boot)(void *userdata), void (*on_shutdown)(void *userdata),
                        void *userdata, sandbox_service **ret);
/* After the guest, whose last answers still come here. */
sandbox_service *sandbox_service_free(sandbox_service *service);

/* The VM's state has changed. */
void sandbox_service_look(sandbox_service *service);

DEFINE_CLEANUP(sandbox_service *, sandbox_service_free)
