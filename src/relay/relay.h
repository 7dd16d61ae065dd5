/* SPDX-License-Identifier: MIT */
#pragma once

/* Carries QEMU's stream between a socket of its QEMU's and the connections to the other shim, both
 * ways, as frames (docs/relay-protocol.md). The work is done by threads of its own; the owner hears
 * of the end by a descriptor, and needs no lock.
 *
 * What QEMU has written goes out at once, in blocks of what was there. Memory is bounded: who does
 * not read stops who writes. The frames take turns on the connections; of none a byte behind the
 * peer's END is read. */

#include <stdbool.h>

#include "relay/frame.h"

#define RELAY_WORKERS_MAX  64U
#define RELAY_CHANNELS_MAX 64U

typedef struct relay relay;

typedef struct relay_options {
        relay_side side;
        /* 0: nothing is compressed. The source's stream is; what goes back is not. */
        unsigned workers;
        /* What the other shims' ends of `messages_fd_consume` write to each other goes between
         * QEMU's blocks, in order. Then the connections are the relay's for good: END ends QEMU's
         * stream alone. Who closes his end leaves: all that he wrote is sent, and that is the
         * connections' end. */
        bool messages;
        int messages_fd_consume;
        /* QEMU is not shown a failure until relay_stop(): what it writes is thrown away. For one
         * that would run the guest on when its stream breaks while the guest may be elsewhere. */
        bool hides_failure;
} relay_options;

typedef enum relay_state {
        RELAY_RUNS,
        /* Both ways; the connections are as before, for whoever comes next. With messages: our side
         * has left. */
        RELAY_ENDED,
        RELAY_FAILED,
} relay_state;

typedef struct relay_figures {
        uint64_t sent, received;           /* bytes of QEMU's */
        uint64_t sent_wire, received_wire; /* of the connections, headers included */
        uint64_t sent_usec, received_usec; /* CLOCK_MONOTONIC, when that grew last; 0: never */
        int level;                         /* zstd's, at this moment */
} relay_figures;

/* Connected stream sockets, taken on every path; `remote` are 1 to RELAY_CHANNELS_MAX, in the same
 * order on both sides. -EINVAL: workers, n. */
int relay_start(int local_fd_consume, const int *remote_fds_consume, size_t n,
                const relay_options *options, relay **ret);

/* Readable once the state is another than RELAY_RUNS. Borrowed. */
int relay_get_fd(const relay *r);

/* `ret_problem` (nullable): of RELAY_FAILED, for people; borrowed. When it has failed all sockets
 * are shut down, so that QEMU and the peer notice. */
relay_state relay_get_state(relay *r, const char **ret_problem);

void relay_get_figures(relay *r, relay_figures *ret);

/* From any state; what is under way is dropped. No thread is left, its descriptors are closed;
 * nobody else's copies of them are shut down. Returns NULL. */
relay *relay_stop(relay *r);
