/* SPDX-License-Identifier: MIT */
#pragma once

/* What the kernel knows of a container's cgroup (version 2). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* One number of a file: the file's only one (`key` NULL), or of the line "key number". 0 when there
 * is none, or it is "max". `folder` is the cgroup's. */
uint64_t cgroup_number(const char *folder, const char *file, const char *key);

/* Each "name number" line of a file. */
void cgroup_lines(const char *folder, const char *file,
                  void (*each)(const char *name, uint64_t value, void *userdata), void *userdata);

/* Its processes, below it too; *ret is freed by the caller. */
int cgroup_pids(const char *folder, pid_t **ret, size_t *ret_n);
