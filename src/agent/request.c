/* SPDX-License-Identifier: MIT */
#include "agent/request.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

/* "GET /path HTTP/1.1". */
static int parse_first_line(const char *line, size_t n, request *ret) {
        const char *method_end = memchr(line, ' ', n);
        const char *path, *path_end;
        size_t n_path;

        if (!method_end)
                return -EBADMSG;
        path = method_end + 1;
        path_end = memchr(path, ' ', n - (size_t)(path - line));
        if (!path_end || path == path_end || *path != '/')
                return -EBADMSG;
        n_path = (size_t)(path_end - path);
        if (n_path > REQUEST_PATH_MAX || n - (size_t)(path_end + 1 - line) != 8 ||
            memcmp(path_end + 1, "HTTP/1.", 7) != 0)
                return -EBADMSG;
        memcpy(ret->path, path, n_path);
        ret->path[n_path] = '\0';
        ret->is_get = method_end - line == 3 && memcmp(line, "GET", 3) == 0;
        ret->keep_alive = path_end[8] == '1';
        return 0;
}

/* True when the header of that name has exactly that value; `value` NULL = any. */
static bool header_is(const char *line, size_t n, const char *name, const char *value) {
        size_t n_name = strlen(name);

        if (n <= n_name || line[n_name] != ':' || strncasecmp(line, name, n_name) != 0)
                return false;
        line += n_name + 1;
        n -= n_name + 1;
        while (n > 0 && (*line == ' ' || *line == '\t')) {
                line++;
                n--;
        }
        while (n > 0 && (line[n - 1] == ' ' || line[n - 1] == '\t'))
                n--;
        return !value || (n == strlen(value) && strncasecmp(line, value, n) == 0);
}

static int parse_header(const char *line, size_t n, request *ret) {
        if (header_is(line, n, "Connection", "close"))
                ret->keep_alive = false;
        if (header_is(line, n, "Connection", "keep-alive"))
                ret->keep_alive = true;
        if (header_is(line, n, "Transfer-Encoding", NULL) ||
            (header_is(line, n, "Content-Length", NULL) &&
             !header_is(line, n, "Content-Length", "0")))
                return -EBADMSG;
        return 0;
}

int request_parse(const char *data, size_t n, request *ret, size_t *ret_used) {
        const char *end = memmem(data, n, "\r\n\r\n", 4);
        const char *line = data;
        bool first = true;

        if (!end)
                return n >= REQUEST_MAX ? -EMSGSIZE : 0;
        *ret = (request){ 0 };
        while (line < end + 2) {
                const char *stop = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
                size_t n_line;
                int r;

                if (!stop) /* a bare newline: the end's "\r\n" is always found otherwise */
                        return -EBADMSG;
                n_line = (size_t)(stop - line);
                r = first ? parse_first_line(line, n_line, ret) : parse_header(line, n_line, ret);
                if (r < 0)
                        return r;
                first = false;
                line = stop + 2;
        }
        *ret_used = (size_t)(end + 4 - data);
        return 1;
}
