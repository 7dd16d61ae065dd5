/* SPDX-License-Identifier: MIT */
#include "cli/report.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/report-internal.h"

static bool has_moved(const story *s) {
        return strcmp(s->outcome, "migrated") == 0;
}

static void head(FILE *f, const story *s) {
        fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
              "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>"
              "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
              "style-src 'unsafe-inline'\"/>",
              f);
        html_put(f, "<title>%s: %s to %s, %s</title><style>", s->name, s->from, s->to, s->outcome);
        report_style(f);
        fputs("</style></head><body><main>", f);
}

static void headline(FILE *f, const story *s) {
        char when[FORMAT_MAX];

        html_put(f,
                 "<header><div class=\"kicker\">ferry \u00b7 migration report</div>"
                 "<h1>%s: %s \u2192 %s</h1>"
                 "<p><span class=\"outcome %s\">%s %s</span>runs at <b>%s</b></p>",
                 s->name, s->from, s->to, has_moved(s) ? "good" : "bad",
                 has_moved(s) ? "\u2713" : "\u2717", s->outcome, s->runs_at);
        html_put(f,
                 "<p class=\"soft small\">Ended %s \u00b7 session <code>%s</code><br/>"
                 "from <code>%s</code> to <code>%s</code></p></header>",
                 format_time(s->wall_usec, when), s->session_id, s->from_root, s->to_root);
}

/* What it adds to what was said already. */
static void side_reason(FILE *f, const char *said, const char *side, const shim_trace *t) {
        if (t && t->reason[0] && strcmp(t->reason, "cancelled") != 0 && !strstr(said, t->reason))
                html_put(f, "<p class=\"soft\">The %s says: %s</p>", side, t->reason);
}

static void why(FILE *f, const story *s) {
        if (!s->error)
                return;
        html_put(f, "<section class=\"why\"><h2>Why</h2><p>%s</p>", s->error);
        side_reason(f, s->error, "source", s->traces->source);
        side_reason(f, s->error, "destination", s->traces->destination);
        fputs("</section>", f);
}

static void card(FILE *f, const char *label, const char *value) {
        html_put(f, "<div><span class=\"soft small\">%s</span><b>%s</b></div>", label, value);
}

static void cards(FILE *f, const story *s) {
        char total[FORMAT_MAX], blackout[FORMAT_MAX], bytes[FORMAT_MAX], passes[FORMAT_MAX];

        snprintf(passes, sizeof(passes), "%u", s->passes);
        fputs("<div class=\"cards\">", f);
        card(f, "blackout",
             s->blackout_usec ? format_duration(s->blackout_usec, blackout) : "none");
        card(f, "total time", format_duration(s->total_usec, total));
        card(f, "sent", format_bytes(s->bytes, bytes));
        card(f, "passes", passes);
        fputs("</div>", f);
}

static void prediction_row(FILE *f, const char *name, const char *predicted, const char *actual) {
        html_put(f, "<tr><td>%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td></tr>", name,
                 predicted, actual);
}

static void prediction(FILE *f, const story *s) {
        const story_prediction *p = s->prediction;
        const shim_trace *t = s->traces->source;
        char a[FORMAT_MAX], b[FORMAT_MAX];

        if (!p)
                return;
        fputs("<section><h2>Predicted and actual</h2><table><thead><tr><th></th>"
              "<th class=\"n\">predicted</th><th class=\"n\">actual</th></tr></thead><tbody>",
              f);
        prediction_row(f, "blackout", format_duration(p->blackout_usec, a),
                       format_duration(s->blackout_usec, b));
        prediction_row(f, "copy", format_duration(p->copy_usec, a),
                       t && t->report ? format_duration(t->report->copy_usec, b) : "not known");
        prediction_row(f, "sent", format_bytes(p->bytes, a), format_bytes(s->bytes, b));
        snprintf(a, sizeof(a), "%u", p->passes);
        snprintf(b, sizeof(b), "%u", s->passes);
        prediction_row(f, "passes", a, b);
        html_put(f,
                 "</tbody></table><p>By <code>ferry check</code>, %s before the end.</p></section>",
                 format_duration(p->age_usec, a));
}

static const char *fact_of(const shim_trace *t, const char *name, bool of_options) {
        size_t n = !t ? 0 : of_options ? t->n_options : t->n_versions;

        for (size_t i = 0; i < n; i++) {
                const Ferry__Shim__V1__TraceFact *fact =
                        of_options ? t->options[i] : t->versions[i];

                if (strcmp(fact->name, name) == 0)
                        return fact->value;
        }
        return "";
}

