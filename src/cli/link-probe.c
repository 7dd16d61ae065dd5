/* SPDX-License-Identifier: MIT */
#include "cli/link-probe.h"

#include <poll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"

#define PINGS       8U
#define PING_LIMIT  (2 * USEC_PER_SEC)
#define FLOOD_USEC  (200 * USEC_PER_MSEC)
#define WARMUP_USEC (50 * USEC_PER_MSEC) /* slow start, and what buffers and token buckets hold */
#define CHUNK       65536U

static int wait_for(int fd, short events, uint64_t until) {
        struct pollfd p = { .fd = fd, .events = events };
        uint64_t now = now_usec();
        int r = now < until ? poll(&p, 1, (int)((until - now) / USEC_PER_MSEC) + 1) : 0;

        return r < 0 ? -errno : r == 0 ? -ETIMEDOUT : 0;
}

static int pass_byte(int from, int to, uint64_t until) {
        char byte = 0;
        int r;

        if (send(from, &byte, 1, MSG_NOSIGNAL) != 1)
                return errno ? -errno : -EIO;
        r = wait_for(to, POLLIN, until);
        if (r < 0)
                return r;
        return read(to, &byte, 1) == 1 ? 0 : -EPIPE;
}

static int measure_round_trip(int a, int b, uint64_t *ret) {
        uint64_t until = now_usec() + PING_LIMIT;

        *ret = UINT64_MAX;
        for (unsigned i = 0; i < PINGS; i++) {
                uint64_t begin = now_usec(), took;
                int r = pass_byte(a, b, until);

                if (r == 0)
                        r = pass_byte(b, a, until);
                if (r < 0)
                        return r;
                took = now_usec() - begin;
                if (took < *ret)
                        *ret = took;
                if (took > FLOOD_USEC / PINGS)
                        break; /* a long way: once is enough */
        }
        return 0;
}

static int measure_bandwidth(int from, int to, uint64_t *ret) {
        static char chunk[CHUNK];
        uint64_t begin = now_usec(), now = begin, first = 0, last = 0, bytes = 0;

        while ((now = now_usec()) < begin + FLOOD_USEC) {
                struct pollfd p[2] = { { .fd = from, .events = POLLOUT },
                                       { .fd = to, .events = POLLIN } };
                ssize_t n;

                if (poll(p, 2, 10) < 0 && errno != EINTR)
                        return -errno;
                if (p[0].revents & POLLOUT)
                        (void)send(from, chunk, CHUNK, MSG_NOSIGNAL | MSG_DONTWAIT);
                if (!(p[1].revents & (POLLIN | POLLHUP)))
                        continue;
                n = recv(to, chunk, CHUNK, MSG_DONTWAIT);
                if (n == 0)
                        return -EPIPE;
                now = now_usec();
                if (n > 0 && now >= begin + WARMUP_USEC) {
                        if (first != 0)
                                bytes += (uint64_t)n;
                        else
                                first = now;
                        last = now;
                }
        }
        *ret = last > first ? bytes * USEC_PER_SEC / (last - first) : 0;
        return *ret > 0 ? 0 : -ETIMEDOUT;
}

int link_probe(int from_fd, int to_fd, link_figures *ret) {
        int r = measure_round_trip(from_fd, to_fd, &ret->round_trip_usec);

        return r < 0 ? r : measure_bandwidth(from_fd, to_fd, &ret->bytes_per_second);
}
