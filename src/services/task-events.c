/* SPDX-License-Identifier: MIT */
#include "services/task-events.h"

#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "events.pb-c.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "ttrpc/ttrpc-sd-event.h"

#define SERVICE    "containerd.services.events.ttrpc.v1.Events"
#define METHOD     "Forward"
#define QUEUE_MAX  1024U
#define CALL_USEC  (10 * USEC_PER_SEC)
#define RETRY_USEC (1 * USEC_PER_SEC)
#define TRIES_MAX  30U /* then containerd has gone for good, or does not want this one */

typedef struct item {
        struct item *next;
        uint8_t *data;
        size_t n;
        unsigned tries;
} item;

struct task_events {
        sd_event *event;
        char *address, *namespace;
        ttrpc_client *client;
        ttrpc_attachment *attachment;
        sd_event_source *again; /* sends, from the loop */
        item *first, **end;
        size_t n;
        bool under_way;
};

static void drop_first(task_events *e) {
        item *i = e->first;

        e->first = i->next;
        if (!e->first)
                e->end = &e->first;
        e->n--;
        free(i->data);
        free(i);
}

static void disconnect(task_events *e) {
        e->attachment = ttrpc_attachment_free(e->attachment);
        e->client = ttrpc_client_free(e->client);
}

static void send_in(task_events *e, uint64_t usec) {
        (void)sd_event_source_set_time_relative(e->again, usec);
        (void)sd_event_source_set_enabled(e->again, SD_EVENT_ONESHOT);
}

/* One after the other, so that they arrive in order. */
static void on_reply(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                     void *userdata) {
        task_events *e = userdata;

        e->under_way = false;
        if (r == 0 && status->code != TTRPC_OK)
                log_warning("containerd refused an event: %s", status->message);
        if (r == 0 || ++e->first->tries >= TRIES_MAX)
                drop_first(e);
        if (e->first)
                send_in(e, r == 0 ? 0 : RETRY_USEC);
}

static int try_to_send(task_events *e) {
        const ttrpc_call_options options = { .timeout_usec = CALL_USEC };
        int r = 0;

        /* one that is dead says so at its next call only: each burst has its own */
        if (!e->client)
                r = ttrpc_client_connect(e->address, &e->client);
        if (r == 0 && !e->attachment)
                r = ttrpc_client_attach_event(e->client, e->event, &e->attachment);
        if (r == 0)
                r = ttrpc_client_call(e->client, SERVICE, METHOD, e->first->data, e->first->n,
                                      &options, on_reply, e, NULL);
        return r;
}

static int on_again(sd_event_source *source, uint64_t usec, void *userdata) {
        task_events *e = userdata;
        int r;

        if (!e->first || e->under_way)
                return 0;
        if (e->first->tries > 0)
                disconnect(e);
        e->under_way = true;
        r = try_to_send(e);
        if (r == 0)
                return 0;
        e->under_way = false;
        disconnect(e);
        if (++e->first->tries >= TRIES_MAX) {
                log_warning("containerd is not there: an event is lost");
                drop_first(e);
        }
        if (e->first)
                send_in(e, RETRY_USEC);
        return 0;
}

int task_events_new(sd_event *event, const char *address, const char *namespace_,
                    task_events **ret) {
        _cleanup_(task_events_freep) task_events *e = calloc(1, sizeof(*e));
        int r;

        if (!e)
                return -ENOMEM;
        e->end = &e->first;
        e->event = sd_event_ref(event);
        e->address = strdup(strncmp(address, "unix://", 7) == 0 ? address + 7 : address);
        e->namespace = strdup(namespace_);
        if (!e->address || !e->namespace)
                return -ENOMEM;
        r = sd_event_add_time_relative(event, &e->again, CLOCK_MONOTONIC, 0, TIMER_ACCURACY_USEC,
                                       on_again, e);
        if (r >= 0)
                r = sd_event_source_set_enabled(e->again, SD_EVENT_OFF);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(e);
        return 0;
}

task_events *task_events_free(task_events *e) {
        if (!e)
                return NULL;
        disconnect(e); /* ends the call that is under way */
        while (e->first)
                drop_first(e);
        sd_event_source_disable_unref(e->again);
        sd_event_unref(e->event);
        free(e->address);
        free(e->namespace);
        free(e);
        return NULL;
}

static item *pack(const task_events *e, const char *topic, const char *type,
                  const ProtobufCMessage *event) {
        Containerd__Events__ForwardRequest request = CONTAINERD__EVENTS__FORWARD_REQUEST__INIT;
        Containerd__Events__Envelope envelope = CONTAINERD__EVENTS__ENVELOPE__INIT;
        Google__Protobuf__Timestamp now = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
        Google__Protobuf__Any any = GOOGLE__PROTOBUF__ANY__INIT;
        item *i = calloc(1, sizeof(*i));
        uint64_t usec = wall_usec();

        any.type_url = (char *)type;
        any.value.len = protobuf_c_message_get_packed_size(event);
        any.value.data = malloc(any.value.len + 1);
        if (!i || !any.value.data)
                goto failed;
        protobuf_c_message_pack(event, any.value.data);
        now.seconds = (int64_t)(usec / USEC_PER_SEC);
        now.nanos = (int32_t)(usec % USEC_PER_SEC * NSEC_PER_USEC);
        envelope.timestamp = &now;
        envelope.namespace_ = e->namespace;
        envelope.topic = (char *)topic;
        envelope.event = &any;
        request.envelope = &envelope;
        i->n = containerd__events__forward_request__get_packed_size(&request);
        i->data = malloc(i->n + 1);
        if (!i->data)
                goto failed;
        containerd__events__forward_request__pack(&request, i->data);
        free(any.value.data);
        return i;
failed:
        free(any.value.data);
        free(i);
        return NULL;
}

void task_events_publish(task_events *e, const char *topic, const char *type,
                         const ProtobufCMessage *event) {
        item *i = e->n < QUEUE_MAX ? pack(e, topic, type, event) : NULL;

        if (!i) {
                log_warning("%s: too many wait for containerd: this one is lost", topic);
                return;
        }
        *e->end = i;
        e->end = &i->next;
        e->n++;
        if (!e->under_way)
                send_in(e, 0);
}

bool task_events_pending(const task_events *e) {
        return e->first && e->first->tries < 2;
}
