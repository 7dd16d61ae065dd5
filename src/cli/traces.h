/* SPDX-License-Identifier: MIT */
#pragma once

/* The traces of a migration's two sides, and how the times of the one relate to those of the other:
 * never by the hosts' wall clocks (docs/report.md). */

#include <jansson.h>

#include "cli/rpc.h"
#include "shim.pb-c.h"

typedef Ferry__Shim__V1__TraceResponse shim_trace;

typedef enum traces_relation {
        TRACES_UNRELATED,
        TRACES_BY_HANDOVER, /* GO carried how long the guest had stood: within half a round trip */
        TRACES_BY_HELLO,    /* both have it at the same time: within a round trip */
        TRACES_BY_CALLER, /* we asked both, with our own clock: within the time they took to answer
                           */
        _TRACES_RELATION_MAX,
} traces_relation;

typedef struct traces {
        shim_trace *source, *destination;       /* owned; NULL: not known */
        uint64_t source_usec, destination_usec; /* when they were asked, by our clock */
} traces;

/* From the shims, while they are there; what they cannot tell, or told before, is left alone. NULL:
 * there is none. */
void traces_take(traces *t, rpc *source, rpc *destination, const char *session_id);
void traces_done(traces *t);

/* *ret_usec: to be added to the destination's times. */
traces_relation traces_relate(const traces *t, int64_t *ret_usec);
const char *traces_relation_name(traces_relation relation); /* "handover" */

/* Both sides on one line of time, in Chrome's trace event format. NULL: out of memory. */
json_t *traces_to_chrome(const traces *t);
