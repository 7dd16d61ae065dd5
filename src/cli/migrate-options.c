/* SPDX-License-Identifier: MIT */
#include "cli/migrate-options.h"

#include <fcntl.h>

#include "base/fd.h"

static const char *const handovers[] = { "caller", "direct", NULL };
static const char *const postcopies[] = { "never", "fallback", "always", NULL };
static const char *const encryptions[] = { "none", "psk", "x509", NULL };

#define AT(field) offsetof(migrate_values, field)

const cli_option migrate_options[N_MIGRATE_OPTIONS] = {
        { "to", "TARGET", "the other host: its state root", CLI_OPTION_TEXT, AT(to) },
        { "network", "PATH", "containers' network namespace there, or none (default: as here)",
          CLI_OPTION_TEXT, AT(network) },
        { "keep-address", NULL, "containers keep the addresses they have: the fabric leads there",
          CLI_OPTION_SWITCH, AT(keep_address) },
        { "await-pod", NULL, "CRI's pod: wait for one there, made with the annotations it names",
          CLI_OPTION_SWITCH, AT(await_pod) },
        { "session-id", "ID", "of the session: up to 36 letters, digits, '-' (default: a new one)",
          CLI_OPTION_TEXT, AT(session_id) },
        { "timeout", "SECONDS", "give up and roll back after this time", CLI_OPTION_NUMBER,
          AT(timeout), 1, 86400 },
        { "check", NULL, "only if `ferry check` says that it can go", CLI_OPTION_SWITCH,
          AT(check) },
        { "handover", "KIND", "who says that it runs there: direct (the shims; default) or caller",
          CLI_OPTION_CHOICE, AT(handover), .choices = handovers },
        { "bandwidth", "SIZE", "at most this many bytes a second", CLI_OPTION_SIZE, AT(bandwidth),
          1, UINT64_MAX },
        { "blackout-target", "MS", "the longest pause to plan for (default 300)", CLI_OPTION_NUMBER,
          AT(blackout_target), 0, UINT32_MAX },
        { "blackout-threshold", "MS", "a pause over this is too long (default: the target)",
          CLI_OPTION_NUMBER, AT(blackout_threshold), 0, UINT32_MAX },
        { "cancel-over-threshold", NULL, "roll back rather than pause for longer than that",
          CLI_OPTION_SWITCH, AT(cancel_over_threshold) },
        { "target-passes", "N", "aim to switch over at this pass (default 10)", CLI_OPTION_NUMBER,
          AT(target_passes), 0, UINT32_MAX },
        { "max-passes", "N", "after this pass the guest is stopped (default 30)", CLI_OPTION_NUMBER,
          AT(max_passes), 0, UINT32_MAX },
        { "skip-throttling", NULL, "never slow the guest down", CLI_OPTION_SWITCH,
          AT(skip_throttling) },
        { "throttle-from-pass", "N", "slow it from this pass on if need be (default 3)",
          CLI_OPTION_NUMBER, AT(throttle_from_pass), 0, UINT32_MAX },
        { "minimum-throttle", "PERCENT", "the first step of that, 1 to 99 (default: as measured)",
          CLI_OPTION_NUMBER, AT(minimum_throttle), 0, UINT32_MAX },
        { "throttling-scale", "PERCENT", "each further step, 1 to 100 (default: as measured)",
          CLI_OPTION_REAL, AT(throttling_scale) },
        { "verify-memory", NULL, "compare all of its memory on both sides while it stands",
          CLI_OPTION_SWITCH, AT(verify_memory) },
        { "checksums", NULL, "checksums over the stream", CLI_OPTION_SWITCH, AT(checksums) },
        { "compress-workers", "N", "compress with this many threads on each side, 1 to 64",
          CLI_OPTION_NUMBER, AT(compress_workers), 0, UINT32_MAX },
        { "channels", "N", "so many connections to send over, 1 to 64", CLI_OPTION_NUMBER,
          AT(channels), 0, UINT32_MAX },
        { "encryption", "KIND", "between the hosts: psk (the default), x509 or none",
          CLI_OPTION_CHOICE, AT(encryption), .choices = encryptions },
        { "postcopy", "KIND", "never (the default), fallback (when no pass is left) or always",
          CLI_OPTION_CHOICE, AT(postcopy), .choices = postcopies },
        { "report", "FILE", "write a page (HTML) that tells how it went", CLI_OPTION_TEXT,
          AT(report) },
        { "trace", "FILE", "write each pass and phase of both sides (JSON, for Perfetto)",
          CLI_OPTION_TEXT, AT(trace) },
        { "extended-timeouts", NULL, "longer limits, for slow moves between versions",
          CLI_OPTION_SWITCH, AT(extended_timeouts) },
        { "compatibility-data", "FILE", "more for the destination to check against",
          CLI_OPTION_TEXT, AT(compatibility_data) },
};

