/* SPDX-License-Identifier: MIT */
/* The end of a process: known when it comes, told to who waits and to containerd. */
#include <string.h>

#include "base/log.h"
#include "services/task-internal.h"

#define LATE_USEC (2 * USEC_PER_SEC)

#define S(name) CONTAINERD__TASK__V2__STATUS__##name

static void say_end(ttrpc_call *call, const task_process *p) {
        Containerd__Task__V2__WaitResponse m = CONTAINERD__TASK__V2__WAIT_RESPONSE__INIT;
        Google__Protobuf__Timestamp at;

        timestamp_fill(&at, p->exited_at_usec);
        m.exit_status = p->exit_status;
        m.exited_at = &at;
        (void)containerd_task_v2_task_wait_reply(call, &m);
}

void task_process_ended(task_process *p, uint32_t exit_status, uint64_t exited_at_usec) {
        if (p->status == S(STOPPED))
                return;
        p->late = sd_event_source_disable_unref(p->late);
        p->kill_limit = sd_event_source_disable_unref(p->kill_limit);
        p->status = S(STOPPED);
        p->exit_status = exit_status;
        p->exited_at_usec = exited_at_usec ? exited_at_usec : wall_usec();
        task_tell_exit(p);
        while (p->waiters) {
                task_waiter *w = p->waiters;

                p->waiters = w->next;
                ttrpc_call_set_callbacks(w->call, NULL, NULL, NULL);
                say_end(w->call, p);
                ttrpc_call_unref(w->call);
                free(w);
        }
}

static int on_late(sd_event_source *source, uint64_t usec, void *userdata) {
        task_process *p = userdata;

        task_process_ended(p, p->exit_status, p->exited_at_usec);
        return 0;
}

/* A connection that is lost, or the shim's end, is not the program's. */
static void on_whole(int r, const ferry_error *error, const guest_process_info *info,
                     void *userdata) {
        task_call *c = userdata;
        task_process *p = r == 0 ? task_call_process(c) : NULL;

        if (p)
                task_process_ended(p, info->exit_status, info->exited_at_usec);
        task_call_release(c);
}

static int watch(task_process *p, bool drained, guest_done done, ferry_error *reterr) {
        /* by name: the process may be deleted before it ends */
        task_call *c = task_call_new(p->task->service, p->task->id, p->exec_id);
        guest_processes *guest;
        int r;

        if (!c)
                return ferry_error_set_errno(reterr, -ENOMEM, "watch");
        r = guest_access_find(p->task->service->guest, p->guest_id, &guest, reterr);
        if (r == 0)
                r = guest_wait(guest, p->guest_id, drained, done, c, reterr);
        if (r < 0)
                task_call_release(c);
        return r;
}

/* ctr lets go of the FIFOs the moment it hears of the end: it hears of it once the output is there,
 * or after a while, when something else holds that open. */
static void on_watched(int r, const ferry_error *error, const guest_process_info *info,
                       void *userdata) {
        task_call *c = userdata;
        bool lost = r < 0 && error->code == FERRY_NOT_FOUND; /* for the guest there is none such */
        task_process *p = r == 0 || lost ? task_call_process(c) : NULL;

        task_call_release(c);
        if (!p || p->status == S(STOPPED))
                return;
        if (r < 0) {
                task_process_ended(p, EXIT_LOST, 0);
                return;
        }
        p->exit_status = info->exit_status;
        p->exited_at_usec = info->exited_at_usec;
        if (sd_event_add_time_relative(p->task->service->event, &p->late, CLOCK_MONOTONIC,
                                       LATE_USEC, TIMER_ACCURACY_USEC, on_late, p) < 0 ||
            watch(p, true, on_whole, NULL) < 0)
                task_process_ended(p, p->exit_status, p->exited_at_usec);
}

static void on_oom(const char *guest_id, void *userdata) {
        const task_service *s = userdata;

        for (const task *t = s->tasks; t; t = t->next)
                if (strcmp(t->guest_id, guest_id) == 0)
                        task_tell_oom(t);
}

int task_watch(task_process *p, ferry_error *reterr) {
        task_service *s = p->task->service;
        guest_processes *guest;
        int r = 0;

        if (!p->exec_id[0]) {
                r = guest_access_find(s->guest, p->guest_id, &guest, reterr);
                if (r == 0)
                        r = guest_watch_oom(guest, p->guest_id, on_oom, s, reterr);
        }
        return r < 0 ? r : watch(p, false, on_watched, reterr);
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

void task_on_wait(ttrpc_call *call, const Containerd__Task__V2__WaitRequest *q, void *userdata) {
        task_process *p = task_named(userdata, call, q->id, q->exec_id);
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
