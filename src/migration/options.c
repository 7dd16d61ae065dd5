/* SPDX-License-Identifier: MIT */
#include "migration/options.h"

#include <math.h>

#include "migration/compatibility.h"

#include "migration/policy.h"
#include "relay/relay.h"

#define DEFAULT_WORKERS 2U

void migration_options_init(migration_options *options) {
        *options = (migration_options){
                .handover = HANDOVER__HANDOVER_CALLER,
                .target_passes = POLICY_TARGET_PASSES,
                .maximum_passes = POLICY_MAXIMUM_PASSES,
                .blackout_target_ms = POLICY_TARGET_MS,
                .channels = 1,
        };
}

bool migration_options_want_relay(const migration_options *o) {
        return o->checksums || o->compress_workers > 0 || o->channels > 1 ||
               o->postcopy != POSTCOPY__POSTCOPY_NEVER;
}

static int bad(ferry_error *reterr, const char *field, const char *rule) {
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "init_options.%s %s", field,
                               rule);
}

static int check_throttle_ranges(const MemoryTransferThrottleParams *p, ferry_error *reterr) {
        if (p->optional_throttling_scale_case &&
            (isnan(p->throttling_scale) || p->throttling_scale < 1 || p->throttling_scale > 100))
                return bad(reterr, "throttling_scale", "must be 1 to 100 (percent)");
        if (p->optional_minimum_throttle_percentage_case &&
            (p->minimum_throttle_percentage < 1 || p->minimum_throttle_percentage > 99))
                return bad(reterr, "minimum_throttle_percentage", "must be 1 to 99");
        if (p->optional_target_passes_case && (p->target_number_of_brownout_transfer_passes < 1 ||
                                               p->target_number_of_brownout_transfer_passes > 1000))
                return bad(reterr, "target_number_of_brownout_transfer_passes",
                           "must be 1 to 1000");
        if (p->optional_starting_pass_case &&
            (p->starting_brownout_pass_number_for_throttling < 1 ||
             p->starting_brownout_pass_number_for_throttling > 1000))
                return bad(reterr, "starting_brownout_pass_number_for_throttling",
                           "must be 1 to 1000");
        if (p->optional_maximum_passes_case &&
            (p->maximum_number_of_brownout_transfer_passes < 1 ||
             p->maximum_number_of_brownout_transfer_passes > 1000))
                return bad(reterr, "maximum_number_of_brownout_transfer_passes",
                           "must be 1 to 1000");
        if (p->optional_target_blackout_case &&
            (p->target_blackout_transfer_time < 1 || p->target_blackout_transfer_time > 2000000))
                return bad(reterr, "target_blackout_transfer_time",
                           "must be 1 to 2000000 (milliseconds)");
        if (p->optional_blackout_threshold_case &&
            (p->blackout_time_threshold_for_cancelling_migration < 1 ||
             p->blackout_time_threshold_for_cancelling_migration > 2000000))
                return bad(reterr, "blackout_time_threshold_for_cancelling_migration",
                           "must be 1 to 2000000 (milliseconds)");
        return 0;
}

static int check_compatibility(const CompatibilityInfo *info, ferry_error *reterr) {
        Ferry__State__V1__Compatibility *c;

        if (!info)
                return 0;
        if (compatibility_unpack(info->data.data, info->data.len, &c) < 0)
                return bad(reterr, "compatibility_data",
                           "is no ferry.state.v1.Compatibility, serialized");
        ferry__state__v1__compatibility__free_unpacked(c, NULL);
        return 0;
}

