/* SPDX-License-Identifier: MIT */
#pragma once

/* What containerd asked for, and the place of the sandbox that it is about. */

#include <stdbool.h>

#include "migration/sandbox.h"
#include "shim/containerd-config.h"

typedef struct containerd_request {
        const char *namespace, *address, *id, *bundle;
        bool debug, is_delete;
        char *pod;       /* the id of the sandbox that this one belongs to; NULL: its own */
        char *came_with; /* the sandbox that it came with, which is here; NULL: none */
        /* its folder: a hash, so that its sockets' paths are short; or as it was imported */
        char sandbox[SANDBOX_ID_MAX + 1];
        char *state_dir;
        char cache_max_mb[16], layer_mb[16];
        char *templates; /* NULL: none are used */
        containerd_config *config;
} containerd_request;

/* Whether a shim holds the place; *ret_lock otherwise, or -EBADF when there is no place. */
bool containerd_has_shim(const containerd_request *q, int *ret_lock);

/* `delete`: clears away what a shim left, and answers on standard output. */
int containerd_delete(const containerd_request *q, ferry_error *reterr);
