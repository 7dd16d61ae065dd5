/* SPDX-License-Identifier: MIT */
#pragma once

/* The guest's client: a thread that asks /count without rest over one TCP connection, and notes
 * what a user of the service would notice. */

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"

typedef struct client client;

typedef struct client_figures {
        uint64_t answered;
        uint64_t lost;        /* counts that were skipped, answers that never came */
        uint64_t reconnected; /* the connection had to be made anew */
        uint64_t longest_stall_usec;
} client_figures;

typedef struct guest_memory {
        uint64_t passes, errors, bytes;
} guest_memory;

/* `netns_fd` is borrowed for the client's life. Connects first. */
int client_new(int netns_fd, const char *address, uint16_t port, client **ret, ferry_error *reterr);
/* Ends the thread. */
client *client_free(client *c);

/* What was noted since the last reset. */
void client_get(client *c, client_figures *ret);
void client_reset(client *c);

/* GET /memory, over a connection of its own. */
int client_get_memory(int netns_fd, const char *address, uint16_t port, guest_memory *ret,
                      ferry_error *reterr);

DEFINE_CLEANUP(client *, client_free)
