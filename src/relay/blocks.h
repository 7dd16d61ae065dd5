/* SPDX-License-Identifier: MIT */
#pragma once

/* The blocks that are on their way in one direction: a bounded queue between a thread that fills
 * them, some that work on them, and one that sends them on in the order they were filled.
 * Who waits for room is the back-pressure. */

#include <pthread.h>
#include <stdbool.h>

#include "relay/frame.h"

typedef struct relay_block {
        relay_header header;
        uint8_t *plain;         /* RELAY_PAYLOAD_MAX bytes */
        uint8_t *packed;        /* as many; NULL where nothing is compressed */
        const uint8_t *payload; /* the one of both that is on the connection */
        bool worked;
} relay_block;

typedef struct relay_blocks {
        pthread_mutex_t lock;
        pthread_cond_t can_fill, can_work, can_send; /* who waits is woken for himself alone */
        relay_block *blocks;
        size_t n;
        uint64_t n_filled, n_taken, n_sent;
        bool closed;
} relay_blocks;

/* What keeps the sender waiting. */
typedef enum relay_wait {
        RELAY_WAIT_NONE,    /* nothing, and the queue is half full: it is the slowest of all */
        RELAY_WAIT_WORKERS, /* the queue is half full, and its first block not ready */
        RELAY_WAIT_FILLER,
} relay_wait;

int relay_blocks_init(relay_blocks *b, size_t n, bool packed);
/* No thread may be using it. Also what init left behind when it failed. */
void relay_blocks_done(relay_blocks *b);

/* Everybody who waits, or comes later, gets NULL. */
void relay_blocks_close(relay_blocks *b);
bool relay_blocks_is_closed(relay_blocks *b);

/* Each gives a block, or NULL once closed; the block is the caller's until it is passed on. */
relay_block *relay_blocks_fill(relay_blocks *b);
void relay_blocks_filled(relay_blocks *b);
relay_block *relay_blocks_work(relay_blocks *b);
void relay_blocks_worked(relay_blocks *b, relay_block *block);
relay_block *relay_blocks_send(relay_blocks *b, relay_wait *ret_wait);
void relay_blocks_sent(relay_blocks *b);
