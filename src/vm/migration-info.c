/* SPDX-License-Identifier: MIT */
#include "vm/migration-info.h"

#include <string.h>

/* The one place where QEMU's names become ours. */
static const char *const status_names[_VM_MIGRATION_STATUS_MAX] = {
        [VM_MIGRATION_NONE] = "none",
        [VM_MIGRATION_SETUP] = "setup",
        [VM_MIGRATION_CANCELLING] = "cancelling",
        [VM_MIGRATION_CANCELLED] = "cancelled",
        [VM_MIGRATION_ACTIVE] = "active",
        [VM_MIGRATION_POSTCOPY_ACTIVE] = "postcopy-active",
        [VM_MIGRATION_POSTCOPY_PAUSED] = "postcopy-paused",
        [VM_MIGRATION_POSTCOPY_RECOVER_SETUP] = "postcopy-recover-setup",
        [VM_MIGRATION_POSTCOPY_RECOVER] = "postcopy-recover",
        [VM_MIGRATION_COMPLETED] = "completed",
        [VM_MIGRATION_FAILED] = "failed",
        [VM_MIGRATION_COLO] = "colo",
        [VM_MIGRATION_PRE_SWITCHOVER] = "pre-switchover",
        [VM_MIGRATION_DEVICE] = "device",
        [VM_MIGRATION_WAIT_UNPLUG] = "wait-unplug",
        [VM_MIGRATION_UNKNOWN] = "unknown",
};

const char *vm_migration_status_to_string(vm_migration_status status) {
        return status_names[status];
}

vm_migration_status vm_migration_status_from_string(const char *name) {
        for (size_t i = 0; name && i < VM_MIGRATION_UNKNOWN; i++)
                if (strcmp(name, status_names[i]) == 0)
                        return (vm_migration_status)i;
        return VM_MIGRATION_UNKNOWN;
}

static uint64_t get_number(const json_t *object, const char *key) {
        const json_t *value = json_object_get(object, key);

        if (json_is_integer(value) && json_integer_value(value) >= 0)
                return (uint64_t)json_integer_value(value);
        return VM_ABSENT;
}

/* "mbps" is megabits a second, and a real; the comparison also refuses NaN. */
static uint64_t get_bandwidth(const json_t *ram) {
        const json_t *value = json_object_get(ram, "mbps");
        double mbps = json_number_value(value);

        if (!json_is_number(value) || !(mbps >= 0 && mbps < 1e12))
                return VM_ABSENT;
        return (uint64_t)(mbps * 1e6 / 8);
}

static uint64_t to_bytes(uint64_t pages, uint64_t page_size) {
        uint64_t bytes;

        if (pages == VM_ABSENT || page_size == VM_ABSENT ||
            __builtin_mul_overflow(pages, page_size, &bytes))
                return VM_ABSENT;
        return bytes;
}

static void parse_ram(const json_t *ram, vm_migration_info *info) {
        uint64_t normal = get_number(ram, "normal"), zero = get_number(ram, "duplicate"), pages;

        info->ram_total = get_number(ram, "total");
        info->ram_transferred = get_number(ram, "transferred");
        info->ram_remaining = get_number(ram, "remaining");
        info->page_size = get_number(ram, "page-size");
        info->dirty_sync_count = get_number(ram, "dirty-sync-count");
        info->downtime_bytes = get_number(ram, "downtime-bytes");
        info->bytes_per_second = get_bandwidth(ram);
        info->dirty_bytes_per_second =
                to_bytes(get_number(ram, "dirty-pages-rate"), info->page_size);
        info->ram_processed = VM_ABSENT;
        if (normal != VM_ABSENT && zero != VM_ABSENT &&
            !__builtin_add_overflow(normal, zero, &pages))
                info->ram_processed = to_bytes(pages, info->page_size);
}

void vm_migration_info_parse(const json_t *value, vm_migration_info_store *ret) {
        const char *status = json_string_value(json_object_get(value, "status"));
        const json_t *reasons = json_object_get(value, "blocked-reasons");

        *ret = (vm_migration_info_store){ 0 };
        /* QEMU that never migrated answers {}, perhaps with blocked-reasons. */
        ret->info.status = status ? vm_migration_status_from_string(status) : VM_MIGRATION_NONE;
        ret->info.total_msec = get_number(value, "total-time");
        ret->info.setup_msec = get_number(value, "setup-time");
        ret->info.downtime_msec = get_number(value, "downtime");
        ret->info.expected_downtime_msec = get_number(value, "expected-downtime");
        ret->info.throttle_percentage = get_number(value, "cpu-throttle-percentage");
        ret->info.error_description = json_string_value(json_object_get(value, "error-desc"));
        parse_ram(json_object_get(value, "ram"), &ret->info);
        for (size_t i = 0;
             i < json_array_size(reasons) && ret->info.n_blocked_reasons < VM_BLOCKED_REASONS_MAX;
             i++) {
                const char *reason = json_string_value(json_array_get(reasons, i));

                if (reason)
                        ret->blocked_reasons[ret->info.n_blocked_reasons++] = reason;
        }
        ret->info.blocked_reasons = ret->blocked_reasons;
}
