/* SPDX-License-Identifier: MIT */
#include "channel/ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static size_t smaller(size_t a, size_t b) {
        return a < b ? a : b;
}

int ring_init(ring *r, size_t size) {
        *r = (ring){ .data = malloc(size), .size = size };
        return r->data ? 0 : -ENOMEM;
}

void ring_done(ring *r) {
        free(r->data);
        *r = (ring){ .data = NULL };
}

size_t ring_put(ring *r, const void *data, size_t n) {
        const uint8_t *bytes = data;
        size_t end, first;

        n = smaller(n, ring_room(r));
        if (n == 0)
                return 0;
        end = (r->start + r->n) % r->size;
        first = smaller(n, r->size - end);
        memcpy(r->data + end, bytes, first);
        memcpy(r->data, bytes + first, n - first);
        r->n += n;
        return n;
}

const uint8_t *ring_at(const ring *r, size_t offset, size_t n, size_t *ret_n) {
        size_t at;

        *ret_n = 0;
        if (offset >= r->n)
                return NULL;
        at = (r->start + offset) % r->size;
        *ret_n = smaller(n, smaller(r->n - offset, r->size - at));
        return r->data + at;
}

void ring_drop(ring *r, size_t n) {
        n = smaller(n, r->n);
        r->start = (r->start + n) % r->size;
        r->n -= n;
}
