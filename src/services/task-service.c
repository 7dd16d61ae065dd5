/* SPDX-License-Identifier: MIT */
#include "services/task-service.h"

#include <string.h>

#include "migration/place.h"
#include "migration/session.h"
#include "services/task-internal.h"
#include "task3.ttrpc.h"

#define VERSION "2"

#define S(name) CONTAINERD__TASK__V2__STATUS__##name

/* What changes something waits until a migration is over. */
bool task_may_change(task_service *s, ttrpc_call *call) {
        session_status status;

        if (!session_is_open(sandbox_session(s->sb)))
                return true;
        session_get_status(sandbox_session(s->sb), &status);
        (void)ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION,
                              "the sandbox is being migrated (session %s): nothing is changed "
                              "meanwhile",
                              status.session_id);
        return false;
}

/* ---- what memory knows ---- */

static void on_state(ttrpc_call *call, const Containerd__Task__V2__StateRequest *q,
                     void *userdata) {
        Containerd__Task__V2__StateResponse m = CONTAINERD__TASK__V2__STATE_RESPONSE__INIT;
        const task_process *p = task_named(userdata, call, q->id, q->exec_id);
        Google__Protobuf__Timestamp at;

        if (!p)
                return;
        timestamp_fill(&at, p->exited_at_usec);
        m.id = p->task->id;
        m.bundle = p->task->bundle;
        m.pid = p->pid;
        m.status = p->status;
        m.stdin = p->stdio[0];
        m.stdout = p->stdio[1];
        m.stderr = p->stdio[2];
        m.terminal = p->terminal;
        m.exit_status = p->exit_status;
        m.exited_at = p->status == S(STOPPED) ? &at : NULL;
        m.exec_id = p->exec_id;
        (void)containerd_task_v2_task_state_reply(call, &m);
}

static void on_pids(ttrpc_call *call, const Containerd__Task__V2__PidsRequest *q, void *userdata) {
        Containerd__Task__V2__ProcessInfo items[TASK_EXECS_MAX + 1], *pointers[TASK_EXECS_MAX + 1];
        Containerd__Task__V2__PidsResponse m = CONTAINERD__TASK__V2__PIDS_RESPONSE__INIT;
        const task_process *first = task_named(userdata, call, q->id, "");

        if (!first)
                return;
        for (const task_process *p = first->task->processes; p && m.n_processes < ELEMENTS(items);
             p = p->next) {
                /* the first is never missing: an empty list is a dead shim's */
                if (p != first && (p->status != S(RUNNING) || p->pid == 0))
                        continue;
                containerd__task__v2__process_info__init(&items[m.n_processes]);
                items[m.n_processes].pid = p->pid;
                pointers[m.n_processes] = &items[m.n_processes];
                m.n_processes++;
        }
        m.processes = pointers;
        (void)containerd_task_v2_task_pids_reply(call, &m);
}

/* containerd 1.6 looks so for what it had before it was started again: NotFound makes it clear a
 * shim away that has come to no container. A pod of CRI's lives without any. */
static void on_connect(ttrpc_call *call, const Containerd__Task__V2__ConnectRequest *q,
                       void *userdata) {
        Containerd__Task__V2__ConnectResponse m = CONTAINERD__TASK__V2__CONNECT_RESPONSE__INIT;
        task_service *s = userdata;
        bool is_pod = s->pod_id && strcmp(q->id, s->pod_id) == 0;
        const task_process *p = is_pod ? NULL : task_named(s, call, q->id, "");

        if (!p && !is_pod)
                return;
        m.shim_pid = (uint32_t)getpid();
        m.task_pid = p ? p->pid : 0;
        m.version = (char *)VERSION;
        (void)containerd_task_v2_task_connect_reply(call, &m);
}

static void on_shutdown(ttrpc_call *call, const Containerd__Task__V2__ShutdownRequest *q,
                        void *userdata) {
        task_service *s = userdata;

        call_reply_empty(call);
        task_service_leave(s);
}

/* ---- the service ---- */

static int on_look(sd_event_source *source, void *userdata) {
        task_look(userdata);
        return 0;
}

/* From a callback of whatever changes: what there is to do is done in a moment. */
void task_service_look(task_service *s) {
        (void)sd_event_source_set_enabled(s->look, SD_EVENT_ONESHOT);
}

void task_service_leave(task_service *s) {
        s->shutdown_wanted |= !s->pod_id; /* a pod of CRI's has its own ShutdownSandbox */
        task_service_look(s);
}

/* Version 3 is the same by another name. */
#define METHODS                                                                                    \
        {                                                                                          \
                .state = on_state, .create = task_on_create, .start = task_on_start,               \
                .delete = task_on_delete, .pids = on_pids, .pause = task_on_pause,                 \
                .resume = task_on_resume, .kill = task_on_kill, .exec = task_on_exec,              \
                .resize_pty = task_on_resize, .close_io = task_on_close_io,                        \
                .update = task_on_update, .wait = task_on_wait, .stats = task_on_stats,            \
                .connect = on_connect, .shutdown = on_shutdown                                     \
        }

int task_service_new(ttrpc_server *server, sd_event *event, sandbox *sb, guest_access *guest,
                     const task_options *options, void (*on_shutdown_)(void *userdata),
                     void *userdata, task_service **ret) {
        static const containerd_task_v2_task_methods methods = METHODS;
        static const containerd_task_v3_task_methods methods_3 = METHODS;
        _cleanup_(task_service_freep) task_service *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        *s = (task_service){ .event = sd_event_ref(event),
                             .sb = sb,
                             .guest = guest,
                             .on_shutdown = on_shutdown_,
                             .userdata = userdata,
                             .cache_dir = strdup(options->cache_dir),
                             .cache_max_mb = options->cache_max_mb,
                             .layer_mb = options->layer_mb,
                             .namespace = strdup(options->namespace),
                             .address = strdup(options->address ? options->address : "") };
        if (!s->cache_dir || !s->namespace || !s->address)
                return -ENOMEM;
        r = sd_event_add_defer(event, &s->look, on_look, s);
        if (r >= 0)
                r = sd_event_source_set_enabled(s->look, SD_EVENT_OFF);
        if (r >= 0)
                r = task_network_new(event, sb, guest, &s->network);
        if (r >= 0 && options->events)
                r = task_events_new(event, options->events, options->namespace, &s->events);
        if (r >= 0)
                r = containerd_task_v2_task_register(server, &methods, s);
        if (r == 0)
                r = containerd_task_v3_task_register(server, &methods_3, s);
        if (r < 0)
                return r;
        guest_access_set_containers(guest, &task_moving, s);
        *ret = TAKE_PTR(s);
        return 0;
}

bool task_service_has_events(const task_service *s) {
        return s->events && task_events_pending(s->events);
}

task_service *task_service_free(task_service *s) {
        if (!s)
                return NULL;
        guest_access_set_containers(s->guest, NULL, NULL);
        task_abandon_creations(s);
        while (s->tasks)
                task_remove(s->tasks);
        task_drop_unclaimed(s);
        place_forget(sandbox_state_dir(s->sb));
        task_events_free(s->events);
        sd_event_source_disable_unref(s->look);
        task_network_free(s->network);
        sd_event_unref(s->event);
        free(s->cache_dir);
        free(s->namespace);
        free(s->address);
        free(s);
        return NULL;
}
