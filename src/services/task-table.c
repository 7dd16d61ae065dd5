/* SPDX-License-Identifier: MIT */
/* Which tasks there are, and what has become of them. */
#include <string.h>

#include "services/task-internal.h"

task *task_find(const task_service *s, const char *id) {
        for (task *t = s->tasks; t; t = t->next)
                if (strcmp(t->id, id) == 0)
                        return t;
        return NULL;
}

task_process *task_first(const task *t) {
        for (task_process *p = t->processes; p; p = p->next)
                if (!p->exec_id[0])
                        return p;
        return NULL;
}

task_process *task_process_find(const task_service *s, const char *id, const char *exec_id,
                                ferry_error *reterr) {
        const task *t = task_find(s, id);

        if (!t || t->creating) {
                ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT, "no container '%.80s' here", id);
                return NULL;
        }
        for (task_process *p = t->processes; p; p = p->next)
                if (strcmp(p->exec_id, exec_id) == 0)
                        return p;
        ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT, "no exec '%.80s' in container '%.80s'",
                        exec_id, id);
        return NULL;
}

task *task_new(task_service *s, const char *id, const char *bundle) {
        task *t = calloc(1, sizeof(*t));

        if (!t)
                return NULL;
        *t = (task){ .next = s->tasks, .service = s, .id = strdup(id), .bundle = strdup(bundle) };
        if (!t->id || !t->bundle) {
                free(t->id);
                free(t->bundle);
                free(t);
                return NULL;
        }
        snprintf(t->guest_id, sizeof(t->guest_id), "c%u", ++s->next_number);
        t->creating = true;
        s->tasks = t;
        s->n_tasks++;
        return t;
}

task_process *task_add_process(task *t, const char *exec_id, const char *const stdio[3],
                               bool terminal) {
        task_process *p = calloc(1, sizeof(*p));
        bool whole;

        if (!p)
                return NULL;
        *p = (task_process){ .task = t,
                             .exec_id = strdup(exec_id),
                             .terminal = terminal,
                             .status = CONTAINERD__TASK__V2__STATUS__CREATED };
        whole = p->exec_id != NULL;
        for (size_t i = 0; i < ELEMENTS(p->stdio); i++) {
                p->stdio[i] = strdup(stdio[i] ? stdio[i] : "");
                whole &= p->stdio[i] != NULL;
        }
        if (exec_id[0])
                snprintf(p->guest_id, sizeof(p->guest_id), "%.16s.e%u", t->guest_id, ++t->n_execs);
        else
                snprintf(p->guest_id, sizeof(p->guest_id), "%.16s", t->guest_id);
        p->next = t->processes;
        t->processes = p;
        if (!whole) {
                task_remove_process(p);
                return NULL;
        }
        return p;
}

static void drop_waiters(task_process *p) {
        while (p->waiters) {
                task_waiter *w = p->waiters;

                p->waiters = w->next;
                ttrpc_call_set_callbacks(w->call, NULL, NULL, NULL);
                ttrpc_call_unref(w->call); /* unanswered: the caller is told so */
                free(w);
        }
}

void task_remove_process(task_process *p) {
        for (task_process **at = &p->task->processes; *at; at = &(*at)->next)
                if (*at == p) {
                        *at = p->next;
                        break;
                }
        drop_waiters(p);
        sd_event_source_disable_unref(p->late);
        for (size_t i = 0; i < ELEMENTS(p->stdio); i++)
                free(p->stdio[i]);
        free(p->exec_id);
        free(p->spec);
        free(p);
}

void task_remove(task *t) {
        task_service *s = t->service;

        for (task **at = &s->tasks; *at; at = &(*at)->next)
                if (*at == t) {
                        *at = t->next;
                        break;
                }
        s->n_tasks--;
        while (t->processes)
                task_remove_process(t->processes);
        free(t->image);
        free(t->id);
        free(t->bundle);
        free(t);
}

uint32_t task_host_pid(const task_service *s) {
        ferry_vm *vm = sandbox_vm(s->sb);
        pid_t pid = vm ? vm_get_pid(vm) : 0;

        return (uint32_t)(pid > 0 ? pid : getpid());
}
