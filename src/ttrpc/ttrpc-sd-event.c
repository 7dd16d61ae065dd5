/* SPDX-License-Identifier: MIT */
#include "ttrpc/ttrpc-sd-event.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>

struct ttrpc_attachment {
        ttrpc_server *server; /* one of the two */
        ttrpc_client *client;
        sd_event_source *io, *timer;
        uint64_t armed;
};

static int process(ttrpc_attachment *a) {
        if (a->server)
                (void)ttrpc_server_process(a->server);
        else
                (void)ttrpc_client_process(a->client);
        return 0; /* a dead client has told its callers; the loop goes on */
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        return process(userdata);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        ttrpc_attachment *a = userdata;

        a->armed = UINT64_MAX;
        return process(a);
}

/* Before each sleep of the loop: calls that were made since may have changed what to wait for. */
static int on_prepare(sd_event_source *source, void *userdata) {
        ttrpc_attachment *a = userdata;
        uint64_t deadline = a->server ? ttrpc_server_get_timeout(a->server)
                                      : ttrpc_client_get_timeout(a->client);
        int events = a->server ? POLLIN : ttrpc_client_get_events(a->client);

        (void)sd_event_source_set_io_events(a->io, (events & POLLIN ? EPOLLIN : 0U) |
                                                           (events & POLLOUT ? EPOLLOUT : 0U));
        if (events == 0)
                (void)sd_event_source_set_enabled(a->io, SD_EVENT_OFF);
        if (deadline != a->armed) {
                a->armed = deadline;
                if (deadline != UINT64_MAX)
                        (void)sd_event_source_set_time(a->timer, deadline);
                (void)sd_event_source_set_enabled(
                        a->timer, deadline != UINT64_MAX ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
        }
        return 0;
}

static int attach(ttrpc_server *server, ttrpc_client *client, sd_event *event,
                  ttrpc_attachment **ret) {
        ttrpc_attachment *a = malloc(sizeof(*a));
        int r;

        if (!a)
                return -ENOMEM;
        *a = (ttrpc_attachment){ .server = server, .client = client, .armed = UINT64_MAX };
        r = sd_event_add_io(event, &a->io,
                            server ? ttrpc_server_get_fd(server) : ttrpc_client_get_fd(client),
                            EPOLLIN, on_io, a);
        if (r >= 0)
                r = sd_event_add_time(event, &a->timer, CLOCK_MONOTONIC, UINT64_MAX, 1, on_timer,
                                      a);
        if (r >= 0)
                r = sd_event_source_set_enabled(a->timer, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_event_source_set_prepare(a->io, on_prepare);
        if (r < 0) {
                ttrpc_attachment_free(a);
                return r;
        }
        *ret = a;
        return 0;
}

int ttrpc_server_attach_event(ttrpc_server *server, sd_event *event, ttrpc_attachment **ret) {
        return attach(server, NULL, event, ret);
}

int ttrpc_client_attach_event(ttrpc_client *client, sd_event *event, ttrpc_attachment **ret) {
        return attach(NULL, client, event, ret);
}

ttrpc_attachment *ttrpc_attachment_free(ttrpc_attachment *a) {
        if (!a)
                return NULL;
        sd_event_source_disable_unref(a->io);
        sd_event_source_disable_unref(a->timer);
        free(a);
        return NULL;
}
