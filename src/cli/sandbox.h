/* SPDX-License-Identifier: MIT */
#pragma once

/* A sandbox's place on disk: <root>/<name>/, made by `ferry run` or for a destination, held by its
 * shim with a lock on shim.lock, and gone once the sandbox has ended or moved away. */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"

#define SANDBOX_NAME_MAX 41U

typedef struct sandbox_names {
        size_t n;
        char **names; /* sorted */
} sandbox_names;

/* [a-z0-9][a-z0-9-.]{0,40} */
int sandbox_check_name(const char *name, ferry_error *reterr);

/* <root>/<name>, or <root>/<name>/<file>; caller frees. */
int sandbox_path(const char *root, const char *name, const char *file, char **ret,
                 ferry_error *reterr);

/* Makes root (0700, one level) and directory. FERRY_ALREADY_EXISTS when the name is taken. */
int sandbox_make(const char *root, const char *name, ferry_error *reterr);

/* Of mkdir()'s errno, with what helps who is not root. */
int sandbox_cannot_make(const char *path, ferry_error *reterr);

/* FERRY_NOT_FOUND when there is no such directory, or it is not a sandbox (no shim.lock of ours).
 */
int sandbox_check_exists(const char *root, const char *name, ferry_error *reterr);

/* Whether a shim holds the sandbox; its pid or 0. */
int sandbox_has_shim(const char *root, const char *name, bool *ret, pid_t *ret_pid);

/* Removes a sandbox's own files and its directory, unless a shim holds it (-EBUSY) or there is
 * anything else in it (-ENOTEMPTY, and then nothing is removed). The caller knows that no VM of it
 * lives. */
int sandbox_remove(const char *root, const char *name, ferry_error *reterr);

/* All of a root; none when the root is not there. */
int sandbox_list(const char *root, sandbox_names *ret, ferry_error *reterr);
void sandbox_names_done(sandbox_names *names);

/* The text of the last error in the sandbox's shim.log, if one is among its last lines. Caller
 * frees. */
char *sandbox_last_error(const char *root, const char *name);

/* The last lines of a log of the sandbox, NUL-terminated, NULL when there are none. */
char *sandbox_log_tail(const char *root, const char *name, const char *file, unsigned n_lines);
