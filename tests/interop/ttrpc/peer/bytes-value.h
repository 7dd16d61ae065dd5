/* SPDX-License-Identifier: MIT */
#pragma once

/* google.protobuf.BytesValue by hand: one field, number 1. */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct bytes_value {
        uint8_t *data; /* serialized; free() */
        size_t n;
} bytes_value;

static inline bytes_value bytes_value_pack(const void *bytes, size_t n) {
        bytes_value v = { .data = malloc(n + 11) };
        size_t left = n;

        if (!v.data)
                abort();
        if (n == 0)
                return v;
        v.data[v.n++] = 0x0a;
        for (; left >= 0x80; left >>= 7)
                v.data[v.n++] = (uint8_t)(left | 0x80);
        v.data[v.n++] = (uint8_t)left;
        memcpy(v.data + v.n, bytes, n);
        v.n += n;
        return v;
}

/* A NUL-terminated copy; NULL when it is no BytesValue. */
static inline char *bytes_value_unpack(const uint8_t *data, size_t n, size_t *ret_n) {
        size_t at = 1, length = 0;
        char *text;

        if (n > 0 && data[0] != 0x0a)
                return NULL;
        for (unsigned shift = 0; at < n && shift < 35; shift += 7) {
                length |= (size_t)(data[at] & 0x7f) << shift;
                if (!(data[at++] & 0x80))
                        break;
        }
        if (n > 0 && length != n - at)
                return NULL;
        text = calloc(1, length + 1);
        if (text && length > 0)
                memcpy(text, data + at, length);
        *ret_n = length;
        return text;
}
