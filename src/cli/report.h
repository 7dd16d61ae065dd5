/* SPDX-License-Identifier: MIT */
#pragma once

/* `ferry migrate --report FILE`: one page that needs nothing else, no network, no script. It reads
 * on light and dark screens and on paper. docs/report.md describes it. */

#include <stddef.h>
#include <stdio.h>

#include "cli/story.h"

/* The page; -ENOMEM. Caller frees. */
int report_make(const story *s, char **ret, size_t *ret_n);

/* Its sections, for report.c. */
void report_style(FILE *f);
void report_timeline(FILE *f, const story *s);
void report_blackout(FILE *f, const story *s);
void report_passes(FILE *f, const story *s);
