/* SPDX-License-Identifier: MIT */
#include "cli/outcome.h"

#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "cli/format.h"
#include "cli/output.h"
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

/* Every outcome has the same shape. */
static cli_exit print_json(const mover *m, const char *outcome, const char *host,
                           const ferry_error *error) {
        const mover_figures *f = &m->figures;

        return output_json(json_pack(
                "{s:s, s:s, s:s, s:s?, s:s?, s:f, s:f, s:I, s:I, s:o, s:o}", "name", m->name,
                "session_id", m->session_id, "outcome", outcome, "runs_at", host, "error",
                error ? ferry_error_message(error) : NULL, "total_ms", (double)f->total_usec / 1e3,
                "blackout_ms", (double)f->blackout_usec / 1e3, "passes", (json_int_t)f->passes,
                "bytes", (json_int_t)f->bytes, "source", report_or_null(f->source), "destination",
                report_or_null(f->destination)));
}

static void print_report(const mover *m) {
        const mover_figures *f = &m->figures;
        char total[FORMAT_MAX], bytes[FORMAT_MAX], blackout[FORMAT_MAX];

        printf("%s runs on host %s (ferry --root %s status %s)\n"
               "  total     %s\n  passes    %u\n  sent      %s\n  blackout  %s\n",
               m->name, m->to->name, m->to->root, m->name, format_duration(f->total_usec, total),
               f->passes, format_bytes(f->bytes, bytes),
               format_duration(f->blackout_usec, blackout));
        fflush(stdout);
}

/* What stays behind is told, but the outcome is the migration's. */
static void clear(mover *m, mover_place place) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (mover_clear(m, place, &error) < 0)
                fprintf(stderr, "ferry: not all was cleared away: %s\n",
                        ferry_error_message(&error));
}

cli_exit outcome_success(const cli_context *cli, mover *m) {
        clear(m, MOVER_AT_DESTINATION);
        if (cli->json)
                return print_json(m, "migrated", m->to->name, NULL);
        print_report(m);
        return CLI_EXIT_OK;
}

cli_exit outcome_rolled_back(const cli_context *cli, mover *m) {
        clear(m, MOVER_AT_SOURCE);
        if (cli->json)
                return print_json(m, "rolled back", m->from->name, NULL);
        printf("%s runs on host %s (ferry --root %s status %s)\n", m->name, m->from->name,
               m->from->root, m->name);
        return CLI_EXIT_OK;
}

cli_exit outcome_not_begun(const cli_context *cli, const mover *m, const ferry_error *error) {
        cli_exit code = cli_fail(error);

        if (cli->json)
                (void)print_json(m, "not begun", m->from->name, error);
        return code;
}

static cli_exit stayed(const cli_context *cli, mover *m, const ferry_error *error) {
        bool cancelled = error->code == FERRY_CANCELLED;

        clear(m, MOVER_AT_SOURCE);
        fprintf(stderr, "ferry: %s%s\nferry: %s runs at the source, host %s\n",
                cancelled ? "cancelled" : "the migration failed: ",
                cancelled ? "" : ferry_error_message(error), m->name, m->from->name);
        if (cli->json)
                (void)print_json(m, cancelled ? "cancelled" : "failed", m->from->name, error);
        if (cancelled)
                return cli_interrupted();
        /* What the person asked for was refused before anything moved. */
        if (error->code == FERRY_ALREADY_EXISTS)
                return CLI_EXIT_REFUSED;
        return CLI_EXIT_STAYED;
}

/* The side that still has something of it. */
static const peer *kept(const mover *m) {
        return m->source && rpc_is_open(m->source) ? m->from : m->to;
}

/* The person did not wait for the end. */
static cli_exit gave_up(const cli_context *cli, const mover *m, const ferry_error *error) {
        fprintf(stderr,
                "ferry: gave up waiting; nothing was removed. To finish it:\n"
                "  ferry --root %s recover %s --to %s --cancel\n",
                m->from->root, m->name, m->to->root);
        if (cli->json)
                (void)print_json(m, "gave up", "unknown", error);
        return CLI_EXIT_UNDECIDED;
}

static cli_exit undecided(const cli_context *cli, const mover *m, const ferry_error *error) {
        fprintf(stderr,
                "ferry: the migration is not settled: %s\n"
                "ferry: UNDECIDED: it cannot be known now which side may run %s, so neither is "
                "made to.\n"
                "  To look:                  ferry --root %s status %s\n"
                "                            ferry --root %s status %s\n"
                "  Once both hosts answer:   ferry --root %s recover %s --to %s\n"
                "  To give it up, though it may be the only copy:\n"
                "                            ferry --root %s stop %s --force\n",
                ferry_error_message(error), m->name, m->from->root, m->name, m->to->root, m->name,
                m->from->root, m->name, m->to->root, kept(m)->root, m->name);
        if (cli->json)
                (void)print_json(m, "undecided", "unknown", error);
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
                fprintf(stderr, "ferry: %s: %s\nferry: its VM has ended and runs on neither side\n",
                        m->name, ferry_error_message(error));
                if (cli->json)
                        (void)print_json(m, "ended", "nowhere", error);
                return CLI_EXIT_FAILED;
        case MOVER_UNDER_WAY:
                fprintf(stderr,
                        "ferry: the migration of %s is still under way, and %s owns it: wait, or "
                        "--cancel to roll it back\n",
                        m->name, m->from->name);
                if (cli->json)
                        (void)print_json(m, "under way", m->from->name, error);
                return CLI_EXIT_REFUSED;
        case MOVER_GAVE_UP:
                return gave_up(cli, m, error);
        case MOVER_UNDECIDED:
                return undecided(cli, m, error);
        }
        return CLI_EXIT_FAILED;
}
