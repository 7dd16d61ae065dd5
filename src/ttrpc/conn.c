/* SPDX-License-Identifier: MIT */
#include "ttrpc/conn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ttrpc/ttrpc.h"

#define READ_SIZE 16384U
/* Buffers larger than this are given back when they are empty: an idle peer costs little. */
#define KEEP_SIZE 16384U

int ttrpc_conn_init(ttrpc_conn *c, int fd_consume) {
        int flags = fcntl(fd_consume, F_GETFL), type;
        socklen_t n = sizeof(type);

        *c = (ttrpc_conn){
                .fd = fd_consume,
                .message_max = TTRPC_MESSAGE_MAX,
                .is_socket = getsockopt(fd_consume, SOL_SOCKET, SO_TYPE, &type, &n) == 0,
        };
        if (flags < 0 || fcntl(fd_consume, F_SETFL, flags | O_NONBLOCK) < 0) {
                int r = -errno;

                ttrpc_conn_done(c);
                return r;
        }
        return 0;
}

void ttrpc_conn_done(ttrpc_conn *c) {
        if (c->fd >= 0)
                close(c->fd);
        free(c->in);
        free(c->out);
        *c = (ttrpc_conn){ .fd = -1 };
}

void ttrpc_conn_hang_up(ttrpc_conn *c) {
        if (c->is_socket)
                (void)shutdown(c->fd, SHUT_RDWR);
}

static void compact(uint8_t *data, size_t *begin, size_t *end) {
        if (*begin == 0)
                return;
        memmove(data, data + *begin, *end - *begin);
        *end -= *begin;
        *begin = 0;
}

/* At least `room` bytes behind *end. */
static int reserve(uint8_t **data, size_t *begin, size_t *end, size_t *size, size_t room) {
        size_t want;
        uint8_t *more;

        if (*size - *end >= room)
                return 0;
        if (*begin > 0) {
                compact(*data, begin, end);
                if (*size - *end >= room)
                        return 0;
        }
        want = *size ? *size : 4096;
        while (want - *end < room)
                want *= 2;
        more = realloc(*data, want);
        if (!more)
                return -ENOMEM;
        *data = more;
        *size = want;
        return 0;
}

static void shrink(uint8_t **data, size_t *begin, size_t *end, size_t *size) {
        if (*begin < *end)
                return;
        *begin = *end = 0;
        if (*size > KEEP_SIZE) {
                free(*data);
                *data = NULL;
                *size = 0;
        }
}

/* How much the frame that is being read still lacks; READ_SIZE when that is not known. */
static size_t wanted(const ttrpc_conn *c) {
        ttrpc_frame_header header;
        size_t have = c->in_end - c->in_begin;

        if (c->skip == 0 && have >= TTRPC_HEADER_SIZE &&
            ttrpc_frame_parse(c->in + c->in_begin, have, &header) == 1 &&
            header.length <= c->message_max && header.length + TTRPC_HEADER_SIZE > have &&
            header.length + TTRPC_HEADER_SIZE - have > READ_SIZE)
                return header.length + TTRPC_HEADER_SIZE - have;
        return READ_SIZE;
}

int ttrpc_conn_read(ttrpc_conn *c) {
        size_t room = wanted(c);
        ssize_t k;

        if (reserve(&c->in, &c->in_begin, &c->in_end, &c->in_size, room) < 0)
                return -ENOMEM;
        room = c->in_size - c->in_end;
        do
                k = c->is_socket ? recv(c->fd, c->in + c->in_end, room, MSG_DONTWAIT)
                                 : read(c->fd, c->in + c->in_end, room);
        while (k < 0 && errno == EINTR);
        c->drained = k < 0 || (size_t)k < room;
        if (k < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
                return 0;
        if (k < 0)
                return -errno;
        if (k == 0)
                return -ENOTCONN;
        c->in_end += (size_t)k;
        return 1;
}

int ttrpc_conn_next(ttrpc_conn *c, ttrpc_frame_header *ret, const uint8_t **ret_data) {
        size_t have = c->in_end - c->in_begin;
        int r;

        if (c->skip > 0) {
                size_t n = have < c->skip ? have : (size_t)c->skip;

                c->in_begin += n;
                c->skip -= n;
                have -= n;
                if (c->skip > 0) {
                        shrink(&c->in, &c->in_begin, &c->in_end, &c->in_size);
                        return 0;
                }
        }
        if (have < TTRPC_HEADER_SIZE) {
                shrink(&c->in, &c->in_begin, &c->in_end, &c->in_size);
                return 0;
        }
        r = ttrpc_frame_parse(c->in + c->in_begin, have, ret);
        if (r < 0)
                return r;
        if (ret->length > c->message_max) {
                c->in_begin += TTRPC_HEADER_SIZE;
                c->skip = ret->length;
                *ret_data = NULL;
                return 2;
        }
        if (have - TTRPC_HEADER_SIZE < ret->length)
                return 0;
        *ret_data = c->in + c->in_begin + TTRPC_HEADER_SIZE;
        c->in_begin += TTRPC_HEADER_SIZE + ret->length;
        return 1;
}

uint8_t *ttrpc_conn_put(ttrpc_conn *c, uint32_t stream_id, uint8_t type, uint8_t flags,
                        size_t length) {
        ttrpc_frame_header header = {
                .length = (uint32_t)length,
                .stream_id = stream_id,
                .type = type,
                .flags = flags,
        };
        uint8_t *at;

        if (length > TTRPC_MESSAGE_MAX || reserve(&c->out, &c->out_begin, &c->out_end, &c->out_size,
                                                  TTRPC_HEADER_SIZE + length) < 0)
                return NULL;
        at = c->out + c->out_end;
        ttrpc_frame_format(&header, at);
        c->out_end += TTRPC_HEADER_SIZE + length;
        return at + TTRPC_HEADER_SIZE;
}

int ttrpc_conn_flush(ttrpc_conn *c) {
        while (c->out_begin < c->out_end) {
                const uint8_t *data = c->out + c->out_begin;
                size_t n = c->out_end - c->out_begin;
                ssize_t k = c->is_socket ? send(c->fd, data, n, MSG_NOSIGNAL | MSG_DONTWAIT)
                                         : write(c->fd, data, n);

                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
                }
                c->out_begin += (size_t)k;
        }
        shrink(&c->out, &c->out_begin, &c->out_end, &c->out_size);
        return 0;
}
