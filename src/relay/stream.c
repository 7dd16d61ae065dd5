/* SPDX-License-Identifier: MIT */
#include "relay/stream.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>

static int wait_for(int fd, short events, int stop_fd) {
        struct pollfd p[] = { { .fd = fd, .events = events }, { .fd = stop_fd, .events = POLLIN } };

        while (poll(p, 2, -1) < 0)
                if (errno != EINTR)
                        return -errno;
        return p[1].revents ? -ECANCELED : 0;
}

int relay_wait_readable(int first, int second, int stop_fd) {
        struct pollfd p[] = { { .fd = first, .events = POLLIN },
                              { .fd = second, .events = POLLIN },
                              { .fd = stop_fd, .events = POLLIN } };

        while (poll(p, 3, -1) < 0)
                if (errno != EINTR)
                        return -errno;
        if (p[2].revents)
                return -ECANCELED;
        return p[0].revents ? 0 : 1;
}

ssize_t relay_read_some(int fd, void *to, size_t n, int stop_fd) {
        size_t have = 0;

        while (have < n) {
                ssize_t k = recv(fd, (uint8_t *)to + have, n - have, MSG_DONTWAIT);
                int r;

                if (k > 0) {
                        have += (size_t)k;
                        continue;
                }
                if (k < 0 && errno == EINTR)
                        continue;
                if (have > 0) /* an end or an error shows again the next time */
                        break;
                if (k == 0)
                        return 0;
                if (errno != EAGAIN)
                        return -errno;
                r = wait_for(fd, POLLIN, stop_fd);
                if (r < 0)
                        return r;
        }
        return (ssize_t)have;
}

int relay_read_all(int fd, void *to, size_t n, int stop_fd) {
        for (size_t have = 0; have < n;) {
                ssize_t k = relay_read_some(fd, (uint8_t *)to + have, n - have, stop_fd);

                if (k <= 0)
                        return k < 0 ? (int)k : -ENODATA;
                have += (size_t)k;
        }
        return 0;
}

int relay_write_all(int fd, struct iovec *iov, size_t n_iov, int stop_fd) {
        while (n_iov > 0) {
                struct msghdr m = { .msg_iov = iov, .msg_iovlen = n_iov };
                ssize_t k = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
                size_t sent;
                int r;

                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0 && errno != EAGAIN)
                        return -errno;
                if (k < 0) {
                        r = wait_for(fd, POLLOUT, stop_fd);
                        if (r < 0)
                                return r;
                        continue;
                }
                for (sent = (size_t)k; n_iov > 0 && sent >= iov->iov_len; iov++, n_iov--)
                        sent -= iov->iov_len;
                if (n_iov > 0) {
                        iov->iov_base = (uint8_t *)iov->iov_base + sent;
                        iov->iov_len -= sent;
                }
        }
        return 0;
}
