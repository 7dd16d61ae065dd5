/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "services/task-internal.h"

task_call *task_call_new(task_service *s, const char *id, const char *exec_id) {
        task_call *c = calloc(1, sizeof(*c));

        if (!c)
                return NULL;
        *c = (task_call){ .service = s, .id = strdup(id), .exec_id = strdup(exec_id) };
        if (!c->id || !c->exec_id) {
                task_call_release(c);
                return NULL;
        }
        return c;
}

task_call *task_call_hold(task_service *s, ttrpc_call *call, const char *id, const char *exec_id) {
        task_call *c = task_call_new(s, id, exec_id);

        if (c)
                c->call = ttrpc_call_ref(call);
        else
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
        return c;
}

void task_call_release(task_call *c) {
        sd_event_source_disable_unref(c->limit);
        ttrpc_call_unref(c->call);
        free(c->id);
        free(c->exec_id);
        free(c);
}

task_call *task_call_to_guest(ttrpc_call *call, const task_process *p, guest_processes **ret) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_service *s = p->task->service;
        task_call *c = task_call_hold(s, call, p->task->id, p->exec_id);
        int r = c ? guest_access_find(s->guest, p->guest_id, ret, &error) : 0;

        if (r == 0)
                return c;
        task_call_asked(c, r, &error);
        return NULL;
}

void task_call_asked(task_call *c, int r, const ferry_error *error) {
        if (r >= 0)
                return;
        call_fail(c->call, r, error);
        task_call_release(c);
}

task_process *task_call_process(const task_call *c) {
        return task_process_find(c->service, c->id, c->exec_id, NULL);
}

void call_refuse(ttrpc_call *call, ferry_code code, const char *what) {
        (void)ttrpc_call_fail(call, (int32_t)code, "%s", what);
}

void call_reply_empty(ttrpc_call *call) {
        (void)ttrpc_call_reply(call, NULL, 0);
}

task_process *task_named(task_service *s, ttrpc_call *call, const char *id, const char *exec_id) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        task_process *p = task_process_find(s, id, exec_id, &error);

        if (!p)
                call_fail(call, -ENOENT, &error);
        return p;
}
