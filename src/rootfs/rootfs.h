/* SPDX-License-Identifier: MIT */
#pragma once

/* A container's root file system as a read-only EROFS image, for a disk of the VM. What containerd
 * says to mount is mounted by a process of its own in a mount namespace of its own: this process's
 * mounts never change, and when that process ends, however it ends, nothing stays mounted. Needs
 * root, and mkfs.erofs. docs/rootfs.md. */

#include <stddef.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/error.h"

#define ROOTFS_MOUNTS_MAX   16U
#define ROOTFS_OPTIONS_MAX  128U
#define ROOTFS_TEXT_MAX     65536U /* of one option: a lowerdir names many layers */
#define ROOTFS_IDENTITY_MAX 4096U
#define ROOTFS_CACHE_MB     20480U /* by default */
#define ROOTFS_CACHE_MB_MAX (1U << 30)

/* As in containerd's CreateTaskRequest. All texts are borrowed. */
typedef struct rootfs_mount {
        const char *type;   /* "overlay", "bind", "ext4"... */
        const char *source; /* absolute for a bind mount, a device or, with "loop", a file */
        const char *target; /* below the root; NULL, "" or "/": the root itself */
        const char *const *options;
        size_t n_options;
} rootfs_mount;

/* One mount, of a file (with "loop") or a block device that has a file system which the guest can
 * mount as well as this host: that is a disk as it is, and need not be packed. Returns the file
 * system's type, NULL: it is to be packed. */
const char *rootfs_find_disk(const rootfs_mount *mounts, size_t n_mounts);

typedef struct rootfs_image {
        const char *path; /* cache_dir/KEY.erofs */
        char key[2 * DIGEST_SIZE + 1];
        uint64_t bytes;
        int use_fd; /* borrowed: while a duplicate is open nobody throws the image away */
} rootfs_image;

typedef struct rootfs_job rootfs_job;

/* r 0: `image`, borrowed, is complete and on disk. Negative with `error`: nothing was left behind.
 * -ENOSPC: `cache_dir` has no room, with how much is missing. -EPERM: not root. -ENOENT: a source
 * or mkfs.erofs is missing. Others as mounting or packing gave them. May free the job. */
typedef void (*rootfs_done)(int r, const ferry_error *error, const rootfs_image *image,
                            void *userdata);

/* Mounts in the order given, each over what is there already, all of it read-only, and packs what
 * is then at the root; or finds that this was done before. `identity` tells one content from
 * another: the same text is taken for the same tree, so it must change when that does. `cache_dir`
 * (absolute, made with mode 0700 if need be; nobody else may write to it) keeps the images, up to
 * `cache_max_mb` (0: no limit): what was used the longest ago goes first, nothing that is in use;
 * deleting one that no VM uses is fine at any time. `done` is called once, later, never from inside
 * the call. Negative: refused as it stands, `done` is not called. */
int rootfs_pack(sd_event *event, const rootfs_mount *mounts, size_t n_mounts, const char *cache_dir,
                uint32_t cache_max_mb, const char *identity, rootfs_done done, void *userdata,
                rootfs_job **ret, ferry_error *reterr);

/* It is not used any more: closes a duplicate of use_fd, and notes when that was. Returns -EBADF.
 */
int rootfs_release(int use_fd_consume);

/* Before `done`: kills it, and waits the moment that takes; `done` is not called any more. After
 * it: frees. NULL is fine. Returns NULL. */
rootfs_job *rootfs_job_free(rootfs_job *job);

DEFINE_CLEANUP(rootfs_job *, rootfs_job_free)
