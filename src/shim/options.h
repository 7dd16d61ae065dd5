/* SPDX-License-Identifier: MIT */
#pragma once

/* The shim's command line. */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/log.h"

typedef enum shim_verb {
        SHIM_SERVE,
        SHIM_CHECK,
        SHIM_TEMPLATE,
        SHIM_HELP,
        SHIM_VERSION,
} shim_verb;

typedef struct shim_options {
        shim_verb verb;
        const char *id;
        const char *state_dir;
        const char *config; /* NULL: none is booted */
        bool pod;           /* not before its pod is created */
        const char *bridge;
        const char *qemu;
        const char *disk_root;
        const char *probe_cache;
        const char *namespace;    /* of containerd; NULL: not under containerd */
        const char *events;       /* its ttrpc socket */
        const char *containerd;   /* its gRPC socket */
        const char *cache_dir;    /* for its containers' roots */
        const char *template_dir; /* NULL: VMs boot */
        uint32_t cache_max_mb;    /* of what is in there; 0: no limit */
        uint32_t layer_mb;        /* of the disks that they write to, below disk_root */
        int ready_fd;             /* -EBADF: none */
        ferry_log_level log_level;
} shim_options;

/* Borrows argv. -EINVAL with what is wrong. */
int shim_options_parse(int argc, char **argv, shim_options *ret, ferry_error *reterr);

extern const char shim_help[];
