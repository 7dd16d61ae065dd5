/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdint.h>

/* Takes nearly all free memory, but no more than `at_most` bytes, so that the kernel makes zeros of
 * it, and gives it back. Returns how many bytes, or a negative errno. */
int64_t clear_free(uint64_t at_most);
