/* SPDX-License-Identifier: MIT */
#include "services/reply.h"

#include "base/clock.h"
#include "base/log.h"

void timestamp_fill(Google__Protobuf__Timestamp *t, uint64_t usec) {
        google__protobuf__timestamp__init(t);
        t->seconds = (int64_t)(usec / USEC_PER_SEC);
        t->nanos = (int32_t)(usec % USEC_PER_SEC * NSEC_PER_USEC);
}

void call_fail(ttrpc_call *call, int r, const ferry_error *error) {
        ferry_code code = error && error->code != FERRY_OK ? error->code : ferry_code_from_errno(r);

        log_info("%s: %s: %s", ttrpc_call_get_method(call), ferry_code_to_string((int)code),
                 ferry_error_message(error));
        (void)ttrpc_call_fail(call, (int32_t)code, "%s", ferry_error_message(error));
}

static void on_gone(ttrpc_call *call, void *userdata) {
        waiting_call *w = userdata;

        session_forget(w->session, w);
        waiting_call_free(w);
}

waiting_call *waiting_call_new(ttrpc_call *call, session *s, void *userdata) {
        waiting_call *w = malloc(sizeof(*w));

        if (!w) {
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
                return NULL;
        }
        *w = (waiting_call){
                .call = ttrpc_call_ref(call),
                .session = s,
                .userdata = userdata,
        };
        ttrpc_call_set_callbacks(call, on_gone, NULL, w);
        return w;
}

waiting_call *waiting_call_free(waiting_call *w) {
        ttrpc_call_set_callbacks(w->call, NULL, NULL, NULL);
        ttrpc_call_unref(w->call);
        free(w);
        return NULL;
}

void waiting_call_reply_empty(int r, const ferry_error *error, void *userdata) {
        waiting_call *w = userdata;

        if (r < 0)
                call_fail(w->call, r, error);
        else
                (void)ttrpc_call_reply(w->call, NULL, 0);
        waiting_call_free(w);
}
