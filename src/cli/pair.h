/* SPDX-License-Identifier: MIT */
#pragma once

/* Which other host a sandbox's migration session is with: migration.json beside its journal. A
 * hint, so that `ferry recover NAME` needs no --to and `ferry ls` can name the command; what may
 * run where is the journals' to say, and a file that is not there or damaged is no error. */

#include "base/error.h"

/* Keeps quiet when it cannot be written. `other_name`: what it is called there; NULL: the same. */
void pair_remember(const char *root, const char *name, const char *session_id,
                   const char *other_root, const char *other_name);
void pair_forget(const char *root, const char *name);

/* The other root, for this session or (NULL) for any; NULL when it is not known. Caller frees. */
char *pair_find(const char *root, const char *name, const char *session_id);
/* What it is called there; NULL: the same, or nothing is known. Caller frees. */
char *pair_find_name(const char *root, const char *name);

/* Where a sandbox that is not here any more has gone: <root>/.moved/NAME, for those who were busy
 * with it. A hint too, kept for a day, or until there is a sandbox of that name here again. */
void pair_forward(const char *root, const char *name, const char *other_root);
void pair_unforward(const char *root, const char *name);
/* NULL: not known. Caller frees. */
char *pair_forwarded(const char *root, const char *name);
