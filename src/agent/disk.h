/* SPDX-License-Identifier: MIT */
#pragma once

#define DISK_SERIAL_MAX 20U /* what virtio-blk carries */

/* "/dev/sda" of a SCSI or virtio disk by its serial. -ENOENT. */
int disk_find(const char *serial, char ret[32]);
