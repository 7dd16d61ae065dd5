/* SPDX-License-Identifier: MIT */
#pragma once

/* What containerd's containers run on, on this host: $FERRY_CONTAINERD_CONFIG, else
 * /etc/ferry/containerd.json, else the defaults. docs/containers.md has its fields. */

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

typedef struct containerd_config {
        char *image; /* a folder that `ferry image build --containers` made */
        char *root;  /* where sandboxes have their folders */
        char *cache_dir;
        char *disk_root;       /* of what containers write to; NULL: they write to memory */
        uint32_t cache_max_mb; /* of packed roots; 0: no limit */
        uint32_t layer_mb;     /* of such a disk; 0: the shim's default */
        char *accelerator;
        uint32_t memory_mb, vcpus; /* 0: the image's */
        bool template;             /* VMs begin from one (docs/templates.md) */
        char *template_dir;        /* where they are kept */
} containerd_config;

int containerd_config_read(containerd_config **ret, ferry_error *reterr);
/* The VM's configuration (JSON); caller frees. */
int containerd_config_vm(const containerd_config *c, char **ret, ferry_error *reterr);
/* The folder of a namespace's template; caller frees. NULL: out of memory. */
char *containerd_config_templates(const containerd_config *c, const char *namespace);
containerd_config *containerd_config_free(containerd_config *c);

DEFINE_CLEANUP(containerd_config *, containerd_config_free)
