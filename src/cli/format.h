/* SPDX-License-Identifier: MIT */
#pragma once

/* Figures as people read them. Each writes into `buffer` and returns it. */

#include <stddef.h>
#include <stdint.h>

#define FORMAT_MAX 32U

/* "0 B", "1023 B", "1.5 KiB", "69.1 MiB" */
const char *format_bytes(uint64_t bytes, char buffer[static FORMAT_MAX]);

/* For narrow places: "0", "1023", "12K", "128M", "1.5G" */
const char *format_bytes_short(uint64_t bytes, char buffer[static FORMAT_MAX]);

/* "870 us", "5.2 ms", "1.84 s", "3 min 5 s", "2 h 4 min", "3 d 1 h" */
const char *format_duration(uint64_t usec, char buffer[static FORMAT_MAX]);

/* A wall time as "2026-11-22T10:00:00Z". */
const char *format_time(uint64_t usec, char buffer[static FORMAT_MAX]);
