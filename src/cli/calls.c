/* SPDX-License-Identifier: MIT */
#include "cli/calls.h"

#include <string.h>

#include "base/clock.h"

#define QUICK  (10 * USEC_PER_SEC) /* answered from memory */
#define STEP   (60 * USEC_PER_SEC) /* QEMU starts, ends, is asked */
#define SETTLE (30 * USEC_PER_SEC) /* the shim waits for its QEMU or the other side */

#define SHIM      (&ferry__shim__v1__shim__descriptor)
#define MIGRATION (&migration__descriptor)

int call_status(rpc *shim, shim_status **ret, ferry_error *reterr) {
        Ferry__Shim__V1__StatusRequest request = FERRY__SHIM__V1__STATUS_REQUEST__INIT;
        ProtobufCMessage *reply;
        int r = rpc_call(shim, SHIM, "Status", &request.base, QUICK, &reply, reterr);

        if (r < 0)
                return r;
        *ret = (shim_status *)reply;
        rpc_set_qemu(shim, (pid_t)(*ret)->qemu_pid);
        return 0;
}

int call_check(rpc *shim, const InitializeOptions *options, uint64_t bytes_per_second,
               uint64_t round_trip_usec, Ferry__Shim__V1__CheckResponse **ret,
               ferry_error *reterr) {
        Ferry__Shim__V1__CheckRequest request = FERRY__SHIM__V1__CHECK_REQUEST__INIT;
        size_t n = initialize_options__get_packed_size(options);
        _cleanup_(freep) uint8_t *packed = malloc(n + 1);
        ProtobufCMessage *reply;
        int r;

        if (!packed)
                return ferry_error_set_errno(reterr, -ENOMEM, "check");
        initialize_options__pack(options, packed);
        request.init_options = (ProtobufCBinaryData){ n, packed };
        request.link_bytes_per_second = bytes_per_second;
        request.link_round_trip_usec = round_trip_usec;
        r = rpc_call(shim, SHIM, "Check", &request.base, STEP, &reply, reterr);
        if (r == 0)
                *ret = (Ferry__Shim__V1__CheckResponse *)reply;
        return r;
}

int call_stop(rpc *shim, bool force, ferry_error *reterr) {
        Ferry__Shim__V1__StopRequest request = FERRY__SHIM__V1__STOP_REQUEST__INIT;

        request.force = force;
        return rpc_call(shim, SHIM, "Stop", &request.base, STEP, NULL, reterr);
}

int call_trace(rpc *shim, const char *session_id, Ferry__Shim__V1__TraceResponse **ret,
               ferry_error *reterr) {
        Ferry__Shim__V1__TraceRequest request = FERRY__SHIM__V1__TRACE_REQUEST__INIT;
        ProtobufCMessage *reply;
        int r;

        request.session_id = (char *)session_id;
        r = rpc_call(shim, SHIM, "Trace", &request.base, QUICK, &reply, reterr);
        if (r == 0)
                *ret = (Ferry__Shim__V1__TraceResponse *)reply;
        return r;
}

int call_watch(rpc *shim, rpc_on_message on_message, rpc_on_end on_end, void *userdata,
               ferry_error *reterr) {
        Ferry__Shim__V1__StatusRequest request = FERRY__SHIM__V1__STATUS_REQUEST__INIT;

        return rpc_stream(shim, SHIM, "Watch", &request.base, on_message, on_end, userdata, reterr);
}

int call_export(rpc *shim, const char *session_id, InitializeOptions *options,
                PrepareAndExportSandboxResponse **ret, ferry_error *reterr) {
        PrepareAndExportSandboxRequest request = PREPARE_AND_EXPORT_SANDBOX_REQUEST__INIT;
        ProtobufCMessage *reply;
        int r;

        request.session_id = (char *)session_id;
        request.init_options = options;
        r = rpc_call(shim, MIGRATION, "PrepareAndExportSandbox", &request.base, STEP, &reply,
                     reterr);
        if (r == 0)
                *ret = (PrepareAndExportSandboxResponse *)reply;
        return r;
}

