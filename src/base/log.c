/* SPDX-License-Identifier: MIT */
#include "base/log.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>

static const char *const level_names[_FERRY_LOG_LEVEL_MAX] = {
        [FERRY_LOG_ERROR] = "error",
        [FERRY_LOG_WARNING] = "warning",
        [FERRY_LOG_INFO] = "info",
        [FERRY_LOG_DEBUG] = "debug",
};

static int log_fd = STDERR_FILENO;
static ferry_log_level log_max = FERRY_LOG_INFO;

void ferry_log_init(int fd, ferry_log_level max) {
        log_fd = fd;
        log_max = max;
}

int ferry_log_level_from_string(const char *name, ferry_log_level *ret) {
        for (size_t i = 0; i < ELEMENTS(level_names); i++)
                if (strcmp(name, level_names[i]) == 0) {
                        *ret = (ferry_log_level)i;
                        return 0;
                }
        return -EINVAL;
}

void ferry_log(ferry_log_level level, const char *format, ...) {
        int saved = errno;
        struct timespec now;
        struct tm tm;
        char line[2048];
        va_list ap;
        size_t n;
        int k;

        if (level > log_max)
                return;
        clock_gettime(CLOCK_REALTIME, &now);
        gmtime_r(&now.tv_sec, &tm);
        n = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
        n += (size_t)snprintf(line + n, sizeof(line) - n, ".%06ldZ %-7s ", now.tv_nsec / 1000,
                              level_names[level]);
        va_start(ap, format);
        k = vsnprintf(line + n, sizeof(line) - n - 1, format, ap);
        va_end(ap);
        if (k > 0)
                n += (size_t)k < sizeof(line) - n - 1 ? (size_t)k : sizeof(line) - n - 2;
        /* A record is one line whatever a peer put into it. */
        for (size_t i = 0; i < n; i++)
                if ((unsigned char)line[i] < ' ')
                        line[i] = ' ';
        line[n++] = '\n';
        /* A log that can't be written must not stop the sandbox. */
        if (write(log_fd, line, n) < 0)
                errno = 0;
        errno = saved;
}
