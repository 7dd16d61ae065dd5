/* SPDX-License-Identifier: MIT */
#pragma once

/* What a VM was started from (kernel, initrd, disks), known by size and content. Reading it may
 * take minutes: a thread does, and the loop goes on. */

#include <systemd/sd-event.h>

#include "base/digest.h"
#include "vm/vm-config.h"

#define VM_FILES_MAX (2 + VM_CONFIG_DISKS_MAX)

typedef struct vm_file {
        char role[32]; /* "kernel", "initrd", "disk0"... */
        char *path;
        bool writable; /* it changes as the guest runs: only its size tells */
        int r;         /* of looking at it: 0 or a negative errno */
        uint64_t size;
        uint8_t digest[DIGEST_SIZE]; /* not of a writable one */
} vm_file;

typedef struct vm_files {
        vm_file items[VM_FILES_MAX];
        size_t n;
} vm_files;

/* `files` is borrowed. */
typedef void (*identify_done)(const vm_files *files, void *userdata);

typedef struct identify identify;

/* `done` is called once, never from inside the start. */
int identify_start(sd_event *event, const vm_config *config, identify_done done, void *userdata,
                   identify **ret);
/* `done` is not called any more; the thread ends by itself. Legal from `done`. Returns NULL. */
identify *identify_free(identify *job);

DEFINE_CLEANUP(identify *, identify_free)
