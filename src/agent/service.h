/* SPDX-License-Identifier: MIT */
#pragma once

/* ferry.agent.v1.Agent (proto/agent.proto): decodes, checks, makes one call down. */

#include "agent/container.h"
#include "ttrpc/ttrpc.h"

typedef struct agent_service agent_service;

/* `processes` is borrowed; its on_end becomes the service's. */
int agent_service_new(ttrpc_server *server, container_table *containers, agent_service **ret);

/* To poll for reading; then agent_service_oom(). */
int agent_service_oom_fd(const agent_service *s);
void agent_service_oom(agent_service *s);
