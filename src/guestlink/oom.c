/* SPDX-License-Identifier: MIT */
/* The kills for want of memory in a container, while it runs on. The count is the kernel's: whoever
 * knows what was told of it misses none and tells none twice, over shims, connections and hosts. */
#include "guestlink/processes-internal.h"

void guest_oom_told(guest_process *p, uint64_t oom_kills) {
        if (oom_kills <= p->record->oom_kills || oom_kills > INT64_MAX)
                return;
        p->record->oom_kills = oom_kills;
        guest_processes_save(p->owner);
        if (p->on_oom)
                p->on_oom(p->record->id, p->oom_userdata);
}

static void on_oom(int r, const ttrpc_status *status,
                   const Ferry__Agent__V1__WaitOomResponse *response, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) guest_operation *o = userdata;
        guest_process *p = guest_process_find(o->owner, o->id);

        if (!p || o->owner->closing)
                return;
        p->oom_watched = false;
        if (guest_judge(r, status, &error) == 0)
                guest_oom_told(p, response->oom_kills);
        else if (error.code == FERRY_NOT_FOUND || error.code == FERRY_UNIMPLEMENTED)
                p->on_oom = NULL; /* no container any more, or an agent from before this call was */
        /* asked again after a while: what is killed until then is one with the next */
        guest_processes_rewatch(o->owner);
}

int guest_oom_watch(guest_process *p) {
        Ferry__Agent__V1__WaitOomRequest q = FERRY__AGENT__V1__WAIT_OOM_REQUEST__INIT;
        guest_operation *o;
        int r;

        if (!p->on_oom || p->oom_watched || p->ended)
                return 0;
        o = guest_operation_new(p->owner, p->record->id, NULL, NULL);
        if (!o)
                return -ENOMEM;
        q.id = p->record->id;
        q.seen = p->record->oom_kills;
        r = ferry_agent_v1_agent_wait_oom_start(guest_link_client(p->owner->link), &q, NULL, on_oom,
                                                o, NULL);
        p->oom_watched = r == 0;
        if (r < 0)
                free(o);
        return r;
}

int guest_watch_oom(guest_processes *g, const char *id, guest_oom_handler on_oom_, void *userdata,
                    ferry_error *reterr) {
        guest_process *p = guest_process_need(g, id, reterr);

        if (!p)
                return -ENOENT;
        p->on_oom = on_oom_;
        p->oom_userdata = userdata;
        if (guest_oom_watch(p) < 0)
                guest_processes_rewatch(g);
        return 0;
}
