/* SPDX-License-Identifier: MIT */
#include "guestlink/guest-stdio.h"

#include <sys/epoll.h>
#include <unistd.h>

#include "base/fd.h"

/* One way: from a descriptor into a stream, or from a stream to a descriptor. */
typedef struct way {
        guest_stdio *owner;
        channel_stream *stream;
        int fd;
        sd_event_source *io;
        bool ended;   /* out: the guest's end was consumed; in: channel_end() was called */
        bool closing; /* in: ends where the descriptor has no more for now */
} way;

struct guest_stdio {
        guest_port *streams;
        channel_stream *stream[2];
        way in, out, err;
        bool frozen;
        sd_event_source *end; /* tells on_end, from the loop */
        void (*on_end)(guest_stdio *s, void *userdata);
        void *userdata;
};

static void close_way(way *w) {
        w->io = sd_event_source_disable_unref(w->io);
        w->fd = fd_close(w->fd);
}

static void listen_for(way *w, bool on, uint32_t events) {
        if (w->io)
                (void)sd_event_source_set_io_events(w->io, on ? events : 0);
}

static void end_in(way *w) {
        if (w->ended)
                return;
        w->ended = true;
        close_way(w);
        channel_end(w->stream);
        guest_port_kick(w->owner->streams);
}

static void read_in(way *w) {
        uint8_t *space;
        size_t room;

        if (w->owner->frozen)
                return;
        while (!w->ended && w->fd >= 0 && (space = channel_space(w->stream, &room)) && room > 0) {
                ssize_t k = read(w->fd, space, room);

                if (k > 0)
                        channel_filled(w->stream, (size_t)k);
                else if (k == 0 || w->closing || (errno != EAGAIN && errno != EINTR))
                        end_in(w);
                else
                        break;
        }
        listen_for(w, channel_room(w->stream) > 0, EPOLLIN);
        guest_port_kick(w->owner->streams);
}

/* At the beginning, and when something has changed. */
static void go_on_in(way *w) {
        if (w->fd >= 0)
                read_in(w); /* now, or when there is room */
        else if (w->closing && !w->owner->frozen)
                end_in(w);
}

static void check_end(guest_stdio *s) {
        if (s->out.ended && s->err.ended)
                (void)sd_event_source_set_enabled(s->end, SD_EVENT_ONESHOT);
}

static void write_out(way *w) {
        const uint8_t *data;
        bool end = false;
        size_t n;

        if (w->owner->frozen)
                return;
        while ((data = channel_peek(w->stream, &n, &end)) && n > 0) {
                ssize_t k = w->fd >= 0 ? write(w->fd, data, n) : (ssize_t)n;

                if (k < 0 && errno == EAGAIN)
                        break;
                if (k < 0 && errno != EINTR) {
                        close_way(w); /* nobody takes it any more: the guest need not wait */
                        continue;
                }
                if (k > 0)
                        channel_consume(w->stream, (size_t)k);
        }
        if (n == 0 && end && !w->ended) {
                channel_consume(w->stream, 0);
                w->ended = true;
                close_way(w);
                check_end(w->owner);
        }
        listen_for(w, n > 0, EPOLLOUT);
        guest_port_kick(w->owner->streams);
}

static int on_in(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        read_in(userdata);
        return 0;
}

/* EPOLLERR comes unasked when a pipe's reader has gone. */
static int on_out(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        way *w = userdata;

        if (revents & EPOLLERR)
                close_way(w);
        write_out(w);
        return 0;
}

static void on_readable(channel_stream *stream, void *userdata) {
        guest_stdio *s = userdata;

        write_out(stream == s->stream[0] ? &s->out : &s->err);
}

static void on_writable(channel_stream *stream, void *userdata) {
        guest_stdio *s = userdata;

        if (stream == s->stream[0])
                read_in(&s->in);
}

static int on_end_event(sd_event_source *source, void *userdata) {
        guest_stdio *s = userdata;

        s->on_end(s, s->userdata);
        return 0;
}

