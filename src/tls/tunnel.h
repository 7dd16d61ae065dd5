/* SPDX-License-Identifier: MIT */
#pragma once

/* TLS 1.3 between the two shims (docs/encryption.md): carries plain bytes of a socket pair over a
 * connection, both ways, by a thread of its own. Who has the plain end need not know: it reads and
 * writes as if that were the connection, and sees its end as the connection's.
 *
 * The handshake is the thread's first work; what is written meanwhile waits. Memory is bounded:
 * who does not read stops who writes. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

#define TLS_KEY_SIZE     32U
#define TLS_BINDING_SIZE 32U
#define TLS_NAME_MAX     255U

typedef enum tls_role { TLS_CLIENT, TLS_SERVER } tls_role;

/* For x509, absolute paths of PEM files. `names` (NULL-terminated, nullable): the other side's
 * certificate must be for one of them; else any that the CA signed will do. */
typedef struct tls_files {
        const char *certificate, *key, *ca;
        const char *const *names;
} tls_files;

typedef struct tls_options {
        tls_role role;
        /* Which key it is, for both sides; not secret, at most TLS_NAME_MAX bytes. */
        const char *identity;
        uint8_t key[TLS_KEY_SIZE]; /* pre-shared; both prove that they have it */
        const tls_files *files;    /* NULL: the key. Else certificates, and no key. */
} tls_options;

typedef struct tls_tunnel tls_tunnel;

/* `wire_fd_consume`, a connected stream socket, is taken on every path. *ret_plain_fd: the
 * caller's. An error (its `reterr` set) is of the options, the files or the machine, not of the
 * peer. */
int tls_tunnel_start(int wire_fd_consume, const tls_options *options, int *ret_plain_fd,
                     tls_tunnel **ret, ferry_error *reterr);

/* A caller's keys are derived from the session's secret: HMAC-SHA256 of the purpose. */
void tls_derive_key(const uint8_t secret[32], const char *purpose, uint8_t ret[TLS_KEY_SIZE]);

/* The connection below, for its figures; borrowed. */
int tls_tunnel_get_wire(const tls_tunnel *t);

/* Bytes that only this connection's two ends know: who authenticates them over the tunnel is sure
 * that nobody is between. False before the handshake is done. */
bool tls_tunnel_get_binding(tls_tunnel *t, uint8_t ret[TLS_BINDING_SIZE]);

/* Why it ended, for people; NULL: it has not, or as it should. The caller frees. */
char *tls_tunnel_get_problem(tls_tunnel *t);

/* Ends the connection for everybody, at once. */
void tls_tunnel_shutdown(tls_tunnel *t);

/* Nothing more will be written: what was is sent, then the connection ends by itself. Returns NULL
 * at once. */
tls_tunnel *tls_tunnel_free(tls_tunnel *t);

/* Before the process ends: until all that was written is sent and nothing is left of those that
 * were freed, for so long at the most. */
void tls_tunnel_drain_all(uint64_t timeout_usec);

DEFINE_CLEANUP(tls_tunnel *, tls_tunnel_free)
