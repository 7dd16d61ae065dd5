/* SPDX-License-Identifier: MIT */
#pragma once

/* What QEMU gets as descriptors, opened with our rights because its own user has none. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "vm/vm-config.h"

#define VM_BOOT_FILE_MAX (512ULL * 1024 * 1024)

/* Who QEMU will be. */
typedef struct vm_user {
        bool switch_user; /* false: as we are, the rest means nothing */
        uid_t uid;
        gid_t gid;
        gid_t kvm_gid; /* /dev/kvm's group when that may use it, else (gid_t)-1 */
} vm_user;

/* `uid` 0 = one of ferry's range, by a hash of `state_dir`: two sandboxes rarely share one. */
#define VM_UID_FIRST 1717895168U
#define VM_UID_COUNT 65536U
vm_user vm_user_choose(uid_t uid, gid_t gid, const char *state_dir);

/* A memfd of exactly `bytes`, sealed against growing and shrinking. */
int memory_create(uint64_t bytes, int *ret_fd, ferry_error *reterr);

/* Kernel or initrd. *ret_fd -EBADF when `user` can open the path itself, else a sealed copy in
 * memory (QEMU opens these by path only, so the descriptor has to be one anybody may reopen). */
int boot_file_open(const char *path, const char *what, const vm_user *user, int *ret_fd,
                   ferry_error *reterr);

/* For QEMU's fdset: the access mode that it will ask for. Direct where the file system can. */
int disk_open(const vm_config_disk *disk, int *ret_fd, bool *ret_block_device, bool *ret_direct,
              ferry_error *reterr);

/* An empty log for a new QEMU. */
int log_create(int dir_fd, const char *name, int *ret_fd, ferry_error *reterr);

/* The last lines of a log on one line, for an error text: "" when there are none. Allocated. */
char *log_tail(int dir_fd, const char *name);

/* When `name` has grown over `max` bytes, its last `keep` go to "name.old" and it starts anew. What
 * QEMU writes at that very moment may be lost. */
void log_limit(int dir_fd, const char *name, uint64_t max, uint64_t keep);
