/* SPDX-License-Identifier: MIT */
#pragma once

/* Who runs containers knows their names, and not those of the sandboxes that were made for them. */

#include "cli/rpc.h"

/* The sandbox `word` of the root, or else the one that has a container, or is a pod, of that id;
 * caller frees. `word` itself when there is neither: what needs it says so. -EEXIST: several have.
 */
int find_sandbox(const char *root, rpc_group *group, const char *word, char **ret,
                 ferry_error *reterr);
/* Whether it is a pod that waits for this migration session. */
bool find_is_awaiting(const char *root, rpc_group *group, const char *name, const char *session_id);
