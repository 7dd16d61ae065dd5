/* SPDX-License-Identifier: MIT */
#pragma once

/* Has a host of this machine looked at by its shim's `check`: nothing stays of it. */

#include <jansson.h>

#include "base/error.h"
#include "cli/host.h"

/* `state` as the source's Check gives it. *ret: an array of texts, what speaks against it. */
int target_check(const host *h, const void *state, size_t n, json_t **ret, ferry_error *reterr);
