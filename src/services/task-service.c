/* SPDX-License-Identifier: MIT */
#include "services/task-service.h"

#include <string.h>

#include "base/log.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "metrics.pb-c.h"
#include "migration/session.h"
#include "services/task-internal.h"
#include "task3.ttrpc.h"

#define PROCESS_TYPE "types.containerd.io/opencontainers/runtime-spec/1/Process"
#define METRICS_TYPE "io.containerd.cgroups.v2.Metrics"
#define VERSION      "2"
#define LATE_USEC    (2 * USEC_PER_SEC)
#define DRAIN_USEC   (10 * USEC_PER_SEC)

#define S(name) CONTAINERD__TASK__V2__STATUS__##name

/* A call that waits for the guest. */
typedef struct task_call {
        task_service *service;
        ttrpc_call *call;
        char *id, *exec_id; /* its process, which may have gone meanwhile */
        bool flag;
        sd_event_source *limit;
} task_call;

static task_call *hold(task_service *s, ttrpc_call *call, const char *id, const char *exec_id) {
        task_call *c = calloc(1, sizeof(*c));

        if (c)
                *c = (task_call){ .service = s, .id = strdup(id), .exec_id = strdup(exec_id) };
        if (!c || !c->id || !c->exec_id) {
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
                if (c) {
                        free(c->id);
                        free(c->exec_id);
                }
                free(c);
                return NULL;
        }
        c->call = ttrpc_call_ref(call);
        return c;
}

static void let_go(task_call *c) {
        sd_event_source_disable_unref(c->limit);
        ttrpc_call_unref(c->call);
        free(c->id);
        free(c->exec_id);
        free(c);
}

static task_process *process_of(const task_call *c) {
        return task_process_find(c->service, c->id, c->exec_id, NULL);
}

static void fail(ttrpc_call *call, ferry_code code, const char *what) {
        (void)ttrpc_call_fail(call, (int32_t)code, "%s", what);
}

static void reply_empty(ttrpc_call *call) {
        (void)ttrpc_call_reply(call, NULL, 0);
}

/* The call's process; NULL: the call is answered. */
static task_process *named(task_service *s, ttrpc_call *call, const char *id, const char *exec_id) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_process *p = task_process_find(s, id, exec_id, &error);

        if (!p)
                call_fail(call, -ENOENT, &error);
        return p;
}

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

/* ---- ends ---- */

static void say_end(ttrpc_call *call, const task_process *p) {
        Containerd__Task__V2__WaitResponse m = CONTAINERD__TASK__V2__WAIT_RESPONSE__INIT;
        Google__Protobuf__Timestamp at;

        timestamp_fill(&at, p->exited_at_usec);
        m.exit_status = p->exit_status;
        m.exited_at = &at;
        (void)containerd_task_v2_task_wait_reply(call, &m);
}

void task_process_ended(task_process *p, uint32_t exit_status, uint64_t exited_at_usec,
                        bool oom_killed) {
        if (p->status == S(STOPPED))
                return;
        p->late = sd_event_source_disable_unref(p->late);
        p->status = S(STOPPED);
        p->exit_status = exit_status;
        p->exited_at_usec = exited_at_usec ? exited_at_usec : wall_usec();
        task_tell_exit(p, oom_killed);
        while (p->waiters) {
                task_waiter *w = p->waiters;

                p->waiters = w->next;
                ttrpc_call_set_callbacks(w->call, NULL, NULL, NULL);
                say_end(w->call, p);
                ttrpc_call_unref(w->call);
                free(w);
        }
}

/* A watch, by name: its process may be deleted before it ends. */
static task_call *watch_new(const task_process *p) {
        task_call *c = calloc(1, sizeof(*c));

        if (!c)
                return NULL;
        *c = (task_call){ .service = p->task->service,
                          .id = strdup(p->task->id),
                          .exec_id = strdup(p->exec_id) };
        if (c->id && c->exec_id)
                return c;
        free(c->id);
        free(c->exec_id);
        free(c);
        return NULL;
}

static void watch_free(task_call *c) {
        free(c->id);
        free(c->exec_id);
        free(c);
}

