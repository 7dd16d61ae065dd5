/* SPDX-License-Identifier: MIT */
#include "cli/format.h"

#include <stdio.h>
#include <time.h>

#include "base/clock.h"

const char *format_bytes(uint64_t bytes, char buffer[static FORMAT_MAX]) {
        static const char *const units[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
        double value = (double)bytes;
        size_t unit = 0;

        if (bytes < 1024) {
                snprintf(buffer, FORMAT_MAX, "%u B", (unsigned)bytes);
                return buffer;
        }
        /* 1023.95 and more would print as "1024.0" */
        for (value /= 1024; value >= 1023.95 && unit < 5; unit++)
                value /= 1024;
        snprintf(buffer, FORMAT_MAX, "%.1f %s", value, units[unit]);
        return buffer;
}

const char *format_bytes_short(uint64_t bytes, char buffer[static FORMAT_MAX]) {
        static const char units[] = "KMGTPE";
        double value = (double)bytes / 1024;
        size_t unit = 0;

        if (bytes < 1024) {
                snprintf(buffer, FORMAT_MAX, "%u", (unsigned)bytes);
                return buffer;
        }
        for (; value >= 1023.5 && unit < 5; unit++)
                value /= 1024;
        snprintf(buffer, FORMAT_MAX, "%.*f%c", unit >= 2 && value < 9.95 ? 1 : 0, value,
                 units[unit]);
        return buffer;
}

const char *format_duration(uint64_t usec, char buffer[static FORMAT_MAX]) {
        uint64_t seconds = usec / USEC_PER_SEC, minutes = seconds / 60, hours = minutes / 60;
        unsigned long long big, small;

        if (usec < USEC_PER_MSEC)
                snprintf(buffer, FORMAT_MAX, "%u us", (unsigned)usec);
        else if (usec < USEC_PER_SEC)
                snprintf(buffer, FORMAT_MAX, "%.1f ms", (double)usec / 1e3);
        else if (minutes == 0)
                snprintf(buffer, FORMAT_MAX, "%.2f s", (double)usec / 1e6);
        else {
                const char *units[2];

                if (hours == 0) {
                        big = minutes, small = seconds % 60;
                        units[0] = "min", units[1] = "s";
                } else if (hours < 24) {
                        big = hours, small = minutes % 60;
                        units[0] = "h", units[1] = "min";
                } else {
                        big = hours / 24, small = hours % 24;
                        units[0] = "d", units[1] = "h";
                }
                snprintf(buffer, FORMAT_MAX, "%llu %s %llu %s", big, units[0], small, units[1]);
        }
        return buffer;
}

const char *format_time(uint64_t usec, char buffer[static FORMAT_MAX]) {
        time_t seconds = (time_t)(usec / USEC_PER_SEC);
        struct tm tm;

        if (!gmtime_r(&seconds, &tm) ||
            strftime(buffer, FORMAT_MAX, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
                buffer[0] = '\0';
        return buffer;
}
