/* SPDX-License-Identifier: MIT */
#include "migration/notifications.h"

#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"

/* A session has some twenty entries. Progress leaves the last ones to phases, and these the very
 * last to what ends it: none of that is lost for want of room, or of memory, which is taken at the
 * beginning. */
#define HISTORY_MAX     256
#define FOR_PHASES      64
#define FOR_ENDS        8
#define SUBSCRIBERS_MAX 1024

struct subscriber {
        notifications *owner;
        subscriber *next;
        uint32_t next_id; /* what it gets next */
        bool feeding;
        bool dead;
        subscriber_send send;
        subscriber_end end;
        void *userdata;
};

struct notifications {
        Origin origin;
        uint64_t start_usec;
        uint32_t last_id;
        notification_entry entries[HISTORY_MAX]; /* ascending ids, with gaps where progress was
                                                  * coalesced */
        size_t n_entries;
        subscriber *subscribers;
        size_t n_subscribers;
        subscriber *to_feed; /* of the round under way: the next */
        unsigned n_pins;     /* rounds under way: nobody frees us under them */
        bool closing;
};

int notifications_new(Origin origin, notifications **ret) {
        notifications *n = calloc(1, sizeof(*n));

        if (!n)
                return -ENOMEM;
        n->origin = origin;
        *ret = n;
        return 0;
}

static void notifications_free(notifications *n) {
        for (size_t i = 0; i < n->n_entries; i++)
                free(n->entries[i].reason);
        free(n);
}

static void subscriber_unlink(subscriber *s) {
        notifications *n = s->owner;

        if (n->to_feed == s)
                n->to_feed = s->next;
        for (subscriber **at = &n->subscribers; *at; at = &(*at)->next)
                if (*at == s) {
                        *at = s->next;
                        n->n_subscribers--;
                        break;
                }
}

