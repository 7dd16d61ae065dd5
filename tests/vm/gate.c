/* SPDX-License-Identifier: MIT */
#include "gate.h"

#include <poll.h>
#include <string.h>

static void hold(uint8_t *data, size_t n, bool of_source, void *userdata) {
        static const uint8_t message[] = { 'F', 'R', 'l', 1, 4 };
        gate *g = userdata;
        bool waits = g->last == GATE_RUNS && g->n_said == GATE_RUNS;

        if (!of_source && memmem(data, n, message, sizeof(message)))
                waits |= ++g->n_said > g->last;
        while (waits && !atomic_load(&g->open))
                (void)poll(NULL, 0, 1);
}

static void init(gate *g, gate_word last) {
        *g = (gate){ .last = last, .m = { .look = hold, .userdata = g } };
}

void gate_start(gate *g, pair *p, gate_word last) {
        init(g, last);
        middle_start(&g->m, p);
}

void gate_connect(gate *g, pair *p, host *source, gate_word last) {
        init(g, last);
        middle_connect(&g->m, p, source);
}

void gate_open(gate *g) {
        atomic_store(&g->open, true);
}

void gate_cut(gate *g) {
        middle_cut(&g->m);
        gate_open(g);
        gate_end(g);
}

void gate_end(gate *g) {
        middle_end(&g->m);
}
