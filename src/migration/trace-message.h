/* SPDX-License-Identifier: MIT */
#pragma once

/* A trace as the Shim service tells it and as trace files are made of it. */

#include "base/cleanup.h"
#include "migration/session.h"
#include "migration/trace.h"
#include "shim.pb-c.h"

typedef struct trace_message trace_message;

/* Borrows from all that it is made of. NULL: out of memory. `now_usec` is what lasts ends with. */
trace_message *trace_message_new(const trace *t, const session_report *report,
                                 const char *sandbox_id, uint64_t now_usec);
trace_message *trace_message_free(trace_message *m);
const Ferry__Shim__V1__TraceResponse *trace_message_get(const trace_message *m);

void session_report_to_message(const session_report *from, Ferry__Shim__V1__Report *to);

DEFINE_CLEANUP(trace_message *, trace_message_free)
