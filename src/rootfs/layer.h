/* SPDX-License-Identifier: MIT */
#pragma once

/* What a container writes to, as a disk of the VM: a sparse file with an empty ext4 file system.
 * Without a journal: when the VM ends, the container has ended, and its disk goes. Needs mkfs.ext4.
 */

#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/cleanup.h"
#include "base/error.h"

#define LAYER_MB_MIN     16U
#define LAYER_MB_DEFAULT 10240U
#define LAYER_MB_MAX     (16U << 20) /* ext4's own limit, with blocks of 4 KiB */

typedef struct layer_job layer_job;

/* r 0: it is there. Negative with `error`: it is not. -ENOSPC: no room for an empty one. -ENOENT:
 * no mkfs.ext4. -EEXIST: there is such a file. May free the job. */
typedef void (*layer_done)(int r, const ferry_error *error, void *userdata);

/* `path` (absolute; its folder is made with mode 0700 if need be) gets its name once it is whole.
 * `done` is called once, later, never from inside the call. */
int layer_make(sd_event *event, const char *path, uint32_t mb, layer_done done, void *userdata,
               layer_job **ret, ferry_error *reterr);
/* Before `done`: kills the program and waits the moment that takes. NULL is fine. Returns NULL. */
layer_job *layer_job_free(layer_job *job);

DEFINE_CLEANUP(layer_job *, layer_job_free)
