/* SPDX-License-Identifier: MIT */
#pragma once

/* The guest's network interface, which all its containers share. */

#include "agent.pb-c.h"
#include "guestlink/processes.h"

typedef void (*guest_network_done)(int r, const ferry_error *error, void *userdata);

/* Makes the guest's interface what the request says (proto/agent.proto), whatever it was before.
 * Negative means refused, and `done` is not called; else it is called once, later. */
int guest_network_configure(guest_processes *g,
                            const Ferry__Agent__V1__ConfigureNetworkRequest *request,
                            guest_network_done done, void *userdata, ferry_error *reterr);
