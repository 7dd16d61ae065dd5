/* SPDX-License-Identifier: MIT */
#include "guestlink/link.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "ttrpc/ttrpc-sd-event.h"

#define CONTROL_SOCKET "control.sock"
#define STREAMS_SOCKET "streams.sock"
#define CONTROL_BUFFER 262144U
/* What an honest agent says fits many times; a lie of 4 MiB would be 100 MiB when it is decoded. */
#define ANSWER_MAX 262144U

/* An agent that breaks the protocol again and again is not worth more. */
#define AGAIN_USEC     (200 * USEC_PER_MSEC)
#define AGAIN_MAX_USEC (10 * USEC_PER_SEC)
#define SOUND_USEC     (60 * USEC_PER_SEC) /* one that lived so long is the first again */

/* The client's connection, and the stream that carries it. */
typedef struct connection {
        channel_stream *stream; /* of the control port: a number of our own */
        int fd;                 /* our end */
        sd_event_source *io;
        ttrpc_client *client;
        ttrpc_attachment *attachment;
} connection;

#define CONNECTION_INIT ((connection){ .fd = -EBADF })

struct guest_link {
        sd_event *event;
        guest_port *control, *streams;
        connection now;
        bool frozen;
        sd_event_source *again; /* makes another connection */
        uint64_t began_usec, wait_usec;
        unsigned n_drops; /* since a sound one */
        unsigned n_all_drops;
};

static void set_events(guest_link *l) {
        size_t n;
        bool end;

        (void)channel_peek(l->now.stream, &n, &end);
        (void)sd_event_source_set_io_events(l->now.io,
                                            (channel_room(l->now.stream) > 0 ? EPOLLIN : 0) |
                                                    (n > 0 ? EPOLLOUT : 0));
}

