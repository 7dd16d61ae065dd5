/* SPDX-License-Identifier: MIT */
#include "agent/server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/connection.h"
#include "base/clock.h"

#define PORT            8080
#define CONNECTIONS_MAX 256U

typedef struct server {
        memory_state *memory;
        unsigned long long count;
        char boot_id[64];
        connection connections[CONNECTIONS_MAX];
} server;

static int answer_count(server *s, char *ret, size_t n_ret) {
        s->count++;
        (void)snprintf(ret, n_ret, "{\"count\":%llu,\"boot_id\":\"%s\",\"uptime_ms\":%llu}\n",
                       s->count, s->boot_id, (unsigned long long)(now_usec() / USEC_PER_MSEC));
        return 200;
}

static int answer_memory(const server *s, char *ret, size_t n_ret) {
        memory_state *m = s->memory;

        if (!m) {
                (void)snprintf(ret, n_ret, "{\"error\":\"ferry.memory_mb=0\"}\n");
                return 404;
        }
        (void)snprintf(ret, n_ret,
                       "{\"passes\":%llu,\"errors\":%llu,\"bytes\":%llu,\"rate_mb\":%ld}\n",
                       atomic_load(&m->passes), atomic_load(&m->errors), atomic_load(&m->bytes),
                       atomic_load(&m->rate_mb));
        return 200;
}

static int answer_rate(const server *s, const char *value, char *ret, size_t n_ret) {
        char *end;
        long rate;

        errno = 0;
        rate = strtol(value, &end, 10);
        if (errno != 0 || end == value || *end != '\0' || rate < MEMORY_RATE_PAUSE ||
            rate > MEMORY_RATE_MAX) {
                (void)snprintf(ret, n_ret,
                               "{\"error\":\"mb: -1 (pause), 0 (no limit) or MB/s\"}\n");
                return 400;
        }
        if (s->memory)
                atomic_store(&s->memory->rate_mb, rate);
        return answer_memory(s, ret, n_ret);
}

static int answer(const request *r, char *ret, size_t n_ret, void *userdata) {
        static const char rate[] = "/rate?mb=";
        server *s = userdata;

        if (strcmp(r->path, "/count") == 0)
                return answer_count(s, ret, n_ret);
        if (strcmp(r->path, "/memory") == 0)
                return answer_memory(s, ret, n_ret);
        if (strncmp(r->path, rate, strlen(rate)) == 0)
                return answer_rate(s, r->path + strlen(rate), ret, n_ret);
        if (strcmp(r->path, "/health") == 0) {
                (void)snprintf(ret, n_ret, "{\"status\":\"ok\"}\n");
                return 200;
        }
        (void)snprintf(ret, n_ret, "{\"error\":\"there are /count /memory /rate?mb= /health\"}\n");
        return 404;
}

static void read_boot_id(server *s) {
        _cleanup_(fclosep) FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

        if (!file || !fgets(s->boot_id, sizeof(s->boot_id), file))
                s->boot_id[0] = '\0';
        s->boot_id[strcspn(s->boot_id, "\n")] = '\0';
}

static int listen_on_port(void) {
        _cleanup_(closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(PORT) };
        int on = 1;

        if (fd < 0)
                return -errno;
        if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
            bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 128) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static connection *find_free(server *s) {
        for (size_t i = 0; i < CONNECTIONS_MAX; i++)
                if (s->connections[i].fd < 0)
                        return &s->connections[i];
        return NULL;
}

static void accept_one(server *s, int listener) {
        connection *c = find_free(s);
        int fd = c ? accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC) : -1;
        int on = 1;

        if (fd < 0)
                return;
        /* Answers are one write each; a client measures how long they take. */
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        /* A client that went away silently gives its place back. */
        (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
        c->fd = fd;
        c->closing = false;
        c->n_in = 0;
        c->n_out = 0;
}

static void step(server *s, int listener) {
        struct pollfd polled[CONNECTIONS_MAX + 1];

        /* poll passes over negative descriptors. */
        for (size_t i = 0; i < CONNECTIONS_MAX; i++)
                polled[i] = (struct pollfd){ .fd = s->connections[i].fd,
                                             .events = connection_events(&s->connections[i]) };
        polled[CONNECTIONS_MAX] =
                (struct pollfd){ .fd = find_free(s) ? listener : -1, .events = POLLIN };
        if (poll(polled, CONNECTIONS_MAX + 1, -1) < 0)
                return;
        for (size_t i = 0; i < CONNECTIONS_MAX; i++)
                if (polled[i].revents != 0 && !connection_process(&s->connections[i], answer, s))
                        s->connections[i].fd = fd_close(s->connections[i].fd);
        if (polled[CONNECTIONS_MAX].revents != 0)
                accept_one(s, listener);
}

int server_run(memory_state *memory) {
        _cleanup_(freep) server *s = calloc(1, sizeof(*s));
        _cleanup_(closep) int listener = -EBADF;

        if (!s)
                return -ENOMEM;
        s->memory = memory;
        for (size_t i = 0; i < CONNECTIONS_MAX; i++)
                s->connections[i].fd = -EBADF;
        read_boot_id(s);
        listener = listen_on_port();
        if (listener < 0)
                return listener;
        (void)printf("ferry-guest: ready\n");
        (void)fflush(stdout);
        for (;;)
                step(s, listener);
}