static int on_late(sd_event_source *source, uint64_t usec, void *userdata) {
        task_process *p = userdata;

        task_process_ended(p, p->exit_status, p->exited_at_usec, p->oom_killed);
        return 0;
}

/* A connection that is lost, or the shim's end, is not the program's. */
static void on_whole(int r, const ferry_error *error, const guest_process_info *info,
                     void *userdata) {
        task_call *c = userdata;
        task_process *p = r == 0 ? process_of(c) : NULL;

        if (p)
                task_process_ended(p, info->exit_status, info->exited_at_usec, info->oom_killed);
        watch_free(c);
}

static int watch(task_process *p, bool drained, guest_done done, ferry_error *reterr) {
        task_call *c = watch_new(p);
        guest_processes *guest;
        int r;

        if (!c)
                return ferry_error_set_errno(reterr, -ENOMEM, "watch");
        r = guest_access_find(p->task->service->guest, p->guest_id, &guest, reterr);
        if (r == 0)
                r = guest_wait(guest, p->guest_id, drained, done, c, reterr);
        if (r < 0)
                watch_free(c);
        return r;
}

/* ctr lets go of the FIFOs the moment it hears of the end: it hears of it once the output is there,
 * or after a while, when something else holds that open. */
static void on_watched(int r, const ferry_error *error, const guest_process_info *info,
                       void *userdata) {
        task_call *c = userdata;
        task_process *p = r == 0 ? process_of(c) : NULL;

        watch_free(c);
        if (!p || p->status == S(STOPPED))
                return;
        p->exit_status = info->exit_status;
        p->exited_at_usec = info->exited_at_usec;
        p->oom_killed = info->oom_killed;
        if (sd_event_add_time_relative(p->task->service->event, &p->late, CLOCK_MONOTONIC,
                                       LATE_USEC, TIMER_ACCURACY_USEC, on_late, p) < 0 ||
            watch(p, true, on_whole, NULL) < 0)
                task_process_ended(p, p->exit_status, p->exited_at_usec, p->oom_killed);
}

int task_watch(task_process *p, ferry_error *reterr) {
        return watch(p, false, on_watched, reterr);
}

/* ---- what memory knows ---- */

static void on_state(ttrpc_call *call, const Containerd__Task__V2__StateRequest *q,
                     void *userdata) {
        Containerd__Task__V2__StateResponse m = CONTAINERD__TASK__V2__STATE_RESPONSE__INIT;
        const task_process *p = named(userdata, call, q->id, q->exec_id);
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
        const task_process *first = named(userdata, call, q->id, "");

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

static void on_connect(ttrpc_call *call, const Containerd__Task__V2__ConnectRequest *q,
                       void *userdata) {
        Containerd__Task__V2__ConnectResponse m = CONTAINERD__TASK__V2__CONNECT_RESPONSE__INIT;
        task_service *s = userdata;
        const task *t = task_find(s, q->id);
        const task_process *p = t ? task_first(t) : NULL;

        m.shim_pid = (uint32_t)getpid();
        m.task_pid = p ? p->pid : 0;
        m.version = (char *)VERSION;
        (void)containerd_task_v2_task_connect_reply(call, &m);
}

static void on_waiter_gone(ttrpc_call *call, void *userdata) {
        task_waiter *gone = userdata;

        for (task_waiter **at = &gone->process->waiters; *at; at = &(*at)->next)
                if (*at == gone) {
                        *at = gone->next;
                        break;
                }
        ttrpc_call_unref(call);
        free(gone);
}

static void on_wait(ttrpc_call *call, const Containerd__Task__V2__WaitRequest *q, void *userdata) {
        task_process *p = named(userdata, call, q->id, q->exec_id);
        task_waiter *w;

        if (!p)
                return;
        if (p->status == S(STOPPED)) {
                say_end(call, p);
                return;
        }
        w = malloc(sizeof(*w));
        if (!w) {
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
                return;
        }
        *w = (task_waiter){ .next = p->waiters, .call = ttrpc_call_ref(call), .process = p };
        p->waiters = w;
        ttrpc_call_set_callbacks(call, on_waiter_gone, NULL, w);
}

/* ---- starting ---- */

static void on_create(ttrpc_call *call, const Containerd__Task__V2__CreateTaskRequest *q,
                      void *userdata) {
        task_create(userdata, call, q);
}

static void reply_started(task_call *c, task_process *p) {
        Containerd__Task__V2__StartResponse m = CONTAINERD__TASK__V2__START_RESPONSE__INIT;

        m.pid = p->pid;
        (void)containerd_task_v2_task_start_reply(c->call, &m);
}

/* It runs, or has run already. */
static void begun(task_call *c, task_process *p) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        guest_processes *guest;

        if (p->status == S(CREATED))
                p->status = S(RUNNING);
        task_tell_start(p);
        reply_started(c, p);
        if (p->exec_id[0] && task_watch(p, &error) < 0)
                log_warning("%s", ferry_error_message(&error));
        if (p->close_in && guest_access_find(c->service->guest, p->guest_id, &guest, NULL) == 0)
                (void)guest_close_in(guest, p->guest_id, NULL);
}

