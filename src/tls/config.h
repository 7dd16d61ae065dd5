/* SPDX-License-Identifier: MIT */
#pragma once

/* What this host says of encryption: $FERRY_TLS_CONFIG, else /etc/ferry/tls.json, where there is
 * one: {"require": true, "certificate": PEM, "key": PEM, "ca": PEM, "names": ["host", ...]}, all of
 * it optional, paths absolute (docs/encryption.md). */

#include <stdbool.h>

#include "tls/kind.h"
#include "tls/tunnel.h"

#define TLS_NAMES_MAX 64U

typedef struct tls_config {
        bool require; /* nothing goes unencrypted */
        char *path;   /* of the file, for messages */
        char *certificate, *key, *ca;
        char *names[TLS_NAMES_MAX + 1];
        size_t n_names;
} tls_config;

int tls_config_read(tls_config **ret, ferry_error *reterr);
tls_config *tls_config_free(tls_config *config);
DEFINE_CLEANUP(tls_config *, tls_config_free)

/* Whether this host takes part in that. FERRY_FAILED_PRECONDITION: it does not, and what to set. */
int tls_config_check(const tls_config *config, tls_kind kind, ferry_error *reterr);

/* Borrows from `config`. */
void tls_config_files(const tls_config *config, tls_files *ret);
