/* SPDX-License-Identifier: MIT */
#pragma once

/* What a migration's notifications add up to, and how it is drawn. Pure: the caller brings the
 * clock and the terminal's width. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migration.pb-c.h"

#define PROGRESS_LINE_MAX 256U

typedef enum progress_side {
        PROGRESS_SOURCE,
        PROGRESS_DESTINATION,
        _PROGRESS_SIDE_MAX,
} progress_side;

/* How a side's session ended, as its notifications tell. */
typedef enum progress_outcome {
        PROGRESS_OPEN,
        PROGRESS_DONE, /* DONE/SUCCESS */
        PROGRESS_CANCELLED,
        PROGRESS_FAILED,
} progress_outcome;

typedef struct progress {
        struct {
                Phase phase;
                progress_outcome outcome;
                char reason[256];
                uint32_t last_id;
        } sides[_PROGRESS_SIDE_MAX];

        /* The source's latest figures, 0 while unknown. */
        uint64_t total, sent, remaining, dirty_rate, rate;
        uint32_t pass, throttle, expected_blackout_ms;
        uint32_t passes; /* the highest `pass` seen */

        bool has_blackout;
        uint64_t blackout_usec;
} progress;

/* Takes a notification in. Returns true when a line for people is due: the phase or the pass has
 * changed. What comes twice (the history after a reconnect) is dropped. */
bool progress_update(progress *p, progress_side side, const NotificationsResponse *message);

/* 0..1000, and never backwards for one `*last`. */
unsigned progress_permille(const progress *p, unsigned *last);

/* One line for a terminal of `width` columns, without colour or newline, cut to fit:
 * "copying  [########------]  57%  pass 2  40.1 MiB sent  ..." */
void progress_format_bar(const progress *p, unsigned permille, size_t width,
                         char buffer[static PROGRESS_LINE_MAX]);

/* The same as a line for a log. */
void progress_format_line(const progress *p, uint64_t elapsed_usec,
                          char buffer[static PROGRESS_LINE_MAX]);

/* "setting up", "copying", "switching over"... */
const char *progress_phase_text(const progress *p);