static void on_container_started(int r, const ferry_error *error, void *userdata) {
        task_call *c = userdata;
        task_process *p = process_of(c);

        if (p)
                p->busy = false;
        if (r < 0)
                call_fail(c->call, r, error);
        else if (!p)
                fail(c->call, FERRY_NOT_FOUND, "the container was deleted meanwhile");
        else
                begun(c, p);
        let_go(c);
}

static void on_exec_started(int r, const ferry_error *error, const guest_process_info *info,
                            void *userdata) {
        task_call *c = userdata;
        task_process *p = process_of(c);

        if (p)
                p->busy = false;
        if (r < 0)
                call_fail(c->call, r, error);
        else if (!p)
                fail(c->call, FERRY_NOT_FOUND, "the exec was deleted meanwhile");
        else {
                p->pid = info->pid;
                begun(c, p);
        }
        let_go(c);
}

static int start_exec(guest_processes *guest, task_process *p, task_call *c, ferry_error *reterr) {
        guest_process_spec spec = { .id = p->guest_id,
                                    .terminal = p->terminal,
                                    .container = p->task->guest_id,
                                    .process = p->spec,
                                    .n_process = strlen(p->spec) };

        for (size_t i = 0; i < ELEMENTS(spec.stdio); i++)
                spec.stdio[i] = p->stdio[i];
        return guest_exec(guest, &spec, on_exec_started, c, reterr);
}

static void on_network(int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        task_call *c = userdata;
        task_process *p = process_of(c);
        guest_processes *guest;

        if (r == 0 && p) {
                r = guest_access_find(c->service->guest, p->guest_id, &guest, &own);
                if (r == 0)
                        r = guest_container_start(guest, p->guest_id, on_container_started, c,
                                                  &own);
                error = &own;
                if (r == 0)
                        return;
        }
        on_container_started(r, error, c);
}

static int start_container(guest_processes *guest, const task_process *p, task_call *c,
                           ferry_error *reterr) {
        int r = 1;

        if (p->task->wants_network)
                r = task_network_join_late(c->service->network, on_network, c, reterr);
        return r <= 0 ? r
                      : guest_container_start(guest, p->guest_id, on_container_started, c, reterr);
}

static void on_start(ttrpc_call *call, const Containerd__Task__V2__StartRequest *q,
                     void *userdata) {
        Containerd__Task__V2__StartResponse m = CONTAINERD__TASK__V2__START_RESPONSE__INIT;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = named(s, call, q->id, q->exec_id);
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p || (!p->arriving && !task_may_change(s, call)))
                return;
        if (p->status != S(CREATED) || p->busy) {
                fail(call, FERRY_FAILED_PRECONDITION, "it was started before");
                return;
        }
        if (p->arriving) {
                task_begin_arrived(p);
                m.pid = p->pid;
                (void)containerd_task_v2_task_start_reply(call, &m);
                return;
        }
        c = hold(s, call, q->id, q->exec_id);
        if (!c)
                return;
        r = guest_access_find(s->guest, p->guest_id, &guest, &error);
        if (r == 0)
                r = p->exec_id[0] ? start_exec(guest, p, c, &error)
                                  : start_container(guest, p, c, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                let_go(c);
        } else
                p->busy = true;
}

