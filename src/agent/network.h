/* SPDX-License-Identifier: MIT */
#pragma once

/* Brings interfaces up, with fixed addresses: a moved guest keeps its own. */

#include <netinet/in.h>

int network_loopback_up(void);

/* Waits a moment for the interface, whose driver may still be starting. Negative errno. */
int network_interface_up(const char *name, struct in_addr address, struct in_addr mask);

int network_add_gateway(struct in_addr gateway);
