/* SPDX-License-Identifier: MIT */
#pragma once

/* Whether a peer still takes what is sent on a socket, whoever sends it. */

#include <stdbool.h>
#include <stdint.h>

/* Another figure each time that the peer has taken something since: what it has acknowledged (TCP)
 * and what waits in the kernel. */
uint64_t socket_moved(int fd);
/* Whether anything is sent that the peer has not taken. */
bool socket_waits(int fd);
