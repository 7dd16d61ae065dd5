/* SPDX-License-Identifier: MIT */
#pragma once

/* A container's bundle: the folder in which containerd describes it. */

#include <stddef.h>

#include "base/error.h"

/* Its config.json: *ret is freed by the caller, and ends with a NUL that *ret_n does not count. */
int bundle_read(const char *bundle, char **ret, size_t *ret_n, ferry_error *reterr);
