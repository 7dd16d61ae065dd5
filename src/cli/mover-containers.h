/* SPDX-License-Identifier: MIT */
#pragma once

/* The part of a migration that is containerd's: its containers at the destination, made before the
 * sandbox comes, and removed where it has left. Nothing to do for a sandbox without containers. */

#include "cli/mover.h"

/* Which there are, from the source's status; takes it out of there. */
void mover_take_containers(mover *m, shim_status *status);
/* The same for a migration that somebody else began. Each may be NULL. */
void mover_learn_containers(mover *m, shim_status *source, shim_status *destination);
/* Whether the destination has a containerd for them, and it is known what they will be there. */
int mover_check_containers(mover *m, ferry_error *reterr);
void mover_forget_containers(mover *m);
/* Their roots are where the destination finds them; around ImportSandbox. */
int mover_bring_images(mover *m, const Google__Protobuf__Any *state, ferry_error *reterr);
void mover_drop_images(mover *m);
/* Between ImportSandbox and PrepareSandbox. */
int mover_create_containers(mover *m, ferry_error *reterr);
/* Where the sandbox is not: `source`, after a move; else at the destination, those that were made.
 */
int mover_remove_containers(mover *m, bool source, ferry_error *reterr);
