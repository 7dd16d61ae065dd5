/* SPDX-License-Identifier: MIT */
#pragma once

/* A template: a guest that has just booted, in a file, for others like it to begin from
 * (docs/templates.md).
 *
 * One file for each folder, TEMPLATE_FILE: what QEMU says of the devices, and the guest's memory
 * without its zeros, under one SHA-256. The folder, the one above it and the file are root's (who
 * we are), and nobody else may look in: what lies elsewhere is refused. Nothing here starts or asks
 * a VM. */

#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "vm/vm-config.h"

#define TEMPLATE_FILE        "template"
#define TEMPLATE_DEVICES_MAX (16U << 20)

/* What it depends on, as a text: all that shapes the VM, and which files (by device, inode, size
 * and times) QEMU, kernel, initrd and ferry itself are. Accelerator and CPU must have been
 * resolved. Where a guest's content or address is its own (disks, MAC) it is left out; -EINVAL says
 * why there can be no template of this configuration. Caller frees. */
int template_key(const vm_config *config, char **ret, ferry_error *reterr);

/* -EPERM: others could have written there, or read. `make`: with the folder above. */
int template_folder_open(const char *path, bool make, int *ret_fd, ferry_error *reterr);

/* The file, if it is for this key, as far as its first bytes say. -ENOENT: there is none, or one of
 * another key; -EPERM; -EBADMSG: it is none. */
int template_open(int folder, const char *key, int *ret_fd, ferry_error *reterr);

/* All that is to be checked, without a use for it; blocks. 0, -EBADMSG, -EIO... */
int template_check(int fd, ferry_error *reterr);

/* Written whole, to disk, and then in place of the one before; blocks. `memory_fd` has
 * `memory_bytes`, and nobody writes to it. -ENOSPC and the like leave nothing of it. */
int template_save(int folder, const char *key, int memory_fd, uint64_t memory_bytes,
                  const void *devices, size_t n_devices, ferry_error *reterr);

/* ---- loading, by a thread ---- */

typedef struct template_load template_load;

/* Once, never from inside the start. r: 0, or negative with `error`, and then nothing that was
 * loaded may be used. */
typedef void (*template_load_done)(int r, const ferry_error *error, void *userdata);

/* `fd_consume`: template_open()'s. The memory goes to `memory_fd` (duplicated), which has
 * `memory_bytes` and reads as zeros. */
int template_load_start(sd_event *event, int fd_consume, int memory_fd, uint64_t memory_bytes,
                        template_load_done done, void *userdata, template_load **ret);
/* Once it has been done; borrowed. */
const void *template_load_devices(const template_load *load, size_t *ret_n);
/* Legal from `done`; before it, waits for the thread to see that it is to end. Returns NULL. */
template_load *template_load_free(template_load *load);

DEFINE_CLEANUP(template_load *, template_load_free)
