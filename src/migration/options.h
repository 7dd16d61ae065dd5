/* SPDX-License-Identifier: MIT */
#pragma once

/* InitializeOptions, checked and with the defaults filled in. An option that is accepted has an
 * effect. */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "migration.pb-c.h"
#include "tls/kind.h"

typedef struct migration_options {
        Handover handover;
        Postcopy postcopy;
        bool skip_throttling;
        uint32_t target_passes;
        uint32_t maximum_passes;
        uint32_t blackout_target_ms;
        uint64_t max_bandwidth; /* bytes per second, 0: no cap */
        /* Throttle; 0: the policy chooses. */
        uint32_t throttle_from_pass, first_throttle;
        double throttle_step;
        bool cancel_over_threshold;
        uint32_t threshold_ms; /* with that; 0: the blackout target */
        bool slow_move;        /* prepare_memory_transfer_mode */
        bool trace;            /* perf_tracing_enabled */
        bool verify_memory;
        bool checksums;            /* checksum_verification */
        uint32_t compress_workers; /* 0: nothing is compressed */
        tls_kind encryption;
        uint32_t channels; /* connections, 1 to RELAY_CHANNELS_MAX */
} migration_options;

/* prepare_memory_transfer_mode multiplies the setup, wait and finalize limits by this. */
#define MIGRATION_SLOW_FACTOR 4

void migration_options_init(migration_options *options);

/* Whether QEMU's stream goes through a relay (docs/relay-protocol.md). */
bool migration_options_want_relay(const migration_options *options);

/* `message` NULL: the defaults. -EINVAL (InvalidArgument), with the field's name; *ret is then
 * untouched. */
int migration_options_parse(const InitializeOptions *message, migration_options *ret,
                            ferry_error *reterr);

/* The destination's own may be absent, else must agree with the source's where both sides take
 * part: handover, postcopy, channels, compression, checksum, verify_memory,
 * encryption. -EINVAL names the field. */
int migration_options_agree(const InitializeOptions *source, const InitializeOptions *destination,
                            ferry_error *reterr);
