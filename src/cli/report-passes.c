/* SPDX-License-Identifier: MIT */
/* The passes over the guest's memory: a chart a pair of figures, and all of them in a table. */
#include <math.h>
#include <stdlib.h>

#include "base/clock.h"
#include "cli/report-internal.h"
#include "migration/policy.h"

#define CHART_HEIGHT 110.0
#define TOP          10.0
#define ROWS_MAX     60U /* of the table; more are told by the charts, and by --trace */
#define MARKS_MAX    60U

typedef enum series_kind { SERIES_BARS, SERIES_LINE } series_kind;

typedef struct series {
        const char *name;
        series_kind kind;
        char mark; /* 'a', 'b': its look */
        double (*value)(const Ferry__Shim__V1__TracePass *pass);
} series;

typedef struct chart {
        const char *title, *note;
        series series[2];
        bool is_logarithmic;
        const char *(*format)(uint64_t value, char buffer[static FORMAT_MAX]);
} chart;

static const char *format_rate(uint64_t value, char buffer[static FORMAT_MAX]) {
        char bytes[FORMAT_MAX];

        snprintf(buffer, FORMAT_MAX, "%.28s/s", format_bytes(value, bytes));
        return buffer;
}

static const char *format_percent(uint64_t value, char buffer[static FORMAT_MAX]) {
        snprintf(buffer, FORMAT_MAX, "%u %%", (unsigned)value);
        return buffer;
}

static const char *format_ms(uint64_t value, char buffer[static FORMAT_MAX]) {
        return format_duration(value * USEC_PER_MSEC, buffer);
}

static double sent(const Ferry__Shim__V1__TracePass *p) {
        return (double)p->sent;
}

static double remaining(const Ferry__Shim__V1__TracePass *p) {
        return (double)p->remaining;
}

static double dirty_rate(const Ferry__Shim__V1__TracePass *p) {
        return (double)p->dirty_rate;
}

static double bandwidth(const Ferry__Shim__V1__TracePass *p) {
        return (double)p->bandwidth;
}

static double throttle(const Ferry__Shim__V1__TracePass *p) {
        return p->throttle > 100 ? 100 : p->throttle;
}

/* A forced one is no limit: it would flatten all others. */
static double limit(const Ferry__Shim__V1__TracePass *p) {
        return p->limit_ms >= POLICY_FORCED_MS ? 0 : p->limit_ms;
}

static double expected(const Ferry__Shim__V1__TracePass *p) {
        return p->expected_blackout_ms >= POLICY_FORCED_MS ? 0 : p->expected_blackout_ms;
}

static double highest(const chart *c, const shim_trace *t) {
        double most = 1;

        for (size_t k = 0; k < ELEMENTS(c->series); k++)
                for (size_t i = 0; c->series[k].value && i < t->n_passes; i++) {
                        double value = c->series[k].value(t->passes[i]);

                        if (value > most)
                                most = value;
                }
        return most;
}

/* The logarithm's lines are 32 times apart: 32 MiB, 1 MiB, 32 KiB, 1 KiB. */
static double round_up(const chart *c, double most) {
        double unit = 1;

        if (c->is_logarithmic)
                return exp2(ceil(log2(most) / 5) * 5);
        if (c->format == format_percent)
                return 100;
        while (c->format == format_rate && unit * 1024 <= most)
                unit *= 1024;
        return 3 * unit * report_nice_step(most / unit, 3);
}

/* 0..1 */
static double part_of(const chart *c, double value, double most) {
        double part = value / most;

        if (!c->is_logarithmic)
                return part;
        return part > exp2(-15) ? 1 + log2(part) / 15 : 0;
}

static double y_of(const chart *c, double value, double most) {
        return TOP + CHART_HEIGHT * (1 - part_of(c, value, most));
}

static void grid(FILE *f, const chart *c, double most) {
        for (unsigned i = 0; i <= 3; i++) {
                double value = c->is_logarithmic ? most * exp2(-5.0 * i) : most * (3 - i) / 3;
                double y = TOP + CHART_HEIGHT * i / 3;
                char label[FORMAT_MAX];

                html_put(f,
                         "<line class=\"grid\" x1=\"%.0f\" x2=\"1000\" y1=\"%.1f\" y2=\"%.1f\"/>"
                         "<text class=\"axis\" text-anchor=\"end\" x=\"%.0f\" y=\"%.1f\">%s</text>",
                         DRAWING_LEFT, y, y, DRAWING_LEFT - 8, y + 4,
                         c->format((uint64_t)value, label));
        }
}

