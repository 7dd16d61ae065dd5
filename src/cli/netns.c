/* SPDX-License-Identifier: MIT */
#include "cli/netns.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fd.h"

typedef union address {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
} address;

int netns_open(const char *name, int *ret_fd, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        int fd;

        if (!name) {
                *ret_fd = -EBADF;
                return 0;
        }
        if (asprintf(&path, NETNS_FOLDER "/%s", name) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "namespace");
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "network namespace %s", name);
        *ret_fd = fd;
        return 0;
}

int netns_enter(int netns_fd) {
        if (netns_fd < 0)
                return 0;
        return setns(netns_fd, CLONE_NEWNET) < 0 ? -errno : 0;
}

static int parse_address(const char *text, uint16_t port, address *ret, socklen_t *ret_size) {
        *ret = (address){ 0 };
        if (inet_pton(AF_INET, text, &ret->v4.sin_addr) == 1) {
                ret->v4.sin_family = AF_INET;
                ret->v4.sin_port = htons(port);
                *ret_size = sizeof(ret->v4);
                return 0;
        }
        *ret = (address){ 0 };
        if (inet_pton(AF_INET6, text, &ret->v6.sin6_addr) == 1) {
                ret->v6.sin6_family = AF_INET6;
                ret->v6.sin6_port = htons(port);
                *ret_size = sizeof(ret->v6);
                return 0;
        }
        return -EINVAL;
}

/* A socket belongs to the namespace it was made in, whatever its process does later. */
static int socket_in(int netns_fd, int family, int *ret_fd) {
        _cleanup_(closep) int home = -EBADF;
        int fd, r = 0;

        if (netns_fd >= 0) {
                home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
                if (home < 0)
                        return -errno;
                r = netns_enter(netns_fd);
                if (r < 0)
                        return r;
        }
        fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                r = -errno;
        if (home >= 0 && setns(home, CLONE_NEWNET) < 0) {
                r = -errno;
                fd = fd_close(fd);
        }
        if (r == 0)
                *ret_fd = fd;
        return r;
}

int netns_listen(int netns_fd, const char *text, int *ret_fd, uint16_t *ret_port,
                 ferry_error *reterr) {
        _cleanup_(closep) int fd = -EBADF;
        socklen_t size;
        address a;
        int r;

        r = parse_address(text, 0, &a, &size);
        if (r == 0)
                r = socket_in(netns_fd, a.any.sa_family, &fd);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "cannot listen on %s", text);
        if (bind(fd, &a.any, size) < 0 || listen(fd, 1) < 0 ||
            getsockname(fd, &a.any, &(socklen_t){ sizeof(a) }) < 0)
                return ferry_error_set_errno(reterr, -errno, "cannot listen on %s", text);
        *ret_port = ntohs(a.any.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int finish_connect(int fd, uint64_t timeout_usec) {
        struct pollfd p = { .fd = fd, .events = POLLOUT };
        uint64_t deadline = now_usec() + timeout_usec;
        socklen_t size = sizeof(int);
        int error;

        for (;;) {
                uint64_t now = now_usec();
                int r = now < deadline ? poll(&p, 1, (int)((deadline - now) / USEC_PER_MSEC) + 1)
                                       : 0;

                if (r == 0)
                        return -ETIMEDOUT;
                if (r > 0)
                        break;
                if (errno != EINTR)
                        return -errno;
        }
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
                return -errno;
        return -error;
}

int netns_set_nodelay(int fd) {
        return setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)) < 0 ? -errno : 0;
}

int netns_connect(int netns_fd, const char *text, uint16_t port, uint64_t timeout_usec, int *ret_fd,
                  ferry_error *reterr) {
        _cleanup_(closep) int fd = -EBADF;
        socklen_t size;
        address a;
        int r;

        r = parse_address(text, port, &a, &size);
        if (r == 0)
                r = socket_in(netns_fd, a.any.sa_family, &fd);
        if (r == 0)
                r = fd_set_nonblock(fd, true);
        if (r == 0 && connect(fd, &a.any, size) < 0)
                r = errno == EINPROGRESS ? finish_connect(fd, timeout_usec) : -errno;
        if (r == 0)
                r = fd_set_nonblock(fd, false);
        if (r == 0)
                r = netns_set_nodelay(fd);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "cannot connect to %s port %u", text,
                                             (unsigned)port);
        *ret_fd = TAKE_FD(fd);
        return 0;
}
