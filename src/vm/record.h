/* SPDX-License-Identifier: MIT */
#pragma once

/* qemu.json: which process is this sandbox's QEMU, so that a restarted shim finds that one and no
 * other. A pid alone is reused; pid, start time and boot id together are not. */

#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "vm/tap.h"
#include "vm/vm.h"

#define VM_RECORD_FILE "qemu.json"
#define BOOT_ID_SIZE   37

typedef struct vm_record {
        pid_t pid;
        uint64_t start_time; /* field 22 of /proc/PID/stat: clock ticks since boot */
        char boot_id[BOOT_ID_SIZE];
        vm_mode mode;
        vm_accelerator accelerator; /* resolved */
        char cpu[VM_CONFIG_NAME_MAX + 1];
        char tap[TAP_NAME_SIZE]; /* "" = none */
        int memory_fd;           /* QEMU's number for it */
} vm_record;

int boot_id_read(char ret[BOOT_ID_SIZE]);
/* -ESRCH when there is no such process, or it is dead and only not reaped yet. */
int process_start_time(pid_t pid, uint64_t *ret);

/* Fills in the process's start time and the boot id, and writes the file. */
int vm_record_write(int dir_fd, vm_record *record, ferry_error *reterr);
/* -ENOENT, or -EBADMSG for anything malformed. */
int vm_record_read(int dir_fd, vm_record *ret, ferry_error *reterr);
/* A pidfd that is certainly the recorded process's, or -ESRCH when that is gone. */
int vm_record_open_process(const vm_record *record, int *ret_pidfd);
/* Ends a destination's QEMU whose shim died before it was ready, so that it has received nothing
 * and cannot be attached to. -ESRCH or -ENOENT: there is none. Waits a second at the most. */
int vm_record_kill_incoming(int dir_fd);
