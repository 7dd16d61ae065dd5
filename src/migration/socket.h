/* SPDX-License-Identifier: MIT */
#pragma once

/* How a caller hands over its end of the migration connection (proto/socket.proto): taken out of a
 * process with pidfd_getfd, or sent before over the fd socket under a token. */

#include <stdbool.h>
#include <sys/types.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "vm/vm-config.h"

#define MIGRATION_SOCKET_TOKEN_MAX 64U

typedef struct migration_socket_source {
        bool by_token;
        pid_t pid; /* 0: the ttrpc peer */
        int fd;
        uint8_t token[MIGRATION_SOCKET_TOKEN_MAX];
        size_t n_token;
        char disk[VM_CONFIG_SERIAL_MAX + 1]; /* "": the migration connection */
} migration_socket_source;

typedef struct migration_peer {
        pid_t pid;
        uid_t uid;
} migration_peer;

/* protocol_info's bytes. -EINVAL (InvalidArgument) for anything but what proto/socket.proto says.
 */
int migration_socket_parse(const uint8_t *data, size_t n, migration_socket_source *ret,
                           ferry_error *reterr);

/* From the process: the peer itself, or any for root. */
int migration_socket_from_process(const migration_socket_source *source, const migration_peer *peer,
                                  int *ret_fd, ferry_error *reterr);

/* A connected stream socket (else FailedPrecondition); sets close-on-exec, TCP_NODELAY,
 * TCP_NOTSENT_LOWAT, keepalive and TCP_USER_TIMEOUT. */
int migration_socket_check(int fd, ferry_error *reterr);

/* The fd socket: a connection sends u8 length, token and one descriptor in one message, gets one
 * byte (0: stored) and is closed. Same uid as ours or root; 64 wait at the most, 60 s each. */
typedef struct fd_store fd_store;

int fd_store_new(sd_event *event, int listen_fd_consume, fd_store **ret);
fd_store *fd_store_free(fd_store *store);
/* Once. -ENOENT when there is none of that token. */
int fd_store_take(fd_store *store, const uint8_t *token, size_t n, int *ret_fd);

DEFINE_CLEANUP(fd_store *, fd_store_free)
