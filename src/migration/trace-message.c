/* SPDX-License-Identifier: MIT */
#include "migration/trace-message.h"

#include <stdlib.h>

struct trace_message {
        Ferry__Shim__V1__TraceResponse response;
        Ferry__Shim__V1__Report report;
        Ferry__Shim__V1__TracePhase phases[TRACE_PHASES_MAX], *phase_list[TRACE_PHASES_MAX];
        Ferry__Shim__V1__TracePass passes[TRACE_PASSES_MAX], *pass_list[TRACE_PASSES_MAX];
        Ferry__Shim__V1__TraceEvent events[TRACE_EVENTS_MAX], *event_list[TRACE_EVENTS_MAX];
        Ferry__Shim__V1__TraceFact versions[TRACE_FACTS_MAX], *version_list[TRACE_FACTS_MAX];
        Ferry__Shim__V1__TraceFact options[TRACE_FACTS_MAX], *option_list[TRACE_FACTS_MAX];
};

void session_report_to_message(const session_report *from, Ferry__Shim__V1__Report *to) {
        ferry__shim__v1__report__init(to);
        to->total_usec = from->total_usec;
        to->setup_usec = from->setup_usec;
        to->copy_usec = from->copy_usec;
        to->blackout_usec = from->blackout_usec;
        to->stop_to_completed_usec = from->stop_to_completed_usec;
        to->handover_usec = from->handover_usec;
        to->journal_sync_usec = from->journal_sync_usec;
        to->resume_usec = from->resume_usec;
        to->passes = from->passes;
        to->bytes = from->bytes;
        to->blackout_bytes = from->blackout_bytes;
        to->verify_usec = from->verify_usec;
}

/* 0 means "not yet": what happened in the first microsecond happened in the second. */
static uint64_t since(const trace *t, uint64_t usec) {
        if (usec == 0)
                return 0;
        return usec > t->began_usec ? usec - t->began_usec : 1;
}

static void fill_phases(trace_message *m, const trace *t, uint64_t now_usec) {
        for (size_t i = 0; i < t->n_spans; i++) {
                const trace_span *span = &t->spans[i];
                Ferry__Shim__V1__TracePhase *p = m->phase_list[i] = &m->phases[i];

                ferry__shim__v1__trace_phase__init(p);
                p->name = (char *)trace_phase_name(span->phase);
                p->begin_usec = span->begin_usec > t->began_usec ? since(t, span->begin_usec) : 0;
                p->end_usec = since(t, span->end_usec ? span->end_usec : now_usec);
                p->guest_stands = span->guest_stands;
        }
        m->response.phases = m->phase_list;
        m->response.n_phases = t->n_spans;
}

static void fill_passes(trace_message *m, const trace *t) {
        for (size_t i = 0; i < t->n_passes; i++) {
                const trace_pass *pass = &t->passes[i];
                Ferry__Shim__V1__TracePass *p = m->pass_list[i] = &m->passes[i];

                ferry__shim__v1__trace_pass__init(p);
                p->first = pass->first;
                p->last = pass->last;
                p->begin_usec = since(t, pass->begin_usec);
                p->end_usec = since(t, pass->end_usec);
                p->sent = pass->sent;
                p->remaining = pass->remaining;
                p->dirty_rate = pass->dirty_rate;
                p->bandwidth = pass->bandwidth;
                p->throttle = pass->throttle;
                p->limit_ms = pass->limit_ms;
                p->expected_blackout_ms = pass->expected_blackout_ms;
        }
        m->response.passes = m->pass_list;
        m->response.n_passes = t->n_passes;
}

static void fill_events(trace_message *m, const trace *t) {
        const trace_event *event;
        size_t n = 0;

        for (; (event = trace_get_event(t, n)); n++) {
                Ferry__Shim__V1__TraceEvent *e = m->event_list[n] = &m->events[n];

                ferry__shim__v1__trace_event__init(e);
                e->usec = since(t, event->usec);
                e->category = (char *)event->category;
                e->name = (char *)event->name;
        }
        m->response.events = m->event_list;
        m->response.n_events = n;
        m->response.events_dropped = (uint32_t)trace_count_dropped_events(t);
}

static size_t fill_facts(const trace_facts *from, Ferry__Shim__V1__TraceFact *facts,
                         Ferry__Shim__V1__TraceFact **list) {
        for (size_t i = 0; i < from->n; i++) {
                list[i] = &facts[i];
                ferry__shim__v1__trace_fact__init(list[i]);
                list[i]->name = (char *)from->facts[i].name;
                list[i]->value = (char *)from->facts[i].value;
        }
        return from->n;
}

trace_message *trace_message_new(const trace *t, const session_report *report,
                                 const char *sandbox_id, uint64_t now_usec) {
        trace_message *m = malloc(sizeof(*m));
        Ferry__Shim__V1__TraceResponse *r;

        if (!m)
                return NULL;
        if (!t->is_open)
                now_usec = t->ended_usec;
        r = &m->response;
        ferry__shim__v1__trace_response__init(r);
        r->session_id = (char *)t->session_id;
        r->sandbox_id = (char *)sandbox_id;
        r->origin = (char *)(t->is_source ? "source" : "destination");
        r->outcome = (char *)t->outcome;
        r->state = (char *)t->state;
        r->reason = (char *)t->reason;
        r->now_usec = since(t, now_usec);
        r->began_usec = t->began_wall_usec;
        r->greeted_usec = since(t, t->greeted_usec);
        r->stopped_usec = since(t, t->stopped_usec);
        r->running_usec = since(t, t->running_usec);
        session_report_to_message(report, &m->report);
        r->report = &m->report;
        fill_phases(m, t, now_usec);
        fill_passes(m, t);
        fill_events(m, t);
        r->n_versions = fill_facts(&t->versions, m->versions, m->version_list);
        r->versions = m->version_list;
        r->n_options = fill_facts(&t->options, m->options, m->option_list);
        r->options = m->option_list;
        return m;
}

trace_message *trace_message_free(trace_message *m) {
        free(m);
        return NULL;
}

const Ferry__Shim__V1__TraceResponse *trace_message_get(const trace_message *m) {
        return &m->response;
}
