/* SPDX-License-Identifier: MIT */
#pragma once

/* Could this sandbox leave, and how would that go? Every reason against it, what the other host
 * has to look at, and a prediction. Takes about a second, and what reading its disks takes; the
 * guest and the session are left alone.
 */

#include "migration/compatibility.h"
#include "migration/predict.h"
#include "migration/sandbox.h"

#define OUTGOING_SESSION "check" /* what the state names; there is no such session */

typedef struct outgoing_check outgoing_check;

typedef struct outgoing_result {
        differences reasons;
        uint8_t *state; /* NULL: the VM could not be asked */
        size_t n_state;
        prediction prediction; /* made_usec 0: none */
} outgoing_result;

/* Once, never from inside the start. Borrowed. */
typedef void (*outgoing_done)(const outgoing_result *result, void *userdata);

/* `options` may be NULL. `link_bandwidth` 0: nothing is predicted. */
int outgoing_check_start(sandbox *sb, const InitializeOptions *options, uint64_t link_bandwidth,
                         uint64_t round_trip_usec, outgoing_done done, void *userdata,
                         outgoing_check **ret, ferry_error *reterr);
/* Legal from `done`. Its QEMU's answers may still come. Returns NULL. */
outgoing_check *outgoing_check_free(outgoing_check *check);
