/* SPDX-License-Identifier: MIT */
#pragma once

/* Writes a "newc" cpio archive (the kernel's Documentation/driver-api/early-userspace/
 * buffer-format) into memory. Owner 0:0, mtime 0, inode numbers in the order of the calls: the
 * same calls give the same bytes. */

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define CPIO_SIZE_MAX (512U * 1024 * 1024)
#define CPIO_PATH_MAX 1024U

typedef struct cpio_writer {
        uint8_t *data; /* owned */
        size_t n;
        size_t n_allocated;
        uint32_t n_entries;
} cpio_writer;

/* Zero-initialise. `path` is relative and has no leading slash; its parent folder must have been
 * added before. `mode` is permission bits only. -EINVAL for a path that is not so, -EFBIG,
 * -ENOMEM; after a failure the archive is of no use. */
int cpio_add_folder(cpio_writer *w, const char *path, uint32_t mode);
int cpio_add_file(cpio_writer *w, const char *path, uint32_t mode, const void *data, size_t n);
int cpio_add_link(cpio_writer *w, const char *path, const char *target);
int cpio_add_device(cpio_writer *w, const char *path, uint32_t mode, uint32_t major,
                    uint32_t minor);

/* The trailer, then zeros up to a multiple of 512. Nothing may be added behind it. */
int cpio_finish(cpio_writer *w);

void cpio_done(cpio_writer *w);
