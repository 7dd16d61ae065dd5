/* SPDX-License-Identifier: MIT */
#pragma once

/* The keeps of a guest's streams (channel/keep.h) in a file that outlives the shim: another shim
 * goes on where this one was, to the byte. */

#include "base/cleanup.h"
#include "channel/channel.h"

#define GUEST_KEEPS_MAX 512U

typedef struct guest_keeps guest_keeps;

/* Makes the file, or takes over what is in it; one of another size or kind is begun anew. Each keep
 * is for `buffer` bytes. */
int guest_keeps_open(int dir_fd, const char *name, size_t buffer, guest_keeps **ret);
guest_keeps *guest_keeps_free(guest_keeps *k);

/* The keep that stream `id` has, or a free one; NULL when there is none left. */
channel_keep *guest_keeps_get(guest_keeps *k, uint32_t id);
/* Its stream is gone: it is free again. */
void guest_keeps_drop(guest_keeps *k, uint32_t id);

DEFINE_CLEANUP(guest_keeps *, guest_keeps_free)
