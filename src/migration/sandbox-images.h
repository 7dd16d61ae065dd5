/* SPDX-License-Identifier: MIT */
#pragma once

/* Disks that were packed for containers of a sandbox that came from another host: links in this
 * host's image folder, with names that begin with what only this sandbox has (its state directory),
 * so that hosts may share the folder. */

#include "migration/sandbox.h"
#include "migration/state.h"

/* Before an import: the packed disks in it get names of this sandbox's own in the image folder, and
 * the configuration says those. What is not found there or where it was at the source stays as it
 * is said, for the check to complain of. */
void sandbox_adopt_images(sandbox *sb, migration_state *state);
/* Whether its file is this sandbox's own, to be removed with the disk. */
bool sandbox_owns_image(const sandbox *sb, const vm_config_disk *disk);
/* The import came to nothing. */
void sandbox_drop_images(sandbox *sb, const vm_config *config);

/* Where a caller puts a copy of a disk for the sandbox that is to come to `state_dir`, by its
 * SHA-256 in hexadecimal. Caller frees; NULL without memory. */
char *sandbox_copy_path(const char *folder, const char *state_dir, const char *digest);
/* All of a sandbox's that has gone. */
void sandbox_remove_images(const char *folder, const char *state_dir);
