/* SPDX-License-Identifier: MIT */
#include "migration/trace.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void trace_begin(trace *t, const char *session_id, bool is_source, uint64_t usec,
                 uint64_t wall_usec) {
        trace_done(t);
        *t = (trace){
                .is_source = is_source,
                .is_open = true,
                .outcome = "open",
                .state = "",
                .began_usec = usec,
                .began_wall_usec = wall_usec,
        };
        snprintf(t->session_id, sizeof(t->session_id), "%s", session_id);
}

void trace_close(trace *t, uint64_t usec) {
        trace_enter(t, TRACE_NONE, usec);
        t->ended_usec = usec;
        t->is_open = false;
}

void trace_done(trace *t) {
        free(t->passes);
        t->passes = NULL;
        t->n_passes = 0;
}

static trace_span *current_span(trace *t) {
        if (t->n_spans == 0 || t->spans[t->n_spans - 1].end_usec > 0)
                return NULL;
        return &t->spans[t->n_spans - 1];
}

trace_phase trace_current(const trace *t) {
        if (t->n_spans == 0 || t->spans[t->n_spans - 1].end_usec > 0)
                return TRACE_NONE;
        return t->spans[t->n_spans - 1].phase;
}

void trace_enter(trace *t, trace_phase phase, uint64_t usec) {
        trace_span *now = current_span(t);

        if (now && now->phase == phase)
                return;
        if (now) /* events of QEMU's carry times of their own, and may come late */
                now->end_usec = usec > now->begin_usec ? usec : now->begin_usec;
        if (phase == TRACE_NONE || t->n_spans == TRACE_PHASES_MAX)
                return;
        if (t->n_spans > 0 && usec < t->spans[t->n_spans - 1].end_usec)
                usec = t->spans[t->n_spans - 1].end_usec;
        t->spans[t->n_spans++] = (trace_span){
                .phase = phase,
                .begin_usec = usec,
                .guest_stands = t->stopped_usec > 0 && t->running_usec == 0,
        };
}

void trace_split_last(trace *t, trace_phase next, uint64_t usec) {
        trace_span *now = current_span(t);

        if (!now || now->phase == next || (now->phase != TRACE_LAST && now->phase != TRACE_DECIDE))
                return;
        if (now->phase == TRACE_LAST && t->n_spans > 1 &&
            t->spans[t->n_spans - 2].phase != TRACE_COPY)
                return;
        if (now->phase == TRACE_LAST)
                now->phase = TRACE_STOP;
        trace_enter(t, next, usec);
}

void trace_guest_stopped(trace *t, uint64_t usec) {
        t->stopped_usec = usec;
        t->running_usec = 0;
}

void trace_guest_runs(trace *t, uint64_t usec) {
        if (t->running_usec == 0)
                t->running_usec = usec;
}

/* Two by two: each keeps its share of what is a rate. */
static void join_passes(trace *t) {
        for (size_t i = 0; i < t->n_passes / 2; i++) {
                trace_pass a = t->passes[2 * i];
                const trace_pass *b = &t->passes[2 * i + 1];
                uint64_t before = a.end_usec - a.begin_usec, after = b->end_usec - b->begin_usec;
                double share = before + after > 0 ? (double)before / (double)(before + after) : 0.5;

                a.last = b->last;
                a.end_usec = b->end_usec;
                a.sent += b->sent;
                a.remaining = b->remaining;
                a.dirty_rate = (uint64_t)((double)a.dirty_rate * share +
                                          (double)b->dirty_rate * (1 - share));
                a.bandwidth = (uint64_t)((double)a.bandwidth * share +
                                         (double)b->bandwidth * (1 - share));
                a.throttle = b->throttle;
                a.limit_ms = b->limit_ms;
                a.expected_blackout_ms = b->expected_blackout_ms;
                t->passes[i] = a;
        }
        t->n_passes /= 2;
}

void trace_add_pass(trace *t, const trace_pass *pass) {
        if (!t->passes) {
                t->passes = malloc(TRACE_PASSES_MAX * sizeof(*t->passes));
                if (!t->passes)
                        return; /* it is only told, not needed */
        }
        if (t->n_passes == TRACE_PASSES_MAX)
                join_passes(t);
        t->passes[t->n_passes] = *pass;
        if (pass->end_usec < pass->begin_usec)
                t->passes[t->n_passes].end_usec = pass->begin_usec;
        t->n_passes++;
}

#define HEAD (TRACE_EVENTS_MAX - TRACE_EVENTS_TAIL)

static size_t place_of(size_t i) {
        return i < HEAD ? i : HEAD + (i - HEAD) % TRACE_EVENTS_TAIL;
}

void trace_add_event(trace *t, const char *category, const char *name, uint64_t usec) {
        t->events[place_of(t->n_events++)] = (trace_event){ usec, category, name };
}

size_t trace_count_dropped_events(const trace *t) {
        return t->n_events > TRACE_EVENTS_MAX ? t->n_events - TRACE_EVENTS_MAX : 0;
}

const trace_event *trace_get_event(const trace *t, size_t i) {
        if (i >= HEAD)
                i += trace_count_dropped_events(t);
        return i < t->n_events ? &t->events[place_of(i)] : NULL;
}

void trace_set_fact(trace_facts *facts, const char *name, const char *format, ...) {
        size_t i = 0;
        va_list ap;

        while (i < facts->n && strcmp(facts->facts[i].name, name) != 0)
                i++;
        if (i == TRACE_FACTS_MAX)
                return;
        if (i == facts->n)
                facts->n++;
        facts->facts[i].name = name;
        va_start(ap, format);
        vsnprintf(facts->facts[i].value, sizeof(facts->facts[i].value), format, ap);
        va_end(ap);
}

const char *trace_phase_name(trace_phase phase) {
        static const char *const names[_TRACE_PHASE_MAX] = {
                [TRACE_NONE] = "none",           [TRACE_EXPORT] = "export",
                [TRACE_PREPARE] = "prepare",     [TRACE_WAIT] = "wait",
                [TRACE_HELLO] = "hello",         [TRACE_COPY] = "copy",
                [TRACE_LOAD] = "load",           [TRACE_STOP] = "stop",
                [TRACE_DECIDE] = "decide",       [TRACE_LAST] = "last-state",
                [TRACE_OFFER] = "offer",         [TRACE_VERDICT] = "verdict",
                [TRACE_JOURNAL] = "journal",     [TRACE_AWAY] = "away",
                [TRACE_LOADED] = "loaded",       [TRACE_RESUME] = "resume",
                [TRACE_CONFIRM] = "confirm",     [TRACE_RELEASE] = "release",
                [TRACE_ROLLBACK] = "rollback",   [TRACE_DISCARD] = "discard",
                [TRACE_UNDECIDED] = "undecided", [TRACE_POSTCOPY] = "post-copy",
        };

        return names[phase];
}
