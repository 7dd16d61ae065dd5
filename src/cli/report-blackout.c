/* SPDX-License-Identifier: MIT */
/* The blackout's parts: a stacked bar, and the figures. */
#include <string.h>

#include "base/clock.h"
#include "cli/report-internal.h"

#define BAR_HEIGHT 40.0

static const char *const classes[_STORY_GROUP_MAX] = {
        [STORY_STOP] = "stop",         [STORY_LAST] = "device",
        [STORY_LAST_BYTES] = "bytes",  [STORY_DEVICE_STATE] = "device",
        [STORY_HANDOVER] = "handover", [STORY_RESUME] = "resume",
        [STORY_ROLLBACK] = "rollback",
};

static void bar(FILE *f, const story_part *parts, size_t n, uint64_t total) {
        uint64_t by_group[_STORY_GROUP_MAX] = { 0 };
        bool reckoned[_STORY_GROUP_MAX] = { false };
        double x = 0;

        for (size_t i = 0; i < n; i++) {
                by_group[parts[i].group] += parts[i].usec;
                reckoned[parts[i].group] |= parts[i].is_reckoned;
        }
        fputs("<svg viewBox=\"0 0 1000 64\" role=\"img\" aria-label=\"parts of the blackout\">"
              "<defs><pattern id=\"reckoned\" width=\"7\" height=\"7\" "
              "patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">"
              "<line class=\"hatch\" x1=\"0\" x2=\"0\" y1=\"0\" y2=\"7\"/></pattern></defs>",
              f);
        for (story_group g = 0; g < _STORY_GROUP_MAX; g++) {
                double width = DRAWING_WIDTH * (double)by_group[g] / (double)total;
                char duration[FORMAT_MAX];

                if (by_group[g] == 0)
                        continue;
                format_duration(by_group[g], duration);
                html_put(f,
                         "<g><title>%s: %s</title><rect class=\"block f-%s\" x=\"%.2f\" y=\"2\" "
                         "width=\"%.2f\" height=\"%.0f\" rx=\"3\"/>",
                         story_group_label(g), duration, classes[g], x, width, BAR_HEIGHT);
                if (reckoned[g])
                        html_put(f,
                                 "<rect fill=\"url(#reckoned)\" x=\"%.2f\" y=\"2\" width=\"%.2f\" "
                                 "height=\"%.0f\"/>",
                                 x, width, BAR_HEIGHT);
                if (width > 13 + 6.4 * (double)(strlen(story_group_label(g)) + strlen(duration)))
                        html_put(f,
                                 "<text text-anchor=\"middle\" x=\"%.2f\" y=\"59\">%s %s%s</text>",
                                 x + width / 2, story_group_label(g), reckoned[g] ? "\u2248" : "",
                                 duration);
                fputs("</g>", f);
                x += width;
        }
        fputs("</svg>", f);
}

void report_blackout(FILE *f, const story *s) {
        story_part parts[STORY_PARTS_MAX];
        size_t n = story_get_blackout(s, parts);
        bool reckoned = false;
        uint64_t total = 0;
        char duration[FORMAT_MAX];

        for (size_t i = 0; i < n; i++) {
                total += parts[i].usec;
                reckoned |= parts[i].is_reckoned;
        }
        if (total == 0)
                return;
        html_put(f, "<section><h2>The blackout: %s in which the guest stood</h2>",
                 format_duration(total, duration));
        bar(f, parts, n, total);
        fputs("<table><thead><tr><th>part</th><th>of</th><th class=\"n\">time</th>"
              "<th class=\"n\">share</th></tr></thead><tbody>",
              f);
        for (size_t i = 0; i < n; i++)
                html_put(f,
                         "<tr><td><span class=\"key f-%s\"></span>%s</td><td>%s</td>"
                         "<td class=\"n\">%s%s</td><td class=\"n\">%.1f %%</td></tr>",
                         classes[parts[i].group], parts[i].label, story_group_label(parts[i].group),
                         parts[i].is_reckoned ? "\u2248 " : "",
                         format_duration(parts[i].usec, duration),
                         100.0 * (double)parts[i].usec / (double)total);
        html_put(f,
                 "<tr class=\"sum\"><td>all</td><td></td><td class=\"n\">%s</td>"
                 "<td class=\"n\">100 %%</td></tr></tbody></table>",
                 format_duration(total, duration));
        if (s->traces->source->report && s->traces->source->report->blackout_bytes > 0)
                html_put(f, "<p class=\"soft small\">%s of memory were sent meanwhile.</p>",
                         format_bytes(s->traces->source->report->blackout_bytes, duration));
        if (reckoned)
                fputs("<p class=\"soft small\">\u2248 hatched: QEMU does not tell the last bytes "
                      "from "
                      "the device state. They are told apart by how many bytes were sent in the "
                      "blackout and how fast the last pass went; their sum is measured.</p>",
                      f);
        fputs("</section>", f);
}