static void on_exec(ttrpc_call *call, const Containerd__Task__V2__ExecProcessRequest *q,
                    void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const char *const stdio[3] = { q->stdin, q->stdout, q->stderr };
        task_service *s = userdata;
        task_process *first = named(s, call, q->id, ""), *p;
        char *spec = NULL;
        size_t n = 0;

        if (!first || task_claim_exec(s, call, q) || !task_may_change(s, call))
                return;
        for (const task_process *o = first->task->processes; o; o = o->next)
                n++;
        if (q->exec_id[0] == '\0' || task_process_find(s, q->id, q->exec_id, NULL)) {
                fail(call, FERRY_ALREADY_EXISTS, "there is an exec of that id already");
                return;
        }
        if (n > TASK_EXECS_MAX) {
                fail(call, FERRY_RESOURCE_EXHAUSTED, "too many execs in this container");
                return;
        }
        if (first->status == S(STOPPED)) {
                fail(call, FERRY_FAILED_PRECONDITION, "the container does not run");
                return;
        }
        if (!q->spec || oci_translate_process((const char *)q->spec->value.data, q->spec->value.len,
                                              &spec, &error) < 0) {
                if (!q->spec)
                        fail(call, FERRY_INVALID_ARGUMENT, "no process to run");
                else
                        call_fail(call, -EINVAL, &error);
                return;
        }
        p = task_add_process(first->task, q->exec_id, stdio, q->terminal);
        if (!p) {
                free(spec);
                fail(call, FERRY_RESOURCE_EXHAUSTED, "out of memory");
                return;
        }
        p->spec = spec;
        task_tell_exec_added(p);
        reply_empty(call);
}

/* ---- while it runs ---- */

static void on_guest_done(int r, const ferry_error *error, const guest_process_info *info,
                          void *userdata) {
        task_call *c = userdata;

        if (r < 0)
                call_fail(c->call, r, error);
        else
                reply_empty(c->call);
        let_go(c);
}

static void on_kill(ttrpc_call *call, const Containerd__Task__V2__KillRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = named(s, call, q->id, q->exec_id);
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p || !task_may_change(s, call))
                return;
        if (p->status == S(STOPPED) || (p->exec_id[0] && p->status == S(CREATED))) {
                fail(call, FERRY_NOT_FOUND, "process already finished");
                return;
        }
        c = hold(s, call, q->id, q->exec_id);
        if (!c)
                return;
        r = guest_access_find(s->guest, p->guest_id, &guest, &error);
        if (r == 0)
                r = guest_signal(guest, p->guest_id, q->signal, q->all && !p->exec_id[0],
                                 on_guest_done, c, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                let_go(c);
        }
}

static void on_resize(ttrpc_call *call, const Containerd__Task__V2__ResizePtyRequest *q,
                      void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = named(s, call, q->id, q->exec_id);
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p)
                return;
        c = hold(s, call, q->id, q->exec_id);
        if (!c)
                return;
        r = guest_access_find(s->guest, p->guest_id, &guest, &error);
        if (r == 0)
                r = guest_resize(guest, p->guest_id, q->height, q->width, on_guest_done, c, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                let_go(c);
        }
}

/* It may come before Start. */
static void on_close_io(ttrpc_call *call, const Containerd__Task__V2__CloseIORequest *q,
                        void *userdata) {
        task_service *s = userdata;
        task_process *p = named(s, call, q->id, q->exec_id);
        guest_processes *guest;

        if (!p)
                return;
        p->close_in |= q->stdin;
        if (q->stdin && p->status != S(CREATED) &&
            guest_access_find(s->guest, p->guest_id, &guest, NULL) == 0)
                (void)guest_close_in(guest, p->guest_id, NULL);
        reply_empty(call);
}

