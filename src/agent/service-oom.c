/* SPDX-License-Identifier: MIT */
/* The kernel's kills for want of memory, told while the container runs on: inotify says when a
 * cgroup's memory.events has changed. */
#include <string.h>
#include <sys/inotify.h>

#include "agent/cgroup.h"
#include "agent/service-internal.h"

#define WAITERS_MAX (2U * CONTAINERS_MAX) /* of a connection that is gone, a moment longer */
#define PATH_SIZE   192

struct oom_waiter {
        oom_waiter *next;
        ttrpc_call *call;
        char id[CONTAINER_ID_MAX + 1];
        uint64_t seen;
};

static void folder_of(const char *id, char ret[PATH_SIZE]) {
        (void)snprintf(ret, PATH_SIZE, CONTAINER_CGROUP "/%s", id);
}

uint64_t service_oom_kills(const char *id) {
        char folder[PATH_SIZE];

        folder_of(id, folder);
        return cgroup_number(folder, "memory.events", "oom_kill");
}

static void say(ttrpc_call *call, uint64_t oom_kills) {
        Ferry__Agent__V1__WaitOomResponse m = FERRY__AGENT__V1__WAIT_OOM_RESPONSE__INIT;

        m.oom_kills = oom_kills;
        (void)ferry_agent_v1_agent_wait_oom_reply(call, &m);
}

static void say_gone(ttrpc_call *call, const char *id) {
        (void)ttrpc_call_fail(call, TTRPC_NOT_FOUND, "no container '%.64s' in the guest", id);
}

static int watch(const agent_service *s, const char *id) {
        char path[PATH_SIZE];

        (void)snprintf(path, sizeof(path), CONTAINER_CGROUP "/%.64s/memory.events", id);
        return inotify_add_watch(s->oom_fd, path, IN_MODIFY) < 0 ? -errno : 0;
}

/* True: it is answered. Watched first: what is killed between the two is seen. */
static bool look(const agent_service *s, ttrpc_call *call, const char *id, uint64_t seen) {
        bool gone = watch(s, id) < 0; /* with its cgroup it goes */
        uint64_t kills = service_oom_kills(id);

        if (kills > seen)
                say(call, kills);
        else if (gone)
                say_gone(call, id);
        else
                return false;
        return true;
}

static void drop(agent_service *s, oom_waiter **at) {
        oom_waiter *w = *at;

        *at = w->next;
        s->n_oom_waiters--;
        ttrpc_call_unref(w->call);
        free(w);
}

static void look_at_all(agent_service *s, const char *id) {
        oom_waiter **at = &s->oom_waiters;

        while (*at) {
                oom_waiter *w = *at;

                if ((id && strcmp(w->id, id) != 0) || !look(s, w->call, w->id, w->seen))
                        at = &w->next;
                else
                        drop(s, at);
        }
}

void service_oom_ended(agent_service *s, const char *id) {
        look_at_all(s, id);
}

void agent_service_oom(agent_service *s) {
        char events[4096];

        while (read(s->oom_fd, events, sizeof(events)) > 0)
                ;
        look_at_all(s, NULL);
}

int agent_service_oom_fd(const agent_service *s) {
        return s->oom_fd;
}

static void on_caller_gone(ttrpc_call *call, void *userdata) {
        agent_service *s = userdata;

        for (oom_waiter **at = &s->oom_waiters; *at; at = &(*at)->next)
                if ((*at)->call == call) {
                        drop(s, at);
                        return;
                }
}

void service_wait_oom(ttrpc_call *call, const Ferry__Agent__V1__WaitOomRequest *q, void *userdata) {
        agent_service *s = userdata;
        oom_waiter *w;

        if (!container_find(s->containers, q->id)) {
                say_gone(call, q->id);
                return;
        }
        if (look(s, call, q->id, q->seen))
                return;
        w = s->n_oom_waiters < WAITERS_MAX ? malloc(sizeof(*w)) : NULL;
        if (!w) {
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "too many wait already");
                return;
        }
        *w = (oom_waiter){ .next = s->oom_waiters, .call = ttrpc_call_ref(call), .seen = q->seen };
        (void)snprintf(w->id, sizeof(w->id), "%s", q->id);
        s->oom_waiters = w;
        s->n_oom_waiters++;
        ttrpc_call_set_callbacks(call, on_caller_gone, NULL, s);
}
