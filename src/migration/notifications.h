/* SPDX-License-Identifier: MIT */
#pragma once

/* The history of one session and the subscribers that follow it.
 *
 * Every change of phase is kept; of consecutive progress only the newest. A subscriber gets the
 * history in order, then what follows. One that does not read loses coalesced progress only:
 * its place is a message id, and it is fed when it has room. */

#include <stdbool.h>
#include <stdint.h>

#include "migration.pb-c.h"

typedef struct notifications notifications;
typedef struct subscriber subscriber;

typedef struct notification_entry {
        uint32_t message_id;
        uint64_t update_usec; /* realtime */
        Origin origin;
        Phase phase;
        PhaseState state;
        bool has_progress;
        Progress progress;
        bool has_blackout;
        uint64_t blackout_usec;
        uint64_t blackout_stop_usec; /* realtime */
        char *reason;                /* owned; NULL: none */
        int32_t code;
} notification_entry;

/* Hands one entry to a subscriber's stream: 1 taken, 0 no room now (subscriber_feed() when there
 * is), a negative errno when the stream is dead (no call follows). */
typedef int (*subscriber_send)(const notification_entry *entry, uint64_t start_usec,
                               void *userdata);
/* The session is over and everything was delivered: end the stream. Called once. */
typedef void (*subscriber_end)(void *userdata);

int notifications_new(Origin origin, notifications **ret);

/* Ends every stream once it has what is left, then frees itself. NULL is fine. */
notifications *notifications_close(notifications *n);

void notifications_set_origin(notifications *n, Origin origin);
size_t notifications_n_subscribers(const notifications *n);
void notifications_set_start(notifications *n, uint64_t realtime_usec);
uint64_t notifications_start(const notifications *n);

/* For a session that another shim began: its ids go on far above those (which may be remembered, to
 * drop what was had before), by a clock that is faster than they are. */
void notifications_continue(notifications *n);

/* Appends; id, origin and time are filled in; `entry->reason` is copied, if there is memory.
 * -ENOSPC when the history is full (a session has far fewer phases than that, and the last places
 * are for what ends it). */
int notifications_publish(notifications *n, const notification_entry *entry);

/* DONE or FAILED: what comes behind it is how the rollback or the handover went. */
bool notification_is_terminal(const notification_entry *entry);

/* -ENOSPC beyond 1024 subscribers. Feeds at once. */
int notifications_subscribe(notifications *n, subscriber_send send, subscriber_end end,
                            void *userdata, subscriber **ret);
void subscriber_feed(subscriber *s);
/* The stream died: no callback follows. NULL is fine. */
subscriber *subscriber_free(subscriber *s);

const char *notification_phase_name(Phase phase);      /* "SETUP_DONE" */
const char *notification_state_name(PhaseState state); /* "SUCCESS" */
