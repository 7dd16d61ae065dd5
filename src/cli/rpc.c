/* SPDX-License-Identifier: MIT */
#include "cli/rpc.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "cli/process.h"
#include "ttrpc/ttrpc.h"

#define CONNECTIONS_MAX 4U
#define POLL_MAX_MSEC   60000

/* How long a call may take before the person hears of it: when something is seen to stand, and in
 * any case. */
#define SILENCE_SEEN (3 * USEC_PER_SEC)
#define SILENCE_LONG (10 * USEC_PER_SEC)

struct rpc {
        rpc_group *group;
        ttrpc_client *client; /* NULL once the connection is gone */
        char *label;
        pid_t pid, qemu_pid; /* the shim's; 0: not known */
        bool is_silent;      /* the person was told that it does not answer */
        const ProtobufCMessageDescriptor *stream_type;
        rpc_on_message on_message;
        rpc_on_end on_end;
        void *userdata;
};

struct rpc_group {
        int signal_fd;
        const char *deaf; /* what must be finished */
        bool warned, gave_up;
        rpc *connections[CONNECTIONS_MAX];
};

/* A call that somebody waits for: on the waiter's stack until the answer came or the slot was
 * cancelled. */
typedef struct waiting {
        const char *label, *method;
        const ProtobufCMessageDescriptor *type;
        ttrpc_slot *slot;
        bool done;
        int r;
        ProtobufCMessage *reply;
        ferry_error error;
} waiting;

static int first_signal;

/* ---- the group ---- */

int rpc_group_new(rpc_group **ret, ferry_error *reterr) {
        rpc_group *group;
        sigset_t set;
        int fd;

        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGHUP);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return ferry_error_set_errno(reterr, -errno, "signals");
        fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "signals");
        group = calloc(1, sizeof(*group));
        if (!group) {
                fd_close(fd);
                return ferry_error_set_errno(reterr, -ENOMEM, "connection");
        }
        group->signal_fd = fd;
        *ret = group;
        return 0;
}

rpc_group *rpc_group_free(rpc_group *group) {
        if (!group)
                return NULL;
        for (size_t i = 0; i < CONNECTIONS_MAX; i++)
                if (group->connections[i])
                        rpc_close(group->connections[i]);
        fd_close(group->signal_fd);
        free(group);
        return NULL;
}

int rpc_get_signal(void) {
        return first_signal;
}

void rpc_group_set_deaf(rpc_group *group, const char *what) {
        group->deaf = what;
}

bool rpc_group_has_given_up(const rpc_group *group) {
        return group->gave_up;
}

/* A progress bar may stand in the line. */
static const char *line_start(void) {
        return isatty(STDERR_FILENO) ? "\r\033[K" : "";
}

static void read_signals(rpc_group *group) {
        struct signalfd_siginfo info;

        while (read(group->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
                if (first_signal == 0)
                        first_signal = (int)info.ssi_signo;
                if (group->deaf && !group->warned) {
                        group->warned = true;
                        fprintf(stderr, "%sferry: %s; once more gives up waiting for it\n",
                                line_start(), group->deaf);
                } else if (group->deaf)
                        group->gave_up = true;
        }
}

static void drop(rpc *connection) {
        /* ends what is under way, the stream too, through its callbacks */
        connection->client = ttrpc_client_free(connection->client);
}

/* What is there now; true when something was handled. */
static bool process_connections(rpc_group *group, const struct pollfd *fds) {
        bool handled = false;

        for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
                rpc *c = group->connections[i];
                uint64_t due;

                if (!c || !c->client)
                        continue;
                due = ttrpc_client_get_timeout(c->client);
                if (fds[i].revents == 0 && (due == UINT64_MAX || now_usec() < due))
                        continue;
                handled = true;
                if (ttrpc_client_process(c->client) < 0)
                        drop(c);
        }
        return handled;
}

