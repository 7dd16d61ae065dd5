/* SPDX-License-Identifier: MIT */
#pragma once

/* The kernel command line's `ferry.NAME=VALUE`, the guest's only configuration. Pure. */

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>

#define PARAMETERS_TEXT_MAX 4096U

/* The last `ferry.NAME=` of the text wins. False when there is none or when it does not fit. */
bool parameter_get(const char *text, const char *name, char *ret, size_t n_ret);

/* A whole decimal number within the limits, else `otherwise`. */
long parameter_number(const char *text, const char *name, long min, long max, long otherwise);

/* "10.77.0.10/24". False when it is anything else; a prefix of 1 to 30. */
bool parameter_address(const char *value, struct in_addr *ret_address, struct in_addr *ret_mask);

/* /proc/cmdline, NUL-terminated; empty when it cannot be read. */
void parameters_read(char ret[PARAMETERS_TEXT_MAX]);
