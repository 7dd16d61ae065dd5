/* SPDX-License-Identifier: MIT */
#include "channel/frame.h"

#include <errno.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"

static const uint8_t magic[4] = { 'F', 'C', 'h', '1' };

/* magic 4, type 1, flags 1, length 2, stream 4, offset 8, payload's check 4, header's check 4 */
size_t channel_frame_format(const channel_frame *frame, uint8_t *to) {
        if (frame->n_payload > 0)
                memmove(to + CHANNEL_HEADER_SIZE, frame->payload, frame->n_payload);
        memcpy(to, magic, sizeof(magic));
        to[4] = (uint8_t)frame->type;
        to[5] = frame->flags;
        be_write(to + 6, frame->n_payload, 2);
        be_write(to + 8, frame->stream, 4);
        be_write(to + 12, frame->offset, 8);
        be_write(to + 20, XXH32(to + CHANNEL_HEADER_SIZE, frame->n_payload, 0), 4);
        be_write(to + 24, XXH32(to, 24, 0), 4);
        return CHANNEL_HEADER_SIZE + frame->n_payload;
}

int channel_frame_parse(const uint8_t *data, size_t n, channel_frame *ret) {
        size_t n_payload;

        if (memcmp(data, magic, n < sizeof(magic) ? n : sizeof(magic)) != 0)
                return -EBADMSG;
        if (n < CHANNEL_HEADER_SIZE)
                return 0;
        n_payload = (size_t)be_read(data + 6, 2);
        if (be_read(data + 24, 4) != XXH32(data, 24, 0) || n_payload > CHANNEL_PAYLOAD_MAX ||
            data[4] < CHANNEL_FRAME_DATA || data[4] > CHANNEL_FRAME_PAD)
                return -EBADMSG;
        if (n < CHANNEL_HEADER_SIZE + n_payload)
                return 0;
        if (be_read(data + 20, 4) != XXH32(data + CHANNEL_HEADER_SIZE, n_payload, 0))
                return -EBADMSG;
        *ret = (channel_frame){
                .type = (channel_frame_type)data[4],
                .flags = data[5],
                .stream = (uint32_t)be_read(data + 8, 4),
                .offset = be_read(data + 12, 8),
                .payload = data + CHANNEL_HEADER_SIZE,
                .n_payload = n_payload,
        };
        return (int)(CHANNEL_HEADER_SIZE + n_payload);
}

size_t channel_frame_skip(const uint8_t *data, size_t n) {
        const uint8_t *next = n > 1 ? memchr(data + 1, magic[0], n - 1) : NULL;

        return next ? (size_t)(next - data) : n;
}

void channel_window_format(const channel_window *window, uint8_t to[CHANNEL_WINDOW_SIZE]) {
        be_write(to, window->received, 8);
        be_write(to + 8, window->limit, 8);
        be_write(to + 16, window->probe, 8);
}

bool channel_window_parse(const channel_frame *frame, channel_window *ret) {
        if (frame->n_payload != CHANNEL_WINDOW_SIZE)
                return false;
        *ret = (channel_window){
                .received = be_read(frame->payload, 8),
                .limit = be_read(frame->payload + 8, 8),
                .probe = be_read(frame->payload + 16, 8),
        };
        return true;
}