static double slot_of(const shim_trace *t) {
        double width = DRAWING_PLOT / (double)t->n_passes;

        return width > DRAWING_PLOT / 5 ? DRAWING_PLOT / 5 : width; /* few are not blown up */
}

static void bars(FILE *f, const chart *c, const series *s, const shim_trace *t, double most) {
        double slot = slot_of(t);

        for (size_t i = 0; i < t->n_passes; i++) {
                double value = s->value(t->passes[i]), y = y_of(c, value, most);
                char label[FORMAT_MAX];

                html_put(f,
                         "<rect class=\"f-setup\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" "
                         "height=\"%.2f\"><title>pass %u: %s</title></rect>",
                         DRAWING_LEFT + slot * (double)i + slot * 0.2, y, slot * 0.6,
                         TOP + CHART_HEIGHT - y, t->passes[i]->first,
                         c->format((uint64_t)value, label));
        }
}

static void line(FILE *f, const chart *c, const series *s, const shim_trace *t, double most) {
        double slot = slot_of(t);

        html_put(f, "<polyline class=\"s-%c\" points=\"", s->mark);
        for (size_t i = 0; i < t->n_passes; i++)
                html_put(f, "%.2f,%.2f ", DRAWING_LEFT + slot * ((double)i + 0.5),
                         y_of(c, s->value(t->passes[i]), most));
        fputs("\"/>", f);
        for (size_t i = 0; t->n_passes <= MARKS_MAX && i < t->n_passes; i++) {
                double x = DRAWING_LEFT + slot * ((double)i + 0.5), value = s->value(t->passes[i]);
                double y = y_of(c, value, most);
                char label[FORMAT_MAX];

                if (s->mark == 'a')
                        html_put(f, "<circle class=\"m-a\" cx=\"%.2f\" cy=\"%.2f\" r=\"3.4\">", x,
                                 y);
                else
                        html_put(f,
                                 "<rect class=\"m-b\" x=\"%.2f\" y=\"%.2f\" width=\"6.4\" "
                                 "height=\"6.4\">",
                                 x - 3.2, y - 3.2);
                html_put(f, "<title>pass %u: %s %s</title>", t->passes[i]->first, s->name,
                         c->format((uint64_t)value, label));
                fputs(s->mark == 'a' ? "</circle>" : "</rect>", f);
        }
}

static void legend(FILE *f, const series *s) {
        fputs(" <span class=\"small soft\"><svg style=\"display:inline;width:34px;margin:0 4px 0 "
              "10px\" viewBox=\"0 0 34 12\" aria-hidden=\"true\">",
              f);
        if (s->kind == SERIES_BARS)
                fputs("<rect class=\"f-setup\" x=\"10\" y=\"0\" width=\"14\" height=\"12\"/>", f);
        else
                html_put(f, "<line class=\"s-%c\" x1=\"0\" x2=\"34\" y1=\"6\" y2=\"6\"/>", s->mark);
        if (s->kind == SERIES_LINE && s->mark == 'a')
                fputs("<circle class=\"m-a\" cx=\"17\" cy=\"6\" r=\"3.4\"/>", f);
        else if (s->kind == SERIES_LINE)
                fputs("<rect class=\"m-b\" x=\"13.8\" y=\"2.8\" width=\"6.4\" height=\"6.4\"/>", f);
        html_put(f, "</svg>%s</span>", s->name);
}

static void numbers(FILE *f, const shim_trace *t) {
        double slot = slot_of(t);
        size_t every = (size_t)(30 / slot) + 1;

        for (size_t i = 0; i < t->n_passes; i += every)
                html_put(f,
                         "<text class=\"axis\" text-anchor=\"middle\" x=\"%.2f\" y=\"%.1f\">%u"
                         "</text>",
                         DRAWING_LEFT + slot * ((double)i + 0.5), TOP + CHART_HEIGHT + 15,
                         t->passes[i]->first);
}

