/* SPDX-License-Identifier: MIT */
#include "guestlink/renew.h"

#include "base/digest.h"
#include "guestlink/processes-internal.h"

#define ENTROPY_SIZE 64U
#define RENEW_USEC   (10 * USEC_PER_SEC)

typedef struct renew_call {
        guest_renew_done done;
        void *userdata;
} renew_call;

static void on_renewed(int r, const ttrpc_status *status,
                       const Ferry__Agent__V1__MovedResponse *response, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) renew_call *c = userdata;

        r = guest_judge(r, status, &error);
        c->done(r, r < 0 ? &error : NULL, c->userdata);
}

int guest_renew(guest_processes *g, guest_renew_done done, void *userdata, ferry_error *reterr) {
        Ferry__Agent__V1__MovedRequest q = FERRY__AGENT__V1__MOVED_REQUEST__INIT;
        const ttrpc_call_options options = { .timeout_usec = RENEW_USEC };
        uint8_t entropy[ENTROPY_SIZE];
        renew_call *c;
        int r;

        r = random_bytes(entropy, sizeof(entropy));
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "random numbers for the guest");
        c = malloc(sizeof(*c));
        if (!c)
                return ferry_error_set_errno(reterr, -ENOMEM, "renew the guest");
        *c = (renew_call){ .done = done, .userdata = userdata };
        q.entropy = (ProtobufCBinaryData){ sizeof(entropy), entropy };
        q.realtime_usec = wall_usec();
        r = ferry_agent_v1_agent_moved_start(guest_link_client(g->link), &q, &options, on_renewed,
                                             c, NULL);
        if (r == 0)
                return 0;
        free(c);
        return ferry_error_set_errno(reterr, r, "ask the guest's agent");
}
