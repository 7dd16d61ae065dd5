/* SPDX-License-Identifier: MIT */
#pragma once

/* JSON on standard output. */

#include <jansson.h>

#include "cli/cli.h"

/* Prints one object over several lines, or an array; drops the reference. NULL: out of memory. */
cli_exit output_json(json_t *json_consume);

/* One line, flushed, for streams. A negative errno when nobody reads any more. */
int output_json_line(json_t *json_consume);
