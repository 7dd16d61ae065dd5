/* SPDX-License-Identifier: MIT */
#pragma once

/* One connection's bytes, both ways, for the server and the client: frames come out of what is
 * read, frames go into what is written. No poll, no timer.
 *
 * Frames of one read are handed on one after the other; what they make us send goes out together at
 * the end (ttrpc_conn_flush). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ttrpc/frame.h"

typedef struct ttrpc_conn {
        int fd;
        bool is_socket;
        bool drained; /* the last read took all there was */
        uint8_t *in;
        size_t in_begin, in_end, in_size;
        size_t message_max; /* a longer frame is thrown away */
        uint64_t skip;      /* of one */
        uint8_t *out;
        size_t out_begin, out_end, out_size;
} ttrpc_conn;

/* A stream socket, or another descriptor for both ways (a serial port). It becomes non-blocking. */
int ttrpc_conn_init(ttrpc_conn *c, int fd_consume);
void ttrpc_conn_done(ttrpc_conn *c);
/* Nothing more goes either way, and the other end sees that. */
void ttrpc_conn_hang_up(ttrpc_conn *c);

/* Reads what is there. 1 got some, 0 nothing now, -ENOTCONN the end, another errno. */
int ttrpc_conn_read(ttrpc_conn *c);
/* The next frame in what was read. 1: *ret, and its data, valid until the next call here; 2: *ret,
 * and the data was too long: it is being thrown away; 0: more must be read; -EPROTO. */
int ttrpc_conn_next(ttrpc_conn *c, ttrpc_frame_header *ret, const uint8_t **ret_data);

/* Room for a frame with `length` bytes, header filled in; NULL when out of memory. */
uint8_t *ttrpc_conn_put(ttrpc_conn *c, uint32_t stream_id, uint8_t type, uint8_t flags,
                        size_t length);
/* 0 (some may be left), or an errno: the connection is dead. */
int ttrpc_conn_flush(ttrpc_conn *c);

static inline size_t ttrpc_conn_queued(const ttrpc_conn *c) {
        return c->out_end - c->out_begin;
}
