/* SPDX-License-Identifier: MIT */
#pragma once

/* One line a record, to stderr or to a file: "2026-11-22T10:00:00.000000Z info  text".
 * Libraries stay at debug; the frame that drops an error logs it, once. */

#include "base/cleanup.h"

typedef enum ferry_log_level {
        FERRY_LOG_ERROR,
        FERRY_LOG_WARNING,
        FERRY_LOG_INFO,
        FERRY_LOG_DEBUG,
        _FERRY_LOG_LEVEL_MAX,
} ferry_log_level;

/* Default: stderr, info. `fd` is borrowed. */
void ferry_log_init(int fd, ferry_log_level max);

/* 0, or -EINVAL for an unknown name ("error", "warning", "info", "debug"). */
int ferry_log_level_from_string(const char *name, ferry_log_level *ret);

void ferry_log(ferry_log_level level, const char *format, ...) _printf_(2, 3);

#define log_error(...)   ferry_log(FERRY_LOG_ERROR, __VA_ARGS__)
#define log_warning(...) ferry_log(FERRY_LOG_WARNING, __VA_ARGS__)
#define log_info(...)    ferry_log(FERRY_LOG_INFO, __VA_ARGS__)
#define log_debug(...)   ferry_log(FERRY_LOG_DEBUG, __VA_ARGS__)
