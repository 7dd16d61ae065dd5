/* SPDX-License-Identifier: MIT */
#pragma once

/* Somebody between the two hosts, who passes on what each says to the other, or something else. */

#include <pthread.h>

#include "harness.h"

typedef struct middle {
        /* May change the bytes, which are the source's or the destination's. */
        void (*look)(uint8_t *data, size_t n, bool of_source, void *userdata);
        void *userdata;
        int a, b;
        pthread_t thread;
} middle;

/* Its ends towards the hosts are theirs to be given: `socket` of both. */
void middle_connect(middle *m, pair *p, host *source);
/* A new session whose connection goes through it, up to both transfers. */
void middle_start(middle *m, pair *p);
/* Cuts the connection for both. */
void middle_cut(middle *m);
/* When either side has closed its connection. */
void middle_end(middle *m);
