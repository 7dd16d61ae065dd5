/* SPDX-License-Identifier: MIT */
#pragma once

/* The shim's way to the agent in its guest: calls over the control port (agent.ttrpc.h), bytes over
 * the streams port (guest-stdio.h). Both wait while the guest boots, stands, or is on its way. */

#include <systemd/sd-event.h>

#include "guestlink/port.h"
#include "ttrpc/ttrpc.h"

typedef struct guest_link guest_link;

/* `state_dir` has the VM's sockets, now or later. */
int guest_link_new(sd_event *event, const char *state_dir, guest_link **ret);
/* Calls under way end with -ENOTCONN. Streams on it must be gone. */
guest_link *guest_link_free(guest_link *l);

/* The guest stands, and may be another host's next: what it and we have said stays as it is. */
void guest_link_freeze(guest_link *l);
void guest_link_thaw(guest_link *l);

/* For the stubs of agent.ttrpc.h, at this moment: an agent that breaks the protocol is hung up on,
 * its calls end with -ENOTCONN, and after a while it is given another connection. Give calls a
 * timeout: nobody answers before the guest is up. */
ttrpc_client *guest_link_client(const guest_link *l);
guest_port *guest_link_streams(const guest_link *l);
/* So often the agent was hung up on. */
unsigned guest_link_drops(const guest_link *l);

DEFINE_CLEANUP(guest_link *, guest_link_free)
