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
        uint64_t cache_max; /* bytes of all images; 0: no limit */
} pack_order;

/* Its last word to who started it, written in one piece. It ends when it is killed: until then the
 * image is in use. */
typedef struct pack_report {
        int r;
        ferry_code code;
        char text[1000];
} pack_report;

/* `report_fd` is a socket. Ends the process. */
_Noreturn void pack_run(const pack_order *order, int report_fd);
