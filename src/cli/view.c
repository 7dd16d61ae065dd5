/* SPDX-License-Identifier: MIT */
#include "cli/view.h"

#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/clock.h"

#define REDRAW        (50 * USEC_PER_MSEC)
#define LINE_INTERVAL (USEC_PER_SEC)
#define WIDTH_DEFAULT 80U

void view_init(view *v) {
        const char *term = getenv("TERM");

        *v = (view){ .is_terminal = isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0) };
}

static size_t terminal_width(void) {
        struct winsize size;

        if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
                return WIDTH_DEFAULT;
        return size.ws_col;
}

static void draw(view *v, const mover *m) {
        char line[PROGRESS_LINE_MAX];

        progress_format_bar(&m->progress, progress_permille(&m->progress, &v->permille),
                            terminal_width(), line);
        fprintf(stderr, "\r\033[K%s", line);
        fflush(stderr);
        v->drawn = true;
}

void view_change(const mover *m, bool is_milestone, void *userdata) {
        view *v = userdata;
        uint64_t now = now_usec(), interval = v->is_terminal ? REDRAW : LINE_INTERVAL;
        char line[PROGRESS_LINE_MAX];

        if (!is_milestone && now - v->last_usec < interval)
                return;
        v->last_usec = now;
        if (v->is_terminal) {
                draw(v, m);
                return;
        }
        if (m->progress.sides[PROGRESS_SOURCE].outcome == PROGRESS_DONE)
                return; /* the last line, with the final figures, is view_end()'s */
        progress_format_line(&m->progress, now - m->start_usec, line);
        fprintf(stderr, "%s\n", line);
}

void view_end(view *v, const mover *m) {
        bool is_done = m->progress.sides[PROGRESS_SOURCE].outcome == PROGRESS_DONE;
        char line[PROGRESS_LINE_MAX];

        if (!v->is_terminal && is_done && !v->ended) {
                progress_format_line(&m->progress, now_usec() - m->start_usec, line);
                fprintf(stderr, "%s\n", line);
                v->ended = true;
        }
        if (v->drawn) {
                draw(v, m);
                fprintf(stderr, "\n");
        }
        v->drawn = false;
}
