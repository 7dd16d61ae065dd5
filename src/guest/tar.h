/* SPDX-License-Identifier: MIT */
#pragma once

/* Reads a tar stream as dpkg-deb writes it: ustar and GNU headers, GNU long names. */

#include <stdint.h>
#include <stdio.h>

#include "base/cleanup.h"

#define TAR_PATH_MAX 4096U
#define TAR_FILE_MAX (256U * 1024 * 1024)

typedef struct tar_reader {
        FILE *file;         /* borrowed */
        uint64_t n_left;    /* of the entry's content */
        uint64_t n_padding; /* behind it */
        uint64_t size;      /* of the entry's content */
        char type;          /* '0' file, '5' folder, '2' link, ... */
        char path[TAR_PATH_MAX + 1];
} tar_reader;

/* Zero-initialise but for `file`. Goes to the next entry, over what is unread of this one.
 * 1 = there is one, 0 = the archive's end, -EBADMSG = not tar, or cut short; -EIO. */
int tar_next(tar_reader *t);

/* The entry's content, NUL-terminated behind. Once an entry. -EFBIG over TAR_FILE_MAX, -EBADMSG
 * when the stream ends inside, -ENOMEM. */
int tar_read(tar_reader *t, char **ret, size_t *ret_n);