/* From the guest to the client, and from the client to the guest. */
static void pump(guest_link *l) {
        uint8_t buffer[16384];
        const uint8_t *data;
        size_t n, room;
        bool end = false;
        ssize_t k;

        while ((data = channel_peek(l->now.stream, &n, &end)) && n > 0) {
                k = send(l->now.fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (k <= 0)
                        break;
                channel_consume(l->now.stream, (size_t)k);
        }
        while ((room = channel_room(l->now.stream)) > 0) {
                k = recv(l->now.fd, buffer, room < sizeof(buffer) ? room : sizeof(buffer),
                         MSG_DONTWAIT);
                if (k <= 0)
                        break;
                (void)channel_write(l->now.stream, buffer, (size_t)k);
        }
        if (n == 0 && end)
                (void)shutdown(l->now.fd, SHUT_RDWR); /* on_io() sees it, and so does the client */
        set_events(l);
        guest_port_kick(l->control);
}

static void close_connection(connection *c) {
        ttrpc_attachment_free(c->attachment);
        ttrpc_client_free(c->client);
        sd_event_source_disable_unref(c->io);
        fd_close(c->fd);
        if (c->stream)
                channel_close(c->stream);
        *c = CONNECTION_INIT;
}

/* The client has hung up on an agent that broke the protocol (or the agent on us), and its calls
 * have ended. */
static void drop(guest_link *l) {
        bool sound = now_usec() - l->began_usec >= SOUND_USEC;

        (void)sd_event_source_set_enabled(l->now.io, SD_EVENT_OFF);
        if (sound)
                l->n_drops = 0;
        l->wait_usec = l->n_drops == 0                     ? AGAIN_USEC
                       : l->wait_usec * 2 < AGAIN_MAX_USEC ? l->wait_usec * 2
                                                           : AGAIN_MAX_USEC;
        l->n_all_drops++;
        if (l->n_drops++ == 0)
                log_warning("the guest's agent broke the protocol: its connection was dropped, and "
                            "is made again");
        (void)sd_event_source_set_time_relative(l->again, l->wait_usec);
        (void)sd_event_source_set_enabled(l->again, SD_EVENT_ONESHOT);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        if (revents & (EPOLLHUP | EPOLLERR))
                drop(userdata);
        else
                pump(userdata);
        return 0;
}

static void on_stream(channel_stream *s, void *userdata) {
        pump(userdata);
}

static int open_client(guest_link *l, connection *c) {
        int fds[2], r;

        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
                return -errno;
        c->fd = fds[0];
        r = ttrpc_client_new(fds[1], &c->client);
        if (r < 0)
                return r;
        ttrpc_client_set_answer_max(c->client, ANSWER_MAX);
        r = ttrpc_client_attach_event(c->client, l->event, &c->attachment);
        if (r == 0)
                r = sd_event_add_io(l->event, &c->io, c->fd, EPOLLIN, on_io, l);
        return r < 0 ? r : 0;
}

/* A number that the agent has not seen yet ends the connection of the one before there. */
static int open_connection(guest_link *l) {
        static const channel_handlers handlers = { .on_readable = on_stream,
                                                   .on_writable = on_stream };
        connection made = CONNECTION_INIT;
        uint32_t number;
        int r;

        if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
                return -EIO;
        r = channel_open(guest_port_channel(l->control), number, CONTROL_BUFFER, NULL, &handlers, l,
                         &made.stream);
        if (r == 0)
                r = open_client(l, &made);
        if (r < 0) {
                close_connection(&made);
                return r;
        }
        close_connection(&l->now);
        l->now = made;
        l->began_usec = now_usec();
        guest_port_kick(l->control);
        return 0;
}

static int on_again(sd_event_source *source, uint64_t usec, void *userdata) {
        guest_link *l = userdata;

        if (!l->frozen && open_connection(l) == 0)
                return 0;
        (void)sd_event_source_set_time_relative(source, l->wait_usec);
        (void)sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return 0;
}

static int open_port(sd_event *event, const char *state_dir, const char *name, guest_port **ret) {
        _cleanup_(freep) char *path = NULL;

        if (asprintf(&path, "%s/%s", state_dir, name) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        return guest_port_new(event, path, ret);
}

int guest_link_new(sd_event *event, const char *state_dir, guest_link **ret) {
        _cleanup_(guest_link_freep) guest_link *l = malloc(sizeof(*l));
        int r;

        if (!l)
                return -ENOMEM;
        *l = (guest_link){ .event = sd_event_ref(event), .now = CONNECTION_INIT };
        r = sd_event_add_time(event, &l->again, CLOCK_MONOTONIC, 0, TIMER_ACCURACY_USEC, on_again,
                              l);
        if (r >= 0)
                r = sd_event_source_set_enabled(l->again, SD_EVENT_OFF);
        if (r >= 0)
                r = open_port(event, state_dir, CONTROL_SOCKET, &l->control);
        if (r == 0)
                r = open_port(event, state_dir, STREAMS_SOCKET, &l->streams);
        if (r == 0)
                r = open_connection(l);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(l);
        return 0;
}

guest_link *guest_link_free(guest_link *l) {
        if (!l)
                return NULL;
        close_connection(&l->now);
        sd_event_source_disable_unref(l->again);
        guest_port_free(l->control);
        guest_port_free(l->streams);
        sd_event_unref(l->event);
        free(l);
        return NULL;
}

void guest_link_freeze(guest_link *l) {
        l->frozen = true;
        guest_port_freeze(l->control);
        guest_port_freeze(l->streams);
}

void guest_link_thaw(guest_link *l) {
        l->frozen = false;
        guest_port_thaw(l->control);
        guest_port_thaw(l->streams);
}

ttrpc_client *guest_link_client(const guest_link *l) {
        return l->now.client;
}

unsigned guest_link_drops(const guest_link *l) {
        return l->n_all_drops;
}

guest_port *guest_link_streams(const guest_link *l) {
        return l->streams;
}
