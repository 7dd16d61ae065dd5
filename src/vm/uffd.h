/* SPDX-License-Identifier: MIT */
#pragma once

/* A userfaultfd for a QEMU without privileges: what post-copy needs where it receives. */

#include "base/error.h"

/* In QEMU's environment: the number of its descriptor of /dev/userfaultfd. */
#define UFFD_ENVIRONMENT "FERRY_USERFAULTFD"

/* Opens the device, and makes a file of the library that has QEMU use it (uffd-preload.c).
 * -ENOENT, FailedPrecondition: this kernel has no such device (Linux 6.1 has). */
int uffd_open(int *ret_device_fd, int *ret_library_fd, ferry_error *reterr);
