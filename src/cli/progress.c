/* SPDX-License-Identifier: MIT */
#include "cli/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "cli/format.h"

#define BAR_WIDTH  20U
#define NARROW_BAR 8U
#define WIDE       130U

static progress_outcome outcome_of(const Notification *n) {
        switch (n->phase) {
        case PHASE__PHASE_DONE:
                return n->state == PHASE_STATE__PHASE_STATE_SUCCESS ? PROGRESS_DONE
                                                                    : PROGRESS_CANCELLED;
        case PHASE__PHASE_FAILED:
                return n->state == PHASE_STATE__PHASE_STATE_CANCELLED ? PROGRESS_CANCELLED
                                                                      : PROGRESS_FAILED;
        case PHASE__PHASE_UNSPECIFIED:
        case PHASE__PHASE_SETUP_DONE:
        case PHASE__PHASE_TRANSFER_IN_PROGRESS:
        case PHASE__PHASE_BLACKOUT_STARTED:
        case PHASE__PHASE_OFFLINE_DONE:
        case PHASE__PHASE_BLACKOUT_EXITED:
        case PHASE__PHASE_RECOVERY_DONE:
        case _PHASE_IS_INT_SIZE:
                break;
        }
        return PROGRESS_OPEN;
}

static void take_figures(progress *p, const Progress *figures) {
        p->total = figures->bytes_total;
        p->sent = figures->bytes_sent;
        p->remaining = figures->bytes_remaining;
        p->dirty_rate = figures->dirty_bytes_per_second;
        p->rate = figures->bytes_per_second;
        p->throttle = figures->throttle_percentage;
        p->expected_blackout_ms = figures->expected_blackout_ms;
        p->pass = figures->pass;
        if (p->pass > p->passes)
                p->passes = p->pass;
}

static void take_blackout(progress *p, const Notification *n) {
        const BlackoutExitedEventDetails *details;

        if (n->phase_details_case != NOTIFICATION__PHASE_DETAILS_BLACKOUT_EXITED ||
            !n->blackout_exited)
                return;
        details = n->blackout_exited;
        p->has_blackout = true;
        p->blackout_usec = details->blackout_duration_microseconds > 0
                                   ? details->blackout_duration_microseconds
                                   : details->blackout_duration_milliseconds * USEC_PER_MSEC;
}

bool progress_update(progress *p, progress_side side, const NotificationsResponse *message) {
        const Notification *n = message->notification;
        uint32_t pass = p->pass;
        Phase phase = p->sides[side].phase;
        progress_outcome outcome;

        if (!n || message->message_id <= p->sides[side].last_id)
                return false;
        p->sides[side].last_id = message->message_id;
        p->sides[side].phase = n->phase;
        outcome = outcome_of(n);
        if (outcome != PROGRESS_OPEN)
                p->sides[side].outcome = outcome;
        if (n->reason && n->reason[0] != '\0')
                snprintf(p->sides[side].reason, sizeof(p->sides[side].reason), "%s", n->reason);
        take_blackout(p, n);
        if (side != PROGRESS_SOURCE)
                return false;
        if (n->progress)
                take_figures(p, n->progress);
        return phase != p->sides[side].phase || pass != p->pass;
}

unsigned progress_permille(const progress *p, unsigned *last) {
        unsigned now = 0;

        if (p->sides[PROGRESS_SOURCE].outcome == PROGRESS_DONE)
                now = 1000;
        else if (p->total > 0 && p->remaining <= p->total)
                now = (unsigned)((double)(p->total - p->remaining) * 1000.0 / (double)p->total);
        if (now > 990 && p->sides[PROGRESS_SOURCE].outcome != PROGRESS_DONE)
                now = 990;
        if (now > *last)
                *last = now;
        return *last;
}

const char *progress_phase_text(const progress *p) {
        switch (p->sides[PROGRESS_SOURCE].phase) {
        case PHASE__PHASE_UNSPECIFIED:
                return "setting up";
        case PHASE__PHASE_SETUP_DONE:
        case PHASE__PHASE_TRANSFER_IN_PROGRESS:
                return p->has_blackout ? "memory follows" : "copying";
        case PHASE__PHASE_BLACKOUT_STARTED:
                return "switching over";
        case PHASE__PHASE_OFFLINE_DONE:
                return "handing over";
        case PHASE__PHASE_BLACKOUT_EXITED:
                /* with HANDOVER_CALLER this is the last */
                return p->sides[PROGRESS_SOURCE].outcome == PROGRESS_DONE ? "done"
                                                                          : "running there";
        case PHASE__PHASE_DONE:
                return p->sides[PROGRESS_SOURCE].outcome == PROGRESS_DONE ? "done" : "cancelled";
        case PHASE__PHASE_RECOVERY_DONE:
                return "rolled back";
        case PHASE__PHASE_FAILED:
                return p->sides[PROGRESS_SOURCE].outcome == PROGRESS_CANCELLED ? "cancelled"
                                                                               : "failed";
        case _PHASE_IS_INT_SIZE:
                break;
        }
        return "?";
}

