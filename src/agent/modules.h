/* SPDX-License-Identifier: MIT */
#pragma once

/* Loads the kernel modules that a list file names, one path a line, in its order. What does not
 * load is told on stderr and passed over: a guest without a disk driver may still run. */
void modules_load(const char *list);
