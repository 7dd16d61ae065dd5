/* SPDX-License-Identifier: MIT */
#pragma once

/* Starts a shim that outlives us: own session, in the host's network namespace, output in the
 * sandbox's shim.log. */

#include "base/error.h"
#include "cli/host.h"

/* The program: $FERRY_SHIM, beside ourselves, where a build folder has it, else in PATH. */
int launch_find_program(const char *name, const char *environment, const char *build_path,
                        char **ret, ferry_error *reterr);

/* Returns once the shim's sockets listen (the VM comes later). `config_path` NULL: it waits as an
 * empty destination, or takes over the live sandbox of its directory. The directory exists. */
int launch_shim(const host *h, const char *name, const char *config_path, ferry_error *reterr);
