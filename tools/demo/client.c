/* SPDX-License-Identifier: MIT */
#include "client.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/netns.h"
#include "http.h"

#define PACE            (5 * USEC_PER_MSEC)
#define ANSWER_TIMEOUT  30 /* seconds */
#define CONNECT_TIMEOUT (5 * USEC_PER_SEC)

struct client {
        pthread_t thread;
        int netns_fd, fd;
        char *address;
        uint16_t port;

        pthread_mutex_t lock; /* what follows */
        bool stop;
        bool has_count;
        uint64_t count;
        client_figures figures;
};

static int open_connection(int netns_fd, const char *address, uint16_t port, int *ret_fd,
                           ferry_error *reterr) {
        const struct timeval limit = { .tv_sec = ANSWER_TIMEOUT };
        int fd, r;

        r = netns_connect(netns_fd, address, port, CONNECT_TIMEOUT, &fd, reterr);
        if (r < 0)
                return r;
        if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0) {
                r = ferry_error_set_errno(reterr, -errno, "client");
                fd_close(fd);
                return r;
        }
        *ret_fd = fd;
        return 0;
}

static bool should_stop(client *c) {
        bool stop;

        pthread_mutex_lock(&c->lock);
        stop = c->stop;
        pthread_mutex_unlock(&c->lock);
        return stop;
}

/* The guest counts every request for /count that it answers: a gap is one whose answer was lost. */
static void note_answer(client *c, uint64_t count, uint64_t took_usec) {
        pthread_mutex_lock(&c->lock);
        c->figures.answered++;
        if (c->has_count && count != c->count + 1)
                c->figures.lost += count > c->count ? count - c->count - 1 : 1;
        c->has_count = true;
        c->count = count;
        if (took_usec > c->figures.longest_stall_usec)
                c->figures.longest_stall_usec = took_usec;
        pthread_mutex_unlock(&c->lock);
}

static void note_broken(client *c, uint64_t took_usec) {
        pthread_mutex_lock(&c->lock);
        c->figures.lost++;
        c->figures.reconnected++;
        c->has_count = false;
        if (took_usec > c->figures.longest_stall_usec)
                c->figures.longest_stall_usec = took_usec;
        pthread_mutex_unlock(&c->lock);
}

/* The thread's alone to change; client_free() looks at it under the lock. */
static void set_fd(client *c, int fd_consume) {
        pthread_mutex_lock(&c->lock);
        fd_close(c->fd);
        c->fd = fd_consume;
        pthread_mutex_unlock(&c->lock);
}

static void ask_once(client *c) {
        uint64_t begin = now_usec();
        json_t *answer = NULL;
        const json_t *count;
        int fd;

        if (c->fd < 0) {
                if (open_connection(c->netns_fd, c->address, c->port, &fd, NULL) < 0)
                        return;
                set_fd(c, fd);
        }
        if (http_get(c->fd, "/count", &answer) == 0 &&
            json_is_integer(count = json_object_get(answer, "count")))
                note_answer(c, (uint64_t)json_integer_value(count), now_usec() - begin);
        else {
                note_broken(c, now_usec() - begin);
                set_fd(c, -EBADF);
        }
        json_decref(answer);
}

static void *run(void *userdata) {
        client *c = userdata;

        while (!should_stop(c)) {
                const struct timespec pace = { .tv_nsec = (long)(PACE * NSEC_PER_USEC) };

                ask_once(c);
                nanosleep(&pace, NULL);
        }
        return NULL;
}

/* Signals are the main thread's. */
static int start_thread(client *c) {
        sigset_t all, before;
        int r;

        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        r = -pthread_create(&c->thread, NULL, run, c);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        return r;
}

int client_new(int netns_fd, const char *address, uint16_t port, client **ret,
               ferry_error *reterr) {
        client *c = calloc(1, sizeof(*c));
        int r;

        if (!c)
                return ferry_error_set_errno(reterr, -ENOMEM, "client");
        c->netns_fd = netns_fd;
        c->port = port;
        c->fd = -EBADF;
        pthread_mutex_init(&c->lock, NULL);
        c->address = strdup(address);
        r = c->address ? open_connection(netns_fd, address, port, &c->fd, reterr)
                       : ferry_error_set_errno(reterr, -ENOMEM, "client");
        if (r == 0) {
                r = start_thread(c);
                if (r < 0)
                        ferry_error_set_errno(reterr, r, "client");
        }
        if (r < 0) {
                fd_close(c->fd);
                pthread_mutex_destroy(&c->lock);
                free(c->address);
                free(c);
                return r;
        }
        *ret = c;
        return 0;
}

client *client_free(client *c) {
        if (!c)
                return NULL;
        pthread_mutex_lock(&c->lock);
        c->stop = true;
        /* An answer that does not come must not hold the clean-up. */
        if (c->fd >= 0)
                (void)shutdown(c->fd, SHUT_RDWR);
        pthread_mutex_unlock(&c->lock);
        pthread_join(c->thread, NULL);
        fd_close(c->fd);
        pthread_mutex_destroy(&c->lock);
        free(c->address);
        free(c);
        return NULL;
}

void client_get(client *c, client_figures *ret) {
        pthread_mutex_lock(&c->lock);
        *ret = c->figures;
        pthread_mutex_unlock(&c->lock);
}

void client_reset(client *c) {
        pthread_mutex_lock(&c->lock);
        c->figures = (client_figures){ 0 };
        pthread_mutex_unlock(&c->lock);
}

int client_get_memory(int netns_fd, const char *address, uint16_t port, guest_memory *ret,
                      ferry_error *reterr) {
        _cleanup_(closep) int fd = -EBADF;
        const json_t *passes, *errors, *bytes;
        json_t *answer = NULL;
        int r;

        r = open_connection(netns_fd, address, port, &fd, reterr);
        if (r == 0) {
                r = http_get(fd, "/memory", &answer);
                if (r < 0)
                        ferry_error_set_errno(reterr, r, "GET /memory");
        }
        if (r < 0)
                return r;
        passes = json_object_get(answer, "passes");
        errors = json_object_get(answer, "errors");
        bytes = json_object_get(answer, "bytes");
        if (json_is_integer(passes) && json_is_integer(errors) && json_is_integer(bytes))
                *ret = (guest_memory){ .passes = (uint64_t)json_integer_value(passes),
                                       .errors = (uint64_t)json_integer_value(errors),
                                       .bytes = (uint64_t)json_integer_value(bytes) };
        else
                r = ferry_error_set(reterr, FERRY_INTERNAL, -EBADMSG, "GET /memory: no figures");
        json_decref(answer);
        return r;
}
