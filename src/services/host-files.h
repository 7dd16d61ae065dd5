/* SPDX-License-Identifier: MIT */
#pragma once

/* Files and folders of this host, read to be given to a container in a VM: what is at the sources
 * of its bind mounts. They are copies. */

#include "base/error.h"
#include "guestlink/containers.h"

/* Of all of a container's together: they go to the guest in one message. */
#define HOST_FILES_MAX       GUEST_CONTAINER_FILES_MAX
#define HOST_FILES_BYTES_MAX (2U << 20)
#define HOST_FILES_DEPTH_MAX 16U
#define HOST_FILES_NOTES_MAX 64U

typedef struct host_files {
        guest_file *items; /* with memory of their own */
        size_t n;
        size_t bytes; /* of contents */
        char *notes[HOST_FILES_NOTES_MAX];
        size_t n_notes;
} host_files;

/* An emptyDir of Kubernetes' (oci_shared_name()) becomes a shared folder of that name. Else: the
 * file or folder at source N becomes "N", what is in a folder "N/...". Links in it are taken as
 * links, and none is followed; devices, sockets, FIFOs and what is mounted in it are left out. The
 * notes tell that, and what was copied. -EFBIG: too large, with the figures; -EINVAL: neither a
 * file nor a folder, or too deep; -EAGAIN: it changes all the time; what opening and reading say.
 * `ret` is the caller's to free in any case. */
int host_files_read(char *const *sources, size_t n_sources, host_files *ret, ferry_error *reterr);
void host_files_done(host_files *files);
