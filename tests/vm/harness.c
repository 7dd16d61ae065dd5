/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "google/protobuf/any.pb-c.h"
#include "google/protobuf/duration.pb-c.h"
#include "socket.pb-c.h"

#define DEADLINE_USEC (120 * USEC_PER_SEC)
#define POLL_USEC     (2 * USEC_PER_MSEC)

static const ttrpc_call_options call_options = { .timeout_usec = DEADLINE_USEC };

static void nap(void) {
        usleep(POLL_USEC);
}

static const char *needed(const char *name) {
        const char *value = getenv(name);

        if (!value)
                fail_msg("%s is not set: run this by meson test", name);
        return value;
}

/* ---- processes ---- */

void host_reconnect(host *h) {
        char path[128];

        ttrpc_client_free(h->client);
        h->client = NULL;
        snprintf(path, sizeof(path), "%s/shim.sock", h->dir);
        assert_int_equal(ttrpc_client_connect(path, &h->client), 0);
}

void host_spawn(host *h, const char *config) {
        const char *shim = needed("FERRY_SHIM");
        char number[16], log[128], line[8] = "";
        int ready[2];

        assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
        snprintf(log, sizeof(log), "%s/shim.log", h->dir);
        h->pid = fork();
        assert_true(h->pid >= 0);
        if (h->pid == 0) {
                int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);

                dup2(fd, STDERR_FILENO);
                dup2(fd, STDOUT_FILENO);
                fcntl(ready[1], F_SETFD, 0);
                snprintf(number, sizeof(number), "%d", ready[1]);
                execl(shim, shim, "serve", "--state-dir", h->dir, "--id", h->id, "--ready-fd",
                      number, "--log-level", "debug", config ? "--config" : NULL, config, NULL);
                _exit(127);
        }
        fd_close(ready[1]);
        if (read(ready[0], line, 6) != 6 || strncmp(line, "ready\n", 6) != 0)
                fail_msg("the shim did not start: see %s", log);
        fd_close(ready[0]);
        h->is_boot = config != NULL;
}

void host_start(host *h, const char *config) {
        host_spawn(h, config);
        host_reconnect(h);
}

static void wait_for_end(host *h) {
        int status;

        assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
        h->pid = 0;
}

void host_kill_shim(host *h, int signal) {
        assert_int_equal(kill(h->pid, signal), 0);
        wait_for_end(h);
        h->socket = fd_close(h->socket); /* else our copy keeps the connection alive */
        ttrpc_client_free(h->client);
        h->client = NULL;
}

static void write_config(const char *path, unsigned rate, unsigned wss) {
        char text[1024];
        int n = snprintf(text, sizeof(text),
                         "{\"memory_mb\":128,\"vcpus\":1,\"accelerator\":\"tcg\",\"kernel\":\"%s\","
                         "\"cmdline\":\"rate=%u wss=%u hb=50\"}",
                         needed("FERRY_TINY_GUEST"), rate, wss);

        assert_int_equal(file_replace(AT_FDCWD, path, text, (size_t)n, 0600, false), 0);
}

static void make_host(pair *p, host *h, const char *name) {
        *h = (host){ .socket = -EBADF };
        snprintf(h->id, sizeof(h->id), "box");
        snprintf(h->dir, sizeof(h->dir), "%s/%s", p->folder, name);
        assert_int_equal(mkdir(h->dir, 0700), 0);
}

void pair_start(pair *p, unsigned rate, unsigned wss) {
        char config[128];
        size_t offset = 0;

        *p = (pair){ .n_sessions = 0 };
        assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
        initialize_options__init(&p->options);
        memory_transfer_throttle_params__init(&p->throttle);
        p->options.memory_transport = MEMORY_TRANSPORT__MEMORY_TRANSPORT_TCP;
        if (getenv("FERRY_TEST_ENCRYPTED"))
                p->options.encryption = ENCRYPTION__ENCRYPTION_PSK;
        strcpy(p->folder, "/tmp/ferry-vm-XXXXXX");
        assert_non_null(mkdtemp(p->folder));
        make_host(p, &p->a, "a");
        make_host(p, &p->b, "b");
        snprintf(config, sizeof(config), "%s/vm.json", p->folder);
        write_config(config, rate, wss);
        host_start(&p->a, config);
        host_start(&p->b, NULL);
        host_wait_vm(&p->a, FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING);
        guest_wait(&p->a, "H ", &offset);
}

