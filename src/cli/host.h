/* SPDX-License-Identifier: MIT */
#pragma once

/* A host, for now a state root on this machine: <root>/host.json says its name, the network
 * namespace its shims run in, its address for migrations, the bridge for its guests, its QEMU and
 * where disks may be. Without that file it is this machine as it stands. */

#include <stdbool.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/error.h"

/* As /etc/ferry/containerd.json has it by default. */
#define HOST_CACHE_DIR "/var/cache/ferry/roots"

typedef struct host {
        char *root;       /* absolute, as given */
        char *name;       /* never NULL */
        char *netns;      /* NULL: the namespace we are in */
        char *address;    /* IPv4 or IPv6; "127.0.0.1" when not set */
        char *bridge;     /* NULL: none */
        char *qemu;       /* NULL: the one in PATH */
        char *disk_root;  /* writable disks of sandboxes that arrive lie below it; NULL: none may */
        char *containerd; /* its gRPC socket, for sandboxes with containers; NULL: none */
        char *cache_dir;  /* where their roots are; as in that containerd's
                             /etc/ferry/containerd.json */
        bool is_set;      /* host.json exists */
} host;

typedef struct host_values {
        /* NULL: absent */
        const char *name, *netns, *address, *bridge, *qemu, *disk_root, *containerd, *cache_dir;
} host_values;

/* -EINVAL naming the field when host.json is there and wrong. */
int host_read(const char *root, host **ret, ferry_error *reterr);
host *host_free(host *h);

/* Makes the root (0700) if need be. Names and addresses are checked. */
int host_write(const char *root, const host_values *values, ferry_error *reterr);

int host_to_json(const host *h, json_t **ret);

DEFINE_CLEANUP(host *, host_free)
