/* SPDX-License-Identifier: MIT */
#pragma once

/* Writes HTML, well-formed as XML too. Whatever comes in by an argument is text, never markup. */

#include <stdarg.h>
#include <stdio.h>

/* `text` as text: markup is escaped; what is not UTF-8, control characters, and those that turn the
 * writing's direction become U+FFFD. */
void html_text(FILE *f, const char *text);

/* printf() of markup: the format is the markup, %s is escaped. Knows %s, %c, %d, %u, %llu and %.Nf
 * besides %%. */
void html_put(FILE *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
