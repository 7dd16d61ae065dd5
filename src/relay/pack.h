/* SPDX-License-Identifier: MIT */
#pragma once

/* A block made smaller and back. One object a thread; the level is shared by all of a direction,
 * and follows what is the slower, the link or the CPU. */

#include <stdatomic.h>
#include <stdbool.h>

#include "relay/blocks.h"

typedef struct relay_level {
        atomic_uint index;
        unsigned n_seen, n_link, n_cpu; /* the sender's */
} relay_level;

void relay_level_init(relay_level *l);
/* The sender's, for each block: what it had to wait for. */
void relay_level_note(relay_level *l, relay_wait wait);
/* As zstd counts; 0: blocks go as they are. */
int relay_level_get(const relay_level *l);

/* Blocks that are to be compressed: what is in the queue when the guest is stopped is waited for.
 */
#define RELAY_PACK_MAX 32768U

typedef struct relay_packer relay_packer;

int relay_packer_new(relay_packer **ret);
relay_packer *relay_packer_free(relay_packer *p);

/* Sets payload, length and flag of a filled block. What does not shrink by a sixteenth stays. */
void relay_pack(relay_packer *p, const relay_level *level, relay_block *block);
/* False: it is no zstd frame of that plain length. */
bool relay_unpack(relay_packer *p, relay_block *block);
