/* SPDX-License-Identifier: MIT */
#pragma once

/* One client of the demo's server: bytes in, answers out, nothing that blocks. */

#include <stdbool.h>
#include <stddef.h>

#include "agent/request.h"

#define ANSWER_MAX 1024U /* header and body */
#define OUTPUT_MAX (8U * ANSWER_MAX)

/* Writes the body for a request (JSON, at most `n_ret` - 1 bytes), returns the HTTP status. */
typedef int (*connection_handler)(const request *r, char *ret, size_t n_ret, void *userdata);

typedef struct connection {
        int fd;       /* owned; -EBADF = free */
        bool closing; /* close once the output is out */
        size_t n_in;
        size_t n_out;
        char in[REQUEST_MAX];
        char out[OUTPUT_MAX];
} connection;

/* What poll(2) should wait for. */
short connection_events(const connection *c);

/* One step after poll. False = it is over: the caller closes it. */
bool connection_process(connection *c, connection_handler handler, void *userdata);