static int poll_time(const rpc_group *group, uint64_t until_usec) {
        uint64_t now = now_usec(), until = until_usec;

        for (size_t i = 0; i < CONNECTIONS_MAX; i++)
                if (group->connections[i] && group->connections[i]->client) {
                        uint64_t due = ttrpc_client_get_timeout(group->connections[i]->client);

                        if (due < until)
                                until = due;
                }
        if (until <= now)
                return 0;
        if (until - now > POLL_MAX_MSEC * USEC_PER_MSEC)
                return POLL_MAX_MSEC;
        return (int)((until - now) / USEC_PER_MSEC) + 1;
}

static int interrupted(const rpc_group *group, ferry_error *reterr) {
        if (first_signal == 0 || (group->deaf && !group->gave_up))
                return 0;
        return ferry_error_set(reterr, FERRY_CANCELLED, -EINTR, "interrupted");
}

int rpc_group_wait(rpc_group *group, uint64_t until_usec, ferry_error *reterr) {
        struct pollfd fds[CONNECTIONS_MAX + 1];

        if (interrupted(group, reterr) < 0)
                return -EINTR;
        for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
                const rpc *c = group->connections[i];
                bool is_open = c && c->client;

                fds[i] = (struct pollfd){ .fd = is_open ? ttrpc_client_get_fd(c->client) : -1 };
                if (is_open)
                        fds[i].events = (short)ttrpc_client_get_events(c->client);
        }
        fds[CONNECTIONS_MAX] = (struct pollfd){ .fd = group->signal_fd, .events = POLLIN };
        if (poll(fds, CONNECTIONS_MAX + 1, poll_time(group, until_usec)) < 0) {
                if (errno == EINTR)
                        return 0;
                return ferry_error_set_errno(reterr, -errno, "poll");
        }
        if (fds[CONNECTIONS_MAX].revents != 0)
                read_signals(group);
        (void)process_connections(group, fds);
        return interrupted(group, reterr);
}

/* ---- connections ---- */

/* Who listens at the other end, as the kernel noted at listen(). */
static pid_t peer_pid(const rpc *c) {
        struct ucred peer;
        socklen_t n = sizeof(peer);

        return getsockopt(ttrpc_client_get_fd(c->client), SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0
                       ? 0
                       : peer.pid;
}

int rpc_open(rpc_group *group, const char *socket_path, const char *label, rpc **ret,
             ferry_error *reterr) {
        _cleanup_(rpc_closep) rpc *c = NULL;
        size_t i = 0;
        int r;

        while (i < CONNECTIONS_MAX && group->connections[i])
                i++;
        if (i == CONNECTIONS_MAX)
                return ferry_error_set(reterr, FERRY_INTERNAL, -EMFILE, "too many connections");
        c = calloc(1, sizeof(*c));
        if (!c)
                return ferry_error_set_errno(reterr, -ENOMEM, "connection");
        c->label = strdup(label);
        if (!c->label)
                return ferry_error_set_errno(reterr, -ENOMEM, "connection");
        r = ttrpc_client_connect(socket_path, &c->client);
        if (r < 0)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, r, "cannot reach %s (%s): %s",
                                       label, socket_path, strerror(-r));
        c->group = group;
        c->pid = peer_pid(c);
        group->connections[i] = c;
        *ret = TAKE_PTR(c);
        return 0;
}

rpc *rpc_close(rpc *c) {
        if (!c)
                return NULL;
        c->on_end = NULL;
        c->on_message = NULL;
        drop(c);
        for (size_t i = 0; c->group && i < CONNECTIONS_MAX; i++)
                if (c->group->connections[i] == c)
                        c->group->connections[i] = NULL;
        free(c->label);
        free(c);
        return NULL;
}

bool rpc_is_open(const rpc *c) {
        return c && c->client;
}

const char *rpc_get_label(const rpc *c) {
        return c->label;
}

void rpc_set_qemu(rpc *c, pid_t pid) {
        c->qemu_pid = pid;
}

bool rpc_is_silent(const rpc *c) {
        return c->is_silent;
}

