/* SPDX-License-Identifier: MIT */
#pragma once

/* The session's driver: takes the service's calls, the VM's events and the other shim's messages to
 * the table (machine.h), runs the actions, and publishes what happens. One session at a time. */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "migration.pb-c.h"
#include "migration/journal.h"
#include "migration/machine.h"
#include "migration/notifications.h"
#include "migration/options.h"
#include "migration/policy.h"
#include "migration/recovery.h"
#include "migration/sandbox.h"

/* r 0: the call succeeded; negative: `error` (borrowed) says why. Called exactly once, possibly
 * from inside the call. */
typedef void (*session_reply)(int r, const ferry_error *error, void *userdata);

/* Microseconds; 0 is "not yet". */
typedef struct session_report {
        uint64_t total_usec, setup_usec, copy_usec;
        uint64_t blackout_usec, stop_to_completed_usec, handover_usec, journal_sync_usec,
                resume_usec;
        uint64_t verify_usec; /* reading the memory, for verify_memory */
        uint32_t passes;
        uint64_t bytes;
        uint64_t blackout_bytes; /* guest memory, sent while the guest stood */
} session_report;

/* What a forced action rests on; texts are checked by session_finalize(). */
typedef struct audit_grounds audit_grounds;

/* In the state directory, with perf_tracing_enabled: docs/report.md. */
#define SESSION_TRACE_FILE "trace.json"

typedef struct session_status {
        mig_state state;
        const char *session_id; /* "" without a session */
        const char *reason;     /* why it failed; NULL */
        const char *notice;     /* what is not as it was asked for; NULL */
        bool undecided;
        bool wants_connection; /* its post-copy goes on over a new one */
        mig_owner owner;
        const session_report *report;
        char record[JOURNAL_RECORD_MAX]; /* "" when there is none */
} session_status;

int session_new(sandbox *sb, session **ret, ferry_error *reterr);
session *session_free(session *s);

/* The calls. Ids and messages are borrowed. `userdata` names the waiting call for
 * session_forget(). */
void session_export(session *s, const char *id, const InitializeOptions *options,
                    session_reply reply, void *userdata);
/* What an export returned, until the session ends. */
void session_exported(const session *s, const uint8_t **ret, size_t *ret_n);
void session_import(session *s, const char *id, const char *sandbox_id, const uint8_t *state,
                    size_t n, session_reply reply, void *userdata);
void session_prepare(session *s, const char *id, const InitializeOptions *options,
                     session_reply reply, void *userdata);
/* A disk's own connection, where the two hosts do not share it: once for each that
 * session_expected_disks() names, after PrepareSandbox and before TransferSandbox, first at the
 * destination. */
int session_check_disk_socket(session *s, const char *id, const char *serial, ferry_error *reterr);
void session_disk_socket(session *s, const char *id, const char *serial, int fd_consume,
                         session_reply reply, void *userdata);
#define SESSION_DISKS_MAX VM_CONFIG_SCSI_DISKS_MAX
/* Their serials, borrowed; 0 at a source. */
size_t session_expected_disks(const session *s, const char *ret[SESSION_DISKS_MAX]);
/* First asks, before the descriptor is fetched, whether it would be taken. */
int session_check_socket(session *s, const char *id, ferry_error *reterr);
void session_socket(session *s, const char *id, int fd_consume, session_reply reply,
                    void *userdata);
/* timeout_usec 0: the default. */
void session_transfer(session *s, const char *id, uint64_t timeout_usec, session_reply reply,
                      void *userdata);
void session_finalize(session *s, const char *id, FinalizeAction action, const uint8_t *record,
                      size_t n_record, bool force, const audit_grounds *grounds,
                      session_reply reply, void *userdata);
void session_cancel(session *s, const char *id, session_reply reply, void *userdata);
void session_cleanup(session *s, const char *id, session_reply reply, void *userdata);
int session_subscribe(session *s, const char *id, subscriber_send send, subscriber_end end,
                      void *userdata, subscriber **ret, ferry_error *reterr);
/* After a subscriber's stream has died. */
void session_unsubscribed(session *s);

/* The caller of a waiting call has gone: no reply. What it started goes on. */
void session_forget(session *s, void *userdata);

void session_get_status(const session *s, session_status *ret);
const journal_session *session_tombstones(const session *s, size_t *ret_n);
/* Of the open session, or of the last one; `id` "": whichever there is. -ENOENT (NotFound). Free
 * with trace_message_free(). */
typedef struct trace_message trace_message;
int session_trace(session *s, const char *id, trace_message **ret, ferry_error *reterr);
/* True from export or import to Cleanup. */
bool session_is_open(const session *s);

/* How the switchover would be decided with these. */
void session_policy_options(const migration_options *o, policy_options *ret);

/* ---- for outgoing.c ---- */

/* A copy of its own; NULL of NULL. */
int session_copy_options(const InitializeOptions *from, InitializeOptions **ret);
/* compatibility_data against what we run: FailedPrecondition names the differences. */
int session_check_compatibility(const vm_facts *ours, const CompatibilityInfo *info,
                                ferry_error *reterr);

/* ---- for sandbox.c ---- */

void session_vm_stopped(session *s, uint64_t usec);
void session_vm_resumed(session *s, uint64_t usec);
void session_vm_reset(session *s);
/* The guest powers off; session_vm_gone() follows. */
void session_vm_shutdown(session *s);
void session_vm_migration(session *s, vm_migration_status status, uint64_t usec);
void session_vm_mirror_failed(session *s, const char *reason);
void session_vm_pass(session *s, uint64_t pass, uint64_t usec);
void session_vm_gone(session *s, bool by_guest, const char *reason);
/* What the journal has open; the VM is attached, or there is none. */
int session_recover(session *s, const mig_found *found, ferry_error *reterr);
mig_stream session_stream_of(vm_migration_status status);
/* The shim ends: every subscriber gets what is left, and its stream ends. */
void session_end_notifications(session *s);
/* See sandbox_retire(). */
void session_retire(session *s, session_reply reply, void *userdata);

DEFINE_CLEANUP(session *, session_free)
