/* SPDX-License-Identifier: MIT */
#pragma once

/* A virtio-serial port and the channel on it. Without a host at the other end the port is quiet
 * and asked again now and then; nothing is lost meanwhile. */

#include <poll.h>
#include <stdint.h>

#include "channel/channel.h"

typedef struct port {
        int fd; /* -EBADF: there is no such port */
        channel *channel;
        bool has_host, polled;
        bool waits;          /* with bytes that the port has not taken */
        uint64_t retry_usec; /* without a host: when to look again */
} port;

/* Finds the port by its name; -ENODEV when the machine has none. Waits a moment for the driver when
 * there is a virtio-serial bus. */
int port_open(port *p, const char *name);

/* The loop's: what to poll for, when to come in any case, and then do what can be done. */
void port_prepare(port *p, struct pollfd *ret, uint64_t now_usec);
uint64_t port_deadline(const port *p);
void port_receive(port *p, short revents, uint64_t now_usec);
void port_send(port *p, uint64_t now_usec);
