/* SPDX-License-Identifier: MIT */
#pragma once

#include <stdint.h>

/* Takes nearly all free memory, so that the kernel makes zeros of it, and gives it back. Returns
 * how many bytes, or a negative errno. */
int64_t clear_free(void);