static void on_paused(int r, const ferry_error *error, void *userdata) {
        task_call *c = userdata;
        task_process *p = process_of(c);

        if (r < 0)
                call_fail(c->call, r, error);
        else {
                if (p && p->status != S(STOPPED)) {
                        p->status = c->flag ? S(PAUSED) : S(RUNNING);
                        task_tell_paused(p->task, c->flag);
                }
                reply_empty(c->call);
        }
        let_go(c);
}

static void freeze(task_service *s, ttrpc_call *call, const char *id, bool pause) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_process *p = named(s, call, id, "");
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p || !task_may_change(s, call))
                return;
        if (p->status != (pause ? S(RUNNING) : S(PAUSED))) {
                fail(call, FERRY_FAILED_PRECONDITION,
                     pause ? "the container does not run" : "the container is not paused");
                return;
        }
        c = hold(s, call, id, "");
        if (!c)
                return;
        c->flag = pause;
        r = guest_access_find(s->guest, p->guest_id, &guest, &error);
        if (r == 0)
                r = pause ? guest_container_pause(guest, p->guest_id, on_paused, c, &error)
                          : guest_container_resume(guest, p->guest_id, on_paused, c, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                let_go(c);
        }
}

static void on_pause(ttrpc_call *call, const Containerd__Task__V2__PauseRequest *q,
                     void *userdata) {
        freeze(userdata, call, q->id, true);
}

static void on_resume(ttrpc_call *call, const Containerd__Task__V2__ResumeRequest *q,
                      void *userdata) {
        freeze(userdata, call, q->id, false);
}

static void on_updated(int r, const ferry_error *error, void *userdata) {
        on_guest_done(r, error, NULL, userdata);
}

static void on_update(ttrpc_call *call, const Containerd__Task__V2__UpdateTaskRequest *q,
                      void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = named(s, call, q->id, "");
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p || !task_may_change(s, call))
                return;
        if (!q->resources || q->resources->value.len == 0) {
                reply_empty(call);
                return;
        }
        c = hold(s, call, q->id, "");
        if (!c)
                return;
        r = guest_access_find(s->guest, p->guest_id, &guest, &error);
        if (r == 0)
                r = guest_container_update(guest, p->guest_id, q->resources->value.data,
                                           q->resources->value.len, on_updated, c, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                let_go(c);
        }
}

static uint64_t line(const Ferry__Agent__V1__ContainerStatsResponse *s, const char *name) {
        for (size_t i = 0; i < s->n_memory; i++)
                if (strcmp(s->memory[i]->name, name) == 0)
                        return s->memory[i]->value;
        return 0;
}

