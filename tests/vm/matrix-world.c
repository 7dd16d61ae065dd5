/* SPDX-License-Identifier: MIT */
#include "matrix-world.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "google/protobuf/any.pb-c.h"
#include "google/protobuf/duration.pb-c.h"
#include "socket.pb-c.h"

#define DEADLINE_USEC  (60 * USEC_PER_SEC)
#define STATE_TYPE     "type.googleapis.com/ferry.state.v1.SandboxState"
#define UNKNOWN_ACTION 77

static world the_world;
static bool is_clean;

/* ---- the hosts ---- */

static void connect_second(world *w) {
        host *hosts[] = { &w->p.a, &w->p.b };
        char path[128];

        for (int i = 0; i < 2; i++) {
                snprintf(path, sizeof(path), "%s/shim.sock", hosts[i]->dir);
                assert_int_equal(ttrpc_client_connect(path, &w->second[i]), 0);
        }
}

static void world_start(world *w, bool is_hot) {
        *w = (world){ .is_hot = is_hot };
        pair_start(&w->p, is_hot ? 20000 : 100, is_hot ? 4096 : 256);
        w->source = &w->p.a;
        w->destination = &w->p.b;
        connect_second(w);
}

/* Both hosts have left it, or are gone. */
static void end_gate(world *w) {
        if (w->has_gate)
                gate_end(&w->gate);
        w->has_gate = false;
}

static void world_end(world *w) {
        world_let_go_all(w);
        for (int i = 0; i < 2; i++)
                w->second[i] = ttrpc_client_free(w->second[i]);
        free(w->exported.data);
        pair_end(&w->p);
        end_gate(w);
}

ttrpc_client *world_second(world *w, const host *h) {
        return w->second[h == &w->p.a ? 0 : 1];
}

void world_new_session(world *w) {
        snprintf(w->p.session, sizeof(w->p.session), "matrix-%u", ++w->p.n_sessions);
        w->had_socket = false;
        connect_hosts(&w->p);
}

void world_gate(world *w, gate_word last) {
        gate_connect(&w->gate, &w->p, w->source, last);
        w->has_gate = true;
}

void world_hold(world *w, pid_t pid) {
        bool stopped = false;
        char path[64], line[256];

        for (size_t i = 0; i < w->n_held; i++)
                if (w->held[i] == pid)
                        return;
        assert_true(pid > 0 && w->n_held < 4);
        assert_int_equal(kill(pid, SIGSTOP), 0);
        w->held[w->n_held++] = pid;
        /* the signal is on its way: until it has stopped */
        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        for (; !stopped; usleep(200)) {
                FILE *f = fopen(path, "re");

                assert_non_null(f);
                assert_non_null(fgets(line, sizeof(line), f));
                fclose(f);
                stopped = strstr(line, ") T ") != NULL;
        }
}

void world_let_go(world *w, pid_t pid) {
        for (size_t i = 0; i < w->n_held; i++)
                if (w->held[i] == pid) {
                        w->held[i] = w->held[--w->n_held];
                        (void)kill(pid, SIGCONT);
                        return;
                }
}

void world_let_go_all(world *w) {
        if (w->has_gate)
                gate_open(&w->gate);
        while (w->n_held > 0)
                world_let_go(w, w->held[w->n_held - 1]);
}

/* ---- calls ---- */

typedef struct packed {
        const char *method;
        uint8_t *data;
        size_t n;
} packed;

static packed pack(const char *method, const void *message) {
        const ProtobufCMessage *m = message;
        packed p = { .method = method, .n = protobuf_c_message_get_packed_size(m) };

        p.data = malloc(p.n + 1);
        assert_non_null(p.data);
        protobuf_c_message_pack(m, p.data);
        return p;
}

static packed pack_finalize(char *session, int action, bool force) {
        FinalizeSandboxRequest q = FINALIZE_SANDBOX_REQUEST__INIT;

        q.session_id = session;
        q.action = (FinalizeAction)action;
        q.force = force;
        return pack("FinalizeSandbox", &q);
}

static packed pack_import(const world *w, const host *h, char *session) {
        ImportSandboxRequest q = IMPORT_SANDBOX_REQUEST__INIT;
        Google__Protobuf__Any config = GOOGLE__PROTOBUF__ANY__INIT;

        config.type_url = (char *)STATE_TYPE;
        config.value = w->exported;
        q.session_id = session;
        q.sandbox_id = (ProtobufCBinaryData){ strlen(h->id), (uint8_t *)h->id };
        q.config = &config;
        return pack("ImportSandbox", &q);
}

