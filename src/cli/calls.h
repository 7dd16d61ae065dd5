/* SPDX-License-Identifier: MIT */
#pragma once

/* The shims' calls as functions, each with the deadline that suits it. */

#include "cli/rpc.h"
#include "migration.pb-c.h"
#include "shim.pb-c.h"

typedef Ferry__Shim__V1__StatusResponse shim_status;

/* ---- ferry.shim.v1.Shim ---- */

int call_status(rpc *shim, shim_status **ret, ferry_error *reterr);
int call_check(rpc *shim, const InitializeOptions *options, uint64_t bytes_per_second,
               uint64_t round_trip_usec, Ferry__Shim__V1__CheckResponse **ret, ferry_error *reterr);
int call_stop(rpc *shim, bool force, ferry_error *reterr);
/* `session_id` "": whichever it has. */
int call_trace(rpc *shim, const char *session_id, Ferry__Shim__V1__TraceResponse **ret,
               ferry_error *reterr);
/* Streams shim_status. */
int call_watch(rpc *shim, rpc_on_message on_message, rpc_on_end on_end, void *userdata,
               ferry_error *reterr);

/* ---- Migration ---- */

int call_export(rpc *shim, const char *session_id, InitializeOptions *options,
                PrepareAndExportSandboxResponse **ret, ferry_error *reterr);
int call_import(rpc *shim, const char *session_id, const char *sandbox_id,
                Google__Protobuf__Any *config, ferry_error *reterr);
int call_prepare(rpc *shim, const char *session_id, ferry_error *reterr);
int call_socket(rpc *shim, const char *session_id, const uint8_t *protocol_info, size_t n,
                ferry_error *reterr);
int call_transfer(rpc *shim, const char *session_id, ferry_error *reterr);
/* Streams NotificationsResponse. */
int call_notifications(rpc *shim, const char *session_id, rpc_on_message on_message,
                       rpc_on_end on_end, void *userdata, ferry_error *reterr);
/* `record`: the other side's, or NULL. */
int call_finalize(rpc *shim, const char *session_id, FinalizeAction action,
                  const ProtobufCBinaryData *record, ferry_error *reterr);
/* RESUME without the other side, on these grounds. */
int call_finalize_forced(rpc *shim, const char *session_id, const char *fenced, const char *reason,
                         bool copy_may_be_stale, ferry_error *reterr);
int call_cancel(rpc *shim, const char *session_id, ferry_error *reterr);
int call_cleanup(rpc *shim, const char *session_id, ferry_error *reterr);
