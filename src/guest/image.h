/* SPDX-License-Identifier: MIT */
#pragma once

/* Builds the demo guest: a kernel and an initramfs from the distribution's packages, without root
 * and without installing a kernel. The same inputs give the same bytes. docs/guest-image.md says
 * what is inside and which kernel parameters the guest's init knows. */

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"
#include "base/error.h"

/* What to append for a guest on a serial console; what follows "quiet" only saves boot time.
 * `ferry.*` parameters come after it. */
#define GUEST_IMAGE_CMDLINE                                                                        \
        "console=ttyS0 quiet panic=-1 noreplace-smp no_timer_check cryptomgr.notests audit=0"

/* Zero-initialise; NULL takes the default. */
typedef struct guest_image_options {
        const char *output_dir; /* required; made if it is not there (its parent must be) */
        const char *cache_dir;  /* packages; default $XDG_CACHE_HOME/ferry, else ~/.cache/ferry */
        const char *kernel_deb; /* default: the one linux-image-cloud-amd64 depends on */
        const char *busybox;    /* a static one; default: busybox-static's, /bin/busybox */
        bool containers;        /* with crun, its libraries, and modules for containers' disks */
        const char *crun;       /* default: the installed one, /usr/bin/crun */
        const char *agent_dir;  /* has ferry-init and ferry-workload; default: beside the running
                                 * program, in its build tree, or where they are installed */
} guest_image_options;

typedef struct guest_image_result {
        char *kernel;         /* OUTPUT_DIR/vmlinuz */
        char *initrd;         /* OUTPUT_DIR/initrd.img */
        char *description;    /* OUTPUT_DIR/image.json: versions, digests, modules, command line */
        char *kernel_version; /* "6.1.0-56-cloud-amd64" */
        char *cmdline;        /* GUEST_IMAGE_CMDLINE */
} guest_image_result;

/* Blocks for seconds: it downloads (apt-get) when the cache has no kernel package, unpacks
 * (dpkg-deb) and writes. Each file is replaced atomically, image.json last; a failed build leaves
 * the old files. Unpacks nothing to disk: what a killed build can leave behind is one temporary
 * file of file_replace(), and a part of a download in the cache folder, which the next build
 * removes. Errors say which package or option helps. `ret` may be NULL. */
int guest_image_build(const guest_image_options *options, guest_image_result *ret,
                      ferry_error *reterr);

void guest_image_result_done(guest_image_result *result);
