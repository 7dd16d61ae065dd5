/* SPDX-License-Identifier: MIT */
#pragma once

/* Starts a shim that outlives us: own session, in the host's network namespace, output in the
 * sandbox's shim.log. */

#include "base/error.h"
#include "cli/host.h"

/* The program: $FERRY_SHIM, beside ourselves, where a build folder has it, else in PATH. */
int launch_find_program(const char *name, const char *environment, const char *build_path,
                        char **ret, ferry_error *reterr);

/* Of whose containerd a shim is. */
typedef struct launch_containerd {
        const char *namespace;
        const char *address; /* its gRPC socket; the ttrpc one is beside it */
        const char *cache_dir;
} launch_containerd;

/* Returns once the shim's sockets listen (the VM comes later). `config_path` NULL: it waits as an
 * empty destination, or takes over the live sandbox of its directory. The directory exists.
 * `containerd` NULL: nobody's. */
int launch_shim(const host *h, const char *name, const char *config_path,
                const launch_containerd *containerd, ferry_error *reterr);
