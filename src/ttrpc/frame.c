/* SPDX-License-Identifier: MIT */
#include "ttrpc/frame.h"

#include <errno.h>

static uint32_t be32_read(const uint8_t *p) {
        return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void be32_write(uint8_t *p, uint32_t value) {
        p[0] = (uint8_t)(value >> 24);
        p[1] = (uint8_t)(value >> 16);
        p[2] = (uint8_t)(value >> 8);
        p[3] = (uint8_t)value;
}

int ttrpc_frame_parse(const uint8_t *data, size_t n, ttrpc_frame_header *ret) {
        if (n < TTRPC_HEADER_SIZE)
                return 0;
        if (data[0] != 0)
                return -EPROTO;
        *ret = (ttrpc_frame_header){
                .length = be32_read(data),
                .stream_id = be32_read(data + 4),
                .type = data[8],
                .flags = data[9],
        };
        return 1;
}

void ttrpc_frame_format(const ttrpc_frame_header *header, uint8_t ret[TTRPC_HEADER_SIZE]) {
        be32_write(ret, header->length);
        be32_write(ret + 4, header->stream_id);
        ret[8] = header->type;
        ret[9] = header->flags;
}
