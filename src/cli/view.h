/* SPDX-License-Identifier: MIT */
#pragma once

/* A migration on standard error: a bar that redraws itself on a terminal, lines elsewhere. */

#include <stdbool.h>
#include <stdint.h>

#include "cli/mover.h"

typedef struct view {
        bool is_terminal, drawn, ended;
        unsigned permille;
        uint64_t last_usec;
} view;

void view_init(view *v);
/* mover's on_change. */
void view_change(const mover *m, bool is_milestone, void *userdata);
/* Draws the bar a last time and ends its line, so that a message can follow. */
void view_end(view *v, const mover *m);
