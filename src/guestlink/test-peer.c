/* SPDX-License-Identifier: MIT */
#include "guestlink/test-peer.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "channel/frame.h"
#include "ttrpc/envelope.h"
#include "ttrpc/frame.h"

#define BUFFER 262144U

static void note(peer *p, uint32_t stream, const uint8_t *data, size_t n) {
        static ttrpc_request request; /* too large for a stack */
        peer_request *r = &p->requests[p->n_requests];

        if (p->n_requests == PEER_REQUESTS_MAX || ttrpc_request_parse(data, n, &request) < 0)
                return;
        r->stream = stream;
        (void)snprintf(r->method, sizeof(r->method), "%.*s", (int)request.method.n,
                       request.method.data);
        p->n_requests++;
}

static void parse(peer *p) {
        ttrpc_frame_header header;
        size_t at = 0;

        while (ttrpc_frame_parse(p->in + at, p->n_in - at, &header) == 1 &&
               p->n_in - at - TTRPC_HEADER_SIZE >= header.length) {
                note(p, header.stream_id, p->in + at + TTRPC_HEADER_SIZE, header.length);
                at += TTRPC_HEADER_SIZE + header.length;
        }
        p->n_in -= at;
        memmove(p->in, p->in + at, p->n_in);
}

static void on_readable(channel_stream *s, void *userdata) {
        peer *p = userdata;
        const uint8_t *data;
        bool end;
        size_t n;

        while ((data = channel_peek(s, &n, &end)) && n > 0) {
                n = n < sizeof(p->in) - p->n_in ? n : sizeof(p->in) - p->n_in;
                if (n == 0)
                        return;
                memcpy(p->in + p->n_in, data, n);
                p->n_in += n;
                channel_consume(s, n);
                parse(p);
        }
}

/* Another stream is another connection. */
static void on_unknown(channel *c, uint32_t id, void *userdata) {
        static const channel_handlers handlers = { .on_readable = on_readable };
        peer *p = userdata;

        if (p->stream)
                channel_close(p->stream);
        p->stream = NULL;
        p->n_in = 0;
        if (channel_open(c, id, BUFFER, NULL, &handlers, p, &p->stream) == 0)
                p->n_connections++;
}

static bool open_port(peer *p, peer_port *port, const char *name) {
        char path[80];

        *port = (peer_port){ .listener = -EBADF, .fd = -EBADF };
        (void)snprintf(path, sizeof(path), "%s/%s", p->folder, name);
        return channel_new(&port->channel) == 0 &&
               unix_listen(path, 0600, 16, &port->listener) == 0;
}

bool peer_init(peer *p) {
        memset(p, 0, sizeof(*p));
        strcpy(p->folder, "/tmp/ferry-test-peer-XXXXXX");
        if (!mkdtemp(p->folder) || !open_port(p, &p->control, "control.sock") ||
            !open_port(p, &p->streams, "streams.sock"))
                return false;
        channel_set_on_unknown(p->control.channel, on_unknown, p);
        return true;
}

static void close_port(peer_port *port) {
        port->fd = fd_close(port->fd);
        port->listener = fd_close(port->listener);
        port->channel = channel_free(port->channel);
}

void peer_done(peer *p) {
        DIR *folder = opendir(p->folder);
        struct dirent *entry;

        close_port(&p->control);
        close_port(&p->streams);
        while (folder && (entry = readdir(folder)))
                if (entry->d_name[0] != '.')
                        (void)unlinkat(dirfd(folder), entry->d_name, 0);
        if (folder)
                closedir(folder);
        (void)rmdir(p->folder);
}

static void turn(peer_port *port) {
        uint8_t buffer[16384];
        const uint8_t *data;
        ssize_t k;
        size_t n;

        if (port->fd < 0) {
                port->fd = accept4(port->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
                if (port->fd < 0)
                        return;
                channel_port_reset(port->channel);
        }
        while ((k = recv(port->fd, buffer, sizeof(buffer), 0)) > 0)
                channel_feed(port->channel, buffer, (size_t)k, now_usec());
        if (k == 0) {
                port->fd = fd_close(port->fd);
                return;
        }
        while ((n = channel_output(port->channel, now_usec(), &data)) > 0) {
                k = send(port->fd, data, n, MSG_NOSIGNAL);
                if (k <= 0)
                        return;
                channel_sent(port->channel, (size_t)k);
        }
}

void peer_turn(peer *p) {
        turn(&p->control);
        turn(&p->streams);
}

const peer_request *peer_find(const peer *p, const char *method) {
        for (size_t i = p->n_requests; i > 0; i--)
                if (strcmp(p->requests[i - 1].method, method) == 0)
                        return &p->requests[i - 1];
        return NULL;
}

void peer_forget(peer *p) {
        p->n_requests = 0;
}

void peer_say(peer *p, const void *data, size_t n) {
        if (p->stream)
                (void)channel_write(p->stream, data, n);
}

void peer_answer(peer *p, uint32_t stream, int32_t code, const char *message, const void *payload,
                 size_t n) {
        const ttrpc_response response = { .code = code,
                                          .message = { message, strlen(message) },
                                          .payload = payload,
                                          .n_payload = n };
        static uint8_t frame[BUFFER]; /* not the heap: its growth is the host's alone */
        size_t size = ttrpc_response_size(&response);

        if (size > sizeof(frame) - TTRPC_HEADER_SIZE)
                return;
        ttrpc_frame_format(&(ttrpc_frame_header){ .length = (uint32_t)size,
                                                  .stream_id = stream,
                                                  .type = TTRPC_FRAME_RESPONSE },
                           frame);
        ttrpc_response_format(&response, frame + TTRPC_HEADER_SIZE);
        peer_say(p, frame, TTRPC_HEADER_SIZE + size);
}

size_t peer_put(peer_port *port, const void *data, size_t n) {
        ssize_t k = port->fd >= 0 ? send(port->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

        return k > 0 ? (size_t)k : 0;
}

void peer_put_frame(peer_port *port, int type, uint8_t flags, uint32_t stream, uint64_t offset,
                    const void *payload, size_t n) {
        uint8_t frame[CHANNEL_FRAME_MAX];

        (void)peer_put(port, frame,
                       channel_frame_format(&(channel_frame){ .type = (channel_frame_type)type,
                                                              .flags = flags,
                                                              .stream = stream,
                                                              .offset = offset,
                                                              .payload = payload,
                                                              .n_payload = n },
                                            frame));
}