static packed pack_socket(const host *h, char *session) {
        CreateDuplicateSocketRequest q = CREATE_DUPLICATE_SOCKET_REQUEST__INIT;
        Ferry__Socket__V1__ProtocolInfo info = FERRY__SOCKET__V1__PROTOCOL_INFO__INIT;
        Ferry__Socket__V1__ProcessFd process = FERRY__SOCKET__V1__PROCESS_FD__INIT;
        uint8_t data[64];

        info.magic = 0x46455252;
        info.version = 1;
        process.fd = (uint32_t)h->socket;
        info.source_case = FERRY__SOCKET__V1__PROTOCOL_INFO__SOURCE_PROCESS_FD;
        info.process_fd = &process;
        q.session_id = session;
        q.protocol_info.len = ferry__socket__v1__protocol_info__pack(&info, data);
        q.protocol_info.data = data;
        return pack("CreateDuplicateSocket", &q);
}

static packed pack_call(world *w, const host *h, matrix_call call, char *session) {
        switch (call) {
        case CALL_EXPORT: {
                PrepareAndExportSandboxRequest q = PREPARE_AND_EXPORT_SANDBOX_REQUEST__INIT;

                q.session_id = session;
                q.init_options = &w->p.options;
                return pack("PrepareAndExportSandbox", &q);
        }
        case CALL_IMPORT:
                return pack_import(w, h, session);
        case CALL_PREPARE: {
                PrepareSandboxRequest q = PREPARE_SANDBOX_REQUEST__INIT;

                q.session_id = session;
                return pack("PrepareSandbox", &q);
        }
        case CALL_SOCKET:
                return pack_socket(h, session);
        case CALL_TRANSFER: {
                TransferSandboxRequest q = TRANSFER_SANDBOX_REQUEST__INIT;
                Google__Protobuf__Duration timeout = GOOGLE__PROTOBUF__DURATION__INIT;

                timeout.nanos = (int32_t)w->transfer_timeout_ms * 1000000;
                q.session_id = session;
                q.timeout = &timeout;
                return pack("TransferSandbox", &q);
        }
        case CALL_FINALIZE_UNSPECIFIED:
                return pack_finalize(session, 0, false);
        case CALL_FINALIZE_UNKNOWN:
                return pack_finalize(session, UNKNOWN_ACTION, false);
        case CALL_STOP:
        case CALL_STOP_FORCE:
                return pack_finalize(session, FINALIZE_ACTION__FINALIZE_ACTION_STOP,
                                     call == CALL_STOP_FORCE);
        case CALL_RESUME:
                return pack_finalize(session, FINALIZE_ACTION__FINALIZE_ACTION_RESUME, false);
        case CALL_CANCEL: {
                CancelRequest q = CANCEL_REQUEST__INIT;

                q.session_id = session;
                return pack("Cancel", &q);
        }
        case CALL_CLEANUP: {
                CleanupRequest q = CLEANUP_REQUEST__INIT;

                q.session_id = session;
                return pack("Cleanup", &q);
        }
        case CALL_NOTIFICATIONS: {
                NotificationsRequest q = NOTIFICATIONS_REQUEST__INIT;

                q.session_id = session;
                return pack("Notifications", &q);
        }
        case N_CALLS:
                break;
        }
        fail_msg("no such call");
        return (packed){ .data = NULL };
}

static void on_reply(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                     void *userdata) {
        answer *a = userdata;

        a->done = true;
        a->slot = NULL;
        a->code = r < 0 ? r : status->code;
        snprintf(a->message, sizeof(a->message), "%s", status->message ? status->message : "");
}

static void on_message(const uint8_t *payload, size_t n, void *userdata) {
}

void world_send(world *w, host *h, ttrpc_client *client, matrix_call call, const char *session,
                answer *a) {
        static const ttrpc_call_options options = { .timeout_usec = DEADLINE_USEC };
        packed p = pack_call(w, h, call, (char *)session);
        int r;

        *a = (answer){ .sent = true };
        r = call == CALL_NOTIFICATIONS
                    ? ttrpc_client_stream(client, "Migration", p.method, p.data, p.n, NULL,
                                          on_message, on_reply, a, &a->slot)
                    : ttrpc_client_call(client, "Migration", p.method, p.data, p.n, &options,
                                        on_reply, a, NULL);
        free(p.data);
        assert_int_equal(r, 0);
}

static void turn(ttrpc_client *client) {
        int r = ttrpc_client_wait(client, DEADLINE_USEC);

        if (r < 0)
                fail_msg("the connection to a shim: %s", strerror(-r));
}

void world_collect(ttrpc_client *client, answer *a) {
        if (a->slot) /* refused by now, or it stays open */
                world_taken(client);
        if (a->slot)
                a->slot = ttrpc_slot_cancel(a->slot);
        else
                while (!a->done)
                        turn(client);
}

