/* SPDX-License-Identifier: MIT */
#include "base/digest.h"

#include <nettle/hmac.h>
#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <string.h>
#include <sys/random.h>

#include "base/bytes.h"

void digest_sha256(const void *data, size_t n, uint8_t ret[DIGEST_SIZE]) {
        struct sha256_ctx context;

        sha256_init(&context);
        sha256_update(&context, n, data);
        sha256_digest(&context, DIGEST_SIZE, ret);
}

struct digest_stream {
        struct sha256_ctx context;
};

int digest_stream_new(digest_stream **ret) {
        digest_stream *s = malloc(sizeof(*s));

        if (!s)
                return -ENOMEM;
        sha256_init(&s->context);
        *ret = s;
        return 0;
}

void digest_stream_add(digest_stream *s, const void *data, size_t n) {
        sha256_update(&s->context, n, data);
}

void digest_stream_end(digest_stream *s, uint8_t ret[DIGEST_SIZE]) {
        sha256_digest(&s->context, DIGEST_SIZE, ret);
}

digest_stream *digest_stream_free(digest_stream *s) {
        free(s);
        return NULL;
}

int digest_file(int fd, const atomic_bool *stop, uint8_t ret[DIGEST_SIZE], uint64_t *ret_size) {
        _cleanup_(freep) uint8_t *buffer = malloc(1 << 18);
        struct sha256_ctx context;
        uint64_t size = 0;

        if (!buffer)
                return -ENOMEM;
        sha256_init(&context);
        for (;;) {
                ssize_t k = pread(fd, buffer, 1 << 18, (off_t)size);

                if (atomic_load(stop))
                        return -ECANCELED;
                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (k == 0)
                        break;
                sha256_update(&context, (size_t)k, buffer);
                size += (uint64_t)k;
        }
        sha256_digest(&context, DIGEST_SIZE, ret);
        *ret_size = size;
        return 0;
}

void digest_hmac(const uint8_t key[DIGEST_SIZE], const digest_part *parts, size_t n_parts,
                 uint8_t ret[DIGEST_SIZE]) {
        struct hmac_sha256_ctx context;

        hmac_sha256_set_key(&context, DIGEST_SIZE, key);
        for (size_t i = 0; i < n_parts; i++) {
                uint8_t length[8];

                be_write(length, parts[i].n, sizeof(length));
                hmac_sha256_update(&context, sizeof(length), length);
                hmac_sha256_update(&context, parts[i].n, parts[i].data);
        }
        hmac_sha256_digest(&context, DIGEST_SIZE, ret);
}

bool digest_equal(const uint8_t a[DIGEST_SIZE], const uint8_t b[DIGEST_SIZE]) {
        return memeql_sec(a, b, DIGEST_SIZE);
}

int random_bytes(void *data, size_t n) {
        uint8_t *at = data;

        while (n > 0) {
                ssize_t k = getrandom(at, n, 0);

                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                at += k;
                n -= (size_t)k;
        }
        return 0;
}

void hex_encode(const void *data, size_t n, char *ret) {
        static const char digits[] = "0123456789abcdef";
        const uint8_t *bytes = data;

        for (size_t i = 0; i < n; i++) {
                ret[2 * i] = digits[bytes[i] >> 4];
                ret[2 * i + 1] = digits[bytes[i] & 15];
        }
        ret[2 * n] = '\0';
}

static int hex_digit(char c) {
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        return -1;
}

int hex_decode(const char *text, size_t n_text, void *ret, size_t n) {
        uint8_t *bytes = ret;

        if (n_text != 2 * n)
                return -EINVAL;
        for (size_t i = 0; i < n; i++) {
                int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

                if (high < 0 || low < 0)
                        return -EINVAL;
                bytes[i] = (uint8_t)(high << 4 | low);
        }
        return 0;
}
