/* SPDX-License-Identifier: MIT */
#pragma once

/* A guest process's standard streams and what is at their other ends here: pipes, FIFOs, sockets.
 * A byte counts as delivered when the descriptor has taken it. */

#include <stdint.h>

#include "guestlink/port.h"

#define GUEST_STDIO_BUFFER 65536U  /* of what goes to the guest */
#define GUEST_STDIO_WINDOW 262144U /* of what comes */

typedef struct guest_stdio guest_stdio;

typedef struct guest_stdio_spec {
        uint32_t stream;  /* and the next, for standard error */
        int in, out, err; /* taken on every path, made non-blocking; -EBADF: none. What can't be
                           * polled (a regular file) is -EPERM */
        /* each of channel_keep_size(GUEST_STDIO_BUFFER), or NULL: what lets another process go on
         * with these streams */
        channel_keep *keep[2];
        bool has_err; /* false: a terminal, which has no standard error of its own */
} guest_stdio_spec;

/* Also takes over streams that another process had (spec->keep): follow with
 * guest_port_resume(). `on_end`: the guest has closed its output, and all of it was delivered (or
 * nobody takes it any more). Called once, from the loop; may free. */
int guest_stdio_new(guest_port *streams, sd_event *event, const guest_stdio_spec *spec,
                    void (*on_end)(guest_stdio *s, void *userdata), void *userdata,
                    guest_stdio **ret);
guest_stdio *guest_stdio_free(guest_stdio *s);

/* Standard input ends after what was read so far, whatever the descriptor still has. */
void guest_stdio_close_in(guest_stdio *s);

/* Nothing is taken from the descriptors or given to them, until guest_stdio_thaw(). */
void guest_stdio_freeze(guest_stdio *s);
void guest_stdio_thaw(guest_stdio *s);

DEFINE_CLEANUP(guest_stdio *, guest_stdio_free)
