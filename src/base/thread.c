/* SPDX-License-Identifier: MIT */
#include "base/thread.h"

#include <signal.h>
#include <stddef.h>

int thread_start(pthread_t *ret, void *(*run)(void *), void *userdata) {
        sigset_t all, before;
        pthread_t thread;
        int r;

        sigfillset(&all);
        (void)pthread_sigmask(SIG_SETMASK, &all, &before);
        r = pthread_create(ret ? ret : &thread, NULL, run, userdata);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (r == 0 && !ret)
                (void)pthread_detach(thread);
        return -r;
}
