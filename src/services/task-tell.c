/* SPDX-License-Identifier: MIT */
/* The events of tasks. */
#include "events.pb-c.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "services/task-internal.h"

#define TELL(s, topic, type, m)                                                                    \
        do {                                                                                       \
                if ((s)->events)                                                                   \
                        task_events_publish((s)->events, topic, "containerd.events." type,         \
                                            &(m).base);                                            \
        } while (0)

void task_tell_create(const task *t) {
        Containerd__Events__TaskCreate m = CONTAINERD__EVENTS__TASK_CREATE__INIT;
        Containerd__Events__TaskIO io = CONTAINERD__EVENTS__TASK_IO__INIT;
        const task_process *p = task_first(t);

        io.stdin = p->stdio[0];
        io.stdout = p->stdio[1];
        io.stderr = p->stdio[2];
        io.terminal = p->terminal;
        m.container_id = t->id;
        m.bundle = t->bundle;
        m.io = &io;
        m.pid = p->pid;
        TELL(t->service, "/tasks/create", "TaskCreate", m);
}

static void tell_exec_started(const task_process *p) {
        Containerd__Events__TaskExecStarted m = CONTAINERD__EVENTS__TASK_EXEC_STARTED__INIT;

        m.container_id = p->task->id;
        m.exec_id = p->exec_id;
        m.pid = p->pid;
        TELL(p->task->service, "/tasks/exec-started", "TaskExecStarted", m);
}

void task_tell_start(const task_process *p) {
        Containerd__Events__TaskStart m = CONTAINERD__EVENTS__TASK_START__INIT;

        if (p->exec_id[0]) {
                tell_exec_started(p);
                return;
        }
        m.container_id = p->task->id;
        m.pid = p->pid;
        TELL(p->task->service, "/tasks/start", "TaskStart", m);
}

static const char *name_of(const task_process *p) {
        return p->exec_id[0] ? p->exec_id : p->task->id;
}

void task_tell_oom(const task *t) {
        Containerd__Events__TaskOOM m = CONTAINERD__EVENTS__TASK_OOM__INIT;

        m.container_id = t->id;
        TELL(t->service, "/tasks/oom", "TaskOOM", m);
}

void task_tell_exit(const task_process *p) {
        Containerd__Events__TaskExit m = CONTAINERD__EVENTS__TASK_EXIT__INIT;
        Google__Protobuf__Timestamp at;

        timestamp_fill(&at, p->exited_at_usec);
        m.container_id = p->task->id;
        m.id = (char *)name_of(p);
        m.pid = p->pid;
        m.exit_status = p->exit_status;
        m.exited_at = &at;
        TELL(p->task->service, "/tasks/exit", "TaskExit", m);
}

void task_tell_delete(const task_process *p) {
        Containerd__Events__TaskDelete m = CONTAINERD__EVENTS__TASK_DELETE__INIT;
        Google__Protobuf__Timestamp at;

        if (p->exec_id[0])
                return;
        timestamp_fill(&at, p->exited_at_usec);
        m.container_id = p->task->id;
        m.id = p->task->id;
        m.pid = p->pid;
        m.exit_status = p->exit_status;
        m.exited_at = &at;
        TELL(p->task->service, "/tasks/delete", "TaskDelete", m);
}

void task_tell_exec_added(const task_process *p) {
        Containerd__Events__TaskExecAdded m = CONTAINERD__EVENTS__TASK_EXEC_ADDED__INIT;

        m.container_id = p->task->id;
        m.exec_id = p->exec_id;
        TELL(p->task->service, "/tasks/exec-added", "TaskExecAdded", m);
}

void task_tell_paused(const task *t, bool paused) {
        Containerd__Events__TaskPaused p = CONTAINERD__EVENTS__TASK_PAUSED__INIT;
        Containerd__Events__TaskResumed r = CONTAINERD__EVENTS__TASK_RESUMED__INIT;

        p.container_id = r.container_id = t->id;
        if (paused)
                TELL(t->service, "/tasks/paused", "TaskPaused", p);
        else
                TELL(t->service, "/tasks/resumed", "TaskResumed", r);
}
