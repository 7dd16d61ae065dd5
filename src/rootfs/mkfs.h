/* SPDX-License-Identifier: MIT */
#pragma once

/* A program that makes a file system in a file which has no name yet. */

#include "base/error.h"

#define MKFS_PATH_SIZE 32

/* How the program names the file `image`. */
void mkfs_path(int image, char ret[MKFS_PATH_SIZE]);
/* In a child: becomes argv[0], which has `image` and what it prints in `log` (a memfd). It does not
 * outlive its parent. Exit status 127: there is no such program. */
_Noreturn void mkfs_run(const char *const *argv, int image, int log);
/* Of waitpid()'s status: 0, or negative with its own words. -ENOENT: it is not installed. -ENOSPC:
 * `folder` is full. */
int mkfs_result(int status, int log, const char *program, const char *package, const char *folder,
                ferry_error *reterr);
