/* SPDX-License-Identifier: MIT */
#pragma once

/* The form of a template's file (template.h). All numbers are of 8 bytes, the highest first:
 *
 *   head   magic, then the lengths of what follows, and of the memory that it is of; the SHA-256 of
 *          all of the file but itself
 *   key    text
 *   devices  QEMU's, opaque
 *   runs   of memory that is not zero: (address, length), whole pages, in order
 *   pages  those of the runs
 */

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/error.h"

#define TEMPLATE_PAGE     4096U
#define TEMPLATE_KEY_MAX  65536U
#define TEMPLATE_RUNS_MAX (1U << 20)

typedef struct template_head {
        uint64_t n_key, n_devices, n_runs, n_pages; /* pages: bytes */
        uint64_t memory_bytes;
        uint8_t digest[DIGEST_SIZE];
} template_head;

/* magic, five numbers, digest */
#define TEMPLATE_HEAD_SIZE (16U + 5 * 8 + DIGEST_SIZE)

void template_head_write(const template_head *head, uint8_t ret[TEMPLATE_HEAD_SIZE]);
/* -EBADMSG: no head, or one whose file does not have `size` bytes. */
int template_head_parse(const uint8_t data[TEMPLATE_HEAD_SIZE], uint64_t size, template_head *ret);

/* All of it but its owner and place; the memory goes to `memory_fd` (-EBADF: nowhere). Allocates
 * `*ret_devices`. -EBADMSG with what is wrong; -ECANCELED when `stop` was set. Nothing of it may be
 * used unless this is 0. */
int template_read(int fd, int memory_fd, uint64_t memory_bytes, const atomic_bool *stop,
                  uint8_t **ret_devices, size_t *ret_n, ferry_error *reterr);

/* To a new file. */
int template_write(int fd, const char *key, int memory_fd, uint64_t memory_bytes,
                   const void *devices, size_t n_devices, ferry_error *reterr);
