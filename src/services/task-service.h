/* SPDX-License-Identifier: MIT */
#pragma once

/* containerd.task.v2.Task: a container of containerd's in this sandbox's guest. State, Wait, Pids,
 * Connect answer from memory; what changes something asks the guest. */

#include "services/carried.h"
#include "services/guest.h"
#include "shim.pb-c.h"
#include "ttrpc/ttrpc.h"

#define TASKS_MAX CARRIED_CONTAINERS_MAX

typedef struct task_service task_service;

typedef struct task_options {
        const char *namespace;
        const char *events;    /* containerd's ttrpc socket; NULL: nobody is told */
        const char *cache_dir; /* for packed roots */
        uint32_t cache_max_mb; /* of what is in there; 0: no limit */
        uint32_t layer_mb;     /* of the disks that containers write to; 0: they write to memory */
        const char *address;   /* containerd's gRPC socket; NULL: not known */
} task_options;

/* Borrowed, all but the options. `on_shutdown`: the last task has gone and Shutdown was asked for.
 */
int task_service_new(ttrpc_server *server, sd_event *event, sandbox *sb, guest_access *guest,
                     const task_options *options, void (*on_shutdown)(void *userdata),
                     void *userdata, task_service **ret);
task_service *task_service_free(task_service *service);

/* The VM's or the session's state has changed. What ran in a VM that has gone has ended, with 255;
 * what came with one that runs now is taken up. */
void task_service_look(task_service *service);
/* For ferry.shim.v1.Shim; what it points to is the service's, until the loop's next turn. */
typedef struct task_status {
        Ferry__Shim__V1__Containerd message;
        Ferry__Shim__V1__Container items[TASKS_MAX], *pointers[TASKS_MAX];
} task_status;
void task_service_get_status(const task_service *service, task_status *ret);
/* Events that containerd has not heard of yet. */
bool task_service_has_events(const task_service *service);

DEFINE_CLEANUP(task_service *, task_service_free)
