/* SPDX-License-Identifier: MIT */

/* ferry-demo: makes two hosts, runs a guest, moves it to the other host and back under the eyes of
 * a client, says what that cost, and leaves nothing behind. */

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "child.h"
#include "cli/format.h"
#include "cli/launch.h"
#include "cli/options.h"
#include "cli/table.h"
#include "lab.h"
#include "show.h"

#define CONTAINERS_SKIPPED 77

typedef struct values {
        bool json, keep, clean, help;
        cli_number hops, memory_rate;
        const char *containers;
} values;

static const cli_option options[] = {
        { "json", NULL, "print one object; all else goes to standard error", CLI_OPTION_SWITCH,
          offsetof(values, json) },
        { "hops", "N", "how often the guest moves (default 2)", CLI_OPTION_NUMBER,
          offsetof(values, hops), 1, SHOW_HOPS_MAX },
        { "memory-rate", "MB", "what the guest writes a second (default 20)", CLI_OPTION_NUMBER,
          offsetof(values, memory_rate), 1, 10000 },
        { "keep", NULL, "leave hosts and guest for a look; the next run removes them",
          CLI_OPTION_SWITCH, offsetof(values, keep) },
        { "clean", NULL, "only remove what an earlier run left", CLI_OPTION_SWITCH,
          offsetof(values, clean) },
        { "containers", "PROGRAM", "show containers of two containerds, too, by this program",
          CLI_OPTION_TEXT, offsetof(values, containers) },
        { "help", NULL, "this text", CLI_OPTION_SWITCH, offsetof(values, help) },
};

/* Three digits behind the point are microseconds; more would be noise. */
static json_t *milliseconds(double value) {
        return json_real(round(value * 1000) / 1000);
}

static json_t *hop_to_json(const show_result *result, const show_hop *h) {
        bool c = result->has_client;

        return json_pack("{s:o, s:o, s:o, s:I, s:I, s:o, s:o, s:b}", "total_ms",
                         milliseconds(h->total_ms), "blackout_ms", milliseconds(h->blackout_ms),
                         "client_stall_ms", c ? milliseconds(h->client_stall_ms) : json_null(),
                         "passes", (json_int_t)h->passes, "bytes", (json_int_t)h->bytes,
                         "requests_lost",
                         c ? json_integer((json_int_t)h->requests_lost) : json_null(),
                         "connection_kept", c ? json_boolean(h->connection_kept) : json_null(),
                         "memory_intact", h->memory_intact);
}

static void print_json(const show_result *result, json_t *containers, bool ok) {
        json_t *hops = json_array(), *object;

        for (unsigned i = 0; i < result->n_hops; i++)
                (void)json_array_append_new(hops, hop_to_json(result, &result->hops[i]));
        object = json_pack("{s:o, s:b}", "hops", hops, "ok", ok);
        if (object && containers)
                (void)json_object_set(object, "containers", containers);
        if (!object || json_dumpf(object, stdout, JSON_REAL_PRECISION(10)) < 0)
                fprintf(stderr, "demo: cannot print the object\n");
        printf("\n");
        json_decref(object);
}

static void format_ms(double ms, char buffer[static FORMAT_MAX]) {
        format_duration((uint64_t)(ms * 1000), buffer);
}

static int add_hop(table *t, const lab *l, const show_result *result, unsigned i) {
        const show_hop *h = &result->hops[i];
        char name[64], total[FORMAT_MAX], blackout[FORMAT_MAX],
                stall[FORMAT_MAX] = "-", bytes[FORMAT_MAX], passes[FORMAT_MAX],
                requests[FORMAT_MAX] = "-", lost[FORMAT_MAX] = "-";
        const char *connection = "-";

        snprintf(name, sizeof(name), "%s to %s", l->hosts[i % LAB_N_HOSTS].name,
                 l->hosts[(i + 1) % LAB_N_HOSTS].name);
        format_ms(h->total_ms, total);
        format_ms(h->blackout_ms, blackout);
        format_bytes(h->bytes, bytes);
        snprintf(passes, sizeof(passes), "%llu", (unsigned long long)h->passes);
        if (result->has_client) {
                format_ms(h->client_stall_ms, stall);
                snprintf(requests, sizeof(requests), "%llu",
                         (unsigned long long)h->requests_answered);
                snprintf(lost, sizeof(lost), "%llu", (unsigned long long)h->requests_lost);
                connection = h->connection_kept ? "kept" : "BROKEN";
        }
        return table_add(t, (const char *[]){ name, total, passes, bytes, blackout, stall, requests,
                                              lost, connection,
                                              h->memory_intact ? "intact" : "DAMAGED" });
}

static void print_report(const lab *l, const show_result *result, bool ok) {
        _cleanup_(table_freep) table *t = NULL;

        if (table_new(10, &t) < 0 ||
            table_add(t, (const char *[]){ "hop", "total", "passes", "sent", "blackout",
                                           "client stall", "requests", "lost", "connection",
                                           "memory" }) < 0)
                return;
        for (unsigned i = 0; i < result->n_hops; i++)
                if (add_hop(t, l, result, i) < 0)
                        return;
        printf("\n");
        table_print(t, stdout);
        printf("\nblackout: the guest stood still, by the shims' measure. client stall: the "
               "longest "
               "wait\nof a client that asks every 5 ms over one TCP connection. What it sends into "
               "the blackout is lost,\nand its kernel sends it again after 200 ms at the earliest: "
               "that, not the blackout, is the stall.\n%s\n",
               ok ? "ok" : "NOT ok");
}

