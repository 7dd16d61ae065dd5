/* SPDX-License-Identifier: MIT */
#pragma once

/* ferry.shim.v1.Shim: what state the shim, its VM and its session are in; Watch; Stop. */

#include "migration/sandbox.h"
#include "services/guest.h"
#include "services/task-service.h"
#include "ttrpc/ttrpc.h"

typedef struct shim_service shim_service;

/* `on_stopped`: Stop was answered; the shim has nothing left to do. All are borrowed. */
int shim_service_new(ttrpc_server *server, sd_event *event, sandbox *sb,
                     void (*on_stopped)(void *userdata), void *userdata, shim_service **ret);
/* How its agent behaves is told of. Borrowed. */
void shim_service_set_guest(shim_service *service, const guest_access *guest);
/* Whose containers are told of; NULL: nobody's. Borrowed. */
void shim_service_set_tasks(shim_service *service, const task_service *tasks);
/* Each watcher gets the last state, and its stream ends. */
void shim_service_end_watches(shim_service *service);
shim_service *shim_service_free(shim_service *service);

DEFINE_CLEANUP(shim_service *, shim_service_free)
