/* SPDX-License-Identifier: MIT */
#pragma once

/* The configuration of a new sandbox: a file, or made from `ferry run`'s shortcuts. */

#include <stdbool.h>

#include "base/error.h"
#include "cli/options.h"

typedef struct run_config_values {
        const char *file; /* excludes all others */
        cli_number memory, vcpus;
        const char *kernel, *initrd, *cmdline;
        cli_texts disks;
        bool network;
        const char *bridge;
} run_config_values;

/* Checked and in its canonical form; files that it names exist. `*ret_usage`: the options do not
 * go together. */
int run_config_make(const run_config_values *values, char **ret, bool *ret_usage,
                    ferry_error *reterr);
