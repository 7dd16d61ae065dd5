/* SPDX-License-Identifier: MIT */
#pragma once

/* What nic.c and nic-join.c share. */

#include "base/rtnl.h"
#include "vm/nic.h"

/* Enters a namespace and comes back by nic_go_home(), which cannot fail: a shim in the wrong place
 * would do harm. Negative: nowhere was gone to. */
int nic_enter(int namespace_fd, int *ret_home);
void nic_go_home(int home_consume);

/* A netlink socket in that namespace. */
int nic_rtnl(int namespace_fd, int *ret_fd);
