/* SPDX-License-Identifier: MIT */
#pragma once

/* What services answer with, and a ttrpc call that waits for the layer below. */

#include "base/error.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "migration/session.h"
#include "ttrpc/ttrpc.h"

typedef struct waiting_call {
        ttrpc_call *call;
        session *session;
        void *userdata;
} waiting_call;

/* NULL: out of memory, and the call was answered so. While it waits, a caller that leaves is
 * forgotten by the session. */
waiting_call *waiting_call_new(ttrpc_call *call, session *s, void *userdata);
waiting_call *waiting_call_free(waiting_call *w);

/* A session_reply that answers with an empty message. */
void waiting_call_reply_empty(int r, const ferry_error *error, void *userdata);

/* Of the wall clock. */
void timestamp_fill(Google__Protobuf__Timestamp *t, uint64_t usec);

void call_fail(ttrpc_call *call, int r, const ferry_error *error);
