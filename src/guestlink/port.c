/* SPDX-License-Identifier: MIT */
#include "guestlink/port.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"

#define RETRY_USEC  (50 * USEC_PER_MSEC)
#define READS_MAX   4 /* before others have their turn */
#define BUFFER_SIZE 65536U

struct guest_port {
        sd_event *event;
        char *path;
        channel *channel;
        int fd;
        bool frozen;
        sd_event_source *io, *retry, *deadline, *flush;
};

static void disconnect(guest_port *p);

static void arm(sd_event_source *timer, uint64_t usec) {
        if (usec == UINT64_MAX) {
                (void)sd_event_source_set_enabled(timer, SD_EVENT_OFF);
                return;
        }
        (void)sd_event_source_set_time(timer, usec);
        (void)sd_event_source_set_enabled(timer, SD_EVENT_ONESHOT);
}

/* Writes what there is, and asks to come back when the port or the channel wants it. */
static void flush(guest_port *p) {
        const uint8_t *data;
        size_t n;

        (void)sd_event_source_set_enabled(p->flush, SD_EVENT_OFF);
        if (p->fd < 0 || p->frozen)
                return;
        while ((n = channel_output(p->channel, now_usec(), &data)) > 0) {
                ssize_t k = send(p->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0 && errno != EAGAIN) {
                        disconnect(p);
                        return;
                }
                if (k < 0)
                        break;
                channel_sent(p->channel, (size_t)k);
        }
        (void)sd_event_source_set_io_events(p->io, EPOLLIN | (n > 0 ? EPOLLOUT : 0));
        /* what waits for the port says nothing new before the port takes it: a deadline that has
         * passed meanwhile would fire again and again */
        arm(p->deadline, n > 0 ? UINT64_MAX : channel_deadline(p->channel));
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        guest_port *p = userdata;
        uint8_t buffer[BUFFER_SIZE];

        for (int i = 0; i < READS_MAX && !p->frozen && (revents & (EPOLLIN | EPOLLHUP)); i++) {
                ssize_t k = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);

                if (k > 0)
                        channel_feed(p->channel, buffer, (size_t)k, now_usec());
                else if (k == 0 || (errno != EAGAIN && errno != EINTR)) {
                        disconnect(p);
                        return 0;
                } else
                        break;
        }
        flush(p);
        return 0;
}

static void try_connect(guest_port *p) {
        int r;

        if (p->frozen)
                return;
        r = unix_connect(p->path, &p->fd);
        if (r < 0) {
                arm(p->retry, now_usec() + RETRY_USEC);
                return;
        }
        if (sd_event_add_io(p->event, &p->io, p->fd, EPOLLIN, on_io, p) < 0) {
                disconnect(p);
                return;
        }
        channel_port_reset(p->channel);
        flush(p);
}

static void disconnect(guest_port *p) {
        p->io = sd_event_source_disable_unref(p->io);
        p->fd = fd_close(p->fd);
        arm(p->retry, now_usec() + RETRY_USEC);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        try_connect(userdata);
        return 0;
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *userdata) {
        flush(userdata);
        return 0;
}

static int on_flush(sd_event_source *source, void *userdata) {
        flush(userdata);
        return 0;
}

static int add_timer(guest_port *p, sd_event_source **ret, sd_event_time_handler_t handler) {
        int r;

        r = sd_event_add_time(p->event, ret, CLOCK_MONOTONIC, 0, USEC_PER_MSEC, handler, p);
        return r < 0 ? r : sd_event_source_set_enabled(*ret, SD_EVENT_OFF);
}

int guest_port_new(sd_event *event, const char *path, guest_port **ret) {
        _cleanup_(guest_port_freep) guest_port *p = malloc(sizeof(*p));
        int r;

        if (!p)
                return -ENOMEM;
        *p = (guest_port){ .event = sd_event_ref(event), .fd = -EBADF, .path = strdup(path) };
        if (!p->path)
                return -ENOMEM;
        r = channel_new(&p->channel);
        if (r == 0)
                r = add_timer(p, &p->retry, on_retry);
        if (r >= 0)
                r = add_timer(p, &p->deadline, on_deadline);
        if (r >= 0)
                r = sd_event_add_defer(event, &p->flush, on_flush, p);
        if (r < 0)
                return r;
        try_connect(p);
        *ret = TAKE_PTR(p);
        return 0;
}

guest_port *guest_port_free(guest_port *p) {
        if (!p)
                return NULL;
        sd_event_source_disable_unref(p->io);
        sd_event_source_disable_unref(p->retry);
        sd_event_source_disable_unref(p->deadline);
        sd_event_source_disable_unref(p->flush);
        sd_event_unref(p->event);
        fd_close(p->fd);
        channel_free(p->channel);
        free(p->path);
        free(p);
        return NULL;
}

channel *guest_port_channel(const guest_port *p) {
        return p->channel;
}

void guest_port_kick(guest_port *p) {
        (void)sd_event_source_set_enabled(p->flush, SD_EVENT_ONESHOT);
}

void guest_port_freeze(guest_port *p) {
        p->frozen = true;
        if (p->io)
                (void)sd_event_source_set_enabled(p->io, SD_EVENT_OFF);
}

void guest_port_thaw(guest_port *p) {
        if (!p->frozen)
                return;
        p->frozen = false;
        if (p->io)
                (void)sd_event_source_set_enabled(p->io, SD_EVENT_ON);
        else
                try_connect(p);
        guest_port_kick(p);
}

void guest_port_resume(guest_port *p) {
        channel_port_reset(p->channel);
        guest_port_kick(p);
}