/* The first entry that is not older than `id`; NULL when it has everything. */
static const notification_entry *find(const notifications *n, uint32_t id) {
        size_t low = 0, high = n->n_entries;

        while (low < high) {
                size_t middle = (low + high) / 2;

                if (n->entries[middle].message_id < id)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low < n->n_entries ? &n->entries[low] : NULL;
}

static void subscriber_finish(subscriber *s, bool call_end) {
        notifications *n = s->owner;

        subscriber_unlink(s);
        if (call_end)
                s->end(s->userdata);
        free(s);
        if (n->closing && !n->subscribers && n->n_pins == 0)
                notifications_free(n);
}

void subscriber_feed(subscriber *s) {
        if (s->feeding)
                return;
        s->feeding = true; /* a send may report room at once and come back here */
        while (!s->dead) {
                const notification_entry *entry = find(s->owner, s->next_id);
                uint32_t id;
                int r;

                if (!entry)
                        break;
                id = entry->message_id;
                r = s->send(entry, s->owner->start_usec, s->userdata);
                if (r < 0)
                        s->dead = true;
                if (r <= 0)
                        break;
                s->next_id = id + 1;
        }
        s->feeding = false;
        if (s->dead)
                subscriber_finish(s, false);
        else if (s->owner->closing && !find(s->owner, s->next_id))
                subscriber_finish(s, true);
}

subscriber *subscriber_free(subscriber *s) {
        if (!s)
                return NULL;
        s->dead = true;
        if (!s->feeding)
                subscriber_finish(s, false);
        return NULL;
}

/* A callback may end any subscriber, or begin a round of its own, which feeds all and leaves
 * nothing to the one outside of it. */
static void feed_all(notifications *n) {
        subscriber *s;

        n->n_pins++;
        n->to_feed = n->subscribers;
        while ((s = n->to_feed)) {
                n->to_feed = s->next;
                subscriber_feed(s);
        }
        n->n_pins--;
        if (n->closing && !n->subscribers && n->n_pins == 0)
                notifications_free(n);
}

notifications *notifications_close(notifications *n) {
        if (n) {
                n->closing = true;
                feed_all(n);
        }
        return NULL;
}

void notifications_set_origin(notifications *n, Origin origin) {
        n->origin = origin;
}

size_t notifications_n_subscribers(const notifications *n) {
        return n->n_subscribers;
}

void notifications_set_start(notifications *n, uint64_t realtime_usec) {
        n->start_usec = realtime_usec;
}

void notifications_continue(notifications *n) {
        /* the upper half is for those alone; milliseconds, since a new shim tells a few at once */
        n->last_id = UINT32_C(1) << 31 | (uint32_t)(wall_usec() >> 10);
}

uint64_t notifications_start(const notifications *n) {
        return n->start_usec;
}

static bool is_progress(const notification_entry *e) {
        return e->phase == PHASE__PHASE_TRANSFER_IN_PROGRESS;
}

bool notification_is_terminal(const notification_entry *e) {
        return e->phase == PHASE__PHASE_DONE || e->phase == PHASE__PHASE_FAILED;
}

static size_t room_for(const notification_entry *e) {
        if (is_progress(e))
                return HISTORY_MAX - FOR_PHASES;
        if (notification_is_terminal(e) || e->phase == PHASE__PHASE_RECOVERY_DONE)
                return HISTORY_MAX;
        return HISTORY_MAX - FOR_ENDS;
}

int notifications_publish(notifications *n, const notification_entry *entry) {
        notification_entry *slot;

        if (n->closing)
                return 0;
        if (n->n_entries > 0 && is_progress(entry) && is_progress(&n->entries[n->n_entries - 1])) {
                slot = &n->entries[n->n_entries - 1];
                free(slot->reason);
        } else {
                if (n->n_entries >= room_for(entry))
                        return -ENOSPC;
                slot = &n->entries[n->n_entries++];
        }
        *slot = *entry;
        /* without its reason rather than not at all */
        slot->reason = entry->reason ? strdup(entry->reason) : NULL;
        slot->message_id = ++n->last_id;
        slot->origin = n->origin;
        slot->update_usec = wall_usec();
        feed_all(n);
        return 0;
}

int notifications_subscribe(notifications *n, subscriber_send send, subscriber_end end,
                            void *userdata, subscriber **ret) {
        subscriber *s;

        if (n->n_subscribers >= SUBSCRIBERS_MAX)
                return -ENOSPC;
        s = malloc(sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (subscriber){
                .owner = n,
                .next = n->subscribers,
                .next_id = 1,
                .send = send,
                .end = end,
                .userdata = userdata,
        };
        n->subscribers = s;
        n->n_subscribers++;
        *ret = s;
        subscriber_feed(s);
        return 0;
}

const char *notification_phase_name(Phase phase) {
        static const char *const names[] = {
                [PHASE__PHASE_UNSPECIFIED] = "UNSPECIFIED",
                [PHASE__PHASE_SETUP_DONE] = "SETUP_DONE",
                [PHASE__PHASE_TRANSFER_IN_PROGRESS] = "TRANSFER_IN_PROGRESS",
                [PHASE__PHASE_BLACKOUT_STARTED] = "BLACKOUT_STARTED",
                [PHASE__PHASE_OFFLINE_DONE] = "OFFLINE_DONE",
                [PHASE__PHASE_BLACKOUT_EXITED] = "BLACKOUT_EXITED",
                [PHASE__PHASE_DONE] = "DONE",
                [PHASE__PHASE_RECOVERY_DONE] = "RECOVERY_DONE",
                [PHASE__PHASE_FAILED] = "FAILED",
        };

        return (size_t)phase < ELEMENTS(names) ? names[phase] : "UNSPECIFIED";
}

const char *notification_state_name(PhaseState state) {
        static const char *const names[] = {
                [PHASE_STATE__PHASE_STATE_UNSPECIFIED] = "UNSPECIFIED",
                [PHASE_STATE__PHASE_STATE_SUCCESS] = "SUCCESS",
                [PHASE_STATE__PHASE_STATE_CANCELLED] = "CANCELLED",
                [PHASE_STATE__PHASE_STATE_GUEST_INITIATED_CANCELLATION] =
                        "GUEST_INITIATED_CANCELLATION",
                [PHASE_STATE__PHASE_STATE_SOURCE_FAILED] = "SOURCE_FAILED",
                [PHASE_STATE__PHASE_STATE_DESTINATION_FAILED] = "DESTINATION_FAILED",
                [PHASE_STATE__PHASE_STATE_RECOVERY_FAILED] = "RECOVERY_FAILED",
        };

        return (size_t)state < ELEMENTS(names) ? names[state] : "UNSPECIFIED";
}
