/* SPDX-License-Identifier: MIT */
#pragma once

/* A channel's frames as bytes (docs/channel.md). The port that carries them may lose any range of
 * bytes: a frame is known by its magic and two checksums, and what does not fit is skipped. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHANNEL_HEADER_SIZE 28
#define CHANNEL_PAYLOAD_MAX 16384
#define CHANNEL_FRAME_MAX   (CHANNEL_HEADER_SIZE + CHANNEL_PAYLOAD_MAX)
/* Of what we send: Linux's driver takes 32 KiB with one write, which are two whole frames. */
#define CHANNEL_DATA_MAX (CHANNEL_PAYLOAD_MAX - CHANNEL_HEADER_SIZE)

typedef enum channel_frame_type {
        CHANNEL_FRAME_DATA = 1,   /* offset: of its first byte */
        CHANNEL_FRAME_WINDOW = 2, /* offset: consumed up to; payload: channel_window */
        CHANNEL_FRAME_PROBE = 3,  /* offset: its number, echoed by the answer */
        CHANNEL_FRAME_PAD = 4, /* nothing: pushes a broken frame's rest out of the peer's parser */
} channel_frame_type;

#define CHANNEL_FLAG_END    0x01 /* DATA: nothing follows it */
#define CHANNEL_FLAG_ANSWER 0x02 /* WINDOW: to a PROBE */
#define CHANNEL_FLAG_RESYNC 0x04 /* WINDOW: something was lost, probe now */

typedef struct channel_frame {
        channel_frame_type type;
        uint8_t flags;
        uint32_t stream;
        uint64_t offset;
        const uint8_t *payload; /* borrowed */
        size_t n_payload;
} channel_frame;

typedef struct channel_window {
        uint64_t received;
        uint64_t limit; /* may be sent up to here */
        uint64_t probe; /* its number, in an answer */
} channel_window;

#define CHANNEL_WINDOW_SIZE 24

/* `to` has room for CHANNEL_HEADER_SIZE + n_payload bytes; returns that. */
size_t channel_frame_format(const channel_frame *frame, uint8_t *to);

/* Looks at the `n` bytes for a frame at their beginning. > 0: that frame's size. 0: more bytes are
 * needed. -EBADMSG: no frame begins here; skip at least one byte. */
int channel_frame_parse(const uint8_t *data, size_t n, channel_frame *ret);

/* How many of the `n` bytes cannot begin a frame: what to skip after -EBADMSG. At least 1. */
size_t channel_frame_skip(const uint8_t *data, size_t n);

void channel_window_format(const channel_window *window, uint8_t to[CHANNEL_WINDOW_SIZE]);
/* False when the payload is not one. */
bool channel_window_parse(const channel_frame *frame, channel_window *ret);
