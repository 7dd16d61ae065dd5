/* SPDX-License-Identifier: MIT */
#pragma once

/* The demo's place: a folder, and two hosts that are network namespaces on one switch.
 *
 *   ferry-a: br0 10.77.0.1 --- up0 ===== a0 \
 *                                            ferry-sw: br0 10.77.0.254 (the client)
 *   ferry-b: br0 10.77.0.2 --- up0 ===== b0 /
 *
 * What is made is written down first, in a file that is locked while the demo runs: so a demo that
 * was killed is cleaned up by the next one, and nothing that somebody else made is ever touched. */

#include <stdbool.h>

#include "base/cleanup.h"
#include "base/error.h"

#define LAB_CLIENT_NETNS  "ferry-sw"
#define LAB_GUEST_ADDRESS "10.77.0.10"
#define LAB_SANDBOX       "demo"
#define LAB_N_HOSTS       2

typedef struct lab {
        char *mark_path;
        int mark_fd;
        char *folder;
        char *ferry; /* the program */
        bool has_network;
        struct {
                const char *name, *address; /* of the host; its namespace has the same name */
                char *root;
        } hosts[LAB_N_HOSTS];
} lab;

/* Removes what an earlier run left, then makes folder and hosts. Without root, or where namespaces
 * cannot be made, has_network is false and *ret_why (caller frees) says why. */
int lab_make(lab *l, char **ret_why, ferry_error *reterr);
/* Removes all of it: sandboxes first. Safe on a half-made lab; `keep` only lets go. */
int lab_remove(lab *l, bool keep, ferry_error *reterr);
/* Only removes what an earlier run left. */
int lab_clean(ferry_error *reterr);