/* Which of the two processes does not run; false: both seem to. */
static bool explain_process(const rpc *c, char *text, size_t n) {
        const struct {
                const char *what;
                pid_t pid;
        } processes[] = { { "it", c->pid }, { "its QEMU", c->qemu_pid } };

        for (size_t i = 0; i < ELEMENTS(processes); i++) {
                const char *what = processes[i].what;
                int pid = (int)processes[i].pid;

                switch (process_look(pid)) {
                case PROCESS_STOPPED:
                        snprintf(text, n,
                                 ": %s (process %d) is stopped; `kill -CONT %d` lets it go on",
                                 what, pid, pid);
                        return true;
                case PROCESS_BLOCKED:
                        snprintf(text, n, ": %s (process %d) hangs in the kernel: a disk?", what,
                                 pid);
                        return true;
                case PROCESS_UNKNOWN:
                case PROCESS_ALIVE:
                case PROCESS_ENDED: /* the connection says so, or the shim */
                        break;
                }
        }
        if (c->pid > 0)
                snprintf(text, n, " (process %d); waiting", (int)c->pid);
        return false;
}

void rpc_explain_silence(rpc *c, const char *method, uint64_t usec) {
        char why[160] = "; waiting";
        bool seen;

        if (c->is_silent || usec < SILENCE_SEEN)
                return;
        seen = explain_process(c, why, sizeof(why));
        if (!seen && (!method || usec < SILENCE_LONG))
                return;
        c->is_silent = true;
        fprintf(stderr, "%sferry: %s %s%s for %u s%s\n", line_start(), c->label,
                method ? "has not answered " : "has told nothing new", method ? method : "",
                (unsigned)(usec / USEC_PER_SEC), why);
}

/* ---- calls ---- */

/* One place that turns an end of a call into an error; 0 when the peer said OK. */
static int end_to_error(const char *label, const char *method, int r, const ttrpc_status *status,
                        ferry_error *reterr) {
        if (r == 0 && status->code == TTRPC_OK)
                return 0;
        if (r == 0)
                return ferry_error_set(reterr, (ferry_code)status->code, -EREMOTEIO, "%s",
                                       status->message[0] != '\0'
                                               ? status->message
                                               : ferry_code_to_string(status->code));
        if (r == -ETIMEDOUT)
                return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, r,
                                       "%s did not answer %s in time", label, method);
        if (r == -ENOTCONN)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, r,
                                       "lost the connection to %s during %s", label, method);
        return ferry_error_set_errno(reterr, r, "%s of %s", method, label);
}

static void on_reply(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                     void *userdata) {
        waiting *w = userdata;

        w->slot = NULL;
        w->done = true;
        w->r = end_to_error(w->label, w->method, r, status, &w->error);
        if (w->r < 0)
                return;
        w->reply = protobuf_c_message_unpack(w->type, NULL, n, payload);
        if (!w->reply)
                w->r = ferry_error_set(&w->error, FERRY_INTERNAL, -EBADMSG,
                                       "%s answered %s with what is no %s", w->label, w->method,
                                       w->type->name);
}

static int pack(const ProtobufCMessage *message, uint8_t **ret, size_t *ret_n) {
        size_t n = protobuf_c_message_get_packed_size(message);
        uint8_t *bytes = malloc(n + 1);

        if (!bytes)
                return -ENOMEM;
        *ret_n = protobuf_c_message_pack(message, bytes);
        *ret = bytes;
        return 0;
}

static const ProtobufCMethodDescriptor *find_method(const ProtobufCServiceDescriptor *service,
                                                    const char *name) {
        return protobuf_c_service_descriptor_get_method_by_name(service, name);
}

static int wait_for_reply(rpc *c, waiting *w, ferry_error *reterr) {
        uint64_t start = now_usec();

        while (!w->done) {
                uint64_t spent = now_usec() - start;
                uint64_t look = c->is_silent || spent >= SILENCE_LONG ? UINT64_MAX
                                : spent >= SILENCE_SEEN               ? start + SILENCE_LONG
                                                                      : start + SILENCE_SEEN;
                int r = rpc_group_wait(c->group, look, reterr);

                if (r < 0 && !w->done) {
                        ttrpc_slot_cancel(w->slot);
                        return r;
                }
                if (!w->done)
                        rpc_explain_silence(c, w->method, now_usec() - start);
        }
        if (c->is_silent && (w->r == 0 || rpc_was_refused(&w->error))) {
                c->is_silent = false;
                fprintf(stderr, "%sferry: %s answers again\n", line_start(), c->label);
        }
        return 0;
}

