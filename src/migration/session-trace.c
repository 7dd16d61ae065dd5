/* SPDX-License-Identifier: MIT */
/* What the session tells its trace, and the trace's file. */
#include "migration/session-internal.h"

#include <stdio.h>
#include <sys/utsname.h>

#include "base/fd.h"
#include "migration/trace-chrome.h"
#include "migration/trace-message.h"

#define CPU_INFO "/proc/cpuinfo"

static const char category_session[] = "session", category_qemu[] = "qemu",
                  category_policy[] = "policy";

/* Which phase a state is; TRACE_NONE: it is over. */
static trace_phase phase_of(mig_state state) {
        switch (state) {
        case MIG_S_EXPORTING:
                return TRACE_EXPORT;
        case MIG_S_EXPORTED:
        case MIG_S_SOCKET_WAITING:
        case MIG_S_SOCKET_READY:
        case MIG_D_IMPORTED:
        case MIG_D_PREPARED:
        case MIG_D_SOCKET_WAITING:
        case MIG_D_SOCKET_READY:
                return TRACE_WAIT;
        case MIG_D_PREPARING:
                return TRACE_PREPARE;
        case MIG_S_GREETING:
        case MIG_D_GREETING:
                return TRACE_HELLO;
        case MIG_S_COPYING:
                return TRACE_COPY;
        case MIG_D_LOADING:
                return TRACE_LOAD;
        case MIG_S_OFFERED:
        case MIG_S_PAUSED:
                return TRACE_OFFER;
        case MIG_S_READY:
        case MIG_S_POISED:
                return TRACE_VERDICT;
        case MIG_S_HANDED:
        case MIG_S_COMMITTED:
                return TRACE_JOURNAL;
        case MIG_S_SERVING:
        case MIG_S_FEEDING:
        case MIG_D_FETCHING:
                return TRACE_POSTCOPY;
        case MIG_S_DONE:
        case MIG_S_GIVEN_UP:
                return TRACE_RELEASE;
        case MIG_D_LOADED:
        case MIG_D_READY:
        case MIG_D_WANTED:
        case MIG_D_POISED:
        case MIG_D_CLAIMED:
                return TRACE_LOADED;
        case MIG_D_OWNER:
        case MIG_D_TAKEN:
        case MIG_D_STARTING:
                return TRACE_RESUME;
        case MIG_D_RUNNING:
                return TRACE_CONFIRM;
        case MIG_S_CANCELLING:
        case MIG_S_RESUMING:
        case MIG_S_RECOVERING:
                return TRACE_ROLLBACK;
        case MIG_D_CANCELLING:
        case MIG_D_STOPPING:
        case MIG_D_FAILING:
        case MIG_S_KILLING:
        case MIG_D_KILLING:
                return TRACE_DISCARD;
        case MIG_S_SPENT:
        case MIG_D_UNDECIDED:
                return TRACE_UNDECIDED;
        case MIG_IDLE:
        case MIG_RESERVED:
        case MIG_S_RELEASED:
        case MIG_S_ENDED:
        case MIG_S_CANCELLED:
        case MIG_S_FAILED:
        case MIG_S_RESUMED:
        case MIG_S_KILLED:
        case MIG_D_FINALIZED:
        case MIG_D_CANCELLED:
        case MIG_D_STOPPED:
        case MIG_D_FAILED:
        case MIG_D_LOST:
        case MIG_D_KILLED:
        case _MIG_STATE_MAX:
                break;
        }
        return TRACE_NONE;
}

/* NULL: not settled. */
static const char *outcome_of(mig_state state) {
        switch ((int)state) {
        case MIG_S_DONE:
        case MIG_S_RELEASED:
        case MIG_S_GIVEN_UP:
        case MIG_S_ENDED:
        case MIG_D_RUNNING:
        case MIG_D_FINALIZED:
                return "moved";
        case MIG_S_CANCELLED:
        case MIG_S_RESUMED:
        case MIG_D_CANCELLED:
                return "cancelled";
        case MIG_S_FAILED:
        case MIG_D_FAILED:
                return "failed";
        case MIG_D_STOPPED:
                return "stopped";
        case MIG_S_KILLED:
        case MIG_D_KILLED:
                return "killed";
        case MIG_D_LOST:
                return "lost";
        default:
                return NULL;
        }
}

static void note_host(trace_facts *facts) {
        _cleanup_(fclosep) FILE *info = fopen(CPU_INFO, "re");
        struct utsname name;
        char line[TRACE_TEXT_MAX];

        trace_set_fact(facts, "ferry", "%s", FERRY_VERSION);
        if (uname(&name) == 0)
                trace_set_fact(facts, "kernel", "%s", name.release);
        while (info && fgets(line, sizeof(line), info)) {
                const char *colon = strchr(line, ':');

                if (strncmp(line, "model name", strlen("model name")) != 0 || !colon)
                        continue;
                line[strcspn(line, "\n")] = '\0';
                trace_set_fact(facts, "host_cpu", "%s", colon[1] == ' ' ? colon + 2 : colon + 1);
                return;
        }
}

