/* SPDX-License-Identifier: MIT */
#include "relay/frame.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/bytes.h"

static const uint8_t magic[3] = { 'F', 'R', 'l' };

uint64_t relay_payload_check(const uint8_t *payload, size_t n) {
        return XXH3_64bits(payload, n);
}

/* magic 3, version 1, type 1, flags 1, channel 2, payload's length 4, plain length 4, sequence 8,
 * payload's check 8, header's check 8 */
void relay_header_format(const relay_header *h, relay_side sender, uint8_t to[RELAY_HEADER_SIZE]) {
        memcpy(to, magic, sizeof(magic));
        to[3] = RELAY_VERSION;
        to[4] = (uint8_t)h->type;
        to[5] = h->flags;
        be_write(to + 6, h->channel, 2);
        be_write(to + 8, h->n_payload, 4);
        be_write(to + 12, h->n_plain, 4);
        be_write(to + 16, h->sequence, 8);
        be_write(to + 24, h->check, 8);
        be_write(to + 32, XXH3_64bits_withSeed(to, 32, (uint64_t)sender), 8);
}

static const char *check_lengths(const relay_header *h) {
        if (!relay_frame_has_payload(h->type))
                return h->flags || h->n_payload || h->n_plain ? "an end with something in it"
                                                              : NULL;
        if (h->n_payload == 0 || h->n_payload > RELAY_PAYLOAD_MAX || h->n_plain == 0 ||
            h->n_plain > RELAY_PAYLOAD_MAX)
                return "a length that no frame has";
        if (h->type == RELAY_FRAME_MESSAGE && h->flags)
                return "a message with a flag";
        if (!(h->flags & RELAY_FLAG_ZSTD) && h->n_payload != h->n_plain)
                return "two lengths of one block";
        return NULL;
}

const char *relay_header_parse(const uint8_t data[RELAY_HEADER_SIZE],
                               const relay_expected *expected, relay_header *ret) {
        relay_header h = {
                .flags = data[5],
                .channel = (uint16_t)be_read(data + 6, 2),
                .n_payload = (uint32_t)be_read(data + 8, 4),
                .n_plain = (uint32_t)be_read(data + 12, 4),
                .sequence = be_read(data + 16, 8),
                .check = be_read(data + 24, 8),
        };
        const char *problem;

        if (memcmp(data, magic, sizeof(magic)) != 0)
                return "something that is no frame";
        if (be_read(data + 32, 8) != XXH3_64bits_withSeed(data, 32, (uint64_t)expected->sender))
                return "a frame's header was changed on the way";
        if (data[3] != RELAY_VERSION)
                return "a frame of another version";
        if (data[4] < RELAY_FRAME_DATA ||
            data[4] > (expected->messages ? RELAY_FRAME_MESSAGE : RELAY_FRAME_BROKEN))
                return "a frame of an unknown type";
        h.type = (relay_frame_type)data[4];
        if (h.flags & ~expected->flags)
                return "a flag that was not agreed on";
        if (h.channel != expected->channel)
                return "a frame of another channel";
        if (h.sequence != expected->sequence)
                return "a frame out of its order";
        problem = check_lengths(&h);
        if (problem)
                return problem;
        *ret = h;
        return NULL;
}
