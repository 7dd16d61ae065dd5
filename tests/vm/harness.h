/* SPDX-License-Identifier: MIT */
#pragma once

/* Two real shims with real QEMUs and the tiny guest, driven through their service, in one temp
 * folder. Every wait is for a condition, with a deadline that only a broken ferry reaches. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "migration.ttrpc.h"
#include "shim.ttrpc.h"

typedef struct host {
        char dir[96];
        char id[32];
        pid_t pid; /* of the shim; 0: ended */
        ttrpc_client *client;
        int socket;   /* this side's end of the migration connection, our own copy; -EBADF */
        bool is_boot; /* started with a VM of its own */
} host;

typedef struct pair {
        char folder[64];
        host a, b;
        char session[32];
        unsigned n_sessions;
        InitializeOptions options;
        MemoryTransferThrottleParams throttle;
} pair;

/* The guest writes `rate` pages a second over `wss` pages. With FERRY_TEST_ENCRYPTED in the
 * environment its sessions are. */
void pair_start(pair *p, unsigned rate, unsigned wss);
/* Ends everything and checks that nothing is left: no process, no socket. */
void pair_end(pair *p);

/* Until its sockets listen; start() then connects to them. */
void host_spawn(host *h, const char *config);
void host_start(host *h, const char *config);
void host_reconnect(host *h);
/* SIGTERM or SIGKILL, and its end. */
void host_kill_shim(host *h, int signal);

Ferry__Shim__V1__StatusResponse *host_status(host *h);
/* `session` "": whichever there is. NULL when the answer is another `code`. */
Ferry__Shim__V1__TraceResponse *host_trace(host *h, const char *session, int code);
/* Until the session's state of the table is `detail` ("" without a session). */
void host_wait_detail(host *h, const char *detail);
void host_wait_no_longer(host *h, const char *detail);
/* Until QEMU has sent something. */
void host_wait_bytes(host *h);
/* Until QEMU has taken the order to send or to load, and needs its shim no more. */
void host_wait_setup(host *h);
/* Until the session says that only the other side knows. */
void host_wait_undecided(host *h);
void host_wait_vm(host *h, Ferry__Shim__V1__VmState state);
pid_t host_qemu(host *h);
bool host_runs(host *h);

/* Console: a full check of the guest's memory, and that it goes on. */
void guest_check(host *h);
void guest_send(host *h, const char *text);
/* How long the console's log is, for guest_wait(). */
size_t guest_console_end(host *h);
/* Until the console's log has had `text`, from *offset on; *offset moves behind it. */
void guest_wait(host *h, const char *text, size_t *offset);

/* What the last call was told, "" when it was done. */
const char *call_message(void);

/* The calls. `code` is what is expected. */
void call_export(pair *p, host *h, int code, ProtobufCBinaryData *ret_state);
void call_import(pair *p, host *h, const ProtobufCBinaryData *state, int code);
void call_prepare(pair *p, host *h, int code);
void call_socket(pair *p, host *h, int code);
void call_socket_by_token(pair *p, host *h, int code);
void call_transfer(pair *p, host *h, unsigned timeout_ms, int code);
void call_finalize(pair *p, host *h, FinalizeAction action, int code);
/* With the handover record that the other side's Status shows. */
void call_finalize_with(pair *p, host *h, FinalizeAction action, host *record_of, int code);
/* Asks, and does not wait for what becomes of it. */
void call_finalize_and_go(pair *p, host *h, FinalizeAction action);
typedef struct grounds {
        const char *fenced, *reason;
        bool may_be_stale;
} grounds;
/* With `force`; g NULL: without grounds. */
void call_finalize_forced(pair *p, host *h, FinalizeAction action, const grounds *g, int code);
void call_cancel(pair *p, host *h, int code);
void call_cleanup(pair *p, host *h, int code);
void call_stop(host *h, bool force, int code);

/* The connection between the two, over TCP on loopback; of several (`channels`) the last. */
void connect_hosts(pair *p);
void cut_connection(pair *p);

/* A new session, up to both sides prepared (`with_socket`: and with their sockets). */
void session_open(pair *p, bool with_socket);
/* The session's history as text: "SETUP_DONE/SUCCESS DONE/SUCCESS"..., without progress; call it
 * before Cleanup, which is what ends the stream: it is called here. */
char *history_and_cleanup(pair *p, host *h);

/* What `full` is: session_open and a whole migration from->to. */
void migrate_whole(pair *p, host *from, host *to);

void assert_exactly_one_runs(pair *p, host *which);
