/* SPDX-License-Identifier: MIT */
#include "guestlink/network.h"

#include "guestlink/processes-internal.h"

typedef struct network_call {
        guest_network_done done;
        void *userdata;
} network_call;

static void on_configured(int r, const ttrpc_status *status,
                          const Ferry__Agent__V1__ConfigureNetworkResponse *response,
                          void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) network_call *c = userdata;

        r = guest_judge(r, status, &error);
        c->done(r, r < 0 ? &error : NULL, c->userdata);
}

int guest_network_configure(guest_processes *g,
                            const Ferry__Agent__V1__ConfigureNetworkRequest *request,
                            guest_network_done done, void *userdata, ferry_error *reterr) {
        network_call *c = malloc(sizeof(*c));
        int r;

        if (!c)
                return ferry_error_set_errno(reterr, -ENOMEM, "network");
        *c = (network_call){ .done = done, .userdata = userdata };
        r = ferry_agent_v1_agent_configure_network_start(guest_link_client(g->link), request,
                                                         &guest_first_call_options, on_configured,
                                                         c, NULL);
        if (r == 0)
                return 0;
        free(c);
        return ferry_error_set_errno(reterr, r, "ask the guest's agent");
}
