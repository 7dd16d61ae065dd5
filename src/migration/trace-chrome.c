/* SPDX-License-Identifier: MIT */
#include "migration/trace-chrome.h"

#include <stdbool.h>
#include <string.h>

#define TEXT_MAX 512U

typedef enum track {
        TRACK_PHASES = 1,
        TRACK_GUEST,
        TRACK_PASSES,
        TRACK_EVENTS,
        _TRACK_MAX,
} track;

static const char *const track_names[_TRACK_MAX] = {
        [TRACK_PHASES] = "phases",
        [TRACK_GUEST] = "guest",
        [TRACK_PASSES] = "passes",
        [TRACK_EVENTS] = "events",
};

typedef struct writer {
        json_t *events;
        int pid;
        int64_t offset_usec;
        bool failed;
} writer;

static json_t *text(const char *from) {
        char clean[TEXT_MAX];
        size_t n = 0;

        for (; from[n] && n < TEXT_MAX - 1; n++)
                clean[n] = from[n] >= ' ' && from[n] <= '~' ? from[n] : '?';
        clean[n] = '\0';
        return json_string(clean);
}

/* A peer's time may be anything: what no trace can last is cut. */
static int64_t time_of(const writer *w, uint64_t usec) {
        uint64_t most = 366ULL * 86400 * 1000000;

        return (int64_t)(usec < most ? usec : most) + w->offset_usec;
}

static json_int_t whole(uint64_t value) {
        return value > INT64_MAX ? INT64_MAX : (json_int_t)value;
}

/* `args` is consumed, NULL: none. */
static json_t *add(writer *w, const char *ph, const char *name, track tid, int64_t ts,
                   json_t *args) {
        json_t *event =
                json_pack("{s:s, s:o, s:I, s:i, s:i, s:o*}", "ph", ph, "name", text(name), "ts",
                          (json_int_t)ts, "pid", w->pid, "tid", (int)tid, "args", args);

        if (!event || json_array_append_new(w->events, event) < 0) {
                w->failed = true;
                return NULL;
        }
        return event;
}

static void add_slice(writer *w, const char *name, const char *category, track tid, uint64_t begin,
                      uint64_t end, json_t *args) {
        int64_t ts = time_of(w, begin), until = time_of(w, end);
        json_t *event = add(w, "X", name, tid, ts, args);

        if (event && (json_object_set_new(event, "cat", text(category)) < 0 ||
                      json_object_set_new(event, "dur", json_integer(until > ts ? until - ts : 0))))
                w->failed = true;
}

static void add_counter(writer *w, const char *name, uint64_t usec, const char *unit,
                        uint64_t value) {
        (void)add(w, "C", name, TRACK_PASSES, time_of(w, usec),
                  json_pack("{s:I}", unit, whole(value)));
}

static void add_names(writer *w, const Ferry__Shim__V1__TraceResponse *t) {
        char name[TEXT_MAX];

        snprintf(name, sizeof(name), "%.20s: %.100s", t->origin, t->sandbox_id);
        (void)add(w, "M", "process_name", 0, 0, json_pack("{s:o}", "name", text(name)));
        (void)add(w, "M", "process_sort_index", 0, 0, json_pack("{s:i}", "sort_index", w->pid));
        for (track i = TRACK_PHASES; i < _TRACK_MAX; i++) {
                (void)add(w, "M", "thread_name", i, 0, json_pack("{s:s}", "name", track_names[i]));
                (void)add(w, "M", "thread_sort_index", i, 0,
                          json_pack("{s:i}", "sort_index", (int)i));
        }
}

static void add_guest(writer *w, const Ferry__Shim__V1__TraceResponse *t) {
        bool source = strcmp(t->origin, "source") == 0;
        uint64_t stopped = t->stopped_usec, running = t->running_usec;

        if (source)
                add_slice(w, "runs", "guest", TRACK_GUEST, 0, stopped ? stopped : t->now_usec,
                          NULL);
        /* of the two sides' the source draws it up to its end, the destination to the resume */
        if (stopped)
                add_slice(w, "stands", "guest", TRACK_GUEST, stopped,
                          running ? running : t->now_usec, NULL);
        if (running)
                add_slice(w, "runs", "guest", TRACK_GUEST, running, t->now_usec, NULL);
}

