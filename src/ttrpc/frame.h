/* SPDX-License-Identifier: MIT */
#pragma once

/* The 10-byte frame header. Pure. Source: PROTOCOL.md "Message Frame". */

#include <stddef.h>
#include <stdint.h>

#define TTRPC_HEADER_SIZE 10U

typedef enum ttrpc_frame_type {
        TTRPC_FRAME_REQUEST = 1,
        TTRPC_FRAME_RESPONSE = 2,
        TTRPC_FRAME_DATA = 3,
} ttrpc_frame_type;

#define TTRPC_FLAG_REMOTE_CLOSED 0x1U
#define TTRPC_FLAG_REMOTE_OPEN   0x2U
#define TTRPC_FLAG_NO_DATA       0x4U

typedef struct ttrpc_frame_header {
        uint32_t length;
        uint32_t stream_id;
        uint8_t type;
        uint8_t flags;
} ttrpc_frame_header;

/* 1 parsed, 0 fewer than 10 bytes, -EPROTO: the reserved first byte is not 0, the peer is out of
 * step. A length over TTRPC_MESSAGE_MAX is the caller's to refuse. */
int ttrpc_frame_parse(const uint8_t *data, size_t n, ttrpc_frame_header *ret);
void ttrpc_frame_format(const ttrpc_frame_header *header, uint8_t ret[TTRPC_HEADER_SIZE]);
