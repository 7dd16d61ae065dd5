/* SPDX-License-Identifier: MIT */
#pragma once

/* Steps of a session that several tests go through. */

#include "follower.h"

#define STOP   FINALIZE_ACTION__FINALIZE_ACTION_STOP
#define RESUME FINALIZE_ACTION__FINALIZE_ACTION_RESUME

/* gRPC's */
#define CANCELLED           1
#define INVALID_ARGUMENT    3
#define DEADLINE_EXCEEDED   4
#define ALREADY_EXISTS      6
#define FAILED_PRECONDITION 9
#define ABORTED             10
#define UNIMPLEMENTED       12
#define UNAVAILABLE         14

/* cmocka's teardown of a test whose state is a pair. */
int end_pair(void **state);

/* So slow that it is still copying whenever we look. */
void make_slow(pair *p);
void make_fast(pair *p);
void transfer_both(pair *p);
/* In the copy; the next session's is fast. */
void copy_slowly(pair *p);
void reach_ready(pair *p);
void cleanup_both(pair *p);
/* Whatever happened: the same VM moves to b, and back to a. */
void then_it_moves(pair *p);
/* Both sides are cleaned up; the guest runs at a, whole, and still moves. */
void expect_rolled_back(pair *p);
/* In what the session's Status says of its failure. */
void expect_reason(host *h, const char *text);
/* Cleans that side up. */
void expect_history(pair *p, host *h, const char *expected);
void expect_verdict(host *h, const char *verdict);

/* Until it has ended, by itself; until it has begun anew. */
void guest_powers_off(host *h);
void guest_resets(host *h);

/* Somebody who comes too late is told this of `phase`, the reason beginning with that; all that it
 * was told is in *f. */
void expect_end(follower *f, pair *p, host *h, Phase phase, PhaseState state, int code,
                const char *reason);
