/* SPDX-License-Identifier: MIT */
#pragma once

/* What containerd is told of tasks: in order, kept while it is away, to a bound. */

#include <stdbool.h>

#include <systemd/sd-event.h>

#include "base/cleanup.h"
#include "protobuf-c/protobuf-c.h"

typedef struct task_events task_events;

/* `address`: containerd's ttrpc socket. */
int task_events_new(sd_event *event, const char *address, const char *namespace_,
                    task_events **ret);
/* What was not told is lost. */
task_events *task_events_free(task_events *e);

/* `topic`: "/tasks/start"; `type`: "containerd.events.TaskStart". */
void task_events_publish(task_events *e, const char *topic, const char *type,
                         const ProtobufCMessage *event);
/* Some are still to be told, and containerd is there. */
bool task_events_pending(const task_events *e);

DEFINE_CLEANUP(task_events *, task_events_free)
