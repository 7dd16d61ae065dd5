/* SPDX-License-Identifier: MIT */
#pragma once

/* SandboxMetrics: what the guest says of all of a pod's containers. */

#include "sandbox.ttrpc.h"
#include "services/task-service.h"

/* Answers the call, now or later. `id`: the pod's. */
void sandbox_metrics_answer(ttrpc_call *call, task_service *tasks, const char *id);