void world_taken(ttrpc_client *client) {
        look l = { .sent = false };

        look_send(client, &l);
        look_collect(client, &l);
}

void world_must(world *w, host *h, matrix_call call) {
        answer a;

        world_send(w, h, h->client, call, w->p.session, &a);
        world_collect(h->client, &a);
        if (a.code != 0)
                fail_msg("%s: code %d: %s", matrix_call_name(call), a.code, a.message);
}

void world_lead(world *w, host *h, matrix_call call) {
        w->lead_host = h;
        world_send(w, h, h->client, call, w->p.session, &w->lead);
}

/* ---- looking ---- */

static void on_status(int r, const ttrpc_status *status,
                      const Ferry__Shim__V1__StatusResponse *response, void *userdata) {
        look *l = userdata;
        Ferry__Shim__V1__StatusResponse all;
        Ferry__Shim__V1__Session session;

        l->done = true;
        assert_true(r == 0 && status->code == 0);
        all = *response;
        if (all.session) {
                session = *all.session;
                session.report = NULL; /* it goes on counting */
                all.session = &session;
                snprintf(l->detail, sizeof(l->detail), "%s", session.detail);
                snprintf(l->state, sizeof(l->state), "%s", session.state);
        }
        l->n = ferry__shim__v1__status_response__get_packed_size(&all);
        assert_true(l->n <= sizeof(l->bytes));
        ferry__shim__v1__status_response__pack(&all, l->bytes);
}

void look_send(ttrpc_client *client, look *l) {
        Ferry__Shim__V1__StatusRequest q = FERRY__SHIM__V1__STATUS_REQUEST__INIT;

        *l = (look){ .sent = true, .detail = "IDLE", .state = "Idle" };
        assert_int_equal(ferry_shim_v1_shim_status_start(client, &q, NULL, on_status, l, NULL), 0);
}

void look_collect(ttrpc_client *client, look *l) {
        while (!l->done)
                turn(client);
}

bool look_finds(host *h, const char *detail) {
        look l;

        look_send(h->client, &l);
        look_collect(h->client, &l);
        return strcmp(l.detail, detail) == 0;
}

/* ---- back to the beginning ---- */

static bool end_session(world *w, host *h) {
        static const matrix_call ways[] = { CALL_CLEANUP, CALL_CANCEL };

        for (size_t i = 0; i < 2; i++) {
                answer a;

                world_send(w, h, h->client, ways[i], w->p.session, &a);
                world_collect(h->client, &a);
                if (look_finds(h, "IDLE")) /* one that was only reserved is over too: Cleanup came
                                              first */
                        return true;
        }
        return false;
}

static void restart(world *w, bool is_hot) {
        world_end(w);
        world_start(w, is_hot);
}

void world_be_hot(world *w) {
        if (!w->is_hot)
                restart(w, true);
}

void world_reset(world *w) {
        uint64_t deadline = now_usec() + DEADLINE_USEC;
        bool a_runs;

        world_let_go_all(w);
        if (w->lead.sent && !w->lead.done && !w->spoiled)
                world_collect(w->lead_host->client, &w->lead);
        w->lead = (answer){ .sent = false };
        w->p.options.optional_max_bandwidth_case =
                INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH__NOT_SET;
        w->p.options.postcopy = POSTCOPY__POSTCOPY_NEVER;
        w->p.options.handover = HANDOVER__HANDOVER_CALLER;
        while (!w->spoiled) {
                bool a = end_session(w, &w->p.a), b = end_session(w, &w->p.b);

                if (a && b)
                        break;
                if (now_usec() > deadline)
                        fail_msg("a session does not end");
                usleep(500);
        }
        a_runs = !w->spoiled && host_runs(&w->p.a);
        if (w->spoiled || !(a_runs || host_runs(&w->p.b))) {
                restart(w, w->is_hot);
                return;
        }
        end_gate(w);
        assert_true(a_runs != host_runs(&w->p.b));
        w->source = a_runs ? &w->p.a : &w->p.b;
        w->destination = a_runs ? &w->p.b : &w->p.a;
}

/* ---- for cmocka ---- */

world *world_get(void) {
        return &the_world;
}

int world_group_start(void **state) {
        world_start(&the_world, false);
        is_clean = true;
        return 0;
}

int world_group_end(void **state) {
        world_end(&the_world);
        return 0;
}

int world_setup(void **state) {
        if (!is_clean) {
                the_world.spoiled = true;
                world_reset(&the_world);
        }
        is_clean = false;
        return 0;
}

void world_finish(world *w) {
        world_reset(w);
        is_clean = true;
}
