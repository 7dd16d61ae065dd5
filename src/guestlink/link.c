/* SPDX-License-Identifier: MIT */
#include "guestlink/link.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "ttrpc/ttrpc-sd-event.h"

#define CONTROL_SOCKET "control.sock"
#define STREAMS_SOCKET "streams.sock"
#define CONTROL_BUFFER 262144U
/* What an honest agent says fits many times; a lie of 4 MiB would be 100 MiB when it is decoded. */
#define ANSWER_MAX 262144U

struct guest_link {
        guest_port *control, *streams;
        channel_stream *stream; /* of the control port: a number of our own */
        int fd;                 /* our end of the client's connection */
        sd_event_source *io;
        ttrpc_client *client;
        ttrpc_attachment *attachment;
};

static void set_events(guest_link *l) {
        size_t n;
        bool end;

        (void)channel_peek(l->stream, &n, &end);
        (void)sd_event_source_set_io_events(l->io, (channel_room(l->stream) > 0 ? EPOLLIN : 0) |
                                                           (n > 0 ? EPOLLOUT : 0));
}

/* From the guest to the client, and from the client to the guest. */
static void pump(guest_link *l) {
        uint8_t buffer[16384];
        const uint8_t *data;
        size_t n, room;
        ssize_t k;
        bool end;

        while ((data = channel_peek(l->stream, &n, &end)) && n > 0) {
                k = send(l->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (k <= 0)
                        break;
                channel_consume(l->stream, (size_t)k);
        }
        while ((room = channel_room(l->stream)) > 0) {
                k = recv(l->fd, buffer, room < sizeof(buffer) ? room : sizeof(buffer),
                         MSG_DONTWAIT);
                if (k <= 0)
                        break;
                (void)channel_write(l->stream, buffer, (size_t)k);
        }
        set_events(l);
        guest_port_kick(l->control);
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        if (revents & (EPOLLHUP | EPOLLERR))
                (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
        else
                pump(userdata);
        return 0;
}

static void on_stream(channel_stream *s, void *userdata) {
        pump(userdata);
}

static int open_control(guest_link *l, sd_event *event) {
        static const channel_handlers handlers = { .on_readable = on_stream,
                                                   .on_writable = on_stream };
        uint32_t number;
        int fds[2], r;

        if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
                return -EIO;
        r = channel_open(guest_port_channel(l->control), number, CONTROL_BUFFER, NULL, &handlers, l,
                         &l->stream);
        if (r < 0)
                return r;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
                return -errno;
        l->fd = fds[0];
        r = ttrpc_client_new(fds[1], &l->client);
        if (r == 0)
                ttrpc_client_set_answer_max(l->client, ANSWER_MAX);
        if (r == 0)
                r = ttrpc_client_attach_event(l->client, event, &l->attachment);
        if (r == 0)
                r = sd_event_add_io(event, &l->io, l->fd, EPOLLIN, on_io, l);
        return r < 0 ? r : 0;
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
        *l = (guest_link){ .fd = -EBADF };
        r = open_port(event, state_dir, CONTROL_SOCKET, &l->control);
        if (r == 0)
                r = open_port(event, state_dir, STREAMS_SOCKET, &l->streams);
        if (r == 0)
                r = open_control(l, event);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(l);
        return 0;
}

guest_link *guest_link_free(guest_link *l) {
        if (!l)
                return NULL;
        ttrpc_attachment_free(l->attachment);
        ttrpc_client_free(l->client);
        sd_event_source_disable_unref(l->io);
        fd_close(l->fd);
        guest_port_free(l->control);
        guest_port_free(l->streams);
        free(l);
        return NULL;
}

void guest_link_freeze(guest_link *l) {
        guest_port_freeze(l->control);
        guest_port_freeze(l->streams);
}

void guest_link_thaw(guest_link *l) {
        guest_port_thaw(l->control);
        guest_port_thaw(l->streams);
}

ttrpc_client *guest_link_client(const guest_link *l) {
        return l->client;
}

guest_port *guest_link_streams(const guest_link *l) {
        return l->streams;
}
