/* SPDX-License-Identifier: MIT */
#pragma once

/* What service.c and service-containers.c share. */

#include "agent.ttrpc.h"
#include "agent/container.h"
#include "agent/service.h"

#define ARGS_MAX 4096U

typedef struct waiter waiter;
typedef struct oom_waiter oom_waiter;

struct agent_service {
        container_table *containers;
        process_table *processes;
        waiter *waiters;
        size_t n_waiters;
        int oom_fd; /* inotify's */
        oom_waiter *oom_waiters;
        size_t n_oom_waiters;
};

void service_fail_errno(ttrpc_call *call, int r, const char *what);

/* StartRequest with a container. */
void service_exec_in_container(agent_service *s, ttrpc_call *call,
                               const Ferry__Agent__V1__StartRequest *q);
void service_signal_all(agent_service *s, ttrpc_call *call,
                        const Ferry__Agent__V1__SignalRequest *q);

/* ---- service-oom.c ---- */

void service_wait_oom(ttrpc_call *call, const Ferry__Agent__V1__WaitOomRequest *q, void *userdata);
uint64_t service_oom_kills(const char *id);
/* Who waits for kills in it hears of them before its end is told. */
void service_oom_ended(agent_service *s, const char *id);

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
