/* SPDX-License-Identifier: MIT */
#pragma once

/* What is under a connection, and how its two sides know each other. */
typedef enum tls_kind {
        TLS_NONE,
        TLS_PSK,  /* a key that only they have */
        TLS_X509, /* certificates of one CA */
        _TLS_KIND_MAX,
} tls_kind;