static const char *yes(bool value) {
        return value ? "yes" : "no";
}

/* As they are in force, defaults too. */
static void note_options(trace_facts *facts, const session *s) {
        static const char *const encryptions[_TLS_KIND_MAX] = { "none", "psk", "x509" };
        static const char *const postcopies[] = { "never", "fallback", "always" };
        const migration_options *o = &s->options;

        trace_set_fact(facts, "handover", "%s",
                       o->handover == HANDOVER__HANDOVER_DIRECT ? "direct" : "caller");
        trace_set_fact(facts, "blackout_target_ms", "%u", o->blackout_target_ms);
        trace_set_fact(facts, "target_passes", "%u", o->target_passes);
        trace_set_fact(facts, "maximum_passes", "%u", o->maximum_passes);
        trace_set_fact(facts, "skip_throttling", "%s", yes(o->skip_throttling));
        if (o->throttle_from_pass > 0)
                trace_set_fact(facts, "throttle_from_pass", "%u", o->throttle_from_pass);
        if (o->first_throttle > 0)
                trace_set_fact(facts, "minimum_throttle", "%u %%", o->first_throttle);
        if (o->throttle_step > 0)
                trace_set_fact(facts, "throttling_scale", "%g %%", o->throttle_step);
        trace_set_fact(facts, "cancel_over_threshold", "%s", yes(o->cancel_over_threshold));
        if (o->threshold_ms > 0)
                trace_set_fact(facts, "blackout_threshold_ms", "%u", o->threshold_ms);
        if (o->max_bandwidth > 0)
                trace_set_fact(facts, "max_bandwidth", "%llu",
                               (unsigned long long)o->max_bandwidth);
        trace_set_fact(facts, "postcopy", "%s", postcopies[o->postcopy]);
        trace_set_fact(facts, "checksums", "%s", yes(o->checksums));
        if (o->compress_workers > 0)
                trace_set_fact(facts, "compress_workers", "%u", o->compress_workers);
        trace_set_fact(facts, "encryption", "%s", encryptions[o->encryption]);
        trace_set_fact(facts, "channels", "%u", o->channels);
        trace_set_fact(facts, "verify_memory", "%s", yes(o->verify_memory));
        trace_set_fact(facts, "extended_timeouts", "%s", yes(o->slow_move));
        trace_set_fact(facts, "trace", "%s", yes(o->trace));
}

void session_trace_begin(session *s, bool is_source) {
        trace_begin(&s->trace, s->id, is_source, now_usec(), wall_usec());
        s->trace_report = (session_report){ .total_usec = 0 };
        note_host(&s->trace.versions);
        note_options(&s->trace.options, s);
}

void session_trace_vm(session *s, const vm_facts *facts) {
        trace_facts *to = &s->trace.versions;

        trace_set_fact(to, "qemu", "%s", facts->qemu_version);
        trace_set_fact(to, "machine", "%s", facts->machine);
        trace_set_fact(to, "accelerator", "%s", facts->accelerator);
        trace_set_fact(to, "guest_cpu", "%s", facts->cpu_model);
        trace_set_fact(to, "vcpus", "%u", facts->vcpus);
        trace_set_fact(to, "memory_bytes", "%llu", (unsigned long long)facts->memory_bytes);
}

/* The times that QEMU's events and messages have of their own come before the step's. */
static uint64_t time_of_step(const session *s, mig_event event) {
        if ((event == MIG_EV_COMPLETED || event == MIG_EV_LOADED) && s->completed_usec)
                return s->completed_usec;
        if (event == MIG_EV_GO && s->go_usec)
                return s->go_usec;
        if (event == MIG_EV_CONTINUED && s->resumed_usec)
                return s->resumed_usec;
        return now_usec();
}

void session_trace_step(session *s, mig_state was, mig_event event) {
        trace *t = &s->trace;
        uint64_t usec = time_of_step(s, event);
        const char *outcome = outcome_of(s->state);

        if (!t->is_open)
                return;
        trace_add_event(t, category_session, mig_event_name(event), usec);
        t->state = mig_state_get(s->state)->name;
        /* who cancels what has failed already did not cancel it */
        if (outcome && !(strcmp(outcome, "cancelled") == 0 && strcmp(t->outcome, "failed") == 0))
                t->outcome = outcome;
        else if (s->state == MIG_IDLE && strcmp(t->outcome, "open") == 0)
                t->outcome = "failed";
        if (event == MIG_EV_GREETED)
                t->greeted_usec = usec;
        /* a GO that claims more than this session has lasted says nothing */
        if (event == MIG_EV_GO && s->stopped_for_usec > 0 && t->stopped_usec == 0 &&
            s->stopped_for_usec < usec - t->began_usec)
                trace_guest_stopped(t, usec - s->stopped_for_usec);
        if (event == MIG_EV_CONTINUED || (event == MIG_EV_RAN_AGAIN && t->stopped_usec > 0))
                trace_guest_runs(t, usec);
        if (s->state != was)
                trace_enter(t, phase_of(s->state), usec);
}