static int open_way(way *w, guest_stdio *owner, channel_stream *stream, int fd, sd_event *event,
                    uint32_t events, sd_event_io_handler_t handler) {
        int r;

        *w = (way){ .owner = owner, .stream = stream, .fd = fd };
        if (fd < 0)
                return 0;
        r = fd_set_nonblock(fd, true);
        return r < 0 ? r : sd_event_add_io(event, &w->io, fd, events, handler, w);
}

static int open_all(guest_stdio *s, sd_event *event, const guest_stdio_spec *spec) {
        static const channel_handlers handlers = { .on_readable = on_readable,
                                                   .on_writable = on_writable };
        int r = 0;

        for (uint32_t i = 0; r == 0 && i < (spec->has_err ? 2 : 1); i++) {
                r = channel_open(guest_port_channel(s->streams), spec->stream + i,
                                 GUEST_STDIO_BUFFER, spec->keep[i], &handlers, s, &s->stream[i]);
                if (r == 0)
                        r = channel_set_window(s->stream[i], GUEST_STDIO_WINDOW);
        }
        if (r < 0)
                return r;
        r = open_way(&s->in, s, s->stream[0], TAKE_FD(s->in.fd), event, EPOLLIN, on_in);
        if (r >= 0)
                r = open_way(&s->out, s, s->stream[0], TAKE_FD(s->out.fd), event, 0, on_out);
        if (r >= 0)
                r = open_way(&s->err, s, s->stream[1], TAKE_FD(s->err.fd), event, 0, on_out);
        s->err.ended = !spec->has_err;
        if (r >= 0)
                r = sd_event_add_defer(event, &s->end, on_end_event, s);
        return r < 0 ? r : sd_event_source_set_enabled(s->end, SD_EVENT_OFF);
}

int guest_stdio_new(guest_port *streams, sd_event *event, const guest_stdio_spec *spec,
                    void (*on_end)(guest_stdio *s, void *userdata), void *userdata,
                    guest_stdio **ret) {
        _cleanup_(guest_stdio_freep) guest_stdio *s = calloc(1, sizeof(*s));
        int r;

        if (!s) {
                fd_close(spec->in);
                fd_close(spec->out);
                fd_close(spec->err);
                return -ENOMEM;
        }
        *s = (guest_stdio){ .streams = streams,
                            .in = { .fd = spec->in },
                            .out = { .fd = spec->out },
                            .err = { .fd = spec->err },
                            .on_end = on_end,
                            .userdata = userdata };
        r = open_all(s, event, spec);
        if (r < 0)
                return r;
        s->in.closing = s->in.fd < 0;
        go_on_in(&s->in);
        /* streams taken over may have come to their end already */
        write_out(&s->out);
        if (spec->has_err)
                write_out(&s->err);
        *ret = TAKE_PTR(s);
        return 0;
}

guest_stdio *guest_stdio_free(guest_stdio *s) {
        if (!s)
                return NULL;
        close_way(&s->in);
        close_way(&s->out);
        close_way(&s->err);
        sd_event_source_disable_unref(s->end);
        for (size_t i = 0; i < ELEMENTS(s->stream); i++)
                if (s->stream[i])
                        channel_close(s->stream[i]);
        free(s);
        return NULL;
}

void guest_stdio_close_in(guest_stdio *s) {
        s->in.closing = true;
        go_on_in(&s->in);
}

static void set_enabled(const way *w, bool on) {
        if (w->io)
                (void)sd_event_source_set_enabled(w->io, on ? SD_EVENT_ON : SD_EVENT_OFF);
}

void guest_stdio_freeze(guest_stdio *s) {
        s->frozen = true;
        set_enabled(&s->in, false);
        set_enabled(&s->out, false);
        set_enabled(&s->err, false);
}

void guest_stdio_thaw(guest_stdio *s) {
        if (!s->frozen)
                return;
        s->frozen = false;
        set_enabled(&s->in, true);
        set_enabled(&s->out, true);
        set_enabled(&s->err, true);
        go_on_in(&s->in);
        write_out(&s->out);
        if (s->stream[1])
                write_out(&s->err);
}
