/* SPDX-License-Identifier: MIT */
#pragma once

/* The guest's end of both ports, for tests: it sees what the host asks, and says what it is told
 * to, byte for byte. Whoever has it gives it its turns. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel/channel.h"

#define PEER_REQUESTS_MAX 256U

typedef struct peer_request {
        uint32_t stream; /* ttrpc's number of the call */
        char method[32];
} peer_request;

typedef struct peer_port {
        int listener, fd; /* -EBADF: nobody is there */
        channel *channel;
} peer_port;

typedef struct peer {
        char folder[48]; /* for the host's files too */
        peer_port control, streams;
        channel_stream *stream; /* what the host's calls come by; NULL: none yet */
        unsigned n_connections; /* those streams, so far */
        peer_request requests[PEER_REQUESTS_MAX];
        size_t n_requests;
        uint8_t in[65536]; /* of a request that is not whole */
        size_t n_in;
} peer;

/* False when the machine cannot. */
bool peer_init(peer *p);
/* And its folder, with what is in it. */
void peer_done(peer *p);

/* Reads what has come, writes what it can. */
void peer_turn(peer *p);

/* The last one of that method; NULL: none since the last peer_forget(). */
const peer_request *peer_find(const peer *p, const char *method);
void peer_forget(peer *p);

/* On the control stream: any bytes, and what a server would answer. */
void peer_say(peer *p, const void *data, size_t n);
void peer_answer(peer *p, uint32_t stream, int32_t code, const char *message, const void *payload,
                 size_t n);
/* On the port itself: what it takes of it. */
size_t peer_put(peer_port *port, const void *data, size_t n);
/* A stranger's frame: DATA or WINDOW as they please. */
void peer_put_frame(peer_port *port, int type, uint8_t flags, uint32_t stream, uint64_t offset,
                    const void *payload, size_t n);