void session_trace_handed(session *s) {
        if (trace_current(&s->trace) == TRACE_JOURNAL)
                trace_enter(&s->trace, TRACE_AWAY, now_usec());
}

void session_trace_confirmed(session *s) {
        trace_add_event(&s->trace, category_session, "announce", now_usec());
        if (s->state != MIG_D_FETCHING)
                trace_enter(&s->trace, TRACE_NONE, now_usec());
}

void session_trace_stopped(session *s, uint64_t usec) {
        trace_guest_stopped(&s->trace, usec);
        trace_add_event(&s->trace, category_qemu, "STOP", usec);
        trace_enter(&s->trace, TRACE_LAST, usec);
}

void session_trace_resumed(session *s, uint64_t usec) {
        if (s->trace.is_open)
                trace_add_event(&s->trace, category_qemu, "RESUME", usec);
}

void session_trace_qemu(session *s, vm_migration_status status, uint64_t usec) {
        if (!s->trace.is_open)
                return;
        trace_add_event(&s->trace, category_qemu, vm_migration_status_to_string(status), usec);
        if (status == VM_MIGRATION_PRE_SWITCHOVER)
                trace_split_last(&s->trace, TRACE_DECIDE, usec);
        else if (status == VM_MIGRATION_DEVICE)
                trace_split_last(&s->trace, TRACE_LAST, usec);
}

void session_trace_pass(session *s, const policy_pass *pass) {
        if (!s->trace.is_open)
                return;
        trace_add_pass(&s->trace, &(trace_pass){
                                          .first = pass->pass,
                                          .last = pass->pass,
                                          .begin_usec = pass->begin_usec,
                                          .end_usec = pass->end_usec,
                                          .sent = pass->sent,
                                          .remaining = pass->remaining,
                                          .dirty_rate = pass->dirty_rate,
                                          .bandwidth = pass->bandwidth,
                                          .throttle = pass->throttle,
                                          .limit_ms = pass->limit_ms,
                                          .expected_blackout_ms = pass->expected_blackout_ms,
                                  });
}

void session_trace_order(session *s, const char *what) {
        if (s->trace.is_open)
                trace_add_event(&s->trace, category_policy, what, now_usec());
}

void session_trace_throttle(session *s, const char *by) {
        trace_set_fact(&s->trace.options, "throttle_by", "%s", by);
}

/* The session's own are forgotten at its end. */
static void copy_figures(session *s) {
        s->trace_report = s->report;
        if (s->reason)
                snprintf(s->trace.reason, sizeof(s->trace.reason), "%s", s->reason);
}

int session_trace(session *s, const char *id, trace_message **ret, ferry_error *reterr) {
        if (s->trace.session_id[0] == '\0')
                return ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT,
                                       "this shim has had no session since it was started");
        if (id && *id && strcmp(id, s->trace.session_id) != 0)
                return ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT,
                                       "this shim keeps the trace of its last session only, and "
                                       "that was another one");
        if (s->trace.is_open)
                copy_figures(s);
        *ret = trace_message_new(&s->trace, &s->trace_report, sandbox_id(s->sb), now_usec());
        return *ret ? 0 : ferry_error_set_errno(reterr, -ENOMEM, "trace");
}

/* A trace that cannot be kept is no reason to fail anything. */
static void write_file(session *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(trace_message_freep) trace_message *m = NULL;
        _cleanup_(freep) char *data = NULL;
        json_t *json = NULL;
        int r;

        r = session_trace(s, NULL, &m, &error);
        if (r == 0)
                json = trace_to_chrome(&(trace_side){ .trace = trace_message_get(m) }, 1);
        if (json) {
                data = json_dumps(json, JSON_COMPACT);
                json_decref(json);
        }
        r = data ? file_replace(sandbox_dir_fd(s->sb), SESSION_TRACE_FILE, data, strlen(data), 0600,
                                false)
                 : -ENOMEM;
        if (r < 0)
                log_warning("session %s: " SESSION_TRACE_FILE " is not written: %s",
                            s->trace.session_id, strerror(-r));
}

void session_trace_settled(session *s) {
        if (s->trace.is_open && s->options.trace && outcome_of(s->state))
                write_file(s);
}

void session_trace_end(session *s) {
        if (!s->trace.is_open)
                return;
        copy_figures(s);
        trace_close(&s->trace, now_usec());
        if (s->options.trace)
                write_file(s);
}
