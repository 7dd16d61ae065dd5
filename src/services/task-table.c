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
                if (!p->unclaimed && strcmp(p->exec_id, exec_id) == 0)
                        return p;
        ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT, "no exec '%.80s' in container '%.80s'",
                        exec_id, id);
        return NULL;
}

task *task_alloc(task_service *s, const char *id, const char *bundle) {
        task *t = calloc(1, sizeof(*t));

        if (!t)
                return NULL;
        *t = (task){ .service = s,
                     .id = strdup(id),
                     .bundle = strdup(bundle),
                     .root = { .use_fd = -EBADF },
                     .layer = { .use_fd = -EBADF } };
        if (!t->id || !t->bundle) {
                free(t->id);
                free(t->bundle);
                free(t);
                return NULL;
        }
        return t;
}

void task_insert(task *t) {
        t->next = t->service->tasks;
        t->service->tasks = t;
        t->service->n_tasks++;
}

task *task_new(task_service *s, const char *id, const char *bundle) {
        task *t = task_alloc(s, id, bundle);

        if (!t)
                return NULL;
        snprintf(t->guest_id, sizeof(t->guest_id), "c%u", ++s->last_number);
        t->creating = true;
        task_insert(t);
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
                snprintf(p->guest_id, sizeof(p->guest_id), "%.16s.e%u", t->guest_id,
                         ++t->last_exec);
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
        sd_event_source_disable_unref(p->kill_limit);
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
                        s->n_tasks--;
                        break;
                }
        while (t->processes)
                task_remove_process(t->processes);
        rootfs_release(t->root.use_fd);
        free(t->root.file);
        free(t->layer.file);
        free(t->id);
        free(t->bundle);
        free(t);
}

bool task_vm_lives(const task_service *s) {
        sandbox_vm_state state = sandbox_get_vm_state(s->sb);

        return state != SANDBOX_VM_NONE && state != SANDBOX_VM_STOPPED;
}

static const char *name_of(Containerd__Task__V2__Status status) {
        switch ((int)status) {
        case CONTAINERD__TASK__V2__STATUS__CREATED:
                return "created";
        case CONTAINERD__TASK__V2__STATUS__PAUSED:
                return "paused";
        case CONTAINERD__TASK__V2__STATUS__STOPPED:
                return "stopped";
        default:
                return "running";
        }
}

static void add_status(task_status *ret, const task *t, bool unclaimed) {
        Ferry__Shim__V1__Container *m = &ret->items[ret->message.n_containers];
        const task_process *p = task_first(t);

        if (ret->message.n_containers == TASKS_MAX)
                return;
        ferry__shim__v1__container__init(m);
        m->id = t->id;
        m->unclaimed = unclaimed;
        m->state = (char *)(t->creating || !p ? "creating"
                            : unclaimed       ? name_of(p->arrived_status)
                                              : name_of(p->status));
        m->terminal = p && p->terminal;
        if (p && p->status == CONTAINERD__TASK__V2__STATUS__STOPPED) {
                m->exit_status = p->exit_status;
                m->migrated = p->migrated;
        }
        ret->pointers[ret->message.n_containers++] = m;
}

void task_service_get_status(const task_service *s, task_status *ret) {
        ferry__shim__v1__containerd__init(&ret->message);
        ret->message.address = s->address;
        ret->message.namespace_ = s->namespace;
        if (s->pod_id)
                ret->message.pod_id = (char *)s->pod_id;
        ret->message.containers = ret->pointers;
        for (const task *t = s->tasks; t; t = t->next)
                add_status(ret, t, false);
        for (const task *t = s->unclaimed; t; t = t->next)
                add_status(ret, t, true);
}

uint32_t task_host_pid(const task_service *s) {
        ferry_vm *vm = sandbox_vm(s->sb);
        pid_t pid = vm ? vm_get_pid(vm) : 0;

        return (uint32_t)(pid > 0 ? pid : getpid());
}
