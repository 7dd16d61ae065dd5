/* SPDX-License-Identifier: MIT */
#pragma once

/* What a source exports and a destination imports: ferry.state.v1.SandboxState in an Any. It comes
 * from another host: a bad one is refused and changes nothing. */

#include "base/digest.h"
#include "base/error.h"
#include "migration.pb-c.h"
#include "migration/compatibility.h"
#include "migration/identify.h"
#include "vm/vm-config.h"
#include "vm/vm.h"

#define MIGRATION_STATE_TYPE    "type.googleapis.com/ferry.state.v1.SandboxState"
#define MIGRATION_STATE_VERSION 3U
/* The one before is read too. */
#define MIGRATION_STATE_VERSION_OLDEST 2U
/* With the envelopes it stays below ttrpc's 4 MiB. */
#define MIGRATION_STATE_MAX (3U * 1024 * 1024)

typedef struct migration_state {
        Ferry__State__V1__SandboxState *message;
        vm_config *config;
        uint8_t digest[DIGEST_SIZE];
        uint64_t to_mirror; /* bit i: disk i was made here, empty (sandbox_adopt_images()) */
} migration_state;

/* `options` may be NULL. `containers`: as sandbox_describe_containers() has it. */
int migration_state_encode(const char *session_id, const char *sandbox_id,
                           const uint8_t secret[DIGEST_SIZE], const vm_config *config,
                           const vm_files *files, const vm_facts *facts,
                           const InitializeOptions *options, const ProtobufCBinaryData *containers,
                           uint8_t **ret, size_t *ret_n, uint8_t ret_digest[DIGEST_SIZE],
                           ferry_error *reterr);

/* Everything that can be known from the bytes alone. */
int migration_state_decode(const uint8_t *data, size_t n, const char *session_id,
                           migration_state **ret, ferry_error *reterr);

/* Is what the VM was booted from here too, with the same content? */
void migration_state_check_files(const migration_state *state, const vm_files *files,
                                 differences *d);

/* Is this QEMU the same machine? FailedPrecondition, naming every difference. */
int migration_state_check_facts(const migration_state *state, const vm_facts *facts,
                                ferry_error *reterr);

migration_state *migration_state_free(migration_state *state);

DEFINE_CLEANUP(migration_state *, migration_state_free)
