/* SPDX-License-Identifier: MIT */
/* The phases of both sides, and where the guest runs, on one line of time. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "cli/report-internal.h"

#define LANE_HEIGHT  28.0
#define LANE_STEP    38.0
#define TICKS_MAX    12U
#define LABEL_FACTOR 6.6 /* units that a letter takes, at most */

typedef struct frame {
        double origin, scale; /* usec, units per usec */
        double end;
} frame;

double report_nice_step(double span, unsigned n) {
        static const double factors[] = { 1, 2, 5, 10 };
        double power = 1;

        while (power * 10 * n < span)
                power *= 10;
        while (power > 1e-6 && power * n > span)
                power /= 10;
        for (size_t i = 0; i < ELEMENTS(factors); i++)
                if (factors[i] * power * n >= span)
                        return factors[i] * power;
        return 10 * power;
}

static double x_of(const frame *fr, double usec) {
        double x = (usec - fr->origin) * fr->scale;

        return DRAWING_LEFT + (x < 0 ? 0 : x > DRAWING_PLOT ? DRAWING_PLOT : x);
}

static frame frame_of(double origin, double end) {
        frame fr = { .origin = origin, .end = end - origin < 100 ? origin + 100 : end };

        fr.scale = DRAWING_PLOT / (fr.end - fr.origin);
        return fr;
}

static const char *class_of(const char *phase) {
        static const char *const classes[][2] = {
                { "export", "setup" },     { "prepare", "setup" },      { "hello", "setup" },
                { "copy", "copy" },        { "load", "copy" },          { "stop", "stop" },
                { "decide", "stop" },      { "last-state", "device" },  { "offer", "handover" },
                { "verdict", "handover" }, { "journal", "handover" },   { "loaded", "handover" },
                { "resume", "resume" },    { "confirm", "resume" },     { "rollback", "rollback" },
                { "discard", "rollback" }, { "undecided", "rollback" }, { "post-copy", "copy" },
        };

        for (size_t i = 0; i < ELEMENTS(classes); i++)
                if (strcmp(classes[i][0], phase) == 0)
                        return classes[i][1];
        return "wait";
}

static void block(FILE *f, const frame *fr, double y, double from, double to, const char *class,
                  const char *label) {
        double x = x_of(fr, from), width = x_of(fr, to) - x;
        bool dark = strcmp(class, "copy") == 0 || strcmp(class, "stop") == 0 ||
                    strcmp(class, "resume") == 0;
        char duration[FORMAT_MAX];

        if (to < fr->origin || from > fr->end)
                return;
        if (width < 2) /* what is short is seen all the same */
                width = 2;
        format_duration(to > from ? (uint64_t)(to - from) : 0, duration);
        html_put(f,
                 "<g><title>%s: %s</title><rect class=\"block f-%s\" x=\"%.2f\" y=\"%.1f\" "
                 "width=\"%.2f\" height=\"%.1f\" rx=\"3\"/>",
                 label, duration, class, x, y, width, LANE_HEIGHT);
        if (width > (double)strlen(label) * LABEL_FACTOR + 10)
                html_put(f,
                         "<text class=\"%s\" text-anchor=\"middle\" x=\"%.2f\" y=\"%.1f\">%s"
                         "</text>",
                         strcmp(class, "wait") == 0 ? ""
                         : dark                     ? "on-dark"
                                                    : "on-light",
                         x + width / 2, y + LANE_HEIGHT / 2 + 4, label);
        fputs("</g>", f);
}

static void lane(FILE *f, double y, const char *name) {
        html_put(f, "<text class=\"lane\" x=\"0\" y=\"%.1f\">%s</text>", y + LANE_HEIGHT / 2 + 4,
                 name);
}

static void phases(FILE *f, const frame *fr, double y, const shim_trace *t, int64_t offset) {
        for (size_t i = 0; t && i < t->n_phases; i++)
                block(f, fr, y, (double)t->phases[i]->begin_usec + (double)offset,
                      (double)t->phases[i]->end_usec + (double)offset, class_of(t->phases[i]->name),
                      story_phase_label(t->phases[i]->name));
}

static void guest(FILE *f, const frame *fr, double y, const shim_trace *source,
                  const shim_trace *destination, int64_t offset) {
        double stop = source->stopped_usec ? (double)source->stopped_usec : fr->end;

        block(f, fr, y, 0, stop, "wait", "runs at the source");
        if (source->stopped_usec == 0)
                return;
        if (source->running_usec > 0) {
                block(f, fr, y, stop, (double)source->running_usec, "bytes", "stands");
                block(f, fr, y, (double)source->running_usec, fr->end, "wait",
                      "runs at the source");
        } else if (destination && destination->running_usec > 0) {
                double run = (double)destination->running_usec + (double)offset;

                block(f, fr, y, stop, run, "bytes", "stands");
                block(f, fr, y, run, fr->end, "resume", "runs at the destination");
        } else
                block(f, fr, y, stop, fr->end, "bytes", "stands");
}

