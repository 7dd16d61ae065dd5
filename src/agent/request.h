/* SPDX-License-Identifier: MIT */
#pragma once

/* As much of HTTP/1.1 as the demo's server needs: GET without a body. Pure. */

#include <stdbool.h>
#include <stddef.h>

#define REQUEST_MAX      4096U
#define REQUEST_PATH_MAX 255U

typedef struct request {
        char path[REQUEST_PATH_MAX + 1]; /* with the query: "/rate?mb=5" */
        bool is_get;
        bool keep_alive;
} request;

/* 1 = a request in *ret, of *ret_used bytes; 0 = need more; -EBADMSG = not HTTP/1.x, or with a
 * body; -EMSGSIZE = more than REQUEST_MAX bytes without an end. */
int request_parse(const char *data, size_t n, request *ret, size_t *ret_used);
