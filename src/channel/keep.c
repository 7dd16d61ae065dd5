/* SPDX-License-Identifier: MIT */
#include "channel/keep.h"

#include <string.h>

static size_t smaller(size_t a, size_t b) {
        return a < b ? a : b;
}

bool channel_keep_is_sound(const channel_keep *k) {
        uint64_t written = keep_written(k), most = UINT64_MAX >> 2;

        return k->format == CHANNEL_KEEP_FORMAT && k->size > 0 && written < most &&
               (k->consumed & ~CHANNEL_END) < most &&
               k->acknowledged <= written + (keep_ended(k) ? 1 : 0) && keep_pending(k) <= k->size;
}

/* The store of `written` must not be seen before the bytes are there. */
static void publish(uint64_t *to, uint64_t value) {
        __atomic_store_n(to, value, __ATOMIC_RELEASE);
}

size_t channel_keep_put(channel_keep *k, const void *data, size_t n) {
        const uint8_t *bytes = data;
        size_t at, first;

        if (keep_ended(k))
                return 0;
        n = smaller(n, (size_t)k->size - keep_pending(k));
        at = (size_t)(k->written % k->size);
        first = smaller(n, (size_t)k->size - at);
        if (n > 0) {
                memcpy(k->data + at, bytes, first);
                memcpy(k->data, bytes + first, n - first);
                publish(&k->written, k->written + n);
        }
        return n;
}

uint8_t *channel_keep_space(channel_keep *k, size_t *ret_n) {
        size_t at = (size_t)(keep_written(k) % k->size);

        *ret_n = keep_ended(k) ? 0
                               : smaller((size_t)k->size - keep_pending(k), (size_t)k->size - at);
        return k->data + at;
}

void channel_keep_filled(channel_keep *k, size_t n) {
        publish(&k->written, k->written + n);
}

const uint8_t *channel_keep_at(const channel_keep *k, uint64_t offset, size_t n, size_t *ret_n) {
        uint64_t written = keep_written(k);
        size_t at;

        *ret_n = 0;
        if (offset < k->acknowledged || offset >= written)
                return NULL;
        at = (size_t)(offset % k->size);
        *ret_n = smaller(n, smaller((size_t)(written - offset), (size_t)k->size - at));
        return k->data + at;
}
