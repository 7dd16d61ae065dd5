/* SPDX-License-Identifier: MIT */
#pragma once

/* The host's end of one port: QEMU's socket and the channel on it. Connects, and connects again,
 * by itself; what streams have written waits in their buffers meanwhile. */

#include <systemd/sd-event.h>

#include "base/cleanup.h"
#include "channel/channel.h"

typedef struct guest_port guest_port;

/* `path` need not be there yet. */
int guest_port_new(sd_event *event, const char *path, guest_port **ret);
guest_port *guest_port_free(guest_port *p);

channel *guest_port_channel(const guest_port *p);

/* After channel_write(), channel_end(), channel_consume() outside the channel's own handlers. */
void guest_port_kick(guest_port *p);

/* Nothing is read or written any more, until guest_port_thaw(). */
void guest_port_freeze(guest_port *p);
void guest_port_thaw(guest_port *p);

/* Streams were taken over: asks the guest at once for what is missing. */
void guest_port_resume(guest_port *p);

DEFINE_CLEANUP(guest_port *, guest_port_free)
