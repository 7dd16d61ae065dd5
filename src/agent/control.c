/* SPDX-License-Identifier: MIT */
#include "agent/control.h"

#include <sys/socket.h>

static void close_stream(control *c) {
        if (c->stream)
                channel_close(c->stream);
        c->stream = NULL;
        c->fd = fd_close(c->fd);
}

static void on_unknown(channel *on, uint32_t id, void *userdata) {
        control *c = userdata;
        int fds[2];

        close_stream(c);
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
                return; /* the peer shows itself again */
        if (ttrpc_server_add_connection(c->server, fds[1]) < 0 ||
            channel_open(on, id, CONTROL_BUFFER, NULL, NULL, NULL, &c->stream) < 0) {
                fd_close(fds[0]);
                c->stream = NULL;
                return;
        }
        c->fd = fds[0];
}

void control_init(control *c, channel *on, ttrpc_server *server) {
        *c = (control){ .server = server, .fd = -EBADF };
        channel_set_on_unknown(on, on_unknown, c);
}

static size_t readable(control *c, const uint8_t **ret) {
        size_t n = 0;
        bool end;

        *ret = c->stream ? channel_peek(c->stream, &n, &end) : NULL;
        return n;
}

void control_prepare(control *c, struct pollfd *ret) {
        const uint8_t *data;

        *ret = (struct pollfd){ .fd = c->fd };
        if (c->fd >= 0)
                ret->events = (short)((channel_room(c->stream) > 0 ? POLLIN : 0) |
                                      (readable(c, &data) > 0 ? POLLOUT : 0));
}

void control_process(control *c) {
        uint8_t buffer[16384];
        const uint8_t *data;
        size_t n, room;
        ssize_t k = 1;

        while ((n = readable(c, &data)) > 0) {
                k = send(c->fd, data, n, MSG_NOSIGNAL);
                if (k <= 0)
                        break;
                channel_consume(c->stream, (size_t)k);
        }
        while (c->fd >= 0 && (room = channel_room(c->stream)) > 0) {
                k = recv(c->fd, buffer, room < sizeof(buffer) ? room : sizeof(buffer), 0);
                if (k <= 0)
                        break;
                (void)channel_write(c->stream, buffer, (size_t)k);
        }
        /* the server hung up: on a peer that broke the protocol */
        if (c->fd >= 0 && (k == 0 || (k < 0 && errno != EAGAIN && errno != EINTR)))
                close_stream(c);
}
