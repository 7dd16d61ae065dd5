/* SPDX-License-Identifier: MIT */
#pragma once

/* Somebody between the two hosts of a post-copy, who lets pass what the destination says up to a
 * word. */

#include <stdatomic.h>

#include "middle.h"

typedef enum gate_word {
        GATE_NOTHING,
        GATE_READY,
        GATE_TAKEN,
        GATE_RUNS, /* and behind it the memory waits too */
} gate_word;

typedef struct gate {
        gate_word last; /* it passes, and nothing after it */
        unsigned n_said;
        atomic_bool open;
        middle m;
} gate;

/* A new session through it, up to both transfers. */
void gate_start(gate *g, pair *p, gate_word last);
/* The ends that the hosts are to be given lead to it. */
void gate_connect(gate *g, pair *p, host *source, gate_word last);
/* Everything passes, now and later. */
void gate_open(gate *g);
/* Cuts the connection for both, which is its end. */
void gate_cut(gate *g);
/* When either side has closed its connection. */
void gate_end(gate *g);
