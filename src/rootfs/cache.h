/* SPDX-License-Identifier: MIT */
#pragma once

/* The folder of packed images. Who uses one has it open and locked, so that nobody throws it away;
 * QEMU has locks of its own on it. What nobody uses goes when there is need of room, the one first
 * that was used the longest ago. A lock goes with its holder, however that ends. */

#include <stdint.h>

#include "base/error.h"

#define CACHE_LOCK_FILE ".lock"

/* The image `name`, in use and marked as used now for as long as *ret_fd is open. -ENOENT: there is
 * none (any more). -EBADMSG: that is no image. */
int cache_use(int cache_fd, const char *name, int *ret_fd, uint64_t *ret_bytes);
/* The same of a file that has no name yet. */
int cache_lock(int image_fd);
/* It is used now. */
void cache_mark(int image_fd);

/* Room for `need` bytes in the file system, and below `max` bytes of images in all (0: no limit)
 * where those that are in use let that be. -ENOSPC: it cannot be made, and nothing was thrown away.
 * `path`: how errors name the folder. May wait for others that do the same. */
int cache_make_room(int cache_fd, const char *path, uint64_t need, uint64_t max,
                    ferry_error *reterr);
