/* SPDX-License-Identifier: MIT */
#pragma once

/* A host as a migration sees it: where a sandbox's shim is started, reached and ended. For now
 * every host is a state root on this machine (peer-local.c); an agent of another machine will be
 * another set of the same functions. */

#include <stdbool.h>

#include <jansson.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "cli/link-probe.h"
#include "cli/rpc.h"

typedef struct peer peer;

typedef struct peer_operations {
        /* Makes place for the sandbox and starts its shim, empty. FERRY_ALREADY_EXISTS when the
         * host has a sandbox of that name. `namespace`: containerd's, for its containers; NULL: it
         * has none. */
        int (*start_destination)(peer *p, const char *name, const char *namespace,
                                 ferry_error *reterr);
        /* *ret: the sandbox whose pod waits for this session; NULL: there is none. */
        int (*find_awaiting)(peer *p, rpc_group *group, const char *session_id, char **ret,
                             ferry_error *reterr);
        /* A connection to the sandbox's shim. With `revive` a shim that died is started again: it
         * finds its VM and its journal; else that is FERRY_FAILED_PRECONDITION. FERRY_NOT_FOUND
         * when the host has no such sandbox. */
        int (*open)(peer *p, rpc_group *group, const char *name, bool revive, const char *label,
                    rpc **ret, ferry_error *reterr);
        /* The migration connection from `source`, or (`disk` not "") that of the disk with this
         * serial: gives this host's end to its shim, and returns the other. Both peers are of the
         * same kind. */
        int (*connect)(peer *p, peer *source, rpc *shim, const char *name, const char *session_id,
                       const char *disk, int *ret_source_fd, ferry_error *reterr);
        /* What the network from `source` to here carries: a third of a second. */
        int (*probe_link)(peer *p, peer *source, link_figures *ret, ferry_error *reterr);
        /* *ret: an array of texts, what speaks against the sandbox of this exported state. */
        int (*check_incoming)(peer *p, const void *state, size_t n, json_t **ret,
                              ferry_error *reterr);
        /* Notes which other host the session is with; `session_id` NULL: none any more. */
        void (*remember)(peer *p, const char *name, const char *session_id, const peer *other);
        /* The sandbox has left for `other`, for those who look for it here. */
        void (*forward)(peer *p, const char *name, const peer *other);
        /* Gives a connected socket of ours to this host's shim. The descriptor is borrowed. */
        int (*give_socket)(peer *p, rpc *shim, const char *name, const char *session_id,
                           const char *disk, int fd, ferry_error *reterr);
        /* Ends a shim that has neither VM nor session, and removes what it leaves. Anything else
         * is FERRY_FAILED_PRECONDITION and nothing happens. */
        int (*clear)(peer *p, rpc_group *group, const char *name, ferry_error *reterr);
        /* The same, for one whose containers were removed: containerd ends the shim, and removes
         * what it leaves. */
        int (*wait_cleared)(peer *p, rpc_group *group, const char *name, ferry_error *reterr);
        /* A container's root, `path` on the machine that we run on, is put where the sandbox's shim
         * here finds it by its SHA-256 (hexadecimal); and away again. */
        int (*take_image)(peer *p, const char *name, const char *path, const char *digest,
                          ferry_error *reterr);
        void (*drop_image)(peer *p, const char *name, const char *digest);
        peer *(*free)(peer *p);
} peer_operations;

struct peer {
        const peer_operations *operations;
        char *name;             /* the host's, for messages; owned */
        char *root;             /* "--root" for a message that tells how to look; owned */
        const char *containerd; /* its gRPC socket; NULL: it has none */
        char *sandbox; /* what the one that is moved is called there; NULL: as everywhere; owned */
};

static inline const char *peer_sandbox(const peer *p, const char *name) {
        return p->sandbox ? p->sandbox : name;
}

/* The host that `target` names: an absolute path of a state root. */
int peer_open(const char *target, peer **ret, ferry_error *reterr);

/* Whether a sandbox could come to `target` at all: a folder, or one that can be made. */
int peer_check_target(const char *target, ferry_error *reterr);

static inline peer *peer_free(peer *p) {
        return p ? p->operations->free(p) : NULL;
}

DEFINE_CLEANUP(peer *, peer_free)