/* "memory_bytes" is for programs. */
static const char *readable(const char *name, const char *value, char buffer[static FORMAT_MAX]) {
        if (strcmp(name, "memory_bytes") != 0 || !*value)
                return value;
        return format_bytes(strtoull(value, NULL, 10), buffer);
}

static void options(FILE *f, const shim_trace *t) {
        fputs("<div><h2>Options in force</h2><table class=\"facts\"><tbody>", f);
        for (size_t i = 0; i < t->n_options; i++)
                html_put(f, "<tr><td>%s</td><td class=\"n mono\">%s</td></tr>", t->options[i]->name,
                         t->options[i]->value);
        fputs("</tbody></table></div>", f);
}

static void versions(FILE *f, const shim_trace *source, const shim_trace *destination) {
        const shim_trace *t = source ? source : destination;

        fputs("<div><h2>Versions</h2><table class=\"facts\"><thead><tr><th></th><th>source</th>"
              "<th>destination</th></tr></thead><tbody>",
              f);
        for (size_t i = 0; i < t->n_versions; i++) {
                const char *name = t->versions[i]->name, *here = fact_of(source, name, false),
                           *there = fact_of(destination, name, false);
                char a[FORMAT_MAX], b[FORMAT_MAX];
                bool differ = *here && *there && strcmp(here, there) != 0;

                html_put(f, "<tr class=\"%s\"><td>%s</td><td>%s</td><td>%s%s</td></tr>",
                         differ ? "differs" : "same", name, readable(name, here, a),
                         readable(name, there, b), differ ? " (differs)" : "");
        }
        fputs("</tbody></table></div>", f);
}

static void facts(FILE *f, const story *s) {
        const shim_trace *source = s->traces->source, *destination = s->traces->destination;

        if (!source && !destination)
                return;
        fputs("<section class=\"two\">", f);
        options(f, source ? source : destination);
        versions(f, source, destination);
        fputs("</section>", f);
}

static void event_rows(FILE *f, const char *side, const shim_trace *t, int64_t offset) {
        for (size_t i = 0; t && i < t->n_events; i++)
                html_put(f,
                         "<tr><td>%s</td><td class=\"n\">%.3f ms</td><td>%s</td><td>%s</td></tr>",
                         side, ((double)t->events[i]->usec + (double)offset) / 1e3,
                         t->events[i]->category, t->events[i]->name);
        if (t && t->events_dropped > 0)
                html_put(f, "<tr><td>%s</td><td></td><td></td><td>%u more were not kept</td></tr>",
                         side, t->events_dropped);
}

static void events(FILE *f, const story *s) {
        const traces *t = s->traces;
        int64_t offset;

        if (!t->source && !t->destination)
                return;
        (void)traces_relate(t, &offset);
        fputs(has_moved(s) ? "<section><details>" : "<section><details open=\"open\">", f);
        fputs("<summary>Events of both sides</summary><table><thead><tr>"
              "<th>side</th><th class=\"n\">at</th><th>of</th><th>event</th></tr></thead><tbody>",
              f);
        event_rows(f, "source", t->source, 0);
        event_rows(f, "destination", t->destination, offset);
        fputs("</tbody></table></details></section>", f);
}

static void page(FILE *f, const story *s) {
        head(f, s);
        headline(f, s);
        why(f, s);
        cards(f, s);
        report_blackout(f, s);
        report_timeline(f, s);
        report_passes(f, s);
        prediction(f, s);
        facts(f, s);
        events(f, s);
        if (!s->traces->source && !s->traces->destination)
                fputs("<section><p>Neither side could tell what happened in it.</p></section>", f);
        html_put(f,
                 "<footer>Made by ferry %s. Nothing on this page comes from the network.</footer>",
                 FERRY_VERSION);
        fputs("</main></body></html>\n", f);
}

int report_make(const story *s, char **ret, size_t *ret_n) {
        _cleanup_(freep) char *text = NULL;
        size_t n = 0;
        bool failed;
        FILE *f = open_memstream(&text, &n);

        if (!f)
                return -ENOMEM;
        page(f, s);
        failed = ferror(f) != 0;
        if (fclose(f) != 0 || failed)
                return -ENOMEM;
        *ret = TAKE_PTR(text);
        *ret_n = n;
        return 0;
}
