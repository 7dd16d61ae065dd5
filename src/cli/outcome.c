/* SPDX-License-Identifier: MIT */
#include "cli/outcome.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "cli/format.h"
#include "cli/output.h"
#include "cli/report.h"
#include "cli/story.h"
#include "cli/wire-json.h"

bool outcome_is_same_place(const char *a, const char *b) {
        struct stat at_a, at_b;

        return stat(a, &at_a) == 0 && stat(b, &at_b) == 0 && at_a.st_dev == at_b.st_dev &&
               at_a.st_ino == at_b.st_ino;
}

static json_t *report_or_null(const Ferry__Shim__V1__Report *report) {
        json_t *json;

        if (!report || wire_to_json(&report->base, &json) < 0)
                return json_null();
        return json;
}

/* NULL: there is none. */
static const story_prediction *prediction_of(const mover *m, uint64_t now,
                                             story_prediction *storage) {
        const Ferry__Shim__V1__Prediction *p = m->figures.predicted;

        if (!p)
                return NULL;
        *storage = (story_prediction){ .copy_usec = p->copy_usec,
                                       .blackout_usec = p->blackout_usec,
                                       .bytes = p->bytes,
                                       .passes = p->passes,
                                       .age_usec = now > p->made_usec ? now - p->made_usec : 0 };
        return storage;
}

/* The prediction goes into the caller's storage. */
static story story_of(const mover *m, const char *outcome, const char *host,
                      const ferry_error *error, story_prediction *predicted) {
        const Ferry__Shim__V1__Report *told = m->traces.source ? m->traces.source->report : NULL;
        const mover_figures *f = &m->figures;
        story_part parts[STORY_PARTS_MAX];
        story s;

        s = (story){
                .name = m->name,
                .session_id = m->session_id,
                .from = m->from->name,
                .from_root = m->from->root,
                .to = m->to->name,
                .to_root = m->to->root,
                .outcome = outcome,
                .runs_at = host,
                .error = error ? ferry_error_message(error) : NULL,
                .total_usec = f->total_usec,
                .blackout_usec = f->blackout_usec,
                .bytes = f->bytes,
                .passes = f->passes,
                .wall_usec = wall_usec(),
                .traces = &m->traces,
        };
        s.prediction = prediction_of(m, s.wall_usec, predicted);
        /* one that did not go through was not asked for its figures */
        if (s.total_usec == 0)
                s.total_usec = now_usec() - m->start_usec;
        if (s.bytes == 0 && told)
                s.bytes = told->bytes;
        if (s.passes == 0 && told)
                s.passes = told->passes;
        if (s.blackout_usec == 0)
                for (size_t n = story_get_blackout(&s, parts); n > 0; n--)
                        s.blackout_usec += parts[n - 1].usec;
        return s;
}

static json_t *trace_or_null(const shim_trace *trace) {
        json_t *json;

        if (!trace || wire_to_json(&trace->base, &json) < 0)
                return json_null();
        return json;
}

static json_t *traces_to_json(const story *s) {
        int64_t offset;
        traces_relation relation = traces_relate(s->traces, &offset);

        return json_pack("{s:s, s:I, s:o, s:o}", "related_by", traces_relation_name(relation),
                         "destination_offset_usec", (json_int_t)offset, "source",
                         trace_or_null(s->traces->source), "destination",
                         trace_or_null(s->traces->destination));
}

static json_t *predicted_or_null(const Ferry__Shim__V1__Prediction *p) {
        json_t *json;

        if (!p || wire_to_json(&p->base, &json) < 0)
                return json_null();
        return json;
}

/* Every outcome has the same shape. */
static cli_exit print_json(const mover *m, const story *s) {
        const mover_figures *f = &m->figures;

        return output_json(json_pack(
                "{s:s, s:s, s:s, s:s?, s:s?, s:f, s:f, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "name",
                s->name, "session_id", s->session_id, "outcome", s->outcome, "runs_at", s->runs_at,
                "error", s->error, "total_ms", (double)s->total_usec / 1e3, "blackout_ms",
                (double)s->blackout_usec / 1e3, "passes", (json_int_t)s->passes, "bytes",
                (json_int_t)s->bytes, "source", report_or_null(f->source), "destination",
                report_or_null(f->destination), "blackout_parts", story_blackout_to_json(s),
                "trace", traces_to_json(s), "predicted", predicted_or_null(f->predicted)));
}