#define SET(message, group, constant, field, number)                                               \
        do {                                                                                       \
                if ((number).given) {                                                              \
                        (message)->group##_case = constant;                                        \
                        (message)->field = (__typeof__((message)->field))(number).value;           \
                }                                                                                  \
        } while (0)

/* The names that protobuf-c makes of a oneof with one member. */
#define THROTTLE(group, field) MEMORY_TRANSFER_THROTTLE_PARAMS__OPTIONAL_##group##_##field

static bool fill_throttle(MemoryTransferThrottleParams *t, const migrate_values *v) {
        memory_transfer_throttle_params__init(t);
        if (v->skip_throttling) {
                t->optional_skip_throttling_case = THROTTLE(SKIP_THROTTLING, SKIP_THROTTLING);
                t->skip_throttling = true;
        }
        SET(t, optional_throttling_scale, THROTTLE(THROTTLING_SCALE, THROTTLING_SCALE),
            throttling_scale, v->throttling_scale);
        SET(t, optional_minimum_throttle_percentage,
            THROTTLE(MINIMUM_THROTTLE_PERCENTAGE, MINIMUM_THROTTLE_PERCENTAGE),
            minimum_throttle_percentage, v->minimum_throttle);
        SET(t, optional_target_passes,
            THROTTLE(TARGET_PASSES, TARGET_NUMBER_OF_BROWNOUT_TRANSFER_PASSES),
            target_number_of_brownout_transfer_passes, v->target_passes);
        SET(t, optional_starting_pass,
            THROTTLE(STARTING_PASS, STARTING_BROWNOUT_PASS_NUMBER_FOR_THROTTLING),
            starting_brownout_pass_number_for_throttling, v->throttle_from_pass);
        SET(t, optional_maximum_passes,
            THROTTLE(MAXIMUM_PASSES, MAXIMUM_NUMBER_OF_BROWNOUT_TRANSFER_PASSES),
            maximum_number_of_brownout_transfer_passes, v->max_passes);
        SET(t, optional_target_blackout, THROTTLE(TARGET_BLACKOUT, TARGET_BLACKOUT_TRANSFER_TIME),
            target_blackout_transfer_time, v->blackout_target);
        SET(t, optional_blackout_threshold,
            THROTTLE(BLACKOUT_THRESHOLD, BLACKOUT_TIME_THRESHOLD_FOR_CANCELLING_MIGRATION),
            blackout_time_threshold_for_cancelling_migration, v->blackout_threshold);
        return v->skip_throttling || v->throttling_scale.given || v->minimum_throttle.given ||
               v->target_passes.given || v->throttle_from_pass.given || v->max_passes.given ||
               v->blackout_target.given || v->blackout_threshold.given;
}

static int fill_compatibility(migrate_request *request, const char *path, ferry_error *reterr) {
        size_t n;
        int r;

        if (!path)
                return 0;
        r = file_read(AT_FDCWD, path, COMPATIBILITY_DATA_MAX, &request->data, &n);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "--compatibility-data %s", path);
        compatibility_info__init(&request->compatibility);
        request->compatibility.data = (ProtobufCBinaryData){ n, (uint8_t *)request->data };
        request->options.compatibility_data = &request->compatibility;
        return 0;
}

int migrate_request_init(migrate_request *request, const migrate_values *v, ferry_error *reterr) {
        InitializeOptions *o = &request->options;

        *request = (migrate_request){ 0 };
        initialize_options__init(o);
        o->memory_transport = MEMORY_TRANSPORT__MEMORY_TRANSPORT_TCP;
        o->handover = v->handover.given ? (Handover)v->handover.value : HANDOVER__HANDOVER_DIRECT;
        o->postcopy = (Postcopy)v->postcopy.value;
        o->encryption =
                v->encryption.given ? (Encryption)v->encryption.value : ENCRYPTION__ENCRYPTION_PSK;
        o->verify_memory = v->verify_memory;
        o->checksum_verification = v->checksums;
        o->perf_tracing_enabled = v->trace != NULL;
        o->cancel_if_blackout_threshold_exceeds = v->cancel_over_threshold;
        o->prepare_memory_transfer_mode = v->extended_timeouts;
        SET(o, optional_max_bandwidth, INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH_MAX_BANDWIDTH,
            max_bandwidth, v->bandwidth);
        SET(o, optional_channels, INITIALIZE_OPTIONS__OPTIONAL_CHANNELS_CHANNELS, channels,
            v->channels);
        if (fill_throttle(&request->throttle, v))
                o->memory_transfer_throttle_params = &request->throttle;
        if (v->compress_workers.given) {
                compression_settings__init(&request->compression);
                SET(&request->compression, optional_throttle_worker_count,
                    COMPRESSION_SETTINGS__OPTIONAL_THROTTLE_WORKER_COUNT_THROTTLE_WORKER_COUNT,
                    throttle_worker_count, v->compress_workers);
                o->compression_settings = &request->compression;
        }
        return fill_compatibility(request, v->compatibility_data, reterr);
}

void migrate_request_done(migrate_request *request) {
        free(request->data);
        request->data = NULL;
}
