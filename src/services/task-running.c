/* SPDX-License-Identifier: MIT */
/* What is asked for of a process that runs. */
#include <signal.h>

#include "base/log.h"
#include "migration/session.h"
#include "services/task-internal.h"

/* For a guest to carry out a SIGKILL; then it is not asked any more. */
#define KILL_USEC (10 * USEC_PER_SEC)

#define S(name) CONTAINERD__TASK__V2__STATUS__##name

static void on_guest_done(int r, const ferry_error *error, const guest_process_info *info,
                          void *userdata) {
        task_call *c = userdata;

        if (r < 0)
                call_fail(c->call, r, error);
        else
                call_reply_empty(c->call);
        task_call_release(c);
}

/* ---- kill ---- */

static bool is_lost(const task *t) {
        const task_process *p = task_first(t);

        return !t->creating && (p->doomed || p->status == S(STOPPED));
}

/* Its containers share the VM: it ends when there is none left that is to live on. */
static void end_vm_of_the_doomed(task_service *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        for (const task *t = s->tasks; t; t = t->next)
                if (!is_lost(t)) {
                        log_warning("its VM stays for container %s", t->id);
                        return;
                }
        log_warning("its VM is ended");
        if (sandbox_stop(s->sb, true, NULL, NULL, &error) < 0)
                log_warning("stop the VM: %s", ferry_error_message(&error));
}

static void arm_kill_limit(task_process *p, uint64_t usec);

static int on_kill_limit(sd_event_source *source, uint64_t usec, void *userdata) {
        task_process *p = userdata;
        task_service *s = p->task->service;

        if (session_is_open(sandbox_session(s->sb))) { /* what it comes to is seen then */
                arm_kill_limit(p, USEC_PER_SEC);
                return 0;
        }
        log_warning("container %s: the guest has not ended it within %llu s of SIGKILL",
                    p->task->id, KILL_USEC / USEC_PER_SEC);
        p->doomed = true;
        end_vm_of_the_doomed(s);
        return 0;
}

static void arm_kill_limit(task_process *p, uint64_t usec) {
        p->kill_limit = sd_event_source_disable_unref(p->kill_limit);
        (void)sd_event_add_time_relative(p->task->service->event, &p->kill_limit, CLOCK_MONOTONIC,
                                         usec, TIMER_ACCURACY_USEC, on_kill_limit, p);
}

static void on_killed(int r, const ferry_error *error, const guest_process_info *info,
                      void *userdata) {
        task_call *c = userdata;
        const task_process *p = task_call_process(c);

        on_guest_done(p && p->doomed ? 0 : r, error, info, c);
}

void task_on_kill(ttrpc_call *call, const Containerd__Task__V2__KillRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = task_named(s, call, q->id, q->exec_id);
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p || !task_may_change(s, call))
                return;
        if (p->status == S(STOPPED) || (p->exec_id[0] && p->status == S(CREATED))) {
                call_refuse(call, FERRY_NOT_FOUND, "process already finished");
                return;
        }
        c = task_call_to_guest(call, p, &guest);
        if (!c)
                return;
        if (q->signal == SIGKILL && !p->exec_id[0] && !p->kill_limit)
                arm_kill_limit(p, KILL_USEC);
        r = guest_signal(guest, p->guest_id, q->signal, q->all && !p->exec_id[0], on_killed, c,
                         &error);
        task_call_asked(c, r, &error);
}

void task_on_resize(ttrpc_call *call, const Containerd__Task__V2__ResizePtyRequest *q,
                    void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = task_named(s, call, q->id, q->exec_id);
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p)
                return;
        c = task_call_to_guest(call, p, &guest);
        if (!c)
                return;
        r = guest_resize(guest, p->guest_id, q->height, q->width, on_guest_done, c, &error);
        task_call_asked(c, r, &error);
}

/* It may come before Start. */
void task_on_close_io(ttrpc_call *call, const Containerd__Task__V2__CloseIORequest *q,
                      void *userdata) {
        task_service *s = userdata;
        task_process *p = task_named(s, call, q->id, q->exec_id);
        guest_processes *guest;

        if (!p)
                return;
        p->close_in |= q->stdin;
        if (q->stdin && p->status != S(CREATED) &&
            guest_access_find(s->guest, p->guest_id, &guest, NULL) == 0)
                (void)guest_close_in(guest, p->guest_id, NULL);
        call_reply_empty(call);
}

static void on_paused(int r, const ferry_error *error, void *userdata) {
        task_call *c = userdata;
        task_process *p = task_call_process(c);

        if (r < 0)
                call_fail(c->call, r, error);
        else {
                if (p && p->status != S(STOPPED)) {
                        p->status = c->flag ? S(PAUSED) : S(RUNNING);
                        task_tell_paused(p->task, c->flag);
                }
                call_reply_empty(c->call);
        }
        task_call_release(c);
}

static void freeze(task_service *s, ttrpc_call *call, const char *id, bool pause) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_process *p = task_named(s, call, id, "");
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p || !task_may_change(s, call))
                return;
        if (p->status != (pause ? S(RUNNING) : S(PAUSED))) {
                call_refuse(call, FERRY_FAILED_PRECONDITION,
                            pause ? "the container does not run" : "the container is not paused");
                return;
        }
        c = task_call_to_guest(call, p, &guest);
        if (!c)
                return;
        c->flag = pause;
        r = pause ? guest_container_pause(guest, p->guest_id, on_paused, c, &error)
                  : guest_container_resume(guest, p->guest_id, on_paused, c, &error);
        task_call_asked(c, r, &error);
}

void task_on_pause(ttrpc_call *call, const Containerd__Task__V2__PauseRequest *q, void *userdata) {
        freeze(userdata, call, q->id, true);
}

void task_on_resume(ttrpc_call *call, const Containerd__Task__V2__ResumeRequest *q,
                    void *userdata) {
        freeze(userdata, call, q->id, false);
}

static void on_updated(int r, const ferry_error *error, void *userdata) {
        on_guest_done(r, error, NULL, userdata);
}

void task_on_update(ttrpc_call *call, const Containerd__Task__V2__UpdateTaskRequest *q,
                    void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = task_named(s, call, q->id, "");
        guest_processes *guest;
        task_call *c;
        int r;

        if (!p || !task_may_change(s, call))
                return;
        if (!q->resources || q->resources->value.len == 0) {
                call_reply_empty(call);
                return;
        }
        c = task_call_to_guest(call, p, &guest);
        if (!c)
                return;
        r = guest_container_update(guest, p->guest_id, q->resources->value.data,
                                   q->resources->value.len, on_updated, c, &error);
        task_call_asked(c, r, &error);
}
