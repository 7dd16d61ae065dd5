/* SPDX-License-Identifier: MIT */
#include "relay/blocks.h"

#include <errno.h>
#include <stdlib.h>

int relay_blocks_init(relay_blocks *b, size_t n, bool packed) {
        *b = (relay_blocks){ .n = n };
        pthread_mutex_init(&b->lock, NULL);
        pthread_cond_init(&b->can_fill, NULL);
        pthread_cond_init(&b->can_work, NULL);
        pthread_cond_init(&b->can_send, NULL);
        b->blocks = calloc(n, sizeof(*b->blocks));
        if (!b->blocks)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                b->blocks[i].plain = malloc(RELAY_PAYLOAD_MAX);
                if (packed)
                        b->blocks[i].packed = malloc(RELAY_PAYLOAD_MAX);
                if (!b->blocks[i].plain || (packed && !b->blocks[i].packed))
                        return -ENOMEM;
        }
        return 0;
}

void relay_blocks_done(relay_blocks *b) {
        for (size_t i = 0; b->blocks && i < b->n; i++) {
                free(b->blocks[i].plain);
                free(b->blocks[i].packed);
        }
        free(b->blocks);
        b->blocks = NULL;
        pthread_cond_destroy(&b->can_fill);
        pthread_cond_destroy(&b->can_work);
        pthread_cond_destroy(&b->can_send);
        pthread_mutex_destroy(&b->lock);
}

void relay_blocks_close(relay_blocks *b) {
        pthread_mutex_lock(&b->lock);
        b->closed = true;
        pthread_cond_broadcast(&b->can_fill);
        pthread_cond_broadcast(&b->can_work);
        pthread_cond_broadcast(&b->can_send);
        pthread_mutex_unlock(&b->lock);
}

bool relay_blocks_is_closed(relay_blocks *b) {
        bool closed;

        pthread_mutex_lock(&b->lock);
        closed = b->closed;
        pthread_mutex_unlock(&b->lock);
        return closed;
}

static void add(relay_blocks *b, uint64_t *count, pthread_cond_t *for_whom) {
        pthread_mutex_lock(&b->lock);
        (*count)++;
        pthread_cond_signal(for_whom);
        pthread_mutex_unlock(&b->lock);
}

relay_block *relay_blocks_fill(relay_blocks *b) {
        relay_block *block = NULL;

        pthread_mutex_lock(&b->lock);
        while (!b->closed && b->n_filled - b->n_sent == b->n)
                pthread_cond_wait(&b->can_fill, &b->lock);
        if (!b->closed) {
                block = &b->blocks[b->n_filled % b->n];
                block->worked = false;
        }
        pthread_mutex_unlock(&b->lock);
        return block;
}

void relay_blocks_filled(relay_blocks *b) {
        add(b, &b->n_filled, &b->can_work);
}

relay_block *relay_blocks_work(relay_blocks *b) {
        relay_block *block = NULL;

        pthread_mutex_lock(&b->lock);
        while (!b->closed && b->n_taken == b->n_filled)
                pthread_cond_wait(&b->can_work, &b->lock);
        if (!b->closed)
                block = &b->blocks[b->n_taken++ % b->n];
        pthread_mutex_unlock(&b->lock);
        return block;
}

void relay_blocks_worked(relay_blocks *b, relay_block *block) {
        pthread_mutex_lock(&b->lock);
        block->worked = true;
        if (block == &b->blocks[b->n_sent % b->n])
                pthread_cond_signal(&b->can_send);
        pthread_mutex_unlock(&b->lock);
}

relay_block *relay_blocks_send(relay_blocks *b, relay_wait *ret_wait) {
        relay_block *block;

        pthread_mutex_lock(&b->lock);
        block = &b->blocks[b->n_sent % b->n];
        if (b->n_filled - b->n_sent < b->n / 2)
                *ret_wait = RELAY_WAIT_FILLER;
        else
                *ret_wait = block->worked ? RELAY_WAIT_NONE : RELAY_WAIT_WORKERS;
        while (!b->closed && (b->n_sent == b->n_filled || !block->worked))
                pthread_cond_wait(&b->can_send, &b->lock);
        if (b->closed)
                block = NULL;
        pthread_mutex_unlock(&b->lock);
        return block;
}

void relay_blocks_sent(relay_blocks *b) {
        add(b, &b->n_sent, &b->can_fill);
}
