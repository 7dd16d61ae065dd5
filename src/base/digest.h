/* SPDX-License-Identifier: MIT */
#pragma once

/* SHA-256 and HMAC-SHA256 (nettle), random bytes, hex. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define DIGEST_SIZE 32

typedef struct digest_part {
        const void *data;
        size_t n;
} digest_part;

void digest_sha256(const void *data, size_t n, uint8_t ret[DIGEST_SIZE]);

/* The whole file's, from its start; *ret_size is what was read. Negative errno on failure;
 * -ECANCELED when another thread has set `stop`. */
int digest_file(int fd, const atomic_bool *stop, uint8_t ret[DIGEST_SIZE], uint64_t *ret_size);

/* The same of what comes in pieces. */
typedef struct digest_stream digest_stream;
int digest_stream_new(digest_stream **ret);
void digest_stream_add(digest_stream *s, const void *data, size_t n);
/* Of all that was added; it begins anew. */
void digest_stream_end(digest_stream *s, uint8_t ret[DIGEST_SIZE]);
digest_stream *digest_stream_free(digest_stream *s);
DEFINE_CLEANUP(digest_stream *, digest_stream_free)

/* Over the parts, each preceded by its length (u64be): no two lists collide. */
void digest_hmac(const uint8_t key[DIGEST_SIZE], const digest_part *parts, size_t n_parts,
                 uint8_t ret[DIGEST_SIZE]);

/* In constant time. */
bool digest_equal(const uint8_t a[DIGEST_SIZE], const uint8_t b[DIGEST_SIZE]);

int random_bytes(void *data, size_t n);

/* Lower case, NUL-terminated: 2 * n + 1 bytes. */
void hex_encode(const void *data, size_t n, char *ret);
/* Exactly 2 * n hex digits, else -EINVAL. */
int hex_decode(const char *text, size_t n_text, void *ret, size_t n);
