/* SPDX-License-Identifier: MIT */
#pragma once

/* Bytes in the order they came, in a buffer of fixed size. */

#include <stddef.h>
#include <stdint.h>

typedef struct ring {
        uint8_t *data;
        size_t size, start, n;
} ring;

/* -ENOMEM. `size` at least 1. */
int ring_init(ring *r, size_t size);
void ring_done(ring *r);

static inline size_t ring_room(const ring *r) {
        return r->size - r->n;
}

/* Appends what there is room for; returns that. */
size_t ring_put(ring *r, const void *data, size_t n);

/* The bytes from `offset` on that lie in one piece, at most `n`; NULL and 0 when there are none. */
const uint8_t *ring_at(const ring *r, size_t offset, size_t n, size_t *ret_n);

/* Drops the first `n` (at most what there is). */
void ring_drop(ring *r, size_t n);
