/* SPDX-License-Identifier: MIT */
#pragma once

/* What happened in a session on this side, and when: phases that follow each other, passes, events,
 * facts. Pure: the times come in. Bounded, whatever happens: passes are joined two by two, of the
 * events the first and the last are kept. It outlives its session, until the next one begins.
 *
 * Times come in as CLOCK_MONOTONIC and are kept so; trace-message.h turns them into times since the
 * session's beginning. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_PHASES_MAX 64U
#define TRACE_PASSES_MAX 512U
#define TRACE_EVENTS_MAX 128U
/* Of these are the last ones, where there were more. */
#define TRACE_EVENTS_TAIL 64U
#define TRACE_FACTS_MAX   32U
#define TRACE_TEXT_MAX    256U
#define TRACE_ID_MAX      128U

typedef enum trace_phase {
        TRACE_NONE,
        TRACE_EXPORT,
        TRACE_PREPARE, /* destination: QEMU starts */
        TRACE_WAIT,    /* for the caller's next step */
        TRACE_HELLO,
        TRACE_COPY,
        TRACE_LOAD,
        /* the guest stands from here ... */
        TRACE_STOP,     /* ... until QEMU goes on to the last bytes, where it says so */
        TRACE_DECIDE,   /* QEMU waits for our word */
        TRACE_LAST,     /* the last bytes and the device state, sent and loaded */
        TRACE_OFFER,    /* source: OFFER is out, READY not yet here */
        TRACE_VERDICT,  /* source: whoever is to say that it moves has not yet */
        TRACE_JOURNAL,  /* source: *handed* goes to the disk */
        TRACE_AWAY,     /* source: GO is out */
        TRACE_LOADED,   /* destination: it has everything, GO is not here yet */
        TRACE_RESUME,   /* destination: from GO to the guest's first instruction */
        TRACE_CONFIRM,  /* destination: it runs; journal, RUNNING, announcements */
        TRACE_POSTCOPY, /* it runs at the destination, its memory follows */
        TRACE_RELEASE,  /* source: QEMU quits */
        TRACE_ROLLBACK, /* source: back to running here */
        TRACE_DISCARD,  /* destination: its copy is given up */
        TRACE_UNDECIDED,
        _TRACE_PHASE_MAX,
} trace_phase;

typedef struct trace_span {
        trace_phase phase;
        uint64_t begin_usec, end_usec; /* end 0: it lasts */
        bool guest_stands;
} trace_span;

typedef struct trace_pass {
        uint32_t first, last; /* the same, but where passes were joined */
        uint64_t begin_usec, end_usec;
        uint64_t sent, remaining;       /* bytes */
        uint64_t dirty_rate, bandwidth; /* bytes per second */
        uint32_t throttle;              /* percent */
        uint32_t limit_ms, expected_blackout_ms;
} trace_pass;

typedef struct trace_event {
        uint64_t usec;
        const char *category, *name; /* static strings */
} trace_event;

typedef struct trace_fact {
        const char *name; /* static */
        char value[TRACE_TEXT_MAX];
} trace_fact;

typedef struct trace_facts {
        trace_fact facts[TRACE_FACTS_MAX];
        size_t n;
} trace_facts;

typedef struct trace {
        char session_id[TRACE_ID_MAX + 1]; /* "": there is none yet */
        bool is_source;
        bool is_open;
        const char *outcome, *state; /* static */
        char reason[TRACE_TEXT_MAX];
        uint64_t began_usec, began_wall_usec, ended_usec;
        uint64_t greeted_usec, stopped_usec, running_usec; /* 0: not yet */
        trace_span spans[TRACE_PHASES_MAX];
        size_t n_spans;
        trace_pass *passes; /* TRACE_PASSES_MAX; made for the first one */
        size_t n_passes;
        trace_event events[TRACE_EVENTS_MAX];
        size_t n_events; /* that there were */
        trace_facts versions, options;
} trace;

/* Forgets what was there. */
void trace_begin(trace *t, const char *session_id, bool is_source, uint64_t usec,
                 uint64_t wall_usec);
/* The session is closed; what happened is kept. */
void trace_close(trace *t, uint64_t usec);
void trace_done(trace *t);

/* Ends the phase under way, if any. The phase that is under way already: nothing. */
void trace_enter(trace *t, trace_phase phase, uint64_t usec);
trace_phase trace_current(const trace *t);
/* QEMU says that it goes on, the guest stopped: what was taken for the last bytes was the stop. */
void trace_split_last(trace *t, trace_phase next, uint64_t usec);
void trace_guest_stopped(trace *t, uint64_t usec);
void trace_guest_runs(trace *t, uint64_t usec);

void trace_add_pass(trace *t, const trace_pass *pass);
void trace_add_event(trace *t, const char *category, const char *name, uint64_t usec);
/* The i-th that is kept, in order; NULL behind the last. */
const trace_event *trace_get_event(const trace *t, size_t i);
size_t trace_count_dropped_events(const trace *t);

/* One of a name; a later value replaces it. Cut to TRACE_TEXT_MAX. */
void trace_set_fact(trace_facts *facts, const char *name, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

const char *trace_phase_name(trace_phase phase);
