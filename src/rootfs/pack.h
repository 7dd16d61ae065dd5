/* SPDX-License-Identifier: MIT */
#pragma once

/* What the packing process does, from its first instruction to its end. */

#include "rootfs/rootfs.h"

typedef struct pack_order {
        const rootfs_mount *mounts;
        size_t n_mounts;
        int cache_fd;       /* the cache's folder */
        const char *cache;  /* and its path: where the process mounts, for itself only */
        const char *name;   /* of the image, in there */
        const uint8_t *key; /* DIGEST_SIZE bytes: what `name` is made of */
} pack_order;

/* Its last word to who started it, written in one piece. */
typedef struct pack_report {
        int r;
        ferry_code code;
        char text[1000];
} pack_report;

/* Ends the process. */
_Noreturn void pack_run(const pack_order *order, int report_fd);

/* The size of the image `name` in the folder. -ENOENT: there is none. -EBADMSG: that is no image.
 */
int pack_find(int cache_fd, const char *name, uint64_t *ret_bytes);
