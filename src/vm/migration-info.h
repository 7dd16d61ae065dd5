/* SPDX-License-Identifier: MIT */
#pragma once

/* query-migrate's answer and the MIGRATION event, read by presence. Pure. */

#include <jansson.h>

#include "vm/vm.h"

#define VM_BLOCKED_REASONS_MAX 16U

/* What `info` points into. */
typedef struct vm_migration_info_store {
        vm_migration_info info; /* borrows from the JSON value that was parsed */
        const char *blocked_reasons[VM_BLOCKED_REASONS_MAX];
} vm_migration_info_store;

vm_migration_status vm_migration_status_from_string(const char *name);

void vm_migration_info_parse(const json_t *value, vm_migration_info_store *ret);
