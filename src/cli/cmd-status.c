/* SPDX-License-Identifier: MIT */

/* ferry status: all that a shim tells about its sandbox. */

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/format.h"
#include "cli/output.h"
#include "cli/reach.h"
#include "cli/wire-json.h"

static void print_time(const char *label, uint64_t usec) {
        char text[FORMAT_MAX];

        if (usec > 0)
                printf("  %-14s %s\n", label, format_duration(usec, text));
}

static void print_report(const Ferry__Shim__V1__Report *report) {
        char text[FORMAT_MAX];

        print_time("total", report->total_usec);
        print_time("setup", report->setup_usec);
        print_time("copy", report->copy_usec);
        print_time("blackout", report->blackout_usec);
        print_time("memory read", report->verify_usec);
        print_time("handover", report->handover_usec);
        print_time("journal sync", report->journal_sync_usec);
        print_time("resume", report->resume_usec);
        if (report->passes > 0)
                printf("  %-14s %u\n", "passes", report->passes);
        if (report->bytes > 0)
                printf("  %-14s %s\n", "sent", format_bytes(report->bytes, text));
}

static void print_session(const char *root, const char *name,
                          const Ferry__Shim__V1__Session *session) {
        printf("session:     %s\n  %-14s %s\n  %-14s %s (%s)\n", session->session_id, "side",
               session->origin, "state", session->state, session->detail);
        if (session->undecided)
                printf("  %-14s this side cannot know who runs the guest: `ferry --root %s recover "
                       "%s`\n",
                       "undecided", root, name);
        if (session->reason[0] != '\0')
                printf("  %-14s %s\n", "reason", session->reason);
        if (session->notice[0] != '\0')
                printf("  %-14s %s\n", "notice", session->notice);
        if (session->report)
                print_report(session->report);
}

/* What a closed session's journal says, as a person would. */
static const char *verdict_text(const char *verdict) {
        static const char *const texts[][2] = {
                { "done", "it moved away" },        { "handed", "it was handed over" },
                { "running", "it arrived" },        { "ran-again", "rolled back, it ran on here" },
                { "declined", "it was not taken" }, { "open", "it ended early" },
                { "completed", "it ended early" },
        };

        for (size_t i = 0; i < ELEMENTS(texts); i++)
                if (strcmp(verdict, texts[i][0]) == 0)
                        return texts[i][1];
        return verdict;
}

static void print_status(const cli_context *cli, const char *name, const reach *r) {
        const shim_status *s = r->status;
        char text[64], figure[FORMAT_MAX];

        printf("sandbox:     %s\nhost:        %s (%s)\nvm:          %s\n", name, r->host->name,
               cli->root, reach_vm_state(s, text));
        if (s->exit_reason[0] != '\0')
                printf("ended:       %s\n", s->exit_reason);
        if (s->running_since_usec > 0)
                printf("running:     since %s\n", format_time(s->running_since_usec, figure));
        if (s->memory_bytes > 0)
                printf("memory:      %s\nvcpus:       %u\n", format_bytes(s->memory_bytes, figure),
                       s->vcpus);
        if (s->qemu_pid > 0)
                printf("qemu:        process %u%s%s, %s\n", s->qemu_pid,
                       s->qemu_version[0] != '\0' ? ", " : "", s->qemu_version, s->accelerator);
        printf("shim:        process %u, %s\nowner:       %s\n", s->shim_pid, s->shim_version,
               reach_owner(s, text));
        if (s->agent_drops > 0)
                printf("agent:       broke the protocol, its connection was dropped %u times\n",
                       s->agent_drops);
        if (s->session)
                print_session(cli->root, name, s->session);
        for (size_t i = 0; i < s->n_tombstones; i++)
                printf("past:        session %s: %s\n", s->tombstones[i]->session_id,
                       verdict_text(s->tombstones[i]->verdict));
}

static cli_exit print_json(const char *name, const reach *r) {
        json_t *object = NULL, *where = NULL;

        if (wire_to_json(&r->status->base, &object) < 0 || host_to_json(r->host, &where) < 0 ||
            json_object_set_new(object, "name", json_string(name)) < 0 ||
            json_object_set_new(object, "host", where) < 0) {
                json_decref(object);
                object = NULL;
        }
        return output_json(object);
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        cli_exit code = CLI_EXIT_OK;
        reach r;

        if (!cli_need_words("status", words, 1, names))
                return CLI_EXIT_USAGE;
        if (reach_open(cli, words->words[0], &r, &error) < 0)
                return cli_fail(&error);
        if (cli->json)
                code = print_json(words->words[0], &r);
        else
                print_status(cli, words->words[0], &r);
        reach_done(&r);
        return code;
}

const cli_verb cmd_status = {
        .name = "status",
        .arguments = "NAME [--json]",
        .summary = "show a sandbox: VM, owner, migration session and its figures",
        .has_json = true,
        .run = run,
};
