/* SPDX-License-Identifier: MIT */
#pragma once

/* Tap devices and bridge ports in the current network namespace. A tap is not persistent: it
 * lives as long as a descriptor of it, QEMU's in the end. */

#include "base/cleanup.h"
#include "base/error.h"

#define TAP_NAME_SIZE 16 /* IFNAMSIZ */

/* `name` "" = "ferryN", N by the kernel. The tap is up, with `bridge`'s MTU ("" = the default),
 * and on no bridge. Non-blocking and CLOEXEC, as QEMU needs it (IFF_VNET_HDR). */
int tap_create(const char *name, const char *bridge, int *ret_fd, char ret_name[TAP_NAME_SIZE],
               ferry_error *reterr);

/* 0 too when it is on that bridge already; -EBUSY on another one. */
int tap_attach(const char *tap, const char *bridge, ferry_error *reterr);
/* 0 too when it is on none, or gone. */
int tap_detach(const char *tap, ferry_error *reterr);

/* The name of the bridge (or other master) that `tap` is on, "" for none. */
int tap_get_bridge(const char *tap, char ret[TAP_NAME_SIZE]);
