/* SPDX-License-Identifier: MIT */
#pragma once

/* As much of HTTP/1.1 as the guest's service speaks: GET with keep-alive, JSON answers. */

#include <jansson.h>
#include <stdint.h>

/* One request and its answer on a connected, blocking socket. -ETIMEDOUT when the socket's receive
 * timeout passed, -ECONNRESET at EOF, -EBADMSG for what is no such answer or no JSON object. */
int http_get(int fd, const char *path, json_t **ret);