static void add_pass(writer *w, const Ferry__Shim__V1__TracePass *p) {
        char name[64];

        if (p->first == p->last)
                snprintf(name, sizeof(name), "pass %u", p->first);
        else
                snprintf(name, sizeof(name), "passes %u-%u", p->first, p->last);
        add_slice(w, name, "pass", TRACK_PASSES, p->begin_usec, p->end_usec,
                  json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "sent", whole(p->sent),
                            "remaining", whole(p->remaining), "dirty_rate", whole(p->dirty_rate),
                            "bandwidth", whole(p->bandwidth), "throttle", (json_int_t)p->throttle,
                            "limit_ms", (json_int_t)p->limit_ms, "expected_blackout_ms",
                            (json_int_t)p->expected_blackout_ms));
        add_counter(w, "remaining", p->end_usec, "bytes", p->remaining);
        add_counter(w, "dirty rate", p->begin_usec, "bytes per second", p->dirty_rate);
        add_counter(w, "bandwidth", p->begin_usec, "bytes per second", p->bandwidth);
        add_counter(w, "throttle", p->begin_usec, "percent", p->throttle);
        add_counter(w, "downtime limit", p->begin_usec, "ms", p->limit_ms);
}

static void add_side(writer *w, const Ferry__Shim__V1__TraceResponse *t) {
        add_names(w, t);
        for (size_t i = 0; i < t->n_phases; i++)
                add_slice(w, t->phases[i]->name, "phase", TRACK_PHASES, t->phases[i]->begin_usec,
                          t->phases[i]->end_usec, NULL);
        add_guest(w, t);
        for (size_t i = 0; i < t->n_passes; i++)
                add_pass(w, t->passes[i]);
        for (size_t i = 0; i < t->n_events; i++) {
                const Ferry__Shim__V1__TraceEvent *e = t->events[i];
                json_t *event = add(w, "i", e->name, TRACK_EVENTS, time_of(w, e->usec), NULL);

                if (event && (json_object_set_new(event, "cat", text(e->category)) < 0 ||
                              json_object_set_new(event, "s", json_string("t")) < 0))
                        w->failed = true;
        }
}

static json_t *facts(Ferry__Shim__V1__TraceFact **list, size_t n) {
        json_t *object = json_object();

        for (size_t i = 0; object && i < n; i++) {
                char name[TEXT_MAX];
                json_t *key = text(list[i]->name);

                snprintf(name, sizeof(name), "%s", key ? json_string_value(key) : "");
                json_decref(key);
                if (json_object_set_new(object, name, text(list[i]->value)) < 0) {
                        json_decref(object);
                        return NULL;
                }
        }
        return object;
}

static json_t *describe(const Ferry__Shim__V1__TraceResponse *t, int64_t offset_usec) {
        return json_pack(
                "{s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:i, s:o, s:o}", "session_id",
                text(t->session_id), "sandbox", text(t->sandbox_id), "outcome", text(t->outcome),
                "state", text(t->state), "reason", text(t->reason), "origin", text(t->origin),
                "began_usec", whole(t->began_usec), "offset_usec", (json_int_t)offset_usec,
                "events_dropped", (int)(t->events_dropped & INT32_MAX), "versions",
                facts(t->versions, t->n_versions), "options", facts(t->options, t->n_options));
}

json_t *trace_to_chrome(const trace_side *sides, size_t n_sides) {
        writer w = { .events = json_array() };
        json_t *other = json_array(), *all;

        for (size_t i = 0; i < n_sides; i++) {
                const Ferry__Shim__V1__TraceResponse *t = sides[i].trace;

                w.pid = strcmp(t->origin, "source") == 0 ? 1 : 2;
                w.offset_usec = sides[i].offset_usec;
                add_side(&w, t);
                if (json_array_append_new(other, describe(t, sides[i].offset_usec)) < 0)
                        w.failed = true;
        }
        all = json_pack("{s:o, s:s, s:{s:s, s:o}}", "traceEvents", w.events, "displayTimeUnit",
                        "ms", "otherData", "schema", "ferry.trace.v1", "sides", other);
        if (all && w.failed) {
                json_decref(all);
                all = NULL;
        }
        return all;
}