int rpc_call(rpc *c, const ProtobufCServiceDescriptor *service, const char *method,
             const ProtobufCMessage *request, uint64_t timeout_usec, ProtobufCMessage **ret,
             ferry_error *reterr) {
        const ProtobufCMethodDescriptor *m = find_method(service, method);
        const ttrpc_call_options options = { .timeout_usec = timeout_usec };
        _cleanup_(freep) uint8_t *payload = NULL;
        waiting w = { .label = c->label, .method = method };
        size_t n;
        int r;

        if (!m)
                return ferry_error_set(reterr, FERRY_INTERNAL, -ENOSYS, "no method %s", method);
        if (!c->client)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -ENOTCONN,
                                       "the connection to %s is gone", c->label);
        w.type = m->output;
        r = pack(request, &payload, &n);
        if (r == 0)
                r = ttrpc_client_call(c->client, service->name, method, payload, n, &options,
                                      on_reply, &w, &w.slot);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s of %s", method, c->label);
        r = wait_for_reply(c, &w, reterr);
        if (r < 0)
                return r;
        if (w.r < 0) {
                ferry_error_done(reterr);
                ferry_error_move(reterr, &w.error);
                ferry_error_done(&w.error);
                return w.r;
        }
        if (ret)
                *ret = TAKE_PTR(w.reply);
        else
                protobuf_c_message_free_unpacked(w.reply, NULL);
        return 0;
}

bool rpc_was_refused(const ferry_error *error) {
        return error->code != FERRY_OK && error->code != FERRY_UNAVAILABLE &&
               error->code != FERRY_DEADLINE_EXCEEDED && error->code != FERRY_CANCELLED;
}

static void on_stream_message(const uint8_t *payload, size_t n, void *userdata) {
        rpc *c = userdata;
        ProtobufCMessage *message;

        if (!c->on_message)
                return;
        message = protobuf_c_message_unpack(c->stream_type, NULL, n, payload);
        if (!message)
                return; /* one message less of a stream that is for people */
        c->on_message(message, c->userdata);
        protobuf_c_message_free_unpacked(message, NULL);
}

static void on_stream_end(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                          void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        rpc *c = userdata;
        rpc_on_end on_end = c->on_end;

        c->on_end = NULL;
        c->on_message = NULL;
        (void)end_to_error(c->label, "the stream", r, status, &error);
        if (on_end)
                on_end(&error, c->userdata);
}

int rpc_stream(rpc *c, const ProtobufCServiceDescriptor *service, const char *method,
               const ProtobufCMessage *request, rpc_on_message on_message, rpc_on_end on_end,
               void *userdata, ferry_error *reterr) {
        const ProtobufCMethodDescriptor *m = find_method(service, method);
        _cleanup_(freep) uint8_t *payload = NULL;
        size_t n;
        int r;

        if (!m)
                return ferry_error_set(reterr, FERRY_INTERNAL, -ENOSYS, "no method %s", method);
        if (!c->client)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -ENOTCONN,
                                       "the connection to %s is gone", c->label);
        r = pack(request, &payload, &n);
        if (r == 0) {
                c->stream_type = m->output;
                c->on_message = on_message;
                c->on_end = on_end;
                c->userdata = userdata;
                r = ttrpc_client_stream(c->client, service->name, method, payload, n, NULL,
                                        on_stream_message, on_stream_end, c, NULL);
        }
        if (r < 0) {
                c->on_message = NULL;
                c->on_end = NULL;
                return ferry_error_set_errno(reterr, r, "%s of %s", method, c->label);
        }
        return 0;
}
