/* SPDX-License-Identifier: MIT */
#pragma once

/* For tests: the other end of a connection, frame by frame. Everything is in one thread, so what
 * was sent is there: nothing waits. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ttrpc/envelope.h"
#include "ttrpc/frame.h"
#include "ttrpc/ttrpc.h"

typedef struct wire_frame {
        ttrpc_frame_header header;
        uint8_t *data; /* free() */
} wire_frame;

/* A connected pair of stream sockets. */
void wire_pair(int ret[2]);
void wire_send(int fd, const void *data, size_t n);
void wire_send_frame(int fd, uint32_t id, uint8_t type, uint8_t flags, const void *data, size_t n);
void wire_send_request(int fd, uint32_t id, uint8_t flags, const ttrpc_request *q);
/* Returns false when there is none. */
bool wire_receive(int fd, wire_frame *ret);
/* The next frame must be a RESPONSE with this status; `message` may be NULL. */
void wire_expect_status(int fd, uint32_t id, int32_t code, const char *message);
/* The next frame must be this. */
void wire_expect(int fd, uint32_t id, uint8_t type, uint8_t flags, const void *data, size_t n);
void wire_expect_nothing(int fd);
/* True when the other end has closed. */
bool wire_is_closed(int fd);

ttrpc_text wire_text(const char *text);
/* Until there is nothing left to do. */
void wire_pump_server(ttrpc_server *server);
void wire_pump_client(ttrpc_client *client);
/* How many descriptors this process has. */
size_t wire_count_fds(void);
