/* SPDX-License-Identifier: MIT */
#pragma once

/* What the page's drawings share: 1000 units across, on which the names of the rows take the left.
 */

#include "cli/format.h"
#include "cli/html.h"
#include "cli/report.h"

#define DRAWING_WIDTH 1000.0
#define DRAWING_LEFT  92.0
#define DRAWING_PLOT  (DRAWING_WIDTH - DRAWING_LEFT - 8)

/* A step of 1, 2 or 5 times a power of ten, so that `span` has at most `n` of it. */
double report_nice_step(double span, unsigned n);