static void draw(FILE *f, const chart *c, const shim_trace *t) {
        double most = round_up(c, highest(c, t));

        html_put(f, "<div class=\"chart\"><h3>%s", c->title);
        for (size_t k = 0; k < ELEMENTS(c->series); k++)
                if (c->series[k].value)
                        legend(f, &c->series[k]);
        html_put(f, "</h3><svg viewBox=\"0 0 1000 %.0f\" role=\"img\" aria-label=\"%s\">",
                 TOP + CHART_HEIGHT + 20, c->title);
        grid(f, c, most);
        for (size_t k = 0; k < ELEMENTS(c->series); k++) {
                if (!c->series[k].value)
                        continue;
                if (c->series[k].kind == SERIES_BARS)
                        bars(f, c, &c->series[k], t, most);
                else
                        line(f, c, &c->series[k], t, most);
        }
        numbers(f, t);
        fputs("</svg>", f);
        if (c->note)
                html_put(f, "<p class=\"soft small\">%s</p>", c->note);
        fputs("</div>", f);
}

static void row(FILE *f, const Ferry__Shim__V1__TracePass *p) {
        char lasted[FORMAT_MAX], bytes[FORMAT_MAX], left[FORMAT_MAX], dirty[FORMAT_MAX],
                rate[FORMAT_MAX], top[FORMAT_MAX], blackout[FORMAT_MAX];

        html_put(f, "<tr><td>%u", p->first);
        if (p->last != p->first)
                html_put(f, "\u2013%u", p->last);
        html_put(f,
                 "</td><td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n\">%s</td>"
                 "<td class=\"n\">%s</td><td class=\"n\">%s</td><td class=\"n\">%u %%</td>"
                 "<td class=\"n\">%s</td><td class=\"n\">%s</td></tr>",
                 format_duration(p->end_usec > p->begin_usec ? p->end_usec - p->begin_usec : 0,
                                 lasted),
                 format_bytes(p->sent, bytes), format_bytes(p->remaining, left),
                 format_rate(p->dirty_rate, dirty), format_rate(p->bandwidth, rate), p->throttle,
                 p->limit_ms >= POLICY_FORCED_MS ? "forced" : format_ms(p->limit_ms, top),
                 format_ms(p->expected_blackout_ms, blackout));
}

static void table(FILE *f, const shim_trace *t) {
        size_t head = t->n_passes <= ROWS_MAX ? t->n_passes : ROWS_MAX / 2;

        fputs("<h3>Every pass</h3><div class=\"wide\"><table><thead><tr><th>pass</th>"
              "<th class=\"n\">lasted</th><th class=\"n\">sent</th><th class=\"n\">left dirty</th>"
              "<th class=\"n\">dirty rate</th><th class=\"n\">bandwidth</th>"
              "<th class=\"n\">throttle</th><th class=\"n\">limit</th>"
              "<th class=\"n\">blackout then</th></tr></thead><tbody>",
              f);
        for (size_t i = 0; i < head; i++)
                row(f, t->passes[i]);
        if (head < t->n_passes) {
                html_put(f, "<tr><td colspan=\"9\">\u2026 %u more \u2026</td></tr>",
                         (unsigned)(t->n_passes - ROWS_MAX));
                for (size_t i = t->n_passes - ROWS_MAX / 2; i < t->n_passes; i++)
                        row(f, t->passes[i]);
        }
        fputs("</tbody></table></div>", f);
}

void report_passes(FILE *f, const story *s) {
        static const chart charts[] = {
                { .title = "Guest memory",
                  .note = "Logarithmic: each line is 32 times the one below.",
                  .series = { { "sent in the pass", SERIES_BARS, 'a', sent },
                              { "left dirty at its end", SERIES_LINE, 'b', remaining } },
                  .is_logarithmic = true,
                  .format = format_bytes },
                { .title = "Rates",
                  .series = { { "bandwidth", SERIES_LINE, 'a', bandwidth },
                              { "dirtied by the guest", SERIES_LINE, 'b', dirty_rate } },
                  .format = format_rate },
                { .title = "Downtime limit",
                  .series = { { "limit in force", SERIES_LINE, 'a', limit },
                              { "blackout, had it been now", SERIES_LINE, 'b', expected } },
                  .format = format_ms },
                { .title = "Throttle",
                  .series = { { "vCPU time taken away", SERIES_LINE, 'a', throttle } },
                  .format = format_percent },
        };
        const shim_trace *t = s->traces->source;

        if (!t || t->n_passes == 0)
                return;
        fputs("<section><h2>Passes over the guest's memory</h2>", f);
        for (size_t i = 0; i < ELEMENTS(charts); i++) {
                bool is_throttle = charts[i].series[0].value == throttle;

                if (is_throttle && highest(&charts[i], t) <= 1)
                        fputs("<p class=\"soft small\">The guest was not slowed down.</p>", f);
                else
                        draw(f, &charts[i], t);
        }
        table(f, t);
        fputs("</section>", f);
}
