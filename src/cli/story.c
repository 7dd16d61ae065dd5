/* SPDX-License-Identifier: MIT */
#include "cli/story.h"

#include <string.h>

#include "base/clock.h"

static const struct {
        const char *phase, *label;
        story_group group; /* where the guest stands in it */
} phases[] = {
        { "export", "export", STORY_HANDOVER },
        { "prepare", "QEMU starts", STORY_HANDOVER },
        { "wait", "waits for the caller", STORY_HANDOVER },
        { "hello", "hello", STORY_HANDOVER },
        { "copy", "copy", STORY_STOP },
        { "load", "load", STORY_STOP },
        { "stop", "stop", STORY_STOP },
        { "decide", "switchover decision", STORY_STOP },
        { "last-state", "last bytes, device state", STORY_LAST },
        { "offer", "OFFER and READY", STORY_HANDOVER },
        { "verdict", "waits for the verdict", STORY_HANDOVER },
        { "journal", "journal sync", STORY_HANDOVER },
        { "away", "handed over", STORY_HANDOVER },
        { "loaded", "loaded, waits for GO", STORY_HANDOVER },
        { "resume", "resume", STORY_RESUME },
        { "confirm", "confirms", STORY_RESUME },
        { "release", "QEMU quits", STORY_HANDOVER },
        { "rollback", "rolls back", STORY_ROLLBACK },
        { "discard", "discards its copy", STORY_HANDOVER },
        { "post-copy", "its memory follows", STORY_LAST },
        { "undecided", "undecided", STORY_HANDOVER },
};

const char *story_phase_label(const char *phase) {
        for (size_t i = 0; i < ELEMENTS(phases); i++)
                if (strcmp(phases[i].phase, phase) == 0)
                        return phases[i].label;
        return phase;
}

static story_group group_of(const char *phase) {
        for (size_t i = 0; i < ELEMENTS(phases); i++)
                if (strcmp(phases[i].phase, phase) == 0)
                        return phases[i].group;
        return STORY_HANDOVER;
}

const char *story_group_label(story_group group) {
        static const char *const labels[_STORY_GROUP_MAX] = {
                [STORY_STOP] = "stop",
                [STORY_LAST] = "last bytes, device state",
                [STORY_LAST_BYTES] = "last bytes",
                [STORY_DEVICE_STATE] = "device state",
                [STORY_HANDOVER] = "handover",
                [STORY_RESUME] = "resume",
                [STORY_ROLLBACK] = "rollback",
        };

        return labels[group];
}

static void add(story_part *parts, size_t *n, story_group group, const char *label, uint64_t usec,
                bool is_reckoned) {
        if (*n < STORY_PARTS_MAX)
                parts[(*n)++] = (story_part){ group, label, usec, is_reckoned };
}

static uint64_t length_of(const Ferry__Shim__V1__TracePhase *phase, uint64_t until) {
        uint64_t end = phase->end_usec < until ? phase->end_usec : until;

        return end > phase->begin_usec ? end - phase->begin_usec : 0;
}

static bool has_option(const shim_trace *t, const char *name) {
        for (size_t i = 0; i < t->n_options; i++)
                if (strcmp(t->options[i]->name, name) == 0)
                        return true;
        return false;
}

/* QEMU does not tell the two apart. Where the passes went as fast as the line does, what the last
 * bytes took can be reckoned; with a cap they did not: it ends with the stop. */
static void add_last(story_part *parts, size_t *n, const shim_trace *source, uint64_t usec) {
        double bytes = source->report ? (double)source->report->blackout_bytes : 0;
        double rate =
                source->n_passes > 0 ? (double)source->passes[source->n_passes - 1]->bandwidth : 0;
        double memory = rate > 0 ? bytes / rate * (double)USEC_PER_SEC : 0;

        if (memory < 1 || memory >= (double)usec || has_option(source, "max_bandwidth")) {
                add(parts, n, STORY_LAST, "last bytes and device state", usec, false);
                return;
        }
        add(parts, n, STORY_LAST_BYTES, "last bytes", (uint64_t)memory, true);
        add(parts, n, STORY_DEVICE_STATE, "device state", usec - (uint64_t)memory, true);
}

/* GO's way, and the destination's part. */
static void add_destination(const story *s, uint64_t go_usec, story_part *parts, size_t *n) {
        const shim_trace *d = s->traces->destination;
        int64_t offset;

        if (traces_relate(s->traces, &offset) != TRACES_BY_HANDOVER)
                return;
        for (size_t i = 0; i < d->n_phases; i++) {
                int64_t begin = (int64_t)d->phases[i]->begin_usec + offset;

                if (strcmp(d->phases[i]->name, "resume") != 0)
                        continue;
                add(parts, n, STORY_HANDOVER, "GO under way",
                    begin > (int64_t)go_usec ? (uint64_t)(begin - (int64_t)go_usec) : 0, false);
                add(parts, n, STORY_RESUME, "resume",
                    length_of(d->phases[i], d->running_usec ? d->running_usec : UINT64_MAX), false);
                return;
        }
}

size_t story_get_blackout(const story *s, story_part ret[static STORY_PARTS_MAX]) {
        const shim_trace *source = s->traces->source;
        uint64_t until;
        size_t n = 0;

        if (!source || source->stopped_usec == 0)
                return 0;
        until = source->running_usec ? source->running_usec : UINT64_MAX;
        for (size_t i = 0; i < source->n_phases; i++) {
                const Ferry__Shim__V1__TracePhase *phase = source->phases[i];

                if (!phase->guest_stands)
                        continue;
                if (strcmp(phase->name, "away") == 0) {
                        add_destination(s, phase->begin_usec, ret, &n);
                        break;
                }
                if (strcmp(phase->name, "last-state") == 0)
                        add_last(ret, &n, source, length_of(phase, until));
                else
                        add(ret, &n, group_of(phase->name), story_phase_label(phase->name),
                            length_of(phase, until), false);
        }
        return n;
}

json_t *story_blackout_to_json(const story *s) {
        story_part parts[STORY_PARTS_MAX];
        size_t n = story_get_blackout(s, parts);
        json_t *list = json_array();

        for (size_t i = 0; list && i < n; i++) {
                json_t *part = json_pack("{s:s, s:s, s:I, s:b}", "part", parts[i].label, "group",
                                         story_group_label(parts[i].group), "usec",
                                         (json_int_t)(parts[i].usec & INT64_MAX), "reckoned",
                                         (int)parts[i].is_reckoned);

                if (json_array_append_new(list, part) < 0) {
                        json_decref(list);
                        return NULL;
                }
        }
        return list;
}