static void on_figures(int r, const ferry_error *error,
                       const Ferry__Agent__V1__ContainerStatsResponse *s, void *userdata) {
        Io__Containerd__Cgroups__V2__MemoryEvents events =
                IO__CONTAINERD__CGROUPS__V2__MEMORY_EVENTS__INIT;
        Io__Containerd__Cgroups__V2__MemoryStat memory =
                IO__CONTAINERD__CGROUPS__V2__MEMORY_STAT__INIT;
        Io__Containerd__Cgroups__V2__PidsStat pids = IO__CONTAINERD__CGROUPS__V2__PIDS_STAT__INIT;
        Io__Containerd__Cgroups__V2__CPUStat cpu = IO__CONTAINERD__CGROUPS__V2__CPUSTAT__INIT;
        Io__Containerd__Cgroups__V2__Metrics all = IO__CONTAINERD__CGROUPS__V2__METRICS__INIT;
        Containerd__Task__V2__StatsResponse m = CONTAINERD__TASK__V2__STATS_RESPONSE__INIT;
        Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
        uint8_t packed[1024];
        task_call *c = userdata;

        if (r < 0) {
                call_fail(c->call, r, error);
                let_go(c);
                return;
        }
        pids.current = s->pids;
        pids.limit = s->pids_limit;
        cpu.usage_usec = s->cpu_usec;
        cpu.user_usec = s->cpu_user_usec;
        cpu.system_usec = s->cpu_system_usec;
        cpu.nr_periods = s->cpu_periods;
        cpu.nr_throttled = s->cpu_throttled_periods;
        cpu.throttled_usec = s->cpu_throttled_usec;
        memory.anon = line(s, "anon");
        memory.file = line(s, "file");
        memory.kernel_stack = line(s, "kernel_stack");
        memory.slab = line(s, "slab");
        memory.sock = line(s, "sock");
        memory.shmem = line(s, "shmem");
        memory.file_mapped = line(s, "file_mapped");
        memory.file_dirty = line(s, "file_dirty");
        memory.file_writeback = line(s, "file_writeback");
        memory.anon_thp = line(s, "anon_thp");
        memory.inactive_anon = line(s, "inactive_anon");
        memory.active_anon = line(s, "active_anon");
        memory.inactive_file = line(s, "inactive_file");
        memory.active_file = line(s, "active_file");
        memory.unevictable = line(s, "unevictable");
        memory.slab_reclaimable = line(s, "slab_reclaimable");
        memory.slab_unreclaimable = line(s, "slab_unreclaimable");
        memory.pgfault = line(s, "pgfault");
        memory.pgmajfault = line(s, "pgmajfault");
        memory.usage = s->memory_bytes;
        memory.usage_limit = s->memory_limit_bytes;
        memory.swap_usage = s->swap_bytes;
        memory.swap_limit = s->swap_limit_bytes;
        events.oom_kill = s->oom_kills;
        all.pids = &pids;
        all.cpu = &cpu;
        all.memory = &memory;
        all.memory_events = &events;
        any.type_url = (char *)METRICS_TYPE;
        any.value.len = io__containerd__cgroups__v2__metrics__get_packed_size(&all);
        any.value.data = packed;
        if (any.value.len <= sizeof(packed)) {
                (void)io__containerd__cgroups__v2__metrics__pack(&all, packed);
                m.stats = &any;
                (void)containerd_task_v2_task_stats_reply(c->call, &m);
        }
        let_go(c);
}

static void on_stats(ttrpc_call *call, const Containerd__Task__V2__StatsRequest *q,
                     void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = named(s, call, q->id, "");
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p)
                return;
        c = hold(s, call, q->id, "");
        if (!c)
                return;
        r = guest_access_find(s->guest, p->guest_id, &guest, &error);
        if (r == 0)
                r = guest_container_stats(guest, p->guest_id, on_figures, c, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                let_go(c);
        }
}

/* ---- the end ---- */

static void reply_deleted(ttrpc_call *call, const task_process *p) {
        Containerd__Task__V2__DeleteResponse m = CONTAINERD__TASK__V2__DELETE_RESPONSE__INIT;
        Google__Protobuf__Timestamp at;

        timestamp_fill(&at, p->exited_at_usec);
        m.pid = p->pid;
        m.exit_status = p->exit_status;
        m.exited_at = &at;
        (void)containerd_task_v2_task_delete_reply(call, &m);
}

static void on_deleted(int r, const ferry_error *error, const guest_process_info *info,
                       void *userdata) {
        task_call *c = userdata;
        task_process *p = process_of(c);

        if (p)
                p->busy = false;
        if (r < 0 && error->code != FERRY_NOT_FOUND)
                call_fail(c->call, r, error);
        else if (!p)
                fail(c->call, FERRY_NOT_FOUND, "it was deleted meanwhile");
        else {
                reply_deleted(c->call, p);
                task_tell_delete(p);
                if (p->exec_id[0])
                        task_remove_process(p);
                else
                        task_release(p->task);
        }
        let_go(c);
}

/* The next step, or what ends it. */
static void go_on_deleting(task_call *c, int r, ferry_error *error) {
        if (r < 0)
                on_deleted(r, error, NULL, c);
}

static void on_container_gone(int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        task_call *c = userdata;
        task_process *p = process_of(c);
        guest_processes *guest;

        if (r < 0 || !p) {
                on_deleted(r, error, NULL, c);
                return;
        }
        r = guest_access_find(c->service->guest, p->guest_id, &guest, &own);
        if (r == 0)
                r = guest_delete(guest, p->guest_id, on_deleted, c, &own);
        go_on_deleting(c, r, &own);
}

