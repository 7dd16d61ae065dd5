/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdint.h>

#include "base/error.h"

/* About what an image of the tree takes. Hard links are
 * counted once. -E2BIG: deeper or more than anybody would pack. */
int tree_measure(const char *root, uint64_t *ret_bytes, ferry_error *reterr);
