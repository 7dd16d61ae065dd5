/* SPDX-License-Identifier: MIT */
#include "base/log.h"
#include "services/task-internal.h"

#define DRAIN_USEC (10 * USEC_PER_SEC)

#define S(name) CONTAINERD__TASK__V2__STATUS__##name

/* False: nobody hears it. */
static bool reply_deleted(ttrpc_call *call, const task_process *p) {
        Containerd__Task__V2__DeleteResponse m = CONTAINERD__TASK__V2__DELETE_RESPONSE__INIT;
        Google__Protobuf__Timestamp at;

        timestamp_fill(&at, p->exited_at_usec);
        m.pid = p->pid;
        m.exit_status = p->exit_status;
        m.exited_at = &at;
        return containerd_task_v2_task_delete_reply(call, &m) != -ENOTCONN;
}

/* Nobody knows of it, or waits: what the guest could not remove goes with its VM. */
static void discarded(task_call *c, task_process *p, int r, const ferry_error *error) {
        task_service *s = c->service;

        if (r < 0)
                log_warning("%s: %s", c->id, ferry_error_message(error));
        if (p)
                task_release(p->task);
        task_call_release(c);
        task_service_look(s);
}

static void on_deleted(int r, const ferry_error *error, const guest_process_info *info,
                       void *userdata) {
        task_call *c = userdata;
        task_process *p = task_call_process(c);
        task_service *s = c->service;

        if (!c->call) {
                discarded(c, p, r, error);
                return;
        }
        if (p)
                p->busy = false;
        if (r < 0 && error->code != FERRY_NOT_FOUND)
                call_fail(c->call, r, error);
        else if (!p)
                call_refuse(c->call, FERRY_NOT_FOUND, "it was deleted meanwhile");
        else {
                bool heard = reply_deleted(c->call, p);

                task_tell_delete(p);
                if (p->exec_id[0])
                        task_remove_process(p);
                else {
                        task_release(p->task);
                        if (!heard)
                                task_service_leave(s);
                }
        }
        task_call_release(c);
}

/* What an agent that does not answer, or says no, has of it ends with the VM. Otherwise nobody
 * could ever be rid of it. */
static void go_without(task_call *c, const task_process *p, const ferry_error *error) {
        guest_processes *guest = guest_access_programs(c->service->guest);

        log_warning("%s %s: deleted without the guest: %s", c->id, c->exec_id,
                    ferry_error_message(error));
        if (guest)
                guest_forget(guest, p->guest_id);
        on_deleted(0, NULL, NULL, c);
}

static void on_process_gone(int r, const ferry_error *error, const guest_process_info *info,
                            void *userdata) {
        task_call *c = userdata;
        const task_process *p = task_call_process(c);

        if (r < 0 && p && error->code != FERRY_NOT_FOUND)
                go_without(c, p, error);
        else
                on_deleted(r, error, info, c);
}

static void delete_process(task_call *c, const task_process *p, guest_processes *guest) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (guest_delete(guest, p->guest_id, on_process_gone, c, &error) < 0)
                go_without(c, p, &error);
}

static void on_container_gone(int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        task_call *c = userdata;
        const task_process *p = task_call_process(c);
        guest_processes *guest;

        if (!p)
                on_deleted(r, error, NULL, c);
        else if (r < 0)
                go_without(c, p, error);
        else if ((r = guest_access_find(c->service->guest, p->guest_id, &guest, &own)) < 0)
                on_deleted(r, &own, NULL, c);
        else
                delete_process(c, p, guest);
}

static void delete_container(task_call *c, const task_process *p, guest_processes *guest) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (guest_container_delete(guest, p->guest_id, on_container_gone, c, &error) < 0)
                go_without(c, p, &error);
}

/* Its output is whole, or nobody has taken it. */
static void on_drained(int r, const ferry_error *error, const guest_process_info *info,
                       void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        task_call *c = userdata;
        const task_process *p = task_call_process(c);
        guest_processes *guest;

        c->limit = sd_event_source_disable_unref(c->limit);
        if (r < 0 || !p)
                on_deleted(r, error, NULL, c);
        else if ((r = guest_access_find(c->service->guest, p->guest_id, &guest, &own)) < 0)
                on_deleted(r, &own, NULL, c);
        else if (p->exec_id[0])
                delete_process(c, p, guest);
        else
                delete_container(c, p, guest);
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

/* Not for ever: whoever reads may be gone as well. What comes at once ends the call already. */
static int drain(task_call *c, guest_processes *guest, const char *guest_id, ferry_error *reterr) {
        int r;

        (void)sd_event_add_time_relative(c->service->event, &c->limit, CLOCK_MONOTONIC, DRAIN_USEC,
                                         TIMER_ACCURACY_USEC, on_nobody_reads, c);
        r = guest_wait(guest, guest_id, true, on_drained, c, reterr);
        if (r < 0)
                c->limit = sd_event_source_disable_unref(c->limit);
        return r;
}

void task_discard(task *t) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_process *p = task_first(t);
        guest_processes *guest;
        task_call *c;
        int r;

        c = task_call_new(t->service, t->id, "");
        if (!c) {
                task_release(t);
                return;
        }
        p->busy = true;
        r = guest_access_find(t->service->guest, p->guest_id, &guest, &error);
        if (r < 0)
                on_deleted(r, &error, NULL, c);
        else
                delete_container(c, p, guest);
}

void task_on_delete(ttrpc_call *call, const Containerd__Task__V2__DeleteRequest *q,
                    void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = userdata;
        task_process *p = task_named(s, call, q->id, q->exec_id);
        guest_processes *guest;
        task_call *c;
        int r;

        /* what has ended with its VM is gone, wherever the sandbox is */
        if (!p || (task_vm_lives(s) && !task_may_change(s, call)))
                return;
        if (p->busy || p->status == S(RUNNING) || p->status == S(PAUSED)) {
                call_refuse(call, FERRY_FAILED_PRECONDITION,
                            p->busy ? "it is being started or deleted" : "it is still running");
                return;
        }
        c = task_call_hold(s, call, q->id, q->exec_id);
        if (!c)
                return;
        p->busy = true;
        /* an exec that was never started, or a guest that has gone: there is nothing to ask for */
        r = task_vm_lives(s) ? guest_access_find(s->guest, p->guest_id, &guest, &error) : -ENOENT;
        if (r == 0 && p->status == S(STOPPED))
                r = drain(c, guest, p->guest_id, &error);
        else if (r == 0 && !p->exec_id[0])
                delete_container(c, p, guest);
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
                task_call_release(c);
        }
}
