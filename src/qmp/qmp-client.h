/* SPDX-License-Identifier: MIT */
#pragma once

/* A QMP client over one connected unix socket, driven by sd-event, one thread.
 *
 * Bytes are written at once when the socket takes them and a reply or an event is dispatched the
 * moment its line is complete: the blackout of a migration runs through here.
 *
 * "QEMU refused" is not "QEMU is gone". A reply handler gets both answers apart:
 *   r == 0, error NULL    QEMU did it, `value` is its "return" (borrowed, never NULL)
 *   r == 0, error set     QEMU is alive and refused; nothing is known to have changed
 *   r == -ETIMEDOUT       no answer in time; QEMU may still do it, a late answer is dropped
 *   r == -ENOTCONN        the connection ended; whether QEMU did it is unknown
 *   r == -ECANCELED       qmp_client_close() was called; likewise unknown
 * It is called exactly once for each invoke that returned 0, and never from inside the invoke.
 *
 * A peer that breaks the protocol (bad JSON, a line over QMP_LINE_MAX, nesting over QMP_DEPTH_MAX,
 * an answer to a question never asked) is disconnected. */

#include <stdint.h>

#include <jansson.h>
#include <systemd/sd-event.h>

#include "base/cleanup.h"

#define QMP_LINE_MAX  (8U * 1024 * 1024)
#define QMP_DEPTH_MAX 64U

typedef struct qmp_client qmp_client;

/* What QEMU said when it refused: its error class ("GenericError", "CommandNotFound"...) and
 * text. Never NULL, borrowed. */
typedef struct qmp_error {
        const char *class_name;
        const char *description;
} qmp_error;

typedef struct qmp_event {
        const char *name;
        const json_t *data;    /* an object, empty when the event has none; never NULL */
        uint64_t qemu_usec;    /* QEMU's stamp, CLOCK_REALTIME; 0 when absent */
        uint64_t arrival_usec; /* when its bytes were read here, CLOCK_MONOTONIC */
} qmp_event;

typedef struct qmp_version {
        unsigned major, minor, micro;
        const char *package; /* e.g. "Debian 1:7.2+dfsg-7"; may be "" */
} qmp_version;

typedef void (*qmp_reply_handler)(qmp_client *client, int r, const json_t *value,
                                  const qmp_error *error, void *userdata);

/* All may be NULL. Each may close the client. */
typedef struct qmp_client_handlers {
        /* Greeting and qmp_capabilities are done: invoke may be used. Once. */
        void (*on_ready)(qmp_client *client, const qmp_version *version, void *userdata);
        void (*on_event)(qmp_client *client, const qmp_event *event, void *userdata);
        /* The connection is dead, all pending replies were given. Once, not after close().
         * r: -ENOTCONN (EOF or I/O error), -EPROTO (peer broke the protocol), -ETIMEDOUT (no
         * handshake in time), -ENOMEM. */
        void (*on_disconnect)(qmp_client *client, int r, const char *reason, void *userdata);
} qmp_client_handlers;

/* Takes `fd_consume` on every path. The handshake starts at once; on_ready or on_disconnect
 * follows within `handshake_timeout_usec` (USEC_INFINITY: no limit). `handlers` is copied. */
int qmp_client_new(sd_event *event, int fd_consume, uint64_t handshake_timeout_usec,
                   const qmp_client_handlers *handlers, void *userdata, qmp_client **ret);

/* Ends it: pending replies are given -ECANCELED, no handler runs after return, memory goes when
 * no handler is on the stack any more. Legal from any handler. NULL is fine; returns NULL. */
qmp_client *qmp_client_close(qmp_client *client);

/* Sends a command. `arguments_consume` may be NULL; its reference is taken on every path.
 * `timeout_usec` counts from now, USEC_INFINITY for none. `reply` may be NULL.
 * Commands are answered in the order they were sent; many may be under way.
 * -EBUSY before on_ready, -ENOTCONN once dead, -EINVAL, -ENOMEM: then `reply` is not called. */
int qmp_client_invoke(qmp_client *client, const char *command, json_t *arguments_consume,
                      uint64_t timeout_usec, qmp_reply_handler reply, void *userdata);

/* The same with an fd attached (getfd, add-fd), taken on every path and closed once sent. QEMU
 * keeps only the newest fd it received, so a second such command, and what follows it, waits in
 * our queue until the first is answered. */
int qmp_client_invoke_fd(qmp_client *client, const char *command, json_t *arguments_consume,
                         int fd_consume, uint64_t timeout_usec, qmp_reply_handler reply,
                         void *userdata);

/* Out of band, where QEMU offers that: it is answered although QEMU's main loop does not run, and
 * may overtake what was sent before. QEMU takes few commands so; see QAPI's allow-oob. */
int qmp_client_invoke_oob(qmp_client *client, const char *command, json_t *arguments_consume,
                          uint64_t timeout_usec, qmp_reply_handler reply, void *userdata);

/* NULL before on_ready. */
const qmp_version *qmp_client_get_version(const qmp_client *client);

DEFINE_CLEANUP(qmp_client *, qmp_client_close)
