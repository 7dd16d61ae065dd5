/* SPDX-License-Identifier: MIT */
#pragma once

/* Where a pod of containerd's has its sandbox: below the root, in the folder that a hash names. A
 * sandbox that came from another host keeps the name that it had there, and a link of the hash's
 * name (hidden: `ferry ls` does not list it) leads to it. */

#include <stdbool.h>

#include "base/error.h"
#include "migration/sandbox.h"

#define PLACE_NAME_SIZE 33U

/* `address`: containerd's gRPC socket; `id`: the pod's, or that of a container without one. The
 * same three give the same name. */
int place_name(const char *address, const char *namespace, const char *id,
               char ret[static PLACE_NAME_SIZE]);
/* From now on the name leads to the sandbox of this state directory. FailedPrecondition when it
 * leads to another that is still there. */
int place_note(const char *state_dir, const char *name, ferry_error *reterr);
/* Which sandbox below `root` the name leads to; false: to none. */
bool place_follow(const char *root, const char *name, char ret[static SANDBOX_ID_MAX + 1]);
/* Nothing leads to the sandbox any more. */
void place_forget(const char *state_dir);
