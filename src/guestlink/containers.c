/* SPDX-License-Identifier: MIT */
#include "guestlink/containers.h"

#include "guestlink/processes-internal.h"

/* A call under way; which of the three depends on the call. */
typedef struct container_call {
        guest_container_done done;
        guest_pids_done pids_done;
        guest_stats_done stats_done;
        bool absent_is_fine;
        void *userdata;
} container_call;

static int call_new(const container_call *values, container_call **ret, ferry_error *reterr) {
        container_call *c = malloc(sizeof(*c));

        if (!c)
                return ferry_error_set_errno(reterr, -ENOMEM, "container");
        *c = *values;
        *ret = c;
        return 0;
}

static int asked(container_call *c, int r, ferry_error *reterr) {
        if (r == 0)
                return 0;
        free(c);
        return ferry_error_set_errno(reterr, r, "ask the guest's agent");
}

static void on_done(int r, const ttrpc_status *status,
                    const Ferry__Agent__V1__ContainerResponse *response, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) container_call *c = userdata;

        r = guest_judge(r, status, &error);
        if (r < 0 && c->absent_is_fine && error.code == FERRY_NOT_FOUND)
                r = 0;
        c->done(r, r < 0 ? &error : NULL, c->userdata);
}

static void on_pids(int r, const ttrpc_status *status,
                    const Ferry__Agent__V1__ContainerPidsResponse *response, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) container_call *c = userdata;

        r = guest_judge(r, status, &error);
        if (r < 0)
                c->pids_done(r, &error, NULL, 0, c->userdata);
        else
                c->pids_done(0, NULL, response->pids, response->n_pids, c->userdata);
}

static void on_stats(int r, const ttrpc_status *status,
                     const Ferry__Agent__V1__ContainerStatsResponse *response, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) container_call *c = userdata;

        r = guest_judge(r, status, &error);
        c->stats_done(r, r < 0 ? &error : NULL, r < 0 ? NULL : response, c->userdata);
}

/* The stubs of the calls that take an id and say nothing have all this shape. */
typedef int (*simple_stub)(ttrpc_client *client, const Ferry__Agent__V1__ContainerRequest *request,
                           const ttrpc_call_options *options,
                           void (*done)(int r, const ttrpc_status *status,
                                        const Ferry__Agent__V1__ContainerResponse *response,
                                        void *userdata),
                           void *userdata, ttrpc_slot **ret_slot);

static int ask(guest_processes *g, simple_stub stub, const char *id, const container_call *values,
               ferry_error *reterr) {
        Ferry__Agent__V1__ContainerRequest q = FERRY__AGENT__V1__CONTAINER_REQUEST__INIT;
        container_call *c = NULL;
        int r;

        r = call_new(values, &c, reterr);
        if (r < 0)
                return r;
        q.id = (char *)id;
        return asked(c, stub(guest_link_client(g->link), &q, &guest_call_options, on_done, c, NULL),
                     reterr);
}

int guest_container_start(guest_processes *g, const char *id, guest_container_done done,
                          void *userdata, ferry_error *reterr) {
        return ask(g, ferry_agent_v1_agent_start_container_start, id,
                   &(container_call){ .done = done, .userdata = userdata }, reterr);
}

int guest_container_pause(guest_processes *g, const char *id, guest_container_done done,
                          void *userdata, ferry_error *reterr) {
        return ask(g, ferry_agent_v1_agent_pause_container_start, id,
                   &(container_call){ .done = done, .userdata = userdata }, reterr);
}

int guest_container_resume(guest_processes *g, const char *id, guest_container_done done,
                           void *userdata, ferry_error *reterr) {
        return ask(g, ferry_agent_v1_agent_resume_container_start, id,
                   &(container_call){ .done = done, .userdata = userdata }, reterr);
}

int guest_container_delete(guest_processes *g, const char *id, guest_container_done done,
                           void *userdata, ferry_error *reterr) {
        return ask(g, ferry_agent_v1_agent_delete_container_start, id,
                   &(container_call){ .done = done, .absent_is_fine = true, .userdata = userdata },
                   reterr);
}

int guest_container_update(guest_processes *g, const char *id, const void *resources, size_t n,
                           guest_container_done done, void *userdata, ferry_error *reterr) {
        Ferry__Agent__V1__UpdateContainerRequest q =
                FERRY__AGENT__V1__UPDATE_CONTAINER_REQUEST__INIT;
        container_call *c = NULL;
        int r;

        r = call_new(&(container_call){ .done = done, .userdata = userdata }, &c, reterr);
        if (r < 0)
                return r;
        q.id = (char *)id;
        q.resources = (ProtobufCBinaryData){ n, (uint8_t *)resources };
        return asked(c,
                     ferry_agent_v1_agent_update_container_start(
                             guest_link_client(g->link), &q, &guest_call_options, on_done, c, NULL),
                     reterr);
}

int guest_container_pids(guest_processes *g, const char *id, guest_pids_done done, void *userdata,
                         ferry_error *reterr) {
        Ferry__Agent__V1__ContainerRequest q = FERRY__AGENT__V1__CONTAINER_REQUEST__INIT;
        container_call *c = NULL;
        int r;

        r = call_new(&(container_call){ .pids_done = done, .userdata = userdata }, &c, reterr);
        if (r < 0)
                return r;
        q.id = (char *)id;
        return asked(c,
                     ferry_agent_v1_agent_container_pids_start(
                             guest_link_client(g->link), &q, &guest_call_options, on_pids, c, NULL),
                     reterr);
}

int guest_container_stats(guest_processes *g, const char *id, guest_stats_done done, void *userdata,
                          ferry_error *reterr) {
        Ferry__Agent__V1__ContainerRequest q = FERRY__AGENT__V1__CONTAINER_REQUEST__INIT;
        container_call *c = NULL;
        int r;

        r = call_new(&(container_call){ .stats_done = done, .userdata = userdata }, &c, reterr);
        if (r < 0)
                return r;
        q.id = (char *)id;
        return asked(c,
                     ferry_agent_v1_agent_container_stats_start(guest_link_client(g->link), &q,
                                                                &guest_call_options, on_stats, c,
                                                                NULL),
                     reterr);
}
