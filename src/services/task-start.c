/* SPDX-License-Identifier: MIT */
/* Start, and Exec: a process more. */
#include <string.h>

#include "base/log.h"
#include "services/task-internal.h"

#define S(name) CONTAINERD__TASK__V2__STATUS__##name

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
        task_process *p = task_call_process(c);

        if (p)
                p->busy = false;
        if (r < 0)
                call_fail(c->call, r, error);
        else if (!p)
                call_refuse(c->call, FERRY_NOT_FOUND, "the container was deleted meanwhile");
        else
                begun(c, p);
        task_call_release(c);
}

static void on_exec_started(int r, const ferry_error *error, const guest_process_info *info,
                            void *userdata) {
        task_call *c = userdata;
        task_process *p = task_call_process(c);

        if (p)
                p->busy = false;
        if (r < 0)
                call_fail(c->call, r, error);
        else if (!p)
                call_refuse(c->call, FERRY_NOT_FOUND, "the exec was deleted meanwhile");
        else {
                p->pid = info->pid;
                begun(c, p);
        }
        task_call_release(c);
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
        task_process *p = task_call_process(c);
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

void task_on_start(ttrpc_call *call, const Containerd__Task__V2__StartRequest *q, void *userdata) {
        Containerd__Task__V2__StartResponse m = CONTAINERD__TASK__V2__START_RESPONSE__INIT;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = task_named(s, call, q->id, q->exec_id);
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p || (!p->arriving && !task_may_change(s, call)))
                return;
        if (p->status != S(CREATED) || p->busy) {
                call_refuse(call, FERRY_FAILED_PRECONDITION, "it was started before");
                return;
        }
        if (p->arriving) {
                task_begin_arrived(p);
                m.pid = p->pid;
                (void)containerd_task_v2_task_start_reply(call, &m);
                return;
        }
        c = task_call_to_guest(call, p, &guest);
        if (!c)
                return;
        r = p->exec_id[0] ? start_exec(guest, p, c, &error) : start_container(guest, p, c, &error);
        p->busy = r == 0;
        task_call_asked(c, r, &error);
}

void task_on_exec(ttrpc_call *call, const Containerd__Task__V2__ExecProcessRequest *q,
                  void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const char *const stdio[3] = { q->stdin, q->stdout, q->stderr };
        task_service *s = userdata;
        task_process *first = task_named(s, call, q->id, ""), *p;
        char *spec = NULL;
        size_t n = 0;

        if (!first || task_claim_exec(s, call, q) || !task_may_change(s, call))
                return;
        for (const task_process *o = first->task->processes; o; o = o->next)
                n++;
        if (q->exec_id[0] == '\0' || task_process_find(s, q->id, q->exec_id, NULL)) {
                call_refuse(call, FERRY_ALREADY_EXISTS, "there is an exec of that id already");
                return;
        }
        if (n > TASK_EXECS_MAX) {
                call_refuse(call, FERRY_RESOURCE_EXHAUSTED, "too many execs in this container");
                return;
        }
        if (first->status == S(STOPPED)) {
                call_refuse(call, FERRY_FAILED_PRECONDITION, "the container does not run");
                return;
        }
        if (!q->spec || oci_translate_process((const char *)q->spec->value.data, q->spec->value.len,
                                              &spec, &error) < 0) {
                if (!q->spec)
                        call_refuse(call, FERRY_INVALID_ARGUMENT, "no process to run");
                else
                        call_fail(call, -EINVAL, &error);
                return;
        }
        p = task_add_process(first->task, q->exec_id, stdio, q->terminal);
        if (!p) {
                free(spec);
                call_refuse(call, FERRY_RESOURCE_EXHAUSTED, "out of memory");
                return;
        }
        p->spec = spec;
        task_tell_exec_added(p);
        call_reply_empty(call);
}
