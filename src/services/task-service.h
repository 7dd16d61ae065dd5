/* SPDX-License-Identifier: MIT */
#pragma once

/* containerd.task.v2.Task: a container of containerd's in this sandbox's guest. State, Wait, Pids,
 * Connect answer from memory; what changes something asks the guest. */

#include "services/guest.h"
#include "ttrpc/ttrpc.h"

typedef struct task_service task_service;

typedef struct task_options {
        const char *namespace;
        const char *events;    /* containerd's ttrpc socket; NULL: nobody is told */
        const char *cache_dir; /* for packed roots */
} task_options;

/* Borrowed, all but the options. `on_shutdown`: the last task has gone and Shutdown was asked for.
 */
int task_service_new(ttrpc_server *server, sd_event *event, sandbox *sb, guest_access *guest,
                     const task_options *options, void (*on_shutdown)(void *userdata),
                     void *userdata, task_service **ret);
task_service *task_service_free(task_service *service);

/* The VM has gone: what it ran has ended, with 255. */
void task_service_vm_gone(task_service *service);
/* Events that containerd has not heard of yet. */
bool task_service_has_events(const task_service *service);

DEFINE_CLEANUP(task_service *, task_service_free)
