/* SPDX-License-Identifier: MIT */
#pragma once

/* What a QEMU gives its guest, asked over QMP: what a migration's other side must match. */

#include <jansson.h>

#include "base/error.h"
#include "qmp/qmp-client.h"
#include "vm/vm.h"

typedef struct vm_facts_store vm_facts_store;

/* Lists are sorted. `memory_bytes` and `vcpus` are the caller's to fill in. */
vm_facts *vm_facts_store_get(vm_facts_store *store);
vm_facts_store *vm_facts_store_free(vm_facts_store *store);

typedef void (*vm_facts_collected)(int r, const ferry_error *error, vm_facts_store *store_consume,
                                   void *userdata);

/* `done` comes exactly once after a 0, never from inside the call; `store_consume` is the
 * receiver's, NULL when r is negative. The client may be closed meanwhile: -ECANCELED. */
int vm_facts_collect(qmp_client *client, uint64_t timeout_usec, vm_facts_collected done,
                     void *userdata);

/* For a cache. */
json_t *vm_facts_to_json(const vm_facts *facts);
int vm_facts_from_json(const json_t *json, vm_facts_store **ret);

DEFINE_CLEANUP(vm_facts_store *, vm_facts_store_free)
