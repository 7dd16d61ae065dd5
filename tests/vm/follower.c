/* SPDX-License-Identifier: MIT */
#include "follower.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "google/protobuf/timestamp.pb-c.h"

#define DEADLINE_MSEC 60000

static uint64_t usec_of(const Google__Protobuf__Timestamp *t) {
        return t ? (uint64_t)t->seconds * USEC_PER_SEC + (uint32_t)t->nanos / NSEC_PER_USEC : 0;
}

static void on_notification(const NotificationsResponse *m, void *userdata) {
        const Notification *n = m->notification;
        follower *f = userdata;
        told *t = &f->told[f->n];

        assert_true(f->n < ELEMENTS(f->told));
        assert_non_null(n);
        if (f->n > 0)
                assert_true(m->message_id > t[-1].id);
        *t = (told){
                .id = m->message_id,
                .origin = n->origin,
                .phase = n->phase,
                .state = n->state,
                .code = n->code,
                .start_usec = usec_of(m->start_time),
                .update_usec = usec_of(m->update_time),
                .has_progress = n->progress != NULL,
        };
        snprintf(t->reason, sizeof(t->reason), "%s", n->reason);
        if (n->progress)
                t->progress = *n->progress;
        if (n->phase_details_case == NOTIFICATION__PHASE_DETAILS_BLACKOUT_EXITED) {
                t->has_blackout = true;
                t->blackout_ms = n->blackout_exited->blackout_duration_milliseconds;
                t->blackout_usec = n->blackout_exited->blackout_duration_microseconds;
                t->blackout_stop_usec = usec_of(n->blackout_exited->blackout_stop_timestamp);
        }
        f->n++;
}

static void on_end(int r, const ttrpc_status *status, void *userdata) {
        follower *f = userdata;

        f->ended = true;
        f->code = r < 0 ? r : status->code;
}

void follower_start(follower *f, pair *p, host *h) {
        NotificationsRequest q = NOTIFICATIONS_REQUEST__INIT;
        char path[128];

        memset(f, 0, sizeof(*f));
        snprintf(path, sizeof(path), "%s/shim.sock", h->dir);
        assert_int_equal(ttrpc_client_connect(path, &f->client), 0);
        q.session_id = p->session;
        assert_int_equal(migration_notifications_start(f->client, &q, NULL, on_notification, on_end,
                                                       f, NULL),
                         0);
}

static void process(follower *f) {
        struct pollfd p = { .fd = ttrpc_client_get_fd(f->client), .events = POLLIN };

        if (poll(&p, 1, DEADLINE_MSEC) != 1)
                fail_msg("nothing more is told after %zu notifications", f->n);
        assert_int_equal(ttrpc_client_process(f->client), 0);
}

const told *follower_find(const follower *f, Phase phase) {
        for (size_t i = 0; i < f->n; i++)
                if (f->told[i].phase == phase)
                        return &f->told[i];
        return NULL;
}

const told *follower_wait(follower *f, Phase phase) {
        const told *t;

        while (!(t = follower_find(f, phase)) && !f->ended)
                process(f);
        if (!t)
                fail_msg("the stream has ended with %d, and phase %d was not told", f->code,
                         (int)phase);
        return t;
}

void follower_wait_end(follower *f) {
        while (!f->ended)
                process(f);
        assert_int_equal(f->code, 0);
}

void follower_leave(follower *f) {
        f->client = ttrpc_client_free(f->client);
}

void follower_catch_up(follower *f, pair *p, host *h, Phase phase) {
        follower_start(f, p, h);
        (void)follower_wait(f, phase);
        follower_leave(f);
}

char *follower_text(const follower *f) {
        char *text = calloc(1, 64 * (f->n + 1));
        size_t n = 0;

        assert_non_null(text);
        for (size_t i = 0; i < f->n; i++) {
                const told *t = &f->told[i];
                const ProtobufCEnumValue *phase =
                        protobuf_c_enum_descriptor_get_value(&phase__descriptor, (int)t->phase);
                const ProtobufCEnumValue *state = protobuf_c_enum_descriptor_get_value(
                        &phase_state__descriptor, (int)t->state);

                if (t->phase == PHASE__PHASE_TRANSFER_IN_PROGRESS)
                        continue;
                assert_true(phase && state);
                n += (size_t)sprintf(text + n, "%s%s/%s", n ? " " : "",
                                     phase->name + strlen("PHASE_"),
                                     state->name + strlen("PHASE_STATE_"));
        }
        return text;
}

void assert_told_the_same(const told *a, const told *b) {
        assert_int_equal(a->id, b->id);
        assert_int_equal(a->origin, b->origin);
        assert_int_equal(a->phase, b->phase);
        assert_int_equal(a->state, b->state);
        assert_int_equal(a->code, b->code);
        assert_string_equal(a->reason, b->reason);
        assert_int_equal(a->update_usec, b->update_usec);
        assert_int_equal(a->has_progress, b->has_progress);
        assert_int_equal(a->progress.bytes_sent, b->progress.bytes_sent);
        assert_int_equal(a->blackout_usec, b->blackout_usec);
}