static void remove_folder(const char *path, bool sockets_are_leftovers) {
        DIR *d = opendir(path);
        struct dirent *e;

        assert_non_null(d);
        while ((e = readdir(d))) {
                char inner[512];

                if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
                        continue;
                snprintf(inner, sizeof(inner), "%s/%s", path, e->d_name);
                if (e->d_type == DT_DIR)
                        remove_folder(inner, sockets_are_leftovers);
                else {
                        if (e->d_type == DT_SOCK && sockets_are_leftovers)
                                fail_msg("left behind: %s", inner);
                        assert_int_equal(unlink(inner), 0);
                }
        }
        closedir(d);
        assert_int_equal(rmdir(path), 0);
}

static void host_end(host *h, pid_t *ret_qemu) {
        fd_close(h->socket);
        *ret_qemu = 0;
        if (h->pid == 0)
                return;
        *ret_qemu = host_qemu(h);
        call_stop(h, true, 0);
        wait_for_end(h);
        ttrpc_client_free(h->client);
}

void pair_end(pair *p) {
        pid_t qemu[2];

        host_end(&p->a, &qemu[0]);
        host_end(&p->b, &qemu[1]);
        while (waitpid(-1, NULL, WNOHANG) > 0) /* QEMUs of shims that were killed */
                ;
        for (int i = 0; i < 2; i++)
                if (qemu[i] > 0)
                        assert_true(kill(qemu[i], 0) < 0 && errno == ESRCH);
        remove_folder(p->folder, true);
}

/* ---- status ---- */

static char last_message[4352];

const char *call_message(void) {
        return last_message;
}

static void check(const char *what, int r, int32_t code, char *message, int expected) {
        snprintf(last_message, sizeof(last_message), "%s", message ? message : "");
        if (r < 0)
                fail_msg("%s: no answer: %s", what, strerror(-r));
        if (code != expected)
                fail_msg("%s: code %d, expected %d: %s", what, code, expected,
                         message ? message : "");
        free(message);
}

Ferry__Shim__V1__StatusResponse *host_status(host *h) {
        Ferry__Shim__V1__StatusRequest request = FERRY__SHIM__V1__STATUS_REQUEST__INIT;
        Ferry__Shim__V1__StatusResponse *response = NULL;
        char *message = NULL;
        int32_t code = 0;
        int r = ferry_shim_v1_shim_status_call(h->client, &request, &call_options, &code, &message,
                                               &response);

        check("Status", r, code, message, 0);
        return response;
}

Ferry__Shim__V1__TraceResponse *host_trace(host *h, const char *session, int expected) {
        Ferry__Shim__V1__TraceRequest request = FERRY__SHIM__V1__TRACE_REQUEST__INIT;
        Ferry__Shim__V1__TraceResponse *response = NULL;
        char *message = NULL;
        int32_t code = 0;
        int r;

        request.session_id = (char *)session;
        r = ferry_shim_v1_shim_trace_call(h->client, &request, &call_options, &code, &message,
                                          &response);
        check("Trace", r, code, message, expected);
        return response;
}

static void status_free(Ferry__Shim__V1__StatusResponse *s) {
        ferry__shim__v1__status_response__free_unpacked(s, NULL);
}

static void wait_detail(host *h, const char *detail, const char *or_detail, bool be) {
        uint64_t deadline = now_usec() + DEADLINE_USEC;

        for (;;) {
                Ferry__Shim__V1__StatusResponse *s = host_status(h);
                const char *now = s->session ? s->session->detail : "";
                bool there = (strcmp(now, detail) == 0 || strcmp(now, or_detail) == 0) == be;

                if (!there && now_usec() > deadline)
                        fail_msg("session is %s, %s: %s", now, be ? detail : "still",
                                 s->session ? s->session->reason : "");
                status_free(s);
                if (there)
                        return;
                nap();
        }
}

void host_wait_detail(host *h, const char *detail) {
        wait_detail(h, detail, detail, true);
}

void host_wait_no_longer(host *h, const char *detail) {
        wait_detail(h, detail, detail, false);
}

