/* SPDX-License-Identifier: MIT */
#pragma once

/* Numbers of `n` bytes, 8 at most, as a network has them: the highest first. */

#include <stddef.h>
#include <stdint.h>

static inline void be_write(uint8_t *p, uint64_t value, size_t n) {
        for (size_t i = n; i > 0; i--, value >>= 8)
                p[i - 1] = (uint8_t)value;
}

static inline uint64_t be_read(const uint8_t *p, size_t n) {
        uint64_t value = 0;

        for (size_t i = 0; i < n; i++)
                value = value << 8 | p[i];
        return value;
}
