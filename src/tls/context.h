/* SPDX-License-Identifier: MIT */
#pragma once

/* OpenSSL as the tunnel wants it: TLS 1.3 and nothing before, a key or certificates on both sides,
 * a fresh Diffie-Hellman each time, no resumption, no early data. */

#include <openssl/err.h>
#include <openssl/ssl.h>

#include "tls/tunnel.h"

/* What the context's callbacks look into; it outlives the context. */
typedef struct tls_keeper tls_keeper;

int tls_context_new(const tls_options *options, SSL_CTX **ret, tls_keeper **ret_keeper,
                    ferry_error *reterr);
tls_keeper *tls_keeper_free(tls_keeper *keeper);

/* Of one connection: whom the other side must be. */
int tls_prepare(SSL *ssl, const tls_options *options, ferry_error *reterr);

/* Of SSL_get_error(): for people. */
void tls_describe_failure(const SSL *ssl, int reason, char *ret, size_t n);
