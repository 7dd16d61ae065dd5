/* SPDX-License-Identifier: MIT */
#pragma once

/* The relay's frames as bytes (docs/relay-protocol.md). The connection keeps order and loses
 * nothing, so one frame that is not what must come next ends the stream: nothing is skipped. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RELAY_VERSION     1U
#define RELAY_HEADER_SIZE 40U
#define RELAY_PAYLOAD_MAX 131072U

typedef enum relay_frame_type {
        RELAY_FRAME_DATA = 1, /* 1 to RELAY_PAYLOAD_MAX bytes */
        RELAY_FRAME_END = 2,  /* the channel's last, no payload: the sender's QEMU has closed it */
        RELAY_FRAME_BROKEN = 3,  /* no payload: what the other side sent was not what it wrote */
        RELAY_FRAME_MESSAGE = 4, /* as DATA, but the shims' own: bytes of the handover's messages */
} relay_frame_type;

#define RELAY_FLAG_ZSTD 0x01 /* DATA: the payload is one zstd frame of `n_plain` bytes */

/* Of the one who sends, so that nobody takes his own frames for the peer's. */
typedef enum relay_side {
        RELAY_SOURCE = 1,
        RELAY_DESTINATION = 2,
} relay_side;

typedef struct relay_header {
        relay_frame_type type;
        uint8_t flags;
        uint16_t channel;
        uint32_t n_payload; /* as it is on the connection */
        uint32_t n_plain;   /* as QEMU wrote it; without RELAY_FLAG_ZSTD the same */
        uint64_t sequence;  /* 0, 1, ... of this side in this channel */
        uint64_t check;     /* of the payload */
} relay_header;

/* What the next frame must be. */
typedef struct relay_expected {
        relay_side sender;
        uint16_t channel;
        uint64_t sequence;
        uint8_t flags; /* those that were agreed on */
        bool messages; /* likewise: RELAY_FRAME_MESSAGE may come */
} relay_expected;

static inline bool relay_frame_has_payload(relay_frame_type type) {
        return type == RELAY_FRAME_DATA || type == RELAY_FRAME_MESSAGE;
}

uint64_t relay_payload_check(const uint8_t *payload, size_t n);

void relay_header_format(const relay_header *header, relay_side sender,
                         uint8_t to[RELAY_HEADER_SIZE]);

/* NULL: *ret is good, its lengths are within the limits. Else what is wrong, for people. The
 * payload is not looked at: compare relay_payload_check() with ret->check. */
const char *relay_header_parse(const uint8_t data[RELAY_HEADER_SIZE],
                               const relay_expected *expected, relay_header *ret);