static void wait_report(host *h, const char *otherwise,
                        bool (*is_there)(const Ferry__Shim__V1__Report *)) {
        uint64_t deadline = now_usec() + DEADLINE_USEC;

        for (;;) {
                Ferry__Shim__V1__StatusResponse *s = host_status(h);
                bool there = s->session && is_there(s->session->report);

                status_free(s);
                if (there)
                        return;
                if (now_usec() > deadline)
                        fail_msg("%s", otherwise);
                nap();
        }
}

static bool has_bytes(const Ferry__Shim__V1__Report *report) {
        return report->bytes > 0;
}

void host_wait_bytes(host *h) {
        wait_report(h, "nothing is being sent", has_bytes);
}

static bool has_setup(const Ferry__Shim__V1__Report *report) {
        return report->setup_usec > 0;
}

void host_wait_setup(host *h) {
        wait_report(h, "QEMU has not begun", has_setup);
}

void host_wait_undecided(host *h) {
        uint64_t deadline = now_usec() + DEADLINE_USEC;

        for (;;) {
                Ferry__Shim__V1__StatusResponse *s = host_status(h);
                bool undecided = s->session && s->session->undecided;

                status_free(s);
                if (undecided)
                        return;
                if (now_usec() > deadline)
                        fail_msg("%s's session is not undecided", h->id);
                nap();
        }
}

void host_wait_vm(host *h, Ferry__Shim__V1__VmState state) {
        uint64_t deadline = now_usec() + DEADLINE_USEC;

        for (;;) {
                Ferry__Shim__V1__StatusResponse *s = host_status(h);
                bool there = s->vm_state == state;

                if (!there && now_usec() > deadline)
                        fail_msg("the VM is %d, not %d", (int)s->vm_state, (int)state);
                status_free(s);
                if (there)
                        return;
                nap();
        }
}

pid_t host_qemu(host *h) {
        Ferry__Shim__V1__StatusResponse *s = host_status(h);
        pid_t pid = (pid_t)s->qemu_pid;

        status_free(s);
        return pid;
}

bool host_runs(host *h) {
        Ferry__Shim__V1__StatusResponse *s = host_status(h);
        bool runs = s->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING;

        status_free(s);
        return runs;
}

void assert_exactly_one_runs(pair *p, host *which) {
        host *other = which == &p->a ? &p->b : &p->a;

        host_wait_vm(which, FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING);
        if (other->pid)
                assert_false(host_runs(other));
        guest_check(which);
}

/* ---- the guest ---- */

static char *console_log(host *h, size_t *ret_n) {
        char path[128], *text = NULL;

        snprintf(path, sizeof(path), "%s/console.log", h->dir);
        if (file_read(AT_FDCWD, path, 64 << 20, &text, ret_n) < 0) {
                text = strdup("");
                *ret_n = 0;
        }
        return text;
}

size_t guest_console_end(host *h) {
        size_t n;

        free(console_log(h, &n));
        return n;
}

void guest_wait(host *h, const char *text, size_t *offset) {
        uint64_t deadline = now_usec() + DEADLINE_USEC;

        for (;;) {
                size_t n;
                char *log = console_log(h, &n);
                char *found = *offset <= n ? memmem(log + *offset, n - *offset, text, strlen(text))
                                           : NULL;

                if (found)
                        *offset = (size_t)(found - log) + strlen(text);
                else if (now_usec() > deadline)
                        fail_msg("the guest did not say \"%s\"", text);
                free(log);
                if (found)
                        return;
                nap();
        }
}

