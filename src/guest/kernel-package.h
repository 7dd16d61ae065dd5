/* SPDX-License-Identifier: MIT */
#pragma once

/* Debian's kernel package: where it comes from, and what we take out of it. */

#include <stddef.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "guest/modules.h"

typedef struct kernel_package {
        char *version; /* "6.1.0-56-cloud-amd64" */
        char *image;   /* boot/vmlinuz-VERSION */
        size_t n_image;
        module_list modules; /* those asked for, and what they need */
} kernel_package;

/* The path of a package file in `cache_dir` (made if needed): one that is there already, of the
 * name that apt would take, or any if apt does not know or has no network; else downloaded by
 * apt-get. The error's code is UNAVAILABLE when there is none to be had. */
int kernel_package_find(const char *cache_dir, char **ret, ferry_error *reterr);

/* Reads the kernel and the modules `names` with their dependencies out of a .deb. Those built in
 * are left out; one that is nowhere is -ENOENT. */
int kernel_package_read(const char *deb, const char *const names[], size_t n_names,
                        kernel_package *ret, ferry_error *reterr);

void kernel_package_done(kernel_package *p);
