/* SPDX-License-Identifier: MIT */
#include "relay/pack.h"

#include <errno.h>
#include <stdlib.h>
#include <zstd.h>

#define SPAN     16U /* blocks between two looks at the level */
#define SKIP_MAX 16U

/* The first: as it is. */
static const int levels[] = { 0, -20, -5, -1, 1, 3, 5, 7, 9 };

#define FIRST_LEVEL 4U
#define LAST_LEVEL  (sizeof(levels) / sizeof(levels[0]) - 1)

struct relay_packer {
        ZSTD_CCtx *c;
        ZSTD_DCtx *d;
        unsigned skip, next_skip; /* blocks that are not tried: those before did not shrink */
};

void relay_level_init(relay_level *l) {
        *l = (relay_level){ .n_seen = 0 };
        atomic_init(&l->index, FIRST_LEVEL);
}

int relay_level_get(const relay_level *l) {
        return levels[atomic_load(&l->index)];
}

void relay_level_note(relay_level *l, relay_wait wait) {
        unsigned index = atomic_load(&l->index);

        l->n_seen++;
        l->n_link += wait == RELAY_WAIT_NONE;
        l->n_cpu += wait == RELAY_WAIT_WORKERS;
        if (l->n_seen < SPAN)
                return;
        if (l->n_cpu > SPAN / 2 && index > 0)
                atomic_store(&l->index, index - 1);
        else if (l->n_link > SPAN * 3 / 4 && index < LAST_LEVEL)
                atomic_store(&l->index, index + 1);
        l->n_seen = l->n_link = l->n_cpu = 0;
}

int relay_packer_new(relay_packer **ret) {
        relay_packer *p = calloc(1, sizeof(*p));

        if (!p)
                return -ENOMEM;
        p->c = ZSTD_createCCtx();
        p->d = ZSTD_createDCtx();
        if (!p->c || !p->d) {
                relay_packer_free(p);
                return -ENOMEM;
        }
        *ret = p;
        return 0;
}

relay_packer *relay_packer_free(relay_packer *p) {
        if (!p)
                return NULL;
        ZSTD_freeCCtx(p->c);
        ZSTD_freeDCtx(p->d);
        free(p);
        return NULL;
}

void relay_pack(relay_packer *p, const relay_level *level, relay_block *block) {
        uint32_t n = block->header.n_plain;
        int at = relay_level_get(level);
        size_t k;

        block->payload = block->plain;
        block->header.n_payload = n;
        block->header.flags = 0;
        if (at == 0)
                return;
        if (p->skip > 0) {
                p->skip--;
                return;
        }
        k = ZSTD_compressCCtx(p->c, block->packed, n - n / 16, block->plain, n, at);
        if (ZSTD_isError(k) || k >= n) {
                if (n >= RELAY_PACK_MAX) { /* a short one says nothing of those behind it */
                        p->skip = p->next_skip;
                        p->next_skip = p->next_skip * 2 + !p->next_skip;
                        p->next_skip = p->next_skip < SKIP_MAX ? p->next_skip : SKIP_MAX;
                }
                return;
        }
        p->next_skip = 0;
        block->payload = block->packed;
        block->header.n_payload = (uint32_t)k;
        block->header.flags = RELAY_FLAG_ZSTD;
}

bool relay_unpack(relay_packer *p, relay_block *block) {
        const relay_header *h = &block->header;

        return ZSTD_findFrameCompressedSize(block->packed, h->n_payload) == h->n_payload &&
               ZSTD_getFrameContentSize(block->packed, h->n_payload) == h->n_plain &&
               ZSTD_decompressDCtx(p->d, block->plain, h->n_plain, block->packed, h->n_payload) ==
                       h->n_plain;
}
