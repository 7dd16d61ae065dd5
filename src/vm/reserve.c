/* SPDX-License-Identifier: MIT */
#include "vm/reserve.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define STEP (16ULL * 1024 * 1024) /* how long free() may have to wait: a few milliseconds */

struct memory_reserve {
        int fd, event_fd;
        uint64_t bytes;
        pthread_t thread;
        atomic_bool stop;
        int result; /* the thread's, read after the event */
        sd_event_source *source;
        memory_reserve_done done;
        void *userdata;
};

static int reserve_all(memory_reserve *m) {
        for (uint64_t at = 0; at < m->bytes && !atomic_load(&m->stop);) {
                uint64_t n = m->bytes - at < STEP ? m->bytes - at : STEP;

                if (fallocate(m->fd, 0, (off_t)at, (off_t)n) < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                at += n;
        }
        return 0;
}

static void *run(void *userdata) {
        memory_reserve *m = userdata;
        uint64_t one = 1;

        m->result = reserve_all(m);
        (void)!write(m->event_fd, &one, sizeof(one));
        return NULL;
}

static int on_event(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        memory_reserve *m = userdata;

        m->source = sd_event_source_disable_unref(m->source);
        m->done(m->result, m->userdata);
        return 0;
}

int memory_reserve_start(sd_event *event, int fd, uint64_t bytes, memory_reserve_done done,
                         void *userdata, memory_reserve **ret) {
        memory_reserve *m = malloc(sizeof(*m));
        sigset_t all, old;
        int r;

        if (!m)
                return -ENOMEM;
        *m = (memory_reserve){
                .fd = fcntl(fd, F_DUPFD_CLOEXEC, 3),
                .event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                .bytes = bytes,
                .done = done,
                .userdata = userdata,
        };
        r = m->fd < 0 || m->event_fd < 0 ? -errno : 0;
        if (r == 0)
                r = sd_event_add_io(event, &m->source, m->event_fd, EPOLLIN, on_event, m);
        if (r >= 0) {
                /* signals are the loop's */
                sigfillset(&all);
                pthread_sigmask(SIG_SETMASK, &all, &old);
                r = -pthread_create(&m->thread, NULL, run, m);
                pthread_sigmask(SIG_SETMASK, &old, NULL);
        }
        if (r < 0) {
                sd_event_source_disable_unref(m->source);
                fd_close(m->fd);
                fd_close(m->event_fd);
                free(m);
                return r;
        }
        *ret = m;
        return 0;
}

memory_reserve *memory_reserve_free(memory_reserve *m) {
        if (!m)
                return NULL;
        atomic_store(&m->stop, true);
        (void)pthread_join(m->thread, NULL);
        sd_event_source_disable_unref(m->source);
        fd_close(m->fd);
        fd_close(m->event_fd);
        free(m);
        return NULL;
}
