/* SPDX-License-Identifier: MIT */
#pragma once

/* What a connection carries, measured within 300 ms from both of its ends. */

#include <stdint.h>

typedef struct link_figures {
        uint64_t bytes_per_second;
        uint64_t round_trip_usec;
} link_figures;

/* Two connected stream sockets, one the other's peer; they are of no use afterwards. */
int link_probe(int from_fd, int to_fd, link_figures *ret);
