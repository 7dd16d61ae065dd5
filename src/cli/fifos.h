/* SPDX-License-Identifier: MIT */
#pragma once

/* Three FIFOs in a folder of their own, between us and a shim that runs a program for us. */

#include "base/error.h"

typedef struct fifos {
        char folder[48];
        char paths[3][64]; /* of standard input, output, error */
        int fds[3];        /* our ends, non-blocking */
} fifos;

#define FIFOS_INIT ((fifos){ .fds = { -EBADF, -EBADF, -EBADF } })

/* `n`: 3, or 2 for a terminal. On failure nothing is left. */
int fifos_make(size_t n, fifos *ret, ferry_error *reterr);
void fifos_done(fifos *f);
