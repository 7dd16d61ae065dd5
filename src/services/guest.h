/* SPDX-License-Identifier: MIT */
#pragma once

/* The shim's services' one way to what runs in the guest (guestlink/processes.h): opened when it is
 * needed, taken over from the shim before this one, gone with the VM, carried along when that
 * moves. */

#include "guestlink/processes.h"
#include "migration/sandbox.h"

typedef struct guest_access guest_access;

int guest_access_new(sd_event *event, sandbox *sb, guest_access **ret);
/* The shim knows by now whether there is a VM, and which. */
void guest_access_begin(guest_access *g);
/* Waits end with Unavailable: the programs run on, and the next shim is asked again. */
void guest_access_end(guest_access *g);
guest_access *guest_access_free(guest_access *g);

/* Who knows the containers (NULL: nobody): those calls of sandbox_guest (migration/sandbox.h) that
 * are about them; carry and arrive are not used. */
void guest_access_set_containers(guest_access *g, const sandbox_guest *containers, void *userdata);

/* Borrowed, until the loop's next turn. FailedPrecondition when no guest with an agent runs here.
 */
int guest_access_open(guest_access *g, guest_processes **ret, ferry_error *reterr);
/* The same, to ask for a program: NotFound without a guest, Unavailable while that is on its way.
 */
int guest_access_find(guest_access *g, const char *id, guest_processes **ret, ferry_error *reterr);
/* NULL: none. */
guest_processes *guest_access_programs(const guest_access *g);

DEFINE_CLEANUP(guest_access *, guest_access_free)
