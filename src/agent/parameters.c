/* SPDX-License-Identifier: MIT */
#include "agent/parameters.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

#define BLANKS " \t\n"
#define PREFIX "ferry."

bool parameter_get(const char *text, const char *name, char *ret, size_t n_ret) {
        size_t n_name = strlen(name);
        bool found = false;

        while (*text != '\0') {
                size_t n = strcspn(text, BLANKS);
                size_t n_key = strlen(PREFIX) + n_name + 1;

                if (n >= n_key && memcmp(text, PREFIX, strlen(PREFIX)) == 0 &&
                    memcmp(text + strlen(PREFIX), name, n_name) == 0 && text[n_key - 1] == '=') {
                        found = n - n_key < n_ret;
                        if (found) {
                                memcpy(ret, text + n_key, n - n_key);
                                ret[n - n_key] = '\0';
                        }
                }
                text += n;
                text += strspn(text, BLANKS);
        }
        return found;
}

long parameter_number(const char *text, const char *name, long min, long max, long otherwise) {
        char value[32], *end;
        long number;

        if (!parameter_get(text, name, value, sizeof(value)) ||
            value[strspn(value, "-0123456789")] != '\0')
                return otherwise;
        errno = 0;
        number = strtol(value, &end, 10);
        if (errno != 0 || end == value || *end != '\0' || number < min || number > max)
                return otherwise;
        return number;
}

bool parameter_address(const char *value, struct in_addr *ret_address, struct in_addr *ret_mask) {
        const char *slash = strchr(value, '/');
        char address[INET_ADDRSTRLEN];
        unsigned prefix = 0;
        size_t n_digits;

        if (!slash || (size_t)(slash - value) >= sizeof(address))
                return false;
        memcpy(address, value, (size_t)(slash - value));
        address[slash - value] = '\0';
        n_digits = strspn(slash + 1, "0123456789");
        if (n_digits == 0 || n_digits > 2 || slash[1 + n_digits] != '\0')
                return false;
        for (size_t i = 0; i < n_digits; i++)
                prefix = prefix * 10 + (unsigned)(slash[1 + i] - '0');
        if (prefix < 1 || prefix > 30 || inet_pton(AF_INET, address, ret_address) != 1)
                return false;
        ret_mask->s_addr = htonl(UINT32_MAX << (32 - prefix));
        return true;
}

void parameters_read(char ret[PARAMETERS_TEXT_MAX]) {
        _cleanup_(closep) int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, ret, PARAMETERS_TEXT_MAX - 1) : 0;

        ret[n > 0 ? n : 0] = '\0';
}
