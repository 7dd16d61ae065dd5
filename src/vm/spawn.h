/* SPDX-License-Identifier: MIT */
#pragma once

/* Starts a confined process that outlives us, unless told otherwise: own session, own user, no
 * capabilities, no new privileges, none of our descriptors but those that it is given. Blocks until
 * exec has worked or failed (milliseconds). */

#include <stdbool.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"

typedef struct vm_spawn_spec {
        const char *program; /* absolute */
        char *const *argv;
        /* Become 3, 4, ... in the child; borrowed. */
        const int *fds;
        size_t n_fds;
        int log_fd; /* stdout and stderr */
        bool switch_user;
        uid_t uid;
        gid_t gid;
        gid_t extra_gid; /* one supplementary group, or (gid_t)-1 */
        /* Numbers in the child: a library that is loaded into it, and what it is to find there
         * (vm/uffd.h); 0: none. */
        int uffd_library, uffd_device;
        bool own_network;  /* a network namespace of its own, with nothing in it; needs root */
        bool ends_with_us; /* killed when we end, however we end: for what only answers a question
                            */
        /* Runs in the parent while the child waits before its exec; if we die in here, the child
         * ends. Negative: the child is ended and that is the result. May be NULL. */
        int (*before_exec)(pid_t pid, void *userdata, ferry_error *reterr);
        void *userdata;
} vm_spawn_spec;

int vm_spawn(const vm_spawn_spec *spec, pid_t *ret_pid, int *ret_pidfd, ferry_error *reterr);

/* A program by absolute path or, without a slash, in PATH. -ENOENT with a text that says what to
 * do. */
int vm_find_program(const char *name, char **ret, ferry_error *reterr);
