/* SPDX-License-Identifier: MIT */
#pragma once

/* What is in the guest's initramfs, and where (docs/guest-image.md). */

#include "guest/cpio.h"
#include "guest/crun.h"
#include "guest/kernel-package.h"

typedef struct initramfs_program {
        const char *data;
        size_t n;
} initramfs_program;

typedef struct initramfs_content {
        const char *kernel_version;
        const module *const *modules; /* in load order */
        size_t n_modules;
        initramfs_program init;
        initramfs_program workload;
        initramfs_program busybox;
        const crun_files *crun; /* NULL: without containers */
} initramfs_content;

/* `w` is then finished. Negative errno as cpio.h's. */
int initramfs_write(const initramfs_content *content, cpio_writer *w);
