/* SPDX-License-Identifier: MIT */
#pragma once

/* Where what another host says of its guest's programs waits until the guest runs here: a file with
 * its room made before, because to write it down is part of the blackout, and files and their names
 * take a disk's time. It outlives the shim. */

#include <stddef.h>
#include <stdint.h>

#define GUEST_LANDING_FILE "arrived.keep"

/* Makes the file, with room for what is usual. What landed there stays. */
int guest_landing_prepare(int dir_fd);

/* `generation` names the VM that it is for. All of it, in place of what landed before, or -errno.
 */
int guest_landing_write(int dir_fd, const char *generation, const void *data, size_t n);

/* > 0: what landed for this VM, at most `max` bytes; caller frees. 0: nothing has. */
int guest_landing_read(int dir_fd, const char *generation, size_t max, uint8_t **ret,
                       size_t *ret_n);

void guest_landing_remove(int dir_fd);