static void append(char *buffer, size_t *used, const char *format, ...) _printf_(3, 4);

static void append(char *buffer, size_t *used, const char *format, ...) {
        va_list arguments;
        int n;

        va_start(arguments, format);
        n = vsnprintf(buffer + *used, PROGRESS_LINE_MAX - *used, format, arguments);
        va_end(arguments);
        if (n > 0)
                *used = *used + (size_t)n < PROGRESS_LINE_MAX ? *used + (size_t)n
                                                              : PROGRESS_LINE_MAX - 1;
}

static void append_figures(const progress *p, char *buffer, size_t *used) {
        char text[FORMAT_MAX];

        if (p->pass > 0)
                append(buffer, used, "  pass %u", p->pass);
        if (p->total == 0 && p->sent == 0)
                return;
        append(buffer, used, "  %s sent", format_bytes(p->sent, text));
        append(buffer, used, "  %s left", format_bytes(p->remaining, text));
        append(buffer, used, "  %s/s", format_bytes(p->rate, text));
        append(buffer, used, "  dirty %s/s", format_bytes(p->dirty_rate, text));
        if (p->has_blackout)
                append(buffer, used, "  blackout %s", format_duration(p->blackout_usec, text));
        else if (p->expected_blackout_ms > 0)
                append(buffer, used, "  blackout ~%s",
                       format_duration(p->expected_blackout_ms * USEC_PER_MSEC, text));
        if (p->throttle > 0)
                append(buffer, used, "  throttle %u%%", p->throttle);
}

/* All of it within 80 columns, as long as the figures have three digits. */
static void append_short_figures(const progress *p, char *buffer, size_t *used) {
        char text[FORMAT_MAX];

        if (p->pass > 0)
                append(buffer, used, " pass %u", p->pass);
        if (p->total == 0 && p->sent == 0)
                return;
        append(buffer, used, " %s sent", format_bytes_short(p->sent, text));
        append(buffer, used, " %s left", format_bytes_short(p->remaining, text));
        append(buffer, used, " %s/s", format_bytes_short(p->rate, text));
        append(buffer, used, " dirty %s/s", format_bytes_short(p->dirty_rate, text));
        if (p->has_blackout)
                append(buffer, used, " %s", format_duration(p->blackout_usec, text));
        else if (p->expected_blackout_ms > 0)
                append(buffer, used, " ~%s",
                       format_duration(p->expected_blackout_ms * USEC_PER_MSEC, text));
}

void progress_format_bar(const progress *p, unsigned permille, size_t width,
                         char buffer[static PROGRESS_LINE_MAX]) {
        bool is_wide = width == 0 || width >= WIDE;
        unsigned n_bar = is_wide ? BAR_WIDTH : NARROW_BAR;
        unsigned filled = (permille > 1000 ? 1000 : permille) * n_bar / 1000;
        char bar[BAR_WIDTH + 1];
        size_t used = 0;

        for (unsigned i = 0; i < n_bar; i++)
                bar[i] = i < filled ? '#' : '-';
        bar[n_bar] = '\0';
        append(buffer, &used, "%-*s [%s] %3u%%", is_wide ? 14 : 0, progress_phase_text(p), bar,
               permille / 10);
        if (is_wide)
                append_figures(p, buffer, &used);
        else
                append_short_figures(p, buffer, &used);
        if (width > 0 && used >= width)
                buffer[width - 1] = '\0'; /* the last column would wrap on some terminals */
}

void progress_format_line(const progress *p, uint64_t elapsed_usec,
                          char buffer[static PROGRESS_LINE_MAX]) {
        size_t used = 0;

        append(buffer, &used, "%7.2f s  %-14s", (double)elapsed_usec / (double)USEC_PER_SEC,
               progress_phase_text(p));
        append_figures(p, buffer, &used);
        while (used > 0 && buffer[used - 1] == ' ')
                buffer[--used] = '\0';
}