static int check_ranges(const InitializeOptions *m, ferry_error *reterr) {
        int r;

        if (m->memory_transport != MEMORY_TRANSPORT__MEMORY_TRANSPORT_TCP)
                return bad(reterr, "memory_transport", "must be MEMORY_TRANSPORT_TCP (1)");
        if (m->handover != HANDOVER__HANDOVER_CALLER && m->handover != HANDOVER__HANDOVER_DIRECT)
                return bad(reterr, "handover", "must be 0 (CALLER) or 1 (DIRECT)");
        if ((int)m->postcopy < 0 || (int)m->postcopy > POSTCOPY__POSTCOPY_ALWAYS)
                return bad(reterr, "postcopy", "must be 0 to 2");
        if (m->verify_memory && m->postcopy != POSTCOPY__POSTCOPY_NEVER)
                return bad(reterr, "verify_memory",
                           "needs all of the memory before the switchover: not with postcopy");
        if ((int)m->encryption < 0 || (int)m->encryption > ENCRYPTION__ENCRYPTION_X509)
                return bad(reterr, "encryption", "must be 0 to 2");
        if (m->compression_settings &&
            m->compression_settings->optional_throttle_worker_count_case &&
            (m->compression_settings->throttle_worker_count < 1 ||
             m->compression_settings->throttle_worker_count > RELAY_WORKERS_MAX))
                return bad(reterr, "compression_settings.throttle_worker_count", "must be 1 to 64");
        if (m->optional_channels_case && (m->channels < 1 || m->channels > RELAY_CHANNELS_MAX))
                return bad(reterr, "channels", "must be 1 to 64");
        /* QEMU counts in bytes per second and takes no less than a page in its 100 ms. */
        if (m->optional_max_bandwidth_case &&
            (m->max_bandwidth < 65536 || m->max_bandwidth > 1000000000000ULL))
                return bad(reterr, "max_bandwidth", "must be 65536 to 10^12 (bytes per second)");
        r = check_compatibility(m->compatibility_data, reterr);
        if (r < 0)
                return r;
        if (m->memory_transfer_throttle_params)
                return check_throttle_ranges(m->memory_transfer_throttle_params, reterr);
        return 0;
}

/* What is absent is 0 in the message too; where 0 is not the default it is asked for. */
static void take_throttle(const MemoryTransferThrottleParams *p, migration_options *options) {
        options->skip_throttling = p->skip_throttling;
        if (p->optional_target_passes_case)
                options->target_passes = p->target_number_of_brownout_transfer_passes;
        if (p->optional_maximum_passes_case)
                options->maximum_passes = p->maximum_number_of_brownout_transfer_passes;
        if (p->optional_target_blackout_case)
                options->blackout_target_ms = p->target_blackout_transfer_time;
        options->throttle_from_pass = p->starting_brownout_pass_number_for_throttling;
        options->first_throttle = p->minimum_throttle_percentage;
        options->throttle_step = p->throttling_scale;
        options->threshold_ms = p->blackout_time_threshold_for_cancelling_migration;
}

int migration_options_parse(const InitializeOptions *m, migration_options *ret,
                            ferry_error *reterr) {
        const MemoryTransferThrottleParams *p;
        migration_options options;
        int r;

        migration_options_init(&options);
        if (!m) {
                *ret = options;
                return 0;
        }
        r = check_ranges(m, reterr);
        if (r < 0)
                return r;
        options.handover = m->handover;
        options.postcopy = m->postcopy;
        options.slow_move = m->prepare_memory_transfer_mode;
        options.encryption = (tls_kind)m->encryption;
        options.trace = m->perf_tracing_enabled;
        options.verify_memory = m->verify_memory;
        options.checksums = m->checksum_verification;
        if (m->compression_settings)
                options.compress_workers =
                        m->compression_settings->optional_throttle_worker_count_case
                                ? m->compression_settings->throttle_worker_count
                                : DEFAULT_WORKERS;
        options.cancel_over_threshold = m->cancel_if_blackout_threshold_exceeds;
        if (m->optional_channels_case)
                options.channels = m->channels;
        if (m->optional_max_bandwidth_case)
                options.max_bandwidth = m->max_bandwidth;
        p = m->memory_transfer_throttle_params;
        if (p)
                take_throttle(p, &options);
        *ret = options;
        return 0;
}

static uint32_t compression_workers(const InitializeOptions *m) {
        return m->compression_settings ? m->compression_settings->throttle_worker_count : 0;
}

int migration_options_agree(const InitializeOptions *source, const InitializeOptions *destination,
                            ferry_error *reterr) {
        static const InitializeOptions none = INITIALIZE_OPTIONS__INIT;
        const char *field = NULL;

        if (!destination)
                return 0;
        if (!source)
                source = &none;
        if (destination->handover != source->handover)
                field = "handover";
        else if (destination->postcopy != source->postcopy)
                field = "postcopy";
        else if ((destination->channels > 1 ? destination->channels : 1) !=
                 (source->channels > 1 ? source->channels : 1))
                field = "channels";
        else if (!destination->compression_settings != !source->compression_settings ||
                 compression_workers(destination) != compression_workers(source))
                field = "compression_settings";
        else if (destination->checksum_verification != source->checksum_verification)
                field = "checksum_verification";
        else if (destination->verify_memory != source->verify_memory)
                field = "verify_memory";
        else if (destination->encryption != source->encryption)
                field = "encryption";
        if (!field)
                return 0;
        return bad(reterr, field, "differs from what the source was given; leave it out here");
}
