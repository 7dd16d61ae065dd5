/* SPDX-License-Identifier: MIT */
/* One case of `./dev bench rpc`: a client and, in a process of its own, a server that echoes, over
 * a unix socket pair. bench-ttrpc CASE N; prints "NANOSECONDS CPU-NANOSECONDS" for each of N
 * operations, the CPU time of both sides together.
 *
 * raw-*: the same bytes without any protocol, blocking, the least there can be. */
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ttrpc/ttrpc.h"

#define SMALL         32U
#define LARGE         (1U << 20)
#define STREAM        128U
#define REQUEST_FRAME 70U /* of a small call, on the wire */
#define REPLY_FRAME   48U
#define IN_FLIGHT     64U

static uint8_t bytes[LARGE];

static void require(bool ok, const char *what) {
        if (ok)
                return;
        perror(what);
        exit(1);
}

/* ---- the server ---- */

static void on_echo(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                    void *userdata) {
        (void)ttrpc_call_reply(call, payload, n);
}

typedef struct counting {
        uint64_t left;
} counting;

static void count_on(ttrpc_call *call, void *userdata) {
        counting *c = userdata;

        for (; c->left > 0; c->left--)
                if (ttrpc_call_send(call, bytes, STREAM) < 0)
                        return;
        (void)ttrpc_call_finish(call);
        ttrpc_call_unref(call);
        free(c);
}

static void on_count(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                     void *userdata) {
        counting *c = malloc(sizeof(*c));

        require(c && n == sizeof(c->left), "count");
        memcpy(&c->left, payload, n);
        ttrpc_call_ref(call);
        ttrpc_call_set_callbacks(call, NULL, count_on, c);
        count_on(call, c);
}

static const ttrpc_method methods[] = { { "Echo", 0, on_echo }, { "Count", 1, on_count } };
static const ttrpc_service service = { "bench.Service", methods, 2 };

static void serve(int fd) {
        struct pollfd p = { .events = POLLIN };
        ttrpc_server *server;

        require(ttrpc_server_new(&server) == 0 &&
                        ttrpc_server_register(server, &service, NULL, NULL) == 0 &&
                        ttrpc_server_add_connection(server, fd) == 0,
                "server");
        p.fd = ttrpc_server_get_fd(server);
        for (;;) {
                require(poll(&p, 1, -1) > 0, "poll");
                require(ttrpc_server_process(server) == 0, "process");
        }
}

static bool move_all(int fd, uint8_t *data, size_t n, bool out) {
        while (n > 0) {
                ssize_t k = out ? send(fd, data, n, MSG_NOSIGNAL) : recv(fd, data, n, 0);

                if (k <= 0)
                        return false;
                data += k;
                n -= (size_t)k;
        }
        return true;
}

static void serve_raw(int fd, size_t n_request, size_t n_reply) {
        while (move_all(fd, bytes, n_request, false) && move_all(fd, bytes, n_reply, true))
                ;
}

/* ---- the client ---- */

typedef struct load {
        ttrpc_client *client;
        uint64_t n_started, n_ended, n;
        bool with_deadline;
} load;

static void start_call(load *l);

static void on_end(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                   void *userdata) {
        load *l = userdata;

        require(r == 0 && status->code == TTRPC_OK, "answer");
        l->n_ended++;
        if (l->n_started < l->n)
                start_call(l);
}

static void on_message(const uint8_t *payload, size_t n, void *userdata) {
}

static void start_call(load *l) {
        const ttrpc_call_options options = { .timeout_usec = l->with_deadline ? 60000000 : 0 };

        l->n_started++;
        require(ttrpc_client_call(l->client, "bench.Service", "Echo", bytes, SMALL, &options,
                                  on_end, l, NULL) == 0,
                "call");
}

static void run_many(ttrpc_client *client, uint64_t n, bool with_deadline) {
        load l = { .client = client, .n = n, .with_deadline = with_deadline };

        while (l.n_started < n && l.n_started < IN_FLIGHT)
                start_call(&l);
        while (l.n_ended < n)
                require(ttrpc_client_wait(client, UINT64_MAX) == 0, "wait");
}

static void run_stream(ttrpc_client *client, uint64_t n) {
        load l = { .client = client };

        require(ttrpc_client_stream(client, "bench.Service", "Count", (const uint8_t *)&n,
                                    sizeof(n), NULL, on_message, on_end, &l, NULL) == 0,
                "stream");
        while (l.n_ended == 0)
                require(ttrpc_client_wait(client, UINT64_MAX) == 0, "wait");
}

static void run_one_by_one(ttrpc_client *client, uint64_t n, size_t size) {
        while (n-- > 0) {
                uint8_t *reply;
                char *message;
                int32_t code;
                size_t n_reply;

                require(ttrpc_client_call_sync(client, "bench.Service", "Echo", bytes, size, NULL,
                                               &code, &message, &reply, &n_reply) == 0 &&
                                n_reply == size,
                        "call");
                free(reply);
        }
}

static void run_raw(int fd, uint64_t n, size_t n_request, size_t n_reply) {
        while (n-- > 0)
                require(move_all(fd, bytes, n_request, true) && move_all(fd, bytes, n_reply, false),
                        "raw");
}

/* ---- measuring ---- */

static uint64_t now_nsec(void) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static uint64_t cpu_nsec(int who) {
        struct rusage u;

        getrusage(who, &u);
        return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000U +
               (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000U;
}

static void run(const char *name, int fd, uint64_t n) {
        ttrpc_client *client;

        if (strcmp(name, "raw-unary") == 0)
                run_raw(fd, n, REQUEST_FRAME, REPLY_FRAME);
        else if (strcmp(name, "raw-large") == 0)
                run_raw(fd, n, LARGE, LARGE);
        if (strncmp(name, "raw-", 4) == 0) {
                close(fd);
                return;
        }
        require(ttrpc_client_new(fd, &client) == 0, "client");
        if (strcmp(name, "many") == 0 || strcmp(name, "many-deadline") == 0)
                run_many(client, n, name[4] != '\0');
        else if (strcmp(name, "stream") == 0)
                run_stream(client, n);
        else
                run_one_by_one(client, n, strcmp(name, "large") == 0 ? LARGE : SMALL);
        ttrpc_client_free(client);
}

int main(int argc, char **argv) {
        uint64_t n, begin, end;
        int fds[2];
        pid_t pid;

        if (argc != 3 || (n = strtoull(argv[2], NULL, 10)) == 0) {
                fprintf(stderr, "usage: bench-ttrpc unary|many|many-deadline|stream|large|"
                                "raw-unary|raw-large N\n");
                return 2;
        }
        require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0, "socketpair");
        pid = fork();
        require(pid >= 0, "fork");
        if (pid == 0) {
                close(fds[0]);
                if (strcmp(argv[1], "raw-unary") == 0)
                        serve_raw(fds[1], REQUEST_FRAME, REPLY_FRAME);
                else if (strcmp(argv[1], "raw-large") == 0)
                        serve_raw(fds[1], LARGE, LARGE);
                else
                        serve(fds[1]);
                _exit(0);
        }
        close(fds[1]);
        begin = now_nsec();
        run(argv[1], fds[0], n);
        end = now_nsec();
        kill(pid, SIGTERM);
        require(waitpid(pid, NULL, 0) == pid, "waitpid");
        printf("%.1f %.1f\n", (double)(end - begin) / (double)n,
               (double)(cpu_nsec(RUSAGE_SELF) + cpu_nsec(RUSAGE_CHILDREN)) / (double)n);
        return 0;
}