void guest_send(host *h, const char *text) {
        char path[128];
        int fd;

        snprintf(path, sizeof(path), "%s/console.sock", h->dir);
        assert_int_equal(unix_connect(path, &fd), 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
        /* QEMU reads before it sees the end of the stream */
        assert_int_equal(shutdown(fd, SHUT_WR), 0);
        for (char byte[256]; read(fd, byte, sizeof(byte)) > 0;)
                ;
        fd_close(fd);
}

void guest_check(host *h) {
        size_t offset = guest_console_end(h), n;
        char *log;

        guest_wait(h, "H ", &offset); /* it goes on */
        guest_send(h, "c");
        guest_wait(h, "C ", &offset);
        log = console_log(h, &n);
        if (strncmp(log + offset, "ok", n - offset < 2 ? n - offset : 2) != 0)
                fail_msg("the guest's memory is damaged: C %.40s", log + offset);
        free(log);
}

/* ---- calls ---- */

#define CALL(name, request_, type)                                                                 \
        __extension__({                                                                            \
                type *response_ = NULL;                                                            \
                char *message_ = NULL;                                                             \
                int32_t code_ = 0;                                                                 \
                int r_ = migration_##name##_call(h->client, &(request_), &call_options, &code_,    \
                                                 &message_, &response_);                           \
                check(#name, r_, code_, message_, code);                                           \
                response_;                                                                         \
        })

void call_export(pair *p, host *h, int code, ProtobufCBinaryData *ret_state) {
        PrepareAndExportSandboxRequest q = PREPARE_AND_EXPORT_SANDBOX_REQUEST__INIT;
        PrepareAndExportSandboxResponse *response;

        q.session_id = p->session;
        q.init_options = &p->options;
        response = CALL(prepare_and_export_sandbox, q, PrepareAndExportSandboxResponse);
        if (!response)
                return;
        *ret_state = response->config->value;
        response->config->value = (ProtobufCBinaryData){ .len = 0 };
        prepare_and_export_sandbox_response__free_unpacked(response, NULL);
}

void call_import(pair *p, host *h, const ProtobufCBinaryData *state, int code) {
        ImportSandboxRequest q = IMPORT_SANDBOX_REQUEST__INIT;
        Google__Protobuf__Any config = GOOGLE__PROTOBUF__ANY__INIT;
        ImportSandboxResponse *response;

        config.type_url = (char *)"type.googleapis.com/ferry.state.v1.SandboxState";
        config.value = *state;
        q.session_id = p->session;
        q.sandbox_id = (ProtobufCBinaryData){ strlen(h->id), (uint8_t *)h->id };
        q.config = &config;
        response = CALL(import_sandbox, q, ImportSandboxResponse);
        if (response)
                import_sandbox_response__free_unpacked(response, NULL);
}

void call_prepare(pair *p, host *h, int code) {
        PrepareSandboxRequest q = PREPARE_SANDBOX_REQUEST__INIT;
        PrepareSandboxResponse *response;

        q.session_id = p->session;
        response = CALL(prepare_sandbox, q, PrepareSandboxResponse);
        if (response)
                prepare_sandbox_response__free_unpacked(response, NULL);
}

static void call_socket_with(pair *p, host *h, Ferry__Socket__V1__ProtocolInfo *info, int code) {
        CreateDuplicateSocketRequest q = CREATE_DUPLICATE_SOCKET_REQUEST__INIT;
        CreateDuplicateSocketResponse *response;
        uint8_t data[256];

        info->magic = 0x46455252;
        info->version = 1;
        q.session_id = p->session;
        q.protocol_info.len = ferry__socket__v1__protocol_info__pack(info, data);
        q.protocol_info.data = data;
        response = CALL(create_duplicate_socket, q, CreateDuplicateSocketResponse);
        if (response)
                create_duplicate_socket_response__free_unpacked(response, NULL);
}

void call_socket(pair *p, host *h, int code) {
        Ferry__Socket__V1__ProtocolInfo info = FERRY__SOCKET__V1__PROTOCOL_INFO__INIT;
        Ferry__Socket__V1__ProcessFd process = FERRY__SOCKET__V1__PROCESS_FD__INIT;

        process.fd = (uint32_t)h->socket; /* pid 0: the ttrpc peer, us */
        info.source_case = FERRY__SOCKET__V1__PROTOCOL_INFO__SOURCE_PROCESS_FD;
        info.process_fd = &process;
        call_socket_with(p, h, &info, code);
}

void call_socket_by_token(pair *p, host *h, int code) {
        Ferry__Socket__V1__ProtocolInfo info = FERRY__SOCKET__V1__PROTOCOL_INFO__INIT;
        uint8_t message[] = { 5, 't', 'o', 'k', 'e', 'n' }, answer = 255;
        char path[128];
        int fd;

        snprintf(path, sizeof(path), "%s/fd.sock", h->dir);
        assert_int_equal(unix_connect(path, &fd), 0);
        assert_int_equal(fd_send(fd, message, sizeof(message), &h->socket, 1), sizeof(message));
        assert_int_equal(read(fd, &answer, 1), 1);
        assert_int_equal(answer, 0);
        fd_close(fd);
        info.source_case = FERRY__SOCKET__V1__PROTOCOL_INFO__SOURCE_TOKEN;
        info.token = (ProtobufCBinaryData){ 5, message + 1 };
        call_socket_with(p, h, &info, code);
}

void call_transfer(pair *p, host *h, unsigned timeout_ms, int code) {
        TransferSandboxRequest q = TRANSFER_SANDBOX_REQUEST__INIT;
        Google__Protobuf__Duration timeout = GOOGLE__PROTOBUF__DURATION__INIT;
        TransferSandboxResponse *response;

        timeout.seconds = timeout_ms / 1000;
        timeout.nanos = (int32_t)(timeout_ms % 1000) * 1000000;
        q.session_id = p->session;
        q.timeout = &timeout;
        response = CALL(transfer_sandbox, q, TransferSandboxResponse);
        if (response)
                transfer_sandbox_response__free_unpacked(response, NULL);
}

void call_finalize(pair *p, host *h, FinalizeAction action, int code) {
        call_finalize_with(p, h, action, NULL, code);
}

void call_finalize_with(pair *p, host *h, FinalizeAction action, host *record_of, int code) {
        FinalizeSandboxRequest q = FINALIZE_SANDBOX_REQUEST__INIT;
        Ferry__Shim__V1__StatusResponse *other = record_of ? host_status(record_of) : NULL;
        FinalizeSandboxResponse *response;

        q.session_id = p->session;
        q.action = action;
        if (other)
                q.handover_record = other->session->handover_record;
        response = CALL(finalize_sandbox, q, FinalizeSandboxResponse);
        if (other)
                status_free(other);
        if (response)
                finalize_sandbox_response__free_unpacked(response, NULL);
}

void call_finalize_and_go(pair *p, host *h, FinalizeAction action) {
        FinalizeSandboxRequest q = FINALIZE_SANDBOX_REQUEST__INIT;
        const ttrpc_call_options at_once = { .timeout_usec = 1000 };
        FinalizeSandboxResponse *response = NULL;
        char *message = NULL;
        int32_t code;

        q.session_id = p->session;
        q.action = action;
        (void)migration_finalize_sandbox_call(h->client, &q, &at_once, &code, &message, &response);
        free(message);
        if (response)
                finalize_sandbox_response__free_unpacked(response, NULL);
}

void call_finalize_forced(pair *p, host *h, FinalizeAction action, const grounds *g, int code) {
        FinalizeSandboxRequest q = FINALIZE_SANDBOX_REQUEST__INIT;
        ForceGrounds given = FORCE_GROUNDS__INIT;
        FinalizeSandboxResponse *response;

        q.session_id = p->session;
        q.action = action;
        q.force = true;
        if (g) {
                given.fenced = (char *)g->fenced;
                given.reason = (char *)g->reason;
                given.copy_may_be_stale = g->may_be_stale;
                q.force_grounds = &given;
        }
        response = CALL(finalize_sandbox, q, FinalizeSandboxResponse);
        if (response)
                finalize_sandbox_response__free_unpacked(response, NULL);
}

void call_cancel(pair *p, host *h, int code) {
        CancelRequest q = CANCEL_REQUEST__INIT;
        CancelResponse *response;

        q.session_id = p->session;
        response = CALL(cancel, q, CancelResponse);
        if (response)
                cancel_response__free_unpacked(response, NULL);
}

void call_cleanup(pair *p, host *h, int code) {
        CleanupRequest q = CLEANUP_REQUEST__INIT;
        CleanupResponse *response;

        q.session_id = p->session;
        response = CALL(cleanup, q, CleanupResponse);
        if (response)
                cleanup_response__free_unpacked(response, NULL);
}

void call_stop(host *h, bool force, int expected) {
        Ferry__Shim__V1__StopRequest q = FERRY__SHIM__V1__STOP_REQUEST__INIT;
        Ferry__Shim__V1__StopResponse *response = NULL;
        char *message = NULL;
        int32_t code = 0;
        int r;

        q.force = force;
        r = ferry_shim_v1_shim_stop_call(h->client, &q, &call_options, &code, &message, &response);
        check("Stop", r, code, message, expected);
        if (response)
                ferry__shim__v1__stop_response__free_unpacked(response, NULL);
}

/* ---- sessions ---- */

void connect_hosts(pair *p) {
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t n = sizeof(address);
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        fd_close(p->a.socket);
        fd_close(p->b.socket);
        assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(listen(listener, 1), 0);
        assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &n), 0);
        p->a.socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(p->a.socket, (struct sockaddr *)&address, sizeof(address)), 0);
        p->b.socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        assert_true(p->b.socket >= 0);
        fd_close(listener);
}

