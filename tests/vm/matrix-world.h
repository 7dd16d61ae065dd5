/* SPDX-License-Identifier: MIT */
#pragma once

/* Two hosts for the matrix: which of them has the guest, what is held still, and any call of the
 * service, sent without waiting for its answer. */

#include "gate.h"
#include "matrix-table.h"

typedef struct answer {
        bool sent, done;
        int32_t code;
        char message[256];
        ttrpc_slot *slot; /* a stream that was accepted: it stays open */
} answer;

typedef struct world {
        pair p;
        host *source, *destination; /* the guest runs at the source, or did */
        ttrpc_client *second[2];    /* another connection to each of p.a, p.b */
        ProtobufCBinaryData exported;
        bool had_socket; /* the hosts were given theirs */
        bool is_hot;     /* its guest writes more than goes over */
        bool has_gate;   /* of the session: what it holds let_go_all() lets pass */
        gate gate;
        pid_t held[4];
        size_t n_held;
        unsigned transfer_timeout_ms; /* of the next TransferSandbox; 0: the default */
        answer lead;                  /* of the call whose work is what the state is */
        host *lead_host;
        bool spoiled; /* the guest is dead, or its fate is not to be settled: start anew */
} world;

/* For cmocka: one world for all tests of a program; a test that fails costs it. */
world *world_get(void);
int world_group_start(void **state);
int world_group_end(void **state);
int world_setup(void **state);
/* The end of a test that passed. */
void world_finish(world *w);
/* Both hosts without a session and the guest running at one; anew where that cannot be. */
void world_reset(world *w);

ttrpc_client *world_second(world *w, const host *h);
/* A new session id and a new connection between the hosts. */
void world_new_session(world *w);

/* The guest is one that pre-copy alone never ends with, from here on. */
void world_be_hot(world *w);
/* The connection that the hosts are to be given leads through a gate. */
void world_gate(world *w, gate_word last);

/* Stops a process where it is; let_go_all() is the end of it. */
void world_hold(world *w, pid_t pid);
void world_let_go(world *w, pid_t pid);
void world_let_go_all(world *w);

void world_send(world *w, host *h, ttrpc_client *client, matrix_call call, const char *session,
                answer *a);
void world_collect(ttrpc_client *client, answer *a);
/* Until everything that was sent before over this connection has reached the session. */
void world_taken(ttrpc_client *client);
/* Sends, waits, and it must be OK. */
void world_must(world *w, host *h, matrix_call call);
/* Sends the call whose work is to go on while the state is looked at. */
void world_lead(world *w, host *h, matrix_call call);

/* What of a host's status a call must not change, as bytes. */
typedef struct look {
        bool sent, done;
        char detail[32], state[32];
        uint8_t bytes[8192];
        size_t n;
} look;

void look_send(ttrpc_client *client, look *l);
void look_collect(ttrpc_client *client, look *l);
bool look_finds(host *h, const char *detail);

/* ---- matrix-places.c ---- */

typedef struct place {
        const char *state;
        bool at_destination;
        void (*reach)(world *w);
        /* It does not hold still: `lead` (N_CALLS: what was done while the shim was stopped) takes
         * the session there, and what is asked has to come in one go with it. */
        bool passes;
        matrix_call lead;
} place;

const place *matrix_places(size_t *ret_n);
