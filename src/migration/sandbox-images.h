/* SPDX-License-Identifier: MIT */
#pragma once

/* Disks of containers: read-only ones in the image folder, known by their content, and writable
 * ones in the disk root. A sandbox's own names begin with what only it has (its machine, its state
 * directory), so that hosts may share the folders: a sandbox that comes has links of its own. */

#include "migration/sandbox.h"
#include "migration/state.h"

/* Where a disk that is made here for a container is to be. Caller frees; NULL: there is no folder
 * for such disks, or no memory. */
char *sandbox_disk_path(const sandbox *sb, const char *serial, bool readonly);

/* Before an export: who finds what this writes beside a writable disk of the sandbox's own, by the
 * session's secret, has the very same file. */
void sandbox_mark_disks(const sandbox *sb, const vm_config *config,
                        const uint8_t secret[DIGEST_SIZE]);

/* Before an import: the disks in it get names of this sandbox's own, and the configuration says
 * those. A read-only one may be a copy (sandbox_copy_path()); a writable one is the source's file
 * itself, or where the hosts do not share that an empty one is made (state->to_mirror). What is not
 * found stays as it is said, for the check to complain of. Negative: nothing was done. */
int sandbox_adopt_images(sandbox *sb, migration_state *state, ferry_error *reterr);
/* Whether its file is this sandbox's own, to be removed with the disk. */
bool sandbox_owns_image(const sandbox *sb, const vm_config_disk *disk);
/* The import came to nothing: links that were made for it go. */
void sandbox_drop_images(sandbox *sb, const vm_config *config);

/* Where a caller puts a copy of a disk for the sandbox that is to come to `state_dir`, by its
 * SHA-256 in hexadecimal. Caller frees; NULL without memory. */
char *sandbox_copy_path(const char *folder, const char *state_dir, const char *digest);
/* A disk's own file, and what is beside it. */
void sandbox_remove_disk_file(const char *path);
/* All of a sandbox's that has gone. */
void sandbox_remove_images(const char *folder, const char *state_dir);
