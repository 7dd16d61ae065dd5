/* SPDX-License-Identifier: MIT */
#pragma once

/* A session's connections as the two hosts' encryption wants them (docs/encryption.md). */

#include "base/digest.h"
#include "tls/config.h"

/* Whether this host takes part. -EPERM, -ENOENT...: FERRY_FAILED_PRECONDITION, and what to do. */
int encrypt_check(tls_kind kind, ferry_error *reterr);

typedef struct encrypt_options {
        tls_kind kind; /* not TLS_NONE */
        bool source;
        const char *session_id;
        const char *purpose; /* each has a key of its own: "" the migration connections, a disk's
                                serial */
        uint8_t secret[DIGEST_SIZE];
} encrypt_options;

/* *fd is put under TLS, and replaced by the plain end; on an error it is closed, and -EBADF. */
int encrypt_start(int *fd, const encrypt_options *options, tls_tunnel **ret, ferry_error *reterr);