void cut_connection(pair *p) {
        if (shutdown(p->a.socket, SHUT_RDWR) < 0)
                assert_int_equal(errno, ENOTCONN); /* the other side was first */
}

static void open_between(pair *p, host *from, host *to, bool with_socket) {
        ProtobufCBinaryData state = { .len = 0 };

        snprintf(p->session, sizeof(p->session), "session-%u", ++p->n_sessions);
        call_export(p, from, 0, &state);
        call_import(p, to, &state, 0);
        free(state.data);
        call_prepare(p, to, 0);
        for (size_t i = 0; with_socket && (i == 0 || i < p->options.channels); i++) {
                connect_hosts(p);
                call_socket(p, from, 0);
                call_socket_by_token(p, to, 0);
        }
}

void session_open(pair *p, bool with_socket) {
        open_between(p, &p->a, &p->b, with_socket);
}

void migrate_whole(pair *p, host *from, host *to) {
        open_between(p, from, to, true);
        call_transfer(p, from, 0, 0);
        call_transfer(p, to, 0, 0);
        if (p->options.handover == HANDOVER__HANDOVER_CALLER) {
                /* a post-copy's, unless all was there before it was ordered */
                wait_detail(from, "S_READY", "S_POISED", true);
                wait_detail(to, "D_READY", "D_POISED", true);
        } else {
                host_wait_detail(from, "S_RELEASED");
                host_wait_detail(to, "D_RUNNING");
        }
        call_finalize(p, from, FINALIZE_ACTION__FINALIZE_ACTION_STOP, 0);
        call_finalize(p, to, FINALIZE_ACTION__FINALIZE_ACTION_RESUME, 0);
        call_cleanup(p, from, 0);
        call_cleanup(p, to, 0);
}

