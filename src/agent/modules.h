/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdbool.h>

#define MODULE_LIST "/etc/ferry-modules"

typedef enum module_set {
        MODULES_ALL,
        MODULES_BUT_NETWORK,
        MODULES_NETWORK,
} module_set;

/* Loads the kernel modules that MODULE_LIST names, one path a line, in its order. What does not
 * load is told on stderr and passed over: a guest without a disk driver may still run. */
void modules_load(module_set set);
