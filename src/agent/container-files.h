/* SPDX-License-Identifier: MIT */
#pragma once

/* What the host gives a container along: files and folders of its own, which its mounts name. */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define CONTAINER_FILES_MAX     1024U
#define CONTAINER_FILE_PATH_MAX 512U
#define CONTAINER_SHARED_FOLDER "/run/ferry/shared"

typedef struct container_file {
        const char *path; /* below the folder; not terminated. Parents come first. */
        size_t n_path;
        mode_t mode; /* with its type: a file, a folder or a symbolic link */
        uid_t uid;
        gid_t gid;
        const void *data; /* of a link: where it points */
        size_t n;
        bool shared; /* an empty folder CONTAINER_SHARED_FOLDER/PATH instead; it may be there */
} container_file;

/* A new file. A negative errno. */
int container_write(const char *folder, const char *name, const void *data, size_t n, mode_t mode);

/* Into FOLDER/files, which is made, and has a limit of its own: a container that writes into what
 * it was given does not fill the agent's. -EINVAL: a path that leaves the folder or comes twice, or
 * another type. */
int container_write_files(const char *folder, const container_file *files, size_t n);