/* Its output is whole, or nobody has taken it. */
static void on_drained(int r, const ferry_error *error, const guest_process_info *info,
                       void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        task_call *c = userdata;
        task_process *p = process_of(c);
        guest_processes *guest;

        c->limit = sd_event_source_disable_unref(c->limit);
        if (r < 0 || !p) {
                on_deleted(r, error, NULL, c);
                return;
        }
        r = guest_access_find(c->service->guest, p->guest_id, &guest, &own);
        if (r == 0)
                r = p->exec_id[0] ? guest_delete(guest, p->guest_id, on_deleted, c, &own)
                                  : guest_container_delete(guest, p->guest_id, on_container_gone, c,
                                                           &own);
        go_on_deleting(c, r, &own);
}

static int on_nobody_reads(sd_event_source *source, uint64_t usec, void *userdata) {
        task_call *c = userdata;
        guest_processes *guest = guest_access_programs(c->service->guest);

        if (guest)
                guest_wait_forget(guest, c);
        log_warning("%s %s: its output is dropped, nobody has read it", c->id, c->exec_id);
        on_drained(0, NULL, NULL, c);
        return 0;
}

/* Not for ever: whoever reads may be gone as well. */
static int drain(task_call *c, guest_processes *guest, const char *guest_id, ferry_error *reterr) {
        int r = guest_wait(guest, guest_id, true, on_drained, c, reterr);

        if (r == 0)
                (void)sd_event_add_time_relative(c->service->event, &c->limit, CLOCK_MONOTONIC,
                                                 DRAIN_USEC, TIMER_ACCURACY_USEC, on_nobody_reads,
                                                 c);
        return r;
}

static void on_delete(ttrpc_call *call, const Containerd__Task__V2__DeleteRequest *q,
                      void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = named(s, call, q->id, q->exec_id);
        guest_processes *guest;
        task_call *c;
        int r;

        /* what has ended with its VM is gone, wherever the sandbox is */
        if (!p || (task_vm_lives(s) && !task_may_change(s, call)))
                return;
        if (p->busy || p->status == S(RUNNING) || p->status == S(PAUSED)) {
                fail(call, FERRY_FAILED_PRECONDITION,
                     p->busy ? "it is being started or deleted" : "it is still running");
                return;
        }
        c = hold(s, call, q->id, q->exec_id);
        if (!c)
                return;
        p->busy = true;
        /* an exec that was never started, or a guest that has gone: there is nothing to ask for */
        r = task_vm_lives(s) ? guest_access_find(s->guest, p->guest_id, &guest, &error) : -ENOENT;
        if (r == 0 && p->status == S(STOPPED))
                r = drain(c, guest, p->guest_id, &error);
        else if (r == 0 && !p->exec_id[0])
                r = guest_container_delete(guest, p->guest_id, on_container_gone, c, &error);
        else if (r == 0) {
                on_deleted(0, NULL, NULL, c);
                return;
        }
        if (r == -ENOENT) {
                on_deleted(0, NULL, NULL, c);
                return;
        }
        if (r < 0) {
                p->busy = false;
                call_fail(call, r, &error);
                let_go(c);
        }
}

static void on_shutdown(ttrpc_call *call, const Containerd__Task__V2__ShutdownRequest *q,
                        void *userdata) {
        task_service *s = userdata;

        reply_empty(call);
        s->shutdown_wanted = true;
        task_service_look(s);
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

/* Version 3 is the same by another name. */
#define METHODS                                                                                    \
        {                                                                                          \
                .state = on_state, .create = on_create, .start = on_start, .delete = on_delete,    \
                .pids = on_pids, .pause = on_pause, .resume = on_resume, .kill = on_kill,          \
                .exec = on_exec, .resize_pty = on_resize, .close_io = on_close_io,                 \
                .update = on_update, .wait = on_wait, .stats = on_stats, .connect = on_connect,    \
                .shutdown = on_shutdown                                                            \
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
