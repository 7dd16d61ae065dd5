/* SPDX-License-Identifier: MIT */
#pragma once

/* Traces in Chrome's trace event format, which Perfetto and chrome://tracing open: a process for a
 * side, a thread for its phases, passes, the guest, and events; figures of the passes as counters.
 * docs/report.md has the names. */

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "shim.pb-c.h"

typedef struct trace_side {
        const Ferry__Shim__V1__TraceResponse *trace;
        int64_t offset_usec; /* added to its times */
} trace_side;

/* Text of a peer's may be anything: what is not printable ASCII becomes '?'. NULL: out of memory.
 */
json_t *trace_to_chrome(const trace_side *sides, size_t n_sides);
