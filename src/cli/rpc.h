/* SPDX-License-Identifier: MIT */
#pragma once

/* Calls to shims that a person waits for: each call runs the loop of its group until the answer has
 * come, so that a verb reads from top to bottom, while streams of all connections of the group go
 * on being delivered and Ctrl-C is heard.
 *
 * Errors: what the shim answered has its gRPC code and text; a connection that is gone is
 * FERRY_UNAVAILABLE, no answer in time FERRY_DEADLINE_EXCEEDED: the shim may still do it. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <protobuf-c/protobuf-c.h>

#include "base/cleanup.h"
#include "base/error.h"

typedef struct rpc rpc;
typedef struct rpc_group rpc_group;

/* From here on SIGINT, SIGTERM and SIGHUP are read by the group and end nothing by themselves. */
int rpc_group_new(rpc_group **ret, ferry_error *reterr);
/* Closes its connections first. */
rpc_group *rpc_group_free(rpc_group *group);

/* The first signal that came to any group of this process, or 0. */
int rpc_get_signal(void);
/* From here on one more signal ends no call and no wait, for what must be finished: it only prints
 * `what` ("rolling back") and that another one gives up. That one ends them again. */
void rpc_group_set_deaf(rpc_group *group, const char *what);
/* It came. */
bool rpc_group_has_given_up(const rpc_group *group);

/* Handles what comes until `until_usec` (now_usec()'s clock), or less: returns after each thing
 * that was handled. FERRY_CANCELLED after a signal. */
int rpc_group_wait(rpc_group *group, uint64_t until_usec, ferry_error *reterr);

/* `label` is for messages: "the source's shim". Closed with rpc_close() or with its group. */
int rpc_open(rpc_group *group, const char *socket_path, const char *label, rpc **ret,
             ferry_error *reterr);
rpc *rpc_close(rpc *connection);
bool rpc_is_open(const rpc *connection);
const char *rpc_get_label(const rpc *connection);
/* The QEMU that this shim drives, for messages about a call that takes long; 0: not known. */
void rpc_set_qemu(rpc *connection, pid_t pid);
/* The person was told so, and it has not answered since. */
bool rpc_is_silent(const rpc *connection);
/* Nothing came for `usec`, no answer to `method`, or no news (NULL): says on stderr which process
 * stands still, where that can be seen. Once, until it answers again. */
void rpc_explain_silence(rpc *connection, const char *method, uint64_t usec);

/* `*ret`: free with protobuf_c_message_free_unpacked(). May be NULL when nobody looks. */
int rpc_call(rpc *connection, const ProtobufCServiceDescriptor *service, const char *method,
             const ProtobufCMessage *request, uint64_t timeout_usec, ProtobufCMessage **ret,
             ferry_error *reterr);

/* Whether an error of rpc_call() is the shim's own answer, so that it is known not to have done it.
 * False where that cannot be told. */
bool rpc_was_refused(const ferry_error *error);

/* A message of the stream, borrowed. */
typedef void (*rpc_on_message)(const ProtobufCMessage *message, void *userdata);
/* The stream ended: error->code is FERRY_OK when the shim ended it in good order. Once, unless the
 * connection is closed first. */
typedef void (*rpc_on_end)(const ferry_error *error, void *userdata);

/* One stream a connection. */
int rpc_stream(rpc *connection, const ProtobufCServiceDescriptor *service, const char *method,
               const ProtobufCMessage *request, rpc_on_message on_message, rpc_on_end on_end,
               void *userdata, ferry_error *reterr);

static inline void message_freep(void *p) {
        ProtobufCMessage *message = *(ProtobufCMessage **)p;

        if (message)
                protobuf_c_message_free_unpacked(message, NULL);
}

DEFINE_CLEANUP(rpc *, rpc_close)
DEFINE_CLEANUP(rpc_group *, rpc_group_free)
