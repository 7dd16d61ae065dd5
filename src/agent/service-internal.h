/* SPDX-License-Identifier: MIT */
#pragma once

/* What service.c and service-containers.c share. */

#include "agent.ttrpc.h"
#include "agent/container.h"
#include "agent/service.h"

#define ARGS_MAX 4096U

typedef struct waiter waiter;

struct agent_service {
        container_table *containers;
        process_table *processes;
        waiter *waiters;
        size_t n_waiters;
};

void service_fail_errno(ttrpc_call *call, int r, const char *what);

/* StartRequest with a container. */
void service_exec_in_container(agent_service *s, ttrpc_call *call,
                               const Ferry__Agent__V1__StartRequest *q);
void service_signal_all(agent_service *s, ttrpc_call *call,
                        const Ferry__Agent__V1__SignalRequest *q);

void service_create_container(ttrpc_call *call, const Ferry__Agent__V1__CreateContainerRequest *q,
                              void *userdata);
void service_start_container(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                             void *userdata);
void service_pause_container(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                             void *userdata);
void service_resume_container(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                              void *userdata);
void service_update_container(ttrpc_call *call, const Ferry__Agent__V1__UpdateContainerRequest *q,
                              void *userdata);
void service_container_pids(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                            void *userdata);
void service_container_stats(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                             void *userdata);
void service_delete_container(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                              void *userdata);
