/* SPDX-License-Identifier: MIT */
#include "base/pump.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/thread.h"

#define PIPE_SIZE (1 << 20)

/* One way. */
typedef struct stream {
        int from, to, pipe[2];
        size_t held; /* in the pipe */
        bool ended;  /* nothing more comes */
        bool done;   /* and all of it has gone on */
} stream;

struct pump {
        stream ways[2];
        pthread_t thread;
};

/* False: the connection is broken. */
static bool take(stream *w) {
        ssize_t n = splice(w->from, NULL, w->pipe[1], NULL, PIPE_SIZE,
                           SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

        if (n < 0)
                return errno == EAGAIN || errno == EINTR;
        w->held += (size_t)n;
        w->ended = n == 0;
        return true;
}

static bool give(stream *w) {
        /* without SPLICE_F_MORE: TCP would keep the end of an answer back for 200 ms */
        ssize_t n =
                splice(w->pipe[0], NULL, w->to, NULL, w->held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

        if (n < 0)
                return errno == EAGAIN || errno == EINTR;
        w->held -= (size_t)n;
        return true;
}

/* What is held goes on before more is taken: a socket that is full holds up the one before it. */
static struct pollfd wanted(const stream *w) {
        if (w->done)
                return (struct pollfd){ .fd = -1 };
        return w->held > 0 ? (struct pollfd){ .fd = w->to, .events = POLLOUT }
                           : (struct pollfd){ .fd = w->from, .events = POLLIN };
}

static bool step(stream *w) {
        if (w->held > 0 ? !give(w) : !take(w))
                return false;
        if (w->ended && w->held == 0) {
                (void)shutdown(w->to, SHUT_WR);
                w->done = true;
        }
        return true;
}

static void *run(void *userdata) {
        pump *p = userdata;
        bool whole = true;

        while (whole && !(p->ways[0].done && p->ways[1].done)) {
                struct pollfd fds[2] = { wanted(&p->ways[0]), wanted(&p->ways[1]) };

                if (poll(fds, ELEMENTS(fds), -1) < 0)
                        whole = errno == EINTR;
                else
                        for (size_t i = 0; whole && i < ELEMENTS(fds); i++)
                                whole = !fds[i].revents || step(&p->ways[i]);
        }
        (void)shutdown(p->ways[0].from, SHUT_RDWR);
        (void)shutdown(p->ways[0].to, SHUT_RDWR);
        return NULL;
}

static void close_all(pump *p) {
        for (size_t i = 0; i < ELEMENTS(p->ways); i++) {
                fd_close(p->ways[i].pipe[0]);
                fd_close(p->ways[i].pipe[1]);
        }
        fd_close(p->ways[0].from);
        fd_close(p->ways[0].to);
        free(p);
}

int pump_start(int a_consume, int b_consume, pump **ret) {
        pump *p = malloc(sizeof(*p));
        int r = 0;

        if (!p) {
                fd_close(a_consume);
                fd_close(b_consume);
                return -ENOMEM;
        }
        *p = (pump){ .ways = {
                             { .from = a_consume, .to = b_consume, .pipe = { -EBADF, -EBADF } },
                             { .from = b_consume, .to = a_consume, .pipe = { -EBADF, -EBADF } } } };
        for (size_t i = 0; r == 0 && i < ELEMENTS(p->ways); i++) {
                if (pipe2(p->ways[i].pipe, O_CLOEXEC | O_NONBLOCK) < 0)
                        r = -errno;
                else /* more is faster, less works too */
                        (void)fcntl(p->ways[i].pipe[1], F_SETPIPE_SZ, PIPE_SIZE);
        }
        if (r == 0)
                r = thread_start(&p->thread, run, p);
        if (r < 0) {
                close_all(p);
                return r;
        }
        *ret = p;
        return 0;
}

pump *pump_free(pump *p) {
        if (!p)
                return NULL;
        (void)shutdown(p->ways[0].from, SHUT_RDWR);
        (void)shutdown(p->ways[0].to, SHUT_RDWR);
        (void)pthread_join(p->thread, NULL);
        close_all(p);
        return NULL;
}
