/* SPDX-License-Identifier: MIT */
#pragma once

/* The guest's network interface, as the host wants it. */

#include <stddef.h>

#include "agent.pb-c.h"

/* -EINVAL and *ret_what: which part of the request cannot be; nothing was changed. Another negative
 * errno: what of it the kernel refused; the interface is down then. */
int interface_configure(const Ferry__Agent__V1__ConfigureNetworkRequest *request,
                        const char **ret_what);
