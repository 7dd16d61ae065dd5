/* SPDX-License-Identifier: MIT */
#pragma once

/* `ferry migrate`'s options, and InitializeOptions made of them: each field has its flag. The
 * shims check what the values mean; here only the wire's ranges are checked. */

#include "cli/options.h"
#include "migration.pb-c.h"

#define COMPATIBILITY_DATA_MAX (64U * 1024)

typedef struct migrate_values {
        const char *to;
        const char *network; /* of containers: a namespace's path, or "none" */
        bool keep_address;   /* and the guest has its old ones there */
        cli_number timeout;  /* seconds for all of it */
        bool check;
        bool await_pod;
        const char *session_id;

        cli_number handover, postcopy, encryption; /* as the wire's enums */
        cli_number bandwidth, channels, compress_workers;
        bool verify_memory, checksums, cancel_over_threshold, extended_timeouts;
        const char *compatibility_data; /* a file */
        const char *report, *trace;     /* files to write */

        bool skip_throttling;
        cli_real throttling_scale;
        cli_number minimum_throttle, target_passes, throttle_from_pass, max_passes;
        cli_number blackout_target, blackout_threshold; /* ms */
} migrate_values;

#define N_MIGRATE_OPTIONS 28U
extern const cli_option migrate_options[N_MIGRATE_OPTIONS];

/* The message and what it points to. */
typedef struct migrate_request {
        InitializeOptions options;
        MemoryTransferThrottleParams throttle;
        CompressionSettings compression;
        CompatibilityInfo compatibility;
        char *data; /* owned */
} migrate_request;

/* Points into itself: not to be copied. */
int migrate_request_init(migrate_request *ret, const migrate_values *values, ferry_error *reterr);
void migrate_request_done(migrate_request *request);