static void axis(FILE *f, const frame *fr, double zero, double y) {
        double span = fr->end - fr->origin, step = report_nice_step(span, TICKS_MAX);

        /* from the first round figure in it */
        for (double k = ceil((fr->origin - zero) / step); zero + k * step <= fr->end; k++) {
                double at = k * step, x = x_of(fr, zero + at);
                char label[FORMAT_MAX];

                html_put(f, "<line class=\"grid\" x1=\"%.2f\" x2=\"%.2f\" y1=\"4\" y2=\"%.1f\"/>",
                         x, x, y);
                if (step >= 1e6)
                        snprintf(label, sizeof(label), "%.0f s", at / 1e6);
                else if (step >= 1e5 && span >= 2e6)
                        snprintf(label, sizeof(label), "%.1f s", at / 1e6);
                else
                        snprintf(label, sizeof(label), "%.10g ms", at / 1e3);
                html_put(f,
                         "<text class=\"axis\" text-anchor=\"middle\" x=\"%.2f\" y=\"%.1f\">%s"
                         "</text>",
                         x < DRAWING_WIDTH - 24 ? x : DRAWING_WIDTH - 24, y + 15, label);
        }
}

static double end_of(const shim_trace *t, int64_t offset) {
        double end = 0;

        for (size_t i = 0; t && i < t->n_phases; i++)
                if ((double)t->phases[i]->end_usec > end)
                        end = (double)t->phases[i]->end_usec;
        return end + (double)offset;
}

static void phase_rows(FILE *f, const char *side, const shim_trace *t, int64_t offset,
                       double origin) {
        for (size_t i = 0; t && i < t->n_phases; i++) {
                const Ferry__Shim__V1__TracePhase *p = t->phases[i];
                double begin = (double)p->begin_usec + (double)offset - origin;
                char length[FORMAT_MAX];

                html_put(f,
                         "<tr><td>%s</td><td><span class=\"key f-%s\"></span>%s</td>"
                         "<td class=\"n\">%.2f ms</td><td class=\"n\">%s</td></tr>",
                         side, class_of(p->name), story_phase_label(p->name), begin / 1e3,
                         format_duration(p->end_usec > p->begin_usec ? p->end_usec - p->begin_usec
                                                                     : 0,
                                         length));
        }
}

static void table(FILE *f, const traces *t, int64_t offset, double origin) {
        fputs("<table><thead><tr><th>side</th><th>phase</th><th class=\"n\">begins at</th>"
              "<th class=\"n\">lasts</th></tr></thead><tbody>",
              f);
        phase_rows(f, "source", t->source, 0, origin);
        phase_rows(f, "destination", t->destination, offset, origin);
        fputs("</tbody></table>", f);
}

static void explain(FILE *f, traces_relation relation) {
        static const char *const how[_TRACES_RELATION_MAX] = {
                [TRACES_UNRELATED] = "",
                [TRACES_BY_HANDOVER] =
                        "The two sides' times are related by the handover (how long the guest had "
                        "stood, as GO carried it, and half the round trip), not by the hosts' "
                        "clocks.",
                [TRACES_BY_HELLO] = "The two sides' times are related by their hello, which both "
                                    "saw within a round trip.",
                [TRACES_BY_CALLER] = "The two sides never met: their times are related by when the "
                                     "caller asked each, a few milliseconds more or less.",
        };

        if (relation != TRACES_UNRELATED)
                html_put(f, "<p class=\"soft small\">%s</p>", how[relation]);
}

static void draw(FILE *f, const frame *fr, double zero, const traces *t, int64_t offset) {
        const shim_trace *source = t->source, *destination = t->destination;
        double y = 6, bottom = y + LANE_STEP * (source ? 3 : 1);

        html_put(f,
                 "<svg viewBox=\"0 0 1000 %.0f\" role=\"img\" aria-label=\"phases of both "
                 "sides\">",
                 bottom + 22);
        axis(f, fr, zero, bottom);
        if (source) {
                lane(f, y, "guest");
                guest(f, fr, y, source, destination, offset);
                lane(f, y += LANE_STEP, "source");
                phases(f, fr, y, source, 0);
                y += LANE_STEP;
        }
        lane(f, y, "destination");
        phases(f, fr, y, destination, offset);
        fputs("</svg>", f);
}

/* The moments around the switchover, which are too short to be seen among all others. */
static void draw_switchover(FILE *f, const frame *all, double zero, const traces *t,
                            int64_t offset) {
        const shim_trace *source = t->source, *destination = t->destination;
        double from, to, margin;
        frame fr;

        if (!source || source->stopped_usec == 0)
                return;
        from = (double)source->stopped_usec;
        if (source->running_usec > 0)
                to = (double)source->running_usec;
        else if (destination && destination->running_usec > 0)
                to = (double)destination->running_usec + (double)offset;
        else
                to = all->end;
        margin = (to - from) * 0.3;
        if (to <= from || to - from > (all->end - all->origin) * 0.3)
                return;
        fr = frame_of(from - margin, to + margin);
        fputs("<h3>The switchover, magnified</h3>", f);
        draw(f, &fr, zero, t, offset);
}

void report_timeline(FILE *f, const story *s) {
        const traces *t = s->traces;
        traces_relation relation;
        double zero, end;
        int64_t offset;
        frame fr;

        if (!t->source && !t->destination)
                return;
        relation = traces_relate(t, &offset);
        zero = t->destination && (offset < 0 || !t->source) ? (double)offset : 0;
        end = end_of(t->source, 0);
        if (end_of(t->destination, offset) > end)
                end = end_of(t->destination, offset);
        fr = frame_of(zero, end);
        fputs("<section><h2>Timeline</h2>", f);
        explain(f, relation);
        draw(f, &fr, zero, t, offset);
        draw_switchover(f, &fr, zero, t, offset);
        table(f, t, offset, zero);
        fputs("</section>", f);
}
