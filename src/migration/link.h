/* SPDX-License-Identifier: MIT */
#pragma once

/* The shims' side of the migration socket (docs/handover.md): framed messages before and after
 * QEMU's stream, and the hello that proves who is at the other end.
 *
 * A frame: u32be 0x46455259 ("FERY"), u32be length, a ferry.handover.v1.Message. It is read to
 * the byte, never beyond: what follows may be QEMU's. While QEMU has the socket (mig_link_pause)
 * nothing is read. */

#include <systemd/sd-event.h>

#include "base/digest.h"
#include "base/error.h"
#include "handover.pb-c.h"
#include "tls/kind.h"

#define MIG_LINK_MESSAGE_MAX 65536U

typedef struct mig_link mig_link;
typedef Ferry__Handover__V1__Message mig_message;

typedef struct mig_link_identity {
        bool source;
        const char *session_id;
        uint8_t secret[DIGEST_SIZE];
        uint8_t state_digest[DIGEST_SIZE];
        const uint8_t *options; /* serialized; both sides must have the same */
        size_t n_options;
        uint32_t relay_version; /* 0: no relay */
        uint32_t channel;       /* 0: the handover's */
        tls_kind encryption;    /* then all of it, the hello too, is under TLS */
        /* The memory went over an earlier connection; digest and options may be forgotten. */
        bool settled_before;
} mig_link_identity;

typedef struct mig_link_handlers {
        /* The peer proved that it is the other side of this session. Reading is paused. */
        void (*on_greeted)(void *userdata);
        /* One after the other, borrowed. May call anything, mig_link_free() too. */
        void (*on_message)(const mig_message *message, void *userdata);
        /* EOF, an error, or something that is not our protocol. Once; the link is dead. */
        void (*on_broken)(const char *reason, void *userdata);
} mig_link_handlers;

/* `fd_consume` is a connected stream socket. */
int mig_link_new(sd_event *event, int fd_consume, const mig_link_handlers *handlers, void *userdata,
                 mig_link **ret);

/* Sends our hello and waits for the peer's. What `identity` points to is copied. */
int mig_link_greet(mig_link *l, const mig_link_identity *identity, ferry_error *reterr);
/* Why what is under it broke; NULL: not known. The caller frees. */
char *mig_link_get_problem(mig_link *l);

void mig_link_pause(mig_link *l);
void mig_link_listen(mig_link *l);

/* The connection is a relay's, which carries the messages as well: they go over `fd_consume`, its
 * peer is the relay's. What was queued for the connection must be gone: -EBUSY. */
int mig_link_divert(mig_link *l, int fd_consume);
/* Of the peer's hello: 0 when it asks for no relay. */
uint32_t mig_link_get_peer_relay(const mig_link *l);

/* The connection is a relay's: nothing is read, and what is sent waits, until the release. */
void mig_link_hold(mig_link *l);
void mig_link_release(mig_link *l);

/* Queues what does not fit. -ENOTCONN once dead. */
int mig_link_send(mig_link *l, const mig_message *message);

/* As the kernel has it; 0: not known, or no TCP. */
uint64_t mig_link_round_trip_usec(const mig_link *l);

/* Another figure each time that the peer has taken something since, whoever sent it. */
uint64_t mig_link_moved(const mig_link *l);
/* Whether anything of what was sent has not been taken yet. */
bool mig_link_waits(const mig_link *l);

/* A duplicate for QEMU. */
int mig_link_dup(const mig_link *l, int *ret_fd);

/* Ends the connection for everybody who holds it, QEMU included. */
void mig_link_shutdown(mig_link *l);
mig_link *mig_link_free(mig_link *l);
