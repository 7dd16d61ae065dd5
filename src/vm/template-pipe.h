/* SPDX-License-Identifier: MIT */
#pragma once

/* What QEMU says of a VM's devices, out of it into memory, or from memory into it: this end of a
 * socket, whose other end QEMU is given as a migration's. */

#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/cleanup.h"

typedef struct template_pipe template_pipe;

/* Takes what QEMU writes, up to its end; *ret_fd is QEMU's end. -EFBIG: it was too much. The data
 * is borrowed. */
typedef void (*template_taken)(int r, const void *data, size_t n, void *userdata);
int template_pipe_take(sd_event *event, template_taken taken, void *userdata, int *ret_fd,
                       template_pipe **ret);

/* Gives QEMU a copy of `data`, and the end behind it. That it was all taken is for QEMU to say. */
int template_pipe_give(sd_event *event, const void *data, size_t n, int *ret_fd,
                       template_pipe **ret);

template_pipe *template_pipe_free(template_pipe *p);

DEFINE_CLEANUP(template_pipe *, template_pipe_free)
