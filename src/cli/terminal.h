/* SPDX-License-Identifier: MIT */
#pragma once

/* The person's terminal, while what they type goes elsewhere. */

#include <stdbool.h>
#include <termios.h>

/* Standard input: no echo, no line editing, no signals by keys. `keep_output`: "\n" still begins a
 * line, for a sender that does not say "\r". Negative errno. */
int terminal_make_raw(bool keep_output, struct termios *ret_before);
void terminal_restore(const struct termios *before);
