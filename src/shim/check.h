/* SPDX-License-Identifier: MIT */
#pragma once

/* `containerd-shim-ferry-v2 check`: could this host take the sandbox whose exported state is on
 * standard input? Starts nothing that stays. {"reasons": [...]} on standard
 * output; 0 also when there are reasons. */

#include "base/error.h"
#include "shim/options.h"

int shim_check(const shim_options *options, ferry_error *reterr);