typedef struct history {
        char text[4096];
        size_t n;
        uint32_t last_id;
        bool ended;
        int32_t code;
} history;

static void on_notification(const NotificationsResponse *m, void *userdata) {
        static const char *const phases[] = { "UNSPECIFIED",  "SETUP_DONE",
                                              "PROGRESS",     "BLACKOUT_STARTED",
                                              "OFFLINE_DONE", "BLACKOUT_EXITED",
                                              "DONE",         "RECOVERY_DONE",
                                              "FAILED" };
        static const char *const states[] = { "-",
                                              "SUCCESS",
                                              "CANCELLED",
                                              "GUEST",
                                              "SOURCE_FAILED",
                                              "DESTINATION_FAILED",
                                              "RECOVERY_FAILED" };
        history *h = userdata;

        assert_true(m->message_id > h->last_id);
        h->last_id = m->message_id;
        assert_non_null(m->update_time);
        if (m->notification->phase == PHASE__PHASE_TRANSFER_IN_PROGRESS)
                return;
        h->n += (size_t)snprintf(h->text + h->n, sizeof(h->text) - h->n, "%s%s/%s", h->n ? " " : "",
                                 phases[m->notification->phase], states[m->notification->state]);
}

static void on_history_end(int r, const ttrpc_status *status, void *userdata) {
        history *h = userdata;

        h->ended = true;
        h->code = r < 0 ? r : status->code;
}

char *history_and_cleanup(pair *p, host *h) {
        NotificationsRequest q = NOTIFICATIONS_REQUEST__INIT;
        history all = { .n = 0 };

        q.session_id = p->session;
        assert_int_equal(migration_notifications_start(h->client, &q, NULL, on_notification,
                                                       on_history_end, &all, NULL),
                         0);
        call_cleanup(p, h, 0);
        while (!all.ended) {
                struct pollfd f = { .fd = ttrpc_client_get_fd(h->client), .events = POLLIN };

                assert_int_equal(poll(&f, 1, (int)(DEADLINE_USEC / 1000)), 1);
                assert_int_equal(ttrpc_client_process(h->client), 0);
        }
        assert_int_equal(all.code, 0);
        return strdup(all.text);
}
