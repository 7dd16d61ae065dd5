/* SPDX-License-Identifier: MIT */
#pragma once

/* A subscriber of a session's notifications, over a connection of its own, and all that it had. */

#include "harness.h"

typedef struct told {
        uint32_t id;
        Origin origin;
        Phase phase;
        PhaseState state;
        int32_t code;
        char reason[160];
        uint64_t start_usec, update_usec; /* 0: absent */
        bool has_progress, has_blackout;
        Progress progress;
        uint64_t blackout_ms, blackout_usec, blackout_stop_usec;
} told;

typedef struct follower {
        ttrpc_client *client;
        told told[512];
        size_t n;
        bool ended;
        int32_t code;
} follower;

void follower_start(follower *f, pair *p, host *h);
/* Until it was told of `phase`: that one. */
const told *follower_wait(follower *f, Phase phase);
/* Until its stream has ended, well. */
void follower_wait_end(follower *f);
void follower_leave(follower *f);

/* The first of `phase`, or NULL. */
const told *follower_find(const follower *f, Phase phase);
/* One that has come too late, with all that there is up to `phase`. */
void follower_catch_up(follower *f, pair *p, host *h, Phase phase);
/* "SETUP_DONE/SUCCESS FAILED/CANCELLED", without progress; the caller's. */
char *follower_text(const follower *f);
void assert_told_the_same(const told *a, const told *b);