static void tell_what_stays(const lab *l) {
        for (size_t i = 0; i < LAB_N_HOSTS; i++)
                if (l->hosts[i].root)
                        fprintf(stderr, "demo: kept: %s --root %s ls\n", l->ferry,
                                l->hosts[i].root);
}

static bool run_demo(const values *v, show_result *result, ferry_error *error) {
        const show_options wanted = {
                .n_hops = v->hops.given ? (unsigned)v->hops.value : 2,
                .memory_rate_mb = v->memory_rate.given ? (unsigned)v->memory_rate.value : 20,
        };
        _cleanup_(ferry_error_donep) ferry_error left = FERRY_ERROR_INIT;
        _cleanup_(freep) char *why = NULL;
        bool ok = false, keep;
        lab l;
        int r;

        r = lab_make(&l, &why, error);
        if (r == 0 && !l.has_network)
                fprintf(stderr,
                        "demo: %s, so there are no network namespaces: both hosts are this one, "
                        "the guest has\ndemo: no network, and its console shows how it is\n",
                        why ? why : "something failed");
        if (r == 0)
                r = show_run(&l, &wanted, result, error);
        ok = r == 0 && show_is_ok(result, &wanted);
        if (!v->json && result->n_hops > 0)
                print_report(&l, result, ok);
        keep = v->keep && child_signal() == 0 && l.folder;
        if (keep)
                tell_what_stays(&l);
        child_set_deaf();
        if (lab_remove(&l, keep, &left) < 0) {
                fprintf(stderr, "demo: cannot clean up: %s\n", ferry_error_message(&left));
                ok = false;
        }
        return ok;
}

/* Its object, NULL when it cannot be shown here. */
static bool run_containers(const char *program, bool quiet, json_t **ret, ferry_error *error) {
        _cleanup_(freep) char *ferry = NULL, *shim = NULL, *output = NULL;
        int status, r;

        r = launch_find_program("ferry", "FERRY", "../../src/cli/ferry", &ferry, error);
        if (r == 0)
                r = launch_find_program("containerd-shim-ferry-v2", "FERRY_SHIM",
                                        "../../src/shim/containerd-shim-ferry-v2", &shim, error);
        (void)fflush(stdout);
        if (r == 0)
                r = child_run((const char *const[]){ program, ferry, shim, NULL }, false, &output,
                              &status, error);
        if (r < 0)
                return false;
        if (status == CONTAINERS_SKIPPED)
                return true;
        *ret = output ? json_loads(output, 0, NULL) : NULL;
        if (*ret && !quiet)
                printf("\na container of containerd's: %.0f ms in all, blackout %.1f ms; %d lines, "
                       "none "
                       "lost or repeated: %s; the shell in it %s\n",
                       json_number_value(json_object_get(*ret, "total_ms")),
                       json_number_value(json_object_get(*ret, "blackout_ms")),
                       (int)json_integer_value(json_object_get(*ret, "lines")),
                       json_is_true(json_object_get(*ret, "lines_lost_or_repeated")) ? "NO" : "yes",
                       json_is_true(json_object_get(*ret, "shell_kept")) ? "goes on" : "is LOST");
        return status == 0;
}

static int clean(void) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (lab_clean(&error) == 0)
                return 0;
        fprintf(stderr, "demo: %s\n", ferry_error_message(&error));
        return 1;
}

int main(int argc, char **argv) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        show_result result = { 0 };
        json_t *containers = NULL;
        values v = { 0 };
        cli_words words;
        bool ok;
        int r;

        r = cli_options_parse(options, ELEMENTS(options), argc - 1, argv + 1, &v, &words, &error);
        if (r == 0 && v.help) {
                printf("Usage: ferry-demo [--json] [--hops N] [--memory-rate MB] [--keep]\n\n"
                       "Moves a running guest between two hosts and measures what a client "
                       "notices.\n\n");
                cli_options_print(stdout, options, ELEMENTS(options));
                return 0;
        }
        if (r < 0 || words.n > 0) {
                fprintf(stderr, "demo: %s; see --help\n",
                        r < 0 ? ferry_error_message(&error) : "it takes options only");
                return 2;
        }
        child_listen();
        if (v.clean)
                return clean();
        ok = run_demo(&v, &result, &error);
        if (ok && v.containers && child_signal() == 0)
                ok = run_containers(v.containers, v.json, &containers, &error);
        if (child_signal() != 0)
                fprintf(stderr, "demo: interrupted; what it had made is removed\n");
        else if (error.code != FERRY_OK)
                fprintf(stderr, "demo: %s\n", ferry_error_message(&error));
        if (v.json)
                print_json(&result, containers, ok);
        json_decref(containers);
        if (child_signal() != 0)
                return 128 + child_signal();
        return ok ? 0 : 1;
}