static void write_report(const out_file *file, const story *s) {
        _cleanup_(freep) char *page = NULL;
        size_t n = 0;

        (void)report_make(s, &page, &n);
        out_file_write(file, page, n);
}

static void write_trace(const out_file *file, const traces *t) {
        _cleanup_(freep) char *text = NULL;
        json_t *json = traces_to_chrome(t);

        if (json)
                text = json_dumps(json, JSON_COMPACT);
        json_decref(json);
        out_file_write(file, text, text ? strlen(text) : 0);
}

/* How it ended, for everything but the terminal. */
static cli_exit conclude(const cli_context *cli, mover *m, const char *outcome, const char *host,
                         const ferry_error *error) {
        story_prediction predicted;
        story s;

        if (m->files || cli->json)
                mover_take_traces(m); /* where nothing was cleared */
        s = story_of(m, outcome, host, error, &predicted);
        if (m->files && out_file_is_wanted(&m->files->report))
                write_report(&m->files->report, &s);
        if (m->files && out_file_is_wanted(&m->files->trace))
                write_trace(&m->files->trace, &m->traces);
        return cli->json ? print_json(m, &s) : CLI_EXIT_OK;
}

/* Beside the figures above, what a `ferry check` had said. */
static void print_predicted(const mover *m) {
        const Ferry__Shim__V1__Prediction *p = m->figures.predicted;
        char age[FORMAT_MAX], copy[FORMAT_MAX], bytes[FORMAT_MAX], blackout[FORMAT_MAX];
        uint64_t now = wall_usec();

        if (!p)
                return;
        printf("  predicted %s ago: copy %s (took %s), %u passes, %s sent, blackout %s\n",
               format_duration(now > p->made_usec ? now - p->made_usec : 0, age),
               format_duration(p->copy_usec, copy),
               m->figures.source
                       ? format_duration(m->figures.source->copy_usec, (char[FORMAT_MAX]){ 0 })
                       : "?",
               p->passes, format_bytes(p->bytes, bytes),
               format_duration(p->blackout_usec, blackout));
}

static void print_report(const mover *m) {
        const mover_figures *f = &m->figures;
        char total[FORMAT_MAX], bytes[FORMAT_MAX], blackout[FORMAT_MAX];

        printf("%s runs on host %s (ferry --root %s status %s)\n"
               "  total     %s\n  passes    %u\n  sent      %s\n  blackout  %s\n",
               m->name, m->to->name, m->to->root, peer_sandbox(m->to, m->name),
               format_duration(f->total_usec, total), f->passes, format_bytes(f->bytes, bytes),
               format_duration(f->blackout_usec, blackout));
        print_predicted(m);
        fflush(stdout);
}

/* What stays behind is told, but the outcome is the migration's. */
static void clear(mover *m, mover_place place) {
        const peer *left = place == MOVER_AT_DESTINATION ? m->from : m->to;
        const peer *kept = place == MOVER_AT_DESTINATION ? m->to : m->from;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (mover_clear(m, place, &error) < 0)
                fprintf(stderr,
                        "ferry: not all was cleared away: %s\n"
                        "ferry: %s is none the worse for it. Once that is mended, this removes the "
                        "rest:\n  ferry --root %s recover %s --to %s\n",
                        ferry_error_message(&error), m->name, left->root,
                        peer_sandbox(left, m->name), kept->root);
}

cli_exit outcome_success(const cli_context *cli, mover *m) {
        clear(m, MOVER_AT_DESTINATION);
        if (cli->json)
                return conclude(cli, m, "migrated", m->to->name, NULL);
        print_report(m);
        return conclude(cli, m, "migrated", m->to->name, NULL);
}

static cli_exit ended(const cli_context *cli, mover *m, const ferry_error *error) {
        fprintf(stderr, "ferry: %s: %s\nferry: its VM has ended and runs on neither side\n",
                m->name, ferry_error_message(error));
        (void)conclude(cli, m, "ended", "nowhere", error);
        return CLI_EXIT_FAILED;
}

cli_exit outcome_rolled_back(const cli_context *cli, mover *m, const ferry_error *error) {
        clear(m, MOVER_AT_SOURCE);
        if (mover_source_has_ended(m, error))
                return ended(cli, m, error);
        if (cli->json)
                return conclude(cli, m, "rolled back", m->from->name, NULL);
        printf("%s runs on host %s (ferry --root %s status %s)\n", m->name, m->from->name,
               m->from->root, peer_sandbox(m->from, m->name));
        return CLI_EXIT_OK;
}

