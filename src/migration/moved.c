/* SPDX-License-Identifier: MIT */
#include "migration/moved.h"

/* libc's own <netinet/tcp.h>, which cannot be had beside it, lacks the bytes */
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static unsigned waiting(int fd) {
        int n = 0;

        (void)ioctl(fd, SIOCOUTQ, &n);
        return (unsigned)n;
}

bool socket_waits(int fd) {
        return waiting(fd) > 0;
}

uint64_t socket_moved(int fd) {
        struct tcp_info info = { 0 };
        socklen_t n = sizeof(info);

        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0)
                info.tcpi_bytes_acked = 0;
        return info.tcpi_bytes_acked * 2 + waiting(fd);
}
