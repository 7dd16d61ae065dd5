/* SPDX-License-Identifier: MIT */
#pragma once

/* What of a stream's end must outlive its process, in memory that the user may map from a file. It
 * changes by single stores, each of which leaves a sound state: a process that is killed between
 * any two loses nothing but what it was just doing. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel/channel.h"

#define CHANNEL_KEEP_FORMAT 0x46436b31U /* "FCk1"; 0: nothing is kept yet */
#define CHANNEL_END         (UINT64_C(1) << 63)

struct channel_keep {
        uint32_t format;
        uint32_t id;
        uint64_t size;         /* of `data` */
        uint64_t consumed;     /* of the peer's bytes; with CHANNEL_END: its end too */
        uint64_t written;      /* of ours; with CHANNEL_END: and ended */
        uint64_t acknowledged; /* of ours; one more than written: the end too */
        uint8_t data[];        /* offset N is at N % size */
};

/* Of another process, a file or a host: within its own size, and not against itself. */
bool channel_keep_is_sound(const channel_keep *k);

static inline uint64_t keep_consumed(const channel_keep *k) {
        return (k->consumed & ~CHANNEL_END) + ((k->consumed & CHANNEL_END) != 0);
}

static inline bool keep_end_consumed(const channel_keep *k) {
        return (k->consumed & CHANNEL_END) != 0;
}

static inline uint64_t keep_written(const channel_keep *k) {
        return k->written & ~CHANNEL_END;
}

static inline bool keep_ended(const channel_keep *k) {
        return (k->written & CHANNEL_END) != 0;
}

static inline bool keep_end_acknowledged(const channel_keep *k) {
        return k->acknowledged > keep_written(k);
}

/* Bytes that the peer has not consumed. */
static inline size_t keep_pending(const channel_keep *k) {
        return keep_end_acknowledged(k) ? 0 : (size_t)(keep_written(k) - k->acknowledged);
}

/* Appends what there is room for; returns that. */
size_t channel_keep_put(channel_keep *k, const void *data, size_t n);

/* The same without a copy: room that lies in one piece, and how much of it was filled. */
uint8_t *channel_keep_space(channel_keep *k, size_t *ret_n);
void channel_keep_filled(channel_keep *k, size_t n);

/* The pending bytes from `offset` on that lie in one piece, at most `n`. */
const uint8_t *channel_keep_at(const channel_keep *k, uint64_t offset, size_t n, size_t *ret_n);
