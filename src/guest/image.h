/* SPDX-License-Identifier: MIT */
#pragma once

/* Builds the guest image: the distribution's cloud kernel and an initramfs with the modules it
 * needs, busybox and our own init (docs/guest-image.md). No root, nothing installed, no temporary
 * files but the download itself; the same inputs give the same bytes. */

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"
#include "base/error.h"

/* For any accelerator. With one vCPU add GUEST_CMDLINE_ONE_VCPU: it saves the patching of locks,
 * 0.6 s under TCG. */
#define GUEST_CMDLINE          "console=ttyS0 quiet cryptomgr.notests audit=0 panic=-1"
#define GUEST_CMDLINE_ONE_VCPU "noreplace-smp"

typedef struct guest_image_options {
        const char *output_dir; /* gets vmlinuz, initrd.img, image.json; made if need be */

        /* The kernel: one of these, or none of them for the distribution's, by apt. */
        const char *kernel_package; /* a linux-image .deb */
        const char *kernel;         /* a bzImage, together with... */
        const char *modules;        /* ...its /lib/modules/VERSION */

        const char *cache_dir;    /* of downloads; NULL = $XDG_CACHE_HOME/ferry, ~/.cache/ferry */
        bool refresh;             /* ask apt for the newest kernel though the cache has one */
        const char *busybox;      /* a static one; NULL = /bin/busybox, else the package, by apt */
        const char *programs_dir; /* of ferry-init and ferry-demo; NULL = where ferry has them */

        /* What goes on, for people; may be NULL. */
        void (*progress)(const char *text, void *userdata);
        void *userdata;
} guest_image_options;

typedef struct guest_image_result {
        char *kernel_path, *initrd_path, *manifest_path; /* in output_dir */
        char *kernel_version;                            /* "6.1.0-56-cloud-amd64" */
        size_t kernel_size, initrd_size;
        size_t n_modules;
        bool downloaded; /* false: the network was not needed */
} guest_image_result;

/* Each file of output_dir is replaced atomically, image.json last: it has the others' SHA-256.
 * Errors tell what to do: no apt, no network, no space, no busybox... `*ret` is for
 * guest_image_result_done() on success, untouched otherwise. */
int guest_image_build(const guest_image_options *options, guest_image_result *ret,
                      ferry_error *reterr);

void guest_image_result_done(guest_image_result *result);
