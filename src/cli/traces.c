/* SPDX-License-Identifier: MIT */
#include "cli/traces.h"

#include "base/clock.h"
#include "cli/calls.h"
#include "migration/trace-chrome.h"

/* What no session lasts. */
#define LONGEST (366 * 86400 * USEC_PER_SEC)

static void cut(uint64_t *usec) {
        if (*usec > LONGEST)
                *usec = LONGEST;
}

/* A shim's figures may be anything: times that are no times would overflow what is made of them. */
static void cut_times(shim_trace *t) {
        cut(&t->now_usec);
        cut(&t->greeted_usec);
        cut(&t->stopped_usec);
        cut(&t->running_usec);
        for (size_t i = 0; i < t->n_phases; i++) {
                cut(&t->phases[i]->begin_usec);
                cut(&t->phases[i]->end_usec);
        }
        for (size_t i = 0; i < t->n_passes; i++) {
                cut(&t->passes[i]->begin_usec);
                cut(&t->passes[i]->end_usec);
        }
        for (size_t i = 0; i < t->n_events; i++)
                cut(&t->events[i]->usec);
}

static void take(rpc *shim, const char *session_id, shim_trace **ret, uint64_t *ret_usec) {
        uint64_t begin = now_usec();

        if (*ret || !shim || !rpc_is_open(shim) || rpc_is_silent(shim) ||
            call_trace(shim, session_id, ret, NULL) < 0)
                return;
        *ret_usec = begin + (now_usec() - begin) / 2;
        cut_times(*ret);
}

void traces_take(traces *t, rpc *source, rpc *destination, const char *session_id) {
        take(source, session_id, &t->source, &t->source_usec);
        take(destination, session_id, &t->destination, &t->destination_usec);
}

static void trace_free(shim_trace *trace) {
        if (trace)
                protobuf_c_message_free_unpacked(&trace->base, NULL);
}

void traces_done(traces *t) {
        trace_free(t->source);
        trace_free(t->destination);
        *t = (traces){ .source = NULL };
}

static bool are_known(uint64_t a, uint64_t b) {
        return a > 0 && b > 0 && a < LONGEST && b < LONGEST;
}

traces_relation traces_relate(const traces *t, int64_t *ret_usec) {
        const shim_trace *a = t->source, *b = t->destination;

        *ret_usec = 0;
        if (!a || !b)
                return TRACES_UNRELATED;
        if (are_known(a->stopped_usec, b->stopped_usec)) {
                *ret_usec = (int64_t)(a->stopped_usec - b->stopped_usec);
                return TRACES_BY_HANDOVER;
        }
        if (are_known(a->greeted_usec, b->greeted_usec)) {
                *ret_usec = (int64_t)(a->greeted_usec - b->greeted_usec);
                return TRACES_BY_HELLO;
        }
        if (!are_known(a->now_usec, b->now_usec))
                return TRACES_UNRELATED;
        *ret_usec = (int64_t)((a->now_usec - b->now_usec) + (t->destination_usec - t->source_usec));
        return TRACES_BY_CALLER;
}

const char *traces_relation_name(traces_relation relation) {
        static const char *const names[_TRACES_RELATION_MAX] = {
                [TRACES_UNRELATED] = "none",
                [TRACES_BY_HANDOVER] = "handover",
                [TRACES_BY_HELLO] = "hello",
                [TRACES_BY_CALLER] = "caller",
        };

        return names[relation];
}

json_t *traces_to_chrome(const traces *t) {
        int64_t offset, first;
        trace_side sides[2];
        size_t n = 0;

        (void)traces_relate(t, &offset);
        first = offset < 0 ? offset : 0; /* no time is negative */
        if (t->source)
                sides[n++] = (trace_side){ t->source, -first };
        if (t->destination)
                sides[n++] = (trace_side){ t->destination, offset - first };
        return trace_to_chrome(sides, n);
}
