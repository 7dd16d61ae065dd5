/* SPDX-License-Identifier: MIT */
#pragma once

/* What is to be told of a migration once it is over, whoever tells it: the page, --json, --trace.
 */

#include "cli/traces.h"

#define STORY_PARTS_MAX 16U

typedef enum story_group { /* what a blackout consists of */
                           STORY_STOP,
                           STORY_LAST, /* the next two, where they cannot be told apart */
                           STORY_LAST_BYTES,
                           STORY_DEVICE_STATE,
                           STORY_HANDOVER,
                           STORY_RESUME,
                           STORY_ROLLBACK, /* where it went back instead */
                           _STORY_GROUP_MAX,
} story_group;

typedef struct story_part {
        story_group group;
        const char *label;
        uint64_t usec;
        bool is_reckoned; /* not measured by itself */
} story_part;

typedef struct story_prediction {
        uint64_t copy_usec, blackout_usec, bytes;
        uint32_t passes;
        uint64_t age_usec; /* when the migration ended */
} story_prediction;

/* All borrowed. */
typedef struct story {
        const char *name, *session_id;
        const char *from, *from_root, *to, *to_root; /* hosts */
        const char *outcome;                         /* as --json has it: "migrated", "failed"... */
        const char *runs_at;                         /* host */
        const char *error;                           /* why it did not go through; NULL */
        uint64_t total_usec, blackout_usec, bytes;
        uint32_t passes;
        uint64_t wall_usec; /* when it ended, by our clock */
        const traces *traces;
        const story_prediction *prediction; /* NULL: nobody asked for one */
} story;

/* How long the guest stood, in order of time: from the source's stop to the resume. They add up.
 * Returns how many, 0 when it never stood or no trace tells. */
size_t story_get_blackout(const story *s, story_part ret[static STORY_PARTS_MAX]);

/* The same, for --json: [{"part", "group", "usec", "reckoned"}]. */
json_t *story_blackout_to_json(const story *s);

const char *story_group_label(story_group group);
/* A phase of a trace in words; one that is not known is told as it is. */
const char *story_phase_label(const char *phase);
