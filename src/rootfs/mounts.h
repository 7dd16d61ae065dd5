/* SPDX-License-Identifier: MIT */
#pragma once

/* containerd's mounts, checked, and done by the process that packs. */

#include "rootfs/rootfs.h"

/* Before anything is done: counts, lengths, and the options that cannot be had. */
int mounts_check(const rootfs_mount *mounts, size_t n, ferry_error *reterr);

/* In the mount namespace of the caller, which nobody shares. `root`: an existing folder. */
int mounts_make(const rootfs_mount *mounts, size_t n, const char *root, ferry_error *reterr);
