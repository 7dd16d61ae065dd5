/* SPDX-License-Identifier: MIT */
#pragma once

/* Network namespaces by the names that `ip netns` gives them. */

#include <stdint.h>

#include "base/error.h"

#define NETNS_FOLDER "/run/netns"

/* Opens /run/netns/NAME; NULL gives -EBADF in *ret_fd, which the functions below take for "the
 * namespace we are in". */
int netns_open(const char *name, int *ret_fd, ferry_error *reterr);

/* Enters it for good: for a child before its exec. */
int netns_enter(int netns_fd);

/* A TCP listener on `address` with a port of the kernel's choice, made inside the namespace; we
 * stay where we are. Only the calling thread goes there and
 * comes back. */
int netns_listen(int netns_fd, const char *address, int *ret_fd, uint16_t *ret_port,
                 ferry_error *reterr);

/* A connecting TCP socket, TCP_NODELAY, from inside the namespace; gives up after the time. */
int netns_connect(int netns_fd, const char *address, uint16_t port, uint64_t timeout_usec,
                  int *ret_fd, ferry_error *reterr);

int netns_set_nodelay(int fd);
