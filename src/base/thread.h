/* SPDX-License-Identifier: MIT */
#pragma once

#include <pthread.h>

/* A thread that gets no signal: those are the event loop's. `ret` NULL: detached. Negative errno.
 */
int thread_start(pthread_t *ret, void *(*run)(void *), void *userdata);
