/* SPDX-License-Identifier: MIT */
#include "vm/template-pipe.h"

#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "vm/template.h"

#define STEP (256U << 10)

struct template_pipe {
        int fd;
        sd_event_source *io;
        uint8_t *data; /* owned */
        size_t n, room, given;
        template_taken taken;
        void *userdata;
};

template_pipe *template_pipe_free(template_pipe *p) {
        if (!p)
                return NULL;
        sd_event_source_disable_unref(p->io);
        fd_close(p->fd);
        free(p->data);
        free(p);
        return NULL;
}

static int make_room(template_pipe *p) {
        uint8_t *more;

        if (p->room - p->n >= STEP / 2)
                return 0;
        if (p->room >= TEMPLATE_DEVICES_MAX)
                return -EFBIG;
        more = realloc(p->data, p->room + STEP);
        if (!more)
                return -ENOMEM;
        p->data = more;
        p->room += STEP;
        return 0;
}

static int on_readable(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        template_pipe *p = userdata;
        ssize_t k = 0;
        int r = make_room(p);

        if (r == 0) {
                k = recv(fd, p->data + p->n, p->room - p->n, MSG_DONTWAIT);
                if (k < 0 && (errno == EAGAIN || errno == EINTR))
                        return 0;
                if (k < 0)
                        r = -errno;
        }
        if (k > 0) {
                p->n += (size_t)k;
                return 0;
        }
        (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
        p->taken(r, p->data, p->n, p->userdata); /* may free it */
        return 0;
}

static int on_writable(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        template_pipe *p = userdata;
        ssize_t k = send(fd, p->data + p->given, p->n - p->given, MSG_DONTWAIT | MSG_NOSIGNAL);

        if (k > 0)
                p->given += (size_t)k;
        if (p->given == p->n || (k < 0 && errno != EAGAIN && errno != EINTR)) {
                p->io = sd_event_source_disable_unref(p->io);
                p->fd = fd_close(p->fd);
        }
        return 0;
}

static int new_pipe(sd_event *event, uint8_t *data_consume, size_t n, uint32_t events,
                    sd_event_io_handler_t handler, int *ret_fd, template_pipe **ret) {
        _cleanup_(freep) uint8_t *data = data_consume;
        _cleanup_(template_pipe_freep) template_pipe *p = malloc(sizeof(*p));
        _cleanup_(closep) int fd = -EBADF;
        int fds[2], r;

        if (!p)
                return -ENOMEM;
        *p = (template_pipe){ .fd = -EBADF, .data = TAKE_PTR(data), .n = n };
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
                return -errno;
        p->fd = fds[0];
        fd = fds[1];
        r = sd_event_add_io(event, &p->io, p->fd, events, handler, p);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        *ret = TAKE_PTR(p);
        return 0;
}

int template_pipe_take(sd_event *event, template_taken taken, void *userdata, int *ret_fd,
                       template_pipe **ret) {
        int r = new_pipe(event, NULL, 0, EPOLLIN, on_readable, ret_fd, ret);

        if (r < 0)
                return r;
        (*ret)->taken = taken;
        (*ret)->userdata = userdata;
        return 0;
}

int template_pipe_give(sd_event *event, const void *data, size_t n, int *ret_fd,
                       template_pipe **ret) {
        uint8_t *copy = malloc(n + 1);

        if (!copy)
                return -ENOMEM;
        memcpy(copy, data, n);
        return new_pipe(event, copy, n, EPOLLOUT, on_writable, ret_fd, ret);
}
