/* SPDX-License-Identifier: MIT */
#pragma once

/* A digest of all of a guest's memory, by threads, out of the memory's descriptor: the same on two
 * hosts if and only if every byte is (XXH3-128: it finds what went wrong, not who did it on
 * purpose). Only reads; what was never written reads as zeros, and takes no room afterwards either.
 */

#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/cleanup.h"

#define VM_MEMORY_DIGEST_SIZE 16U

typedef struct vm_memory_digest vm_memory_digest;

/* r: 0, or the errno of reading it, negative; `digest` is borrowed, NULL unless r is 0. Once, never
 * from inside the start. */
typedef void (*vm_memory_digest_done)(int r, const uint8_t *digest, void *userdata);

/* `total`: bytes, above 0. The descriptor is duplicated. The guest must stand until `done`. */
int vm_memory_digest_start(sd_event *event, int memory_fd, uint64_t total,
                           vm_memory_digest_done done, void *userdata, vm_memory_digest **ret);
/* Legal from `done`; before it, waits for what the threads are reading at that moment. Returns
 * NULL. */
vm_memory_digest *vm_memory_digest_free(vm_memory_digest *digest);

DEFINE_CLEANUP(vm_memory_digest *, vm_memory_digest_free)
