/* SPDX-License-Identifier: MIT */
#pragma once

/* One migration, as a caller drives it: both shims, step by step, over the Migration service.
 *
 * mover_run() goes forward. Whatever stops it, an error, a signal, a time limit, the way out is
 * mover_settle(): it asks both sides who may run the sandbox, rolls back what can be rolled back,
 * finishes what has been handed over, and carries one side's record to the other where the
 * connection between them broke. It never guesses: what nobody can know yet stays undecided, with
 * both shims left as they are. */

#include <stdint.h>

#include <jansson.h>

#include "cli/calls.h"
#include "cli/peer.h"
#include "cli/progress.h"
#include "cli/traces.h"

#define SESSION_ID_SIZE 37U

#define MOVER_CONTAINERS_MAX 32U

typedef enum mover_place {
        MOVER_UNDECIDED,
        MOVER_AT_SOURCE,
        MOVER_AT_DESTINATION,
        MOVER_NOWHERE,   /* its VM has ended, on both sides */
        MOVER_GAVE_UP,   /* a person who did not want to wait any longer */
        MOVER_UNDER_WAY, /* still the source's, and nobody said to cancel */
        MOVER_FOLLOWS,   /* it runs at the destination, and its memory is still on the way */
} mover_place;

typedef struct mover_figures {
        uint64_t total_usec, blackout_usec, bytes;
        uint32_t passes;
        Ferry__Shim__V1__Report *source, *destination; /* NULL: not known; owned */
        Ferry__Shim__V1__Prediction *predicted; /* the last one, however old; NULL: none; owned */
} mover_figures;

typedef struct mover {
        rpc_group *group;
        peer *from, *to; /* borrowed */
        const char *name;
        char session_id[SESSION_ID_SIZE];
        rpc *source, *destination; /* the group's; NULL before they are reached */
        bool begun;                /* the source may have a session */
        bool made_destination;     /* its shim and directory are of our making */
        bool awaits;               /* somebody else makes its containers (mover-await.h), */
        bool has_pod;              /* and before them its pod, with a shim */
        progress progress;
        uint64_t start_usec, deadline_usec;
        /* Called after each change and every 100 ms; may be NULL. */
        void (*on_change)(const struct mover *m, bool is_milestone, void *userdata);
        void *userdata;
        mover_figures figures;
        traces traces;
        /* mover-containers.c */
        Ferry__Shim__V1__Containerd *containers; /* NULL: it has none; owned */
        const char *network; /* for them at the destination: a namespace's path, "none"; NULL: not
                                said */
        bool keeps_address;  /* whatever that has */
        json_t *infos[MOVER_CONTAINERS_MAX]; /* what the source's containerd keeps of them */
        size_t n_created;                    /* of them, the last ones, at the destination */
        char *images[MOVER_CONTAINERS_MAX];  /* brought there: SHA-256, hexadecimal */
        size_t n_images;
        const struct outcome_files *files; /* what is to be written at the end; NULL: nothing */
        bool milestone;
} mover;

int mover_init(mover *m, rpc_group *group, peer *from, peer *to, const char *name,
               ferry_error *reterr);
void mover_done(mover *m);

/* Checks, starts the destination, copies, hands over. 0: the sandbox runs at the destination and
 * both sessions are finalized. Negative: mover_settle() is needed, unless `m->begun` is
 * false. `reterr` is not NULL. */
int mover_run(mover *m, InitializeOptions *options, bool by_caller, ferry_error *reterr);

/* `cancel`: a transfer that is under way is cancelled; else it is left alone, and what is not
 * settled within three seconds is MOVER_UNDER_WAY. With `cancel`, or once the guest is handed over,
 * it takes half a minute to give up: MOVER_UNDECIDED. Not interruptible. */
mover_place mover_settle(mover *m, bool cancel);

/* For a post-copy: what both say, and the new connection. */
bool mover_wants_connection(const shim_status *source, const shim_status *destination);
int mover_connect_again(mover *m, ferry_error *reterr);

/* After mover_clear(): whether the source's VM has ended meanwhile. Its QEMU's end may be why the
 * migration failed with `why`, and be seen a moment later. */
bool mover_source_has_ended(const mover *m, const ferry_error *why);

/* From the shims' reports, while the sessions are open. */
void mover_take_figures(mover *m);

/* The same of their traces. mover_clear() does it: after it there is nobody left to ask. */
void mover_take_traces(mover *m);

/* Both sessions closed and what is not needed any more removed: the source's shim after success,
 * the destination's after a rollback. */
int mover_clear(mover *m, mover_place place, ferry_error *reterr);
/* The part of it that is one side's, of the side that has no session any more. */
int mover_clear_side(mover *m, peer *p, bool source, ferry_error *reterr);
