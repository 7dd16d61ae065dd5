/* SPDX-License-Identifier: MIT */
#include "agent/network.h"

#include <net/if.h>
#include <net/route.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define APPEARS_USEC (5 * USEC_PER_SEC)
#define RETRY_USEC   (2 * USEC_PER_MSEC)

static struct sockaddr internet(struct in_addr address) {
        struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr = address };
        struct sockaddr out;

        _Static_assert(sizeof(in) == sizeof(out), "sockaddr");
        memcpy(&out, &in, sizeof(out));
        return out;
}

static int socket_for_ioctl(void) {
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        return fd < 0 ? -errno : fd;
}

static int set_up(int fd, struct ifreq *request) {
        if (ioctl(fd, SIOCGIFFLAGS, request) < 0)
                return -errno;
        request->ifr_flags = (short)(request->ifr_flags | IFF_UP | IFF_RUNNING);
        return ioctl(fd, SIOCSIFFLAGS, request) < 0 ? -errno : 0;
}

int network_loopback_up(void) {
        _cleanup_(closep) int fd = socket_for_ioctl();
        struct ifreq request = { .ifr_name = "lo" };

        return fd < 0 ? fd : set_up(fd, &request);
}

static int wait_for_interface(int fd, struct ifreq *request) {
        uint64_t deadline = now_usec() + APPEARS_USEC;

        while (ioctl(fd, SIOCGIFINDEX, request) < 0) {
                if (errno != ENODEV || now_usec() > deadline)
                        return -errno;
                (void)usleep(RETRY_USEC);
        }
        return 0;
}

int network_interface_up(const char *name, struct in_addr address, struct in_addr mask) {
        _cleanup_(closep) int fd = socket_for_ioctl();
        struct ifreq request = { 0 };
        int r;

        if (fd < 0)
                return fd;
        if (strlen(name) >= sizeof(request.ifr_name))
                return -EINVAL;
        (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
        r = wait_for_interface(fd, &request);
        if (r < 0)
                return r;
        request.ifr_addr = internet(address);
        if (ioctl(fd, SIOCSIFADDR, &request) < 0)
                return -errno;
        request.ifr_netmask = internet(mask);
        if (ioctl(fd, SIOCSIFNETMASK, &request) < 0)
                return -errno;
        return set_up(fd, &request);
}

int network_add_gateway(struct in_addr gateway) {
        _cleanup_(closep) int fd = socket_for_ioctl();
        struct in_addr any = { 0 };
        struct rtentry route = { .rt_flags = RTF_UP | RTF_GATEWAY };

        if (fd < 0)
                return fd;
        route.rt_dst = internet(any);
        route.rt_genmask = internet(any);
        route.rt_gateway = internet(gateway);
        return ioctl(fd, SIOCADDRT, &route) < 0 && errno != EEXIST ? -errno : 0;
}
