/* SPDX-License-Identifier: MIT */
#pragma once

/* A container's root: a disk's read-only file system, with a tmpfs or another disk's over it to
 * write to. Blocking: for a child. */

#include <stdint.h>

typedef struct root_spec {
        const char *folder; /* has or gets: lower, upper, rootfs */
        const char *disk;   /* its serial */
        const char *fstype;
        uint64_t upper_bytes;   /* of a tmpfs; 0: the kernel's choice */
        const char *upper_disk; /* the serial of one with ext4 instead; "": none */
} root_spec;

/* Waits some seconds for the disk to appear. What fails is on standard error; a negative errno. */
int root_mount(const root_spec *spec);

/* What there is of it, and the folder. */
int root_remove(const char *folder);