int call_import(rpc *shim, const char *session_id, const char *sandbox_id,
                Google__Protobuf__Any *config, ferry_error *reterr) {
        ImportSandboxRequest request = IMPORT_SANDBOX_REQUEST__INIT;

        request.session_id = (char *)session_id;
        request.sandbox_id = (ProtobufCBinaryData){ strlen(sandbox_id), (uint8_t *)sandbox_id };
        request.config = config;
        return rpc_call(shim, MIGRATION, "ImportSandbox", &request.base, STEP, NULL, reterr);
}

int call_prepare(rpc *shim, const char *session_id, ferry_error *reterr) {
        PrepareSandboxRequest request = PREPARE_SANDBOX_REQUEST__INIT;

        request.session_id = (char *)session_id;
        return rpc_call(shim, MIGRATION, "PrepareSandbox", &request.base, STEP, NULL, reterr);
}

int call_socket(rpc *shim, const char *session_id, const uint8_t *protocol_info, size_t n,
                ferry_error *reterr) {
        CreateDuplicateSocketRequest request = CREATE_DUPLICATE_SOCKET_REQUEST__INIT;

        request.session_id = (char *)session_id;
        request.protocol_info = (ProtobufCBinaryData){ n, (uint8_t *)protocol_info };
        return rpc_call(shim, MIGRATION, "CreateDuplicateSocket", &request.base, QUICK, NULL,
                        reterr);
}

int call_transfer(rpc *shim, const char *session_id, ferry_error *reterr) {
        TransferSandboxRequest request = TRANSFER_SANDBOX_REQUEST__INIT;
        Google__Protobuf__Duration timeout = GOOGLE__PROTOBUF__DURATION__INIT;

        /* The socket is there already: it waits for nothing. */
        timeout.seconds = 60;
        request.session_id = (char *)session_id;
        request.timeout = &timeout;
        return rpc_call(shim, MIGRATION, "TransferSandbox", &request.base, STEP, NULL, reterr);
}

int call_notifications(rpc *shim, const char *session_id, rpc_on_message on_message,
                       rpc_on_end on_end, void *userdata, ferry_error *reterr) {
        NotificationsRequest request = NOTIFICATIONS_REQUEST__INIT;

        request.session_id = (char *)session_id;
        return rpc_stream(shim, MIGRATION, "Notifications", &request.base, on_message, on_end,
                          userdata, reterr);
}

int call_finalize(rpc *shim, const char *session_id, FinalizeAction action,
                  const ProtobufCBinaryData *record, ferry_error *reterr) {
        FinalizeSandboxRequest request = FINALIZE_SANDBOX_REQUEST__INIT;

        request.session_id = (char *)session_id;
        request.action = action;
        if (record)
                request.handover_record = *record;
        return rpc_call(shim, MIGRATION, "FinalizeSandbox", &request.base, SETTLE, NULL, reterr);
}

int call_finalize_forced(rpc *shim, const char *session_id, const char *fenced, const char *reason,
                         bool copy_may_be_stale, ferry_error *reterr) {
        FinalizeSandboxRequest request = FINALIZE_SANDBOX_REQUEST__INIT;
        ForceGrounds grounds = FORCE_GROUNDS__INIT;

        grounds.fenced = (char *)fenced;
        grounds.reason = (char *)reason;
        grounds.copy_may_be_stale = copy_may_be_stale;
        request.session_id = (char *)session_id;
        request.action = FINALIZE_ACTION__FINALIZE_ACTION_RESUME;
        request.force = true;
        request.force_grounds = &grounds;
        return rpc_call(shim, MIGRATION, "FinalizeSandbox", &request.base, SETTLE, NULL, reterr);
}

int call_cancel(rpc *shim, const char *session_id, ferry_error *reterr) {
        CancelRequest request = CANCEL_REQUEST__INIT;

        request.session_id = (char *)session_id;
        return rpc_call(shim, MIGRATION, "Cancel", &request.base, SETTLE, NULL, reterr);
}

int call_cleanup(rpc *shim, const char *session_id, ferry_error *reterr) {
        CleanupRequest request = CLEANUP_REQUEST__INIT;

        request.session_id = (char *)session_id;
        return rpc_call(shim, MIGRATION, "Cleanup", &request.base, SETTLE, NULL, reterr);
}