cli_exit outcome_not_begun(const cli_context *cli, mover *m, const ferry_error *error) {
        cli_exit code = cli_fail(error);

        (void)conclude(cli, m, "not begun", m->from->name, error);
        return code;
}

static cli_exit stayed(const cli_context *cli, mover *m, const ferry_error *error) {
        bool cancelled = error->code == FERRY_CANCELLED;

        clear(m, MOVER_AT_SOURCE);
        if (mover_source_has_ended(m, error))
                return ended(cli, m, error);
        fprintf(stderr, "ferry: %s%s\nferry: %s runs at the source, host %s\n",
                cancelled ? "cancelled" : "the migration failed: ",
                cancelled ? "" : ferry_error_message(error), m->name, m->from->name);
        (void)conclude(cli, m, cancelled ? "cancelled" : "failed", m->from->name, error);
        if (cancelled)
                return cli_interrupted();
        /* What the person asked for was refused before anything moved. */
        if (error->code == FERRY_ALREADY_EXISTS)
                return CLI_EXIT_REFUSED;
        return CLI_EXIT_STAYED;
}

/* The side that still has something of it. */
static const peer *find_kept(const mover *m) {
        return m->source && rpc_is_open(m->source) ? m->from : m->to;
}

/* The person did not wait for the end. */
static cli_exit gave_up(const cli_context *cli, mover *m, const ferry_error *error) {
        fprintf(stderr,
                "ferry: gave up waiting; nothing was removed. To finish it:\n"
                "  ferry --root %s recover %s --to %s --cancel\n",
                m->from->root, peer_sandbox(m->from, m->name), m->to->root);
        (void)conclude(cli, m, "gave up", "unknown", error);
        return CLI_EXIT_UNDECIDED;
}

static cli_exit undecided(const cli_context *cli, mover *m, const ferry_error *error) {
        fprintf(stderr,
                "ferry: the migration is not settled: %s\n"
                "ferry: UNDECIDED: it cannot be known now which side may run %s, so neither is "
                "made to.\n"
                "  To look:                  ferry --root %s status %s\n"
                "                            ferry --root %s status %s\n"
                "  Once both hosts answer:   ferry --root %s recover %s --to %s\n"
                "  If the other is lost for good: see --force of `ferry recover --help`\n"
                "  To give it up, though it may be the only copy:\n"
                "                            ferry --root %s stop %s --force\n",
                ferry_error_message(error), m->name, m->from->root, peer_sandbox(m->from, m->name),
                m->to->root, peer_sandbox(m->to, m->name), m->from->root,
                peer_sandbox(m->from, m->name), m->to->root, find_kept(m)->root,
                peer_sandbox(find_kept(m), m->name));
        (void)conclude(cli, m, "undecided", "unknown", error);
        return CLI_EXIT_UNDECIDED;
}

cli_exit outcome_after_failure(const cli_context *cli, mover *m, mover_place place,
                               const ferry_error *error) {
        switch (place) {
        case MOVER_AT_DESTINATION:
                fprintf(stderr, "ferry: %s, but the sandbox had been handed over by then\n",
                        ferry_error_message(error));
                return outcome_success(cli, m);
        case MOVER_AT_SOURCE:
                return stayed(cli, m, error);
        case MOVER_NOWHERE:
                clear(m, MOVER_AT_SOURCE);
                return ended(cli, m, error);
        case MOVER_UNDER_WAY:
                fprintf(stderr,
                        "ferry: the migration of %s is still under way, and %s owns it: wait, or "
                        "--cancel to roll it back\n",
                        m->name, m->from->name);
                (void)conclude(cli, m, "under way", m->from->name, error);
                return CLI_EXIT_REFUSED;
        case MOVER_FOLLOWS:
                fprintf(stderr,
                        "ferry: %s runs at %s, and some of its memory is still on the way from %s: "
                        "`ferry --root %s recover %s` waits for it\n",
                        m->name, m->to->name, m->from->name, m->from->root, m->name);
                (void)conclude(cli, m, "memory follows", m->to->name, error);
                return CLI_EXIT_UNDECIDED;
        case MOVER_GAVE_UP:
                return gave_up(cli, m, error);
        case MOVER_UNDECIDED:
                return undecided(cli, m, error);
        }
        return CLI_EXIT_FAILED;
}
