/* SPDX-License-Identifier: MIT */
#pragma once

/* The control port's one stream, and the server's connection on it. Each host process takes a
 * stream number of its own; a new one means a new host process, and ends what the last one asked.
 */

#include <poll.h>

#include "channel/channel.h"
#include "ttrpc/ttrpc.h"

#define CONTROL_BUFFER 262144U

typedef struct control {
        ttrpc_server *server;
        channel_stream *stream; /* NULL: nobody has come yet */
        int fd;                 /* our end of the server's connection */
} control;

/* Both are borrowed; the channel is the port's. */
void control_init(control *c, channel *on, ttrpc_server *server);

void control_prepare(control *c, struct pollfd *ret);
void control_process(control *c);
