/* SPDX-License-Identifier: MIT */
#include "http.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/fd.h"

#define ANSWER_MAX 8192U

/* Up to `max` more bytes behind what is there. */
static int receive(int fd, char *buffer, size_t *n, size_t max) {
        ssize_t got;

        if (*n >= max)
                return -EBADMSG;
        do
                got = recv(fd, buffer + *n, max - *n, 0);
        while (got < 0 && errno == EINTR);
        if (got < 0)
                return errno == EAGAIN ? -ETIMEDOUT : -errno;
        if (got == 0)
                return -ECONNRESET;
        *n += (size_t)got;
        return 0;
}

/* The Content-Length among the header lines, or -EBADMSG. */
static int find_length(const char *headers, size_t *ret) {
        for (const char *line = strstr(headers, "\r\n"); line; line = strstr(line, "\r\n")) {
                char *end;
                unsigned long value;

                line += 2;
                if (strncasecmp(line, "Content-Length:", 15) != 0)
                        continue;
                value = strtoul(line + 15, &end, 10);
                if (end == line + 15 || value > ANSWER_MAX)
                        return -EBADMSG;
                *ret = value;
                return 0;
        }
        return -EBADMSG;
}

int http_get(int fd, const char *path, json_t **ret) {
        char buffer[ANSWER_MAX + 1], request[160];
        size_t n = 0, n_body = 0, n_headers;
        json_t *json;
        char *end;
        int r;

        r = snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: guest\r\n\r\n", path);
        r = fd_write_all(fd, request, (size_t)r);
        if (r < 0)
                return r;
        do {
                r = receive(fd, buffer, &n, ANSWER_MAX);
                if (r < 0)
                        return r;
                buffer[n] = '\0';
                end = strstr(buffer, "\r\n\r\n");
        } while (!end);
        end[2] = '\0';
        n_headers = (size_t)(end + 4 - buffer);
        if (strncmp(buffer, "HTTP/1.1 200", 12) != 0)
                return -EBADMSG;
        r = find_length(buffer, &n_body);
        while (r == 0 && n < n_headers + n_body)
                r = receive(fd, buffer, &n, ANSWER_MAX);
        if (r < 0)
                return r;
        json = json_loadb(buffer + n_headers, n_body, 0, NULL);
        if (!json_is_object(json)) {
                json_decref(json);
                return -EBADMSG;
        }
        *ret = json;
        return 0;
}
