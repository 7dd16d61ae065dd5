/* SPDX-License-Identifier: MIT */
#include "vm/tap.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/fd.h"

static int control_socket(void) {
        int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        return fd < 0 ? -errno : fd;
}

static struct ifreq request_for(const char *name) {
        struct ifreq request = { 0 };

        memcpy(request.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
        return request;
}

/* A router solicitation of the host in the guest's network helps nobody. Best effort. */
static void silence_ipv6(const char *tap) {
        _cleanup_(closep) int fd = -EBADF;
        char path[64];

        snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", tap);
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0)
                (void)!write(fd, "1", 1);
}

static int tap_set_up(const char *tap, const char *bridge, ferry_error *reterr) {
        _cleanup_(closep) int control = control_socket();
        struct ifreq request;

        if (control < 0)
                return ferry_error_set_errno(reterr, control, "socket");
        if (bridge[0] != '\0') {
                int mtu;

                request = request_for(bridge);
                if (ioctl(control, SIOCGIFMTU, &request) < 0)
                        return ferry_error_set_errno(reterr, -errno, "bridge %s", bridge);
                mtu = request.ifr_mtu;
                request = request_for(tap);
                request.ifr_mtu = mtu;
                if (ioctl(control, SIOCSIFMTU, &request) < 0)
                        return ferry_error_set_errno(reterr, -errno, "set the MTU of %s", tap);
        }
        silence_ipv6(tap);
        request = request_for(tap);
        if (ioctl(control, SIOCGIFFLAGS, &request) < 0)
                return ferry_error_set_errno(reterr, -errno, "tap %s", tap);
        request.ifr_flags |= IFF_UP;
        if (ioctl(control, SIOCSIFFLAGS, &request) < 0)
                return ferry_error_set_errno(reterr, -errno, "bring up tap %s", tap);
        return 0;
}

int tap_create(const char *name, const char *bridge, int *ret_fd, char ret_name[TAP_NAME_SIZE],
               ferry_error *reterr) {
        struct ifreq request = request_for(name[0] != '\0' ? name : "ferry%d");
        _cleanup_(closep) int fd = -EBADF;
        int r;

        fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno,
                                             geteuid() == 0
                                                     ? "open /dev/net/tun (is the tun module "
                                                       "loaded?)"
                                                     : "open /dev/net/tun (a guest's network needs "
                                                       "root)");
        /* EXCL: an existing persistent tap is somebody else's */
        request.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL);
        if (ioctl(fd, TUNSETIFF, &request) < 0)
                return ferry_error_set_errno(reterr, -errno, "make tap %s", name);
        r = tap_set_up(request.ifr_name, bridge, reterr);
        if (r < 0)
                return r;
        memcpy(ret_name, request.ifr_name, TAP_NAME_SIZE);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static int bridge_port(const char *bridge, const char *tap, unsigned long operation) {
        _cleanup_(closep) int control = control_socket();
        struct ifreq request = request_for(bridge);

        if (control < 0)
                return control;
        request.ifr_ifindex = (int)if_nametoindex(tap);
        if (request.ifr_ifindex == 0)
                return -errno;
        return ioctl(control, operation, &request) < 0 ? -errno : 0;
}

int tap_attach(const char *tap, const char *bridge, ferry_error *reterr) {
        char current[TAP_NAME_SIZE];
        int r;

        r = bridge_port(bridge, tap, SIOCBRADDIF);
        if (r == -EBUSY && tap_get_bridge(tap, current) == 0 && strcmp(current, bridge) == 0)
                return 0;
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "put tap %s on bridge %s", tap, bridge);
        return 0;
}

int tap_detach(const char *tap, ferry_error *reterr) {
        char bridge[TAP_NAME_SIZE];
        int r;

        r = tap_get_bridge(tap, bridge);
        if (r == -ENODEV)
                return 0;
        if (r == 0 && bridge[0] == '\0')
                return 0;
        if (r == 0)
                r = bridge_port(bridge, tap, SIOCBRDELIF);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "take tap %s off its bridge", tap);
        return 0;
}

/* IFLA_MASTER of the answer to RTM_GETLINK; 0 for none. */
static int parse_master(const char *answer, size_t n, unsigned *ret) {
        const struct nlmsghdr *header = (const struct nlmsghdr *)answer;
        const struct ifinfomsg *info;
        size_t left;

        if (!NLMSG_OK(header, n))
                return -EBADMSG;
        if (header->nlmsg_type == NLMSG_ERROR) {
                const struct nlmsgerr *error = NLMSG_DATA(header);

                if (header->nlmsg_len < NLMSG_LENGTH(sizeof(*error)) || error->error >= 0)
                        return -EBADMSG;
                return error->error;
        }
        if (header->nlmsg_type != RTM_NEWLINK || header->nlmsg_len < NLMSG_LENGTH(sizeof(*info)))
                return -EBADMSG;
        info = NLMSG_DATA(header);
        left = header->nlmsg_len - NLMSG_LENGTH(sizeof(*info));
        *ret = 0;
        for (const struct rtattr *a = IFLA_RTA(info); RTA_OK(a, left); a = RTA_NEXT(a, left))
                if (a->rta_type == IFLA_MASTER && RTA_PAYLOAD(a) == sizeof(uint32_t)) {
                        uint32_t master;

                        memcpy(&master, RTA_DATA(a), sizeof(master));
                        *ret = master;
                }
        return 0;
}

int tap_get_bridge(const char *tap, char ret[TAP_NAME_SIZE]) {
        _cleanup_(closep) int fd = -EBADF;
        struct {
                struct nlmsghdr header;
                struct ifinfomsg info;
        } request = {
                .header = { .nlmsg_len = sizeof(request),
                            .nlmsg_type = RTM_GETLINK,
                            .nlmsg_flags = NLM_F_REQUEST },
                .info = { .ifi_family = AF_UNSPEC },
        };
        _Alignas(struct nlmsghdr) char answer[16384];
        unsigned master;
        ssize_t k;
        int r;

        request.info.ifi_index = (int)if_nametoindex(tap);
        if (request.info.ifi_index == 0)
                return -errno;
        fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
        if (fd < 0)
                return -errno;
        k = send(fd, &request, sizeof(request), 0);
        if (k < 0)
                return -errno;
        k = recv(fd, answer, sizeof(answer), 0);
        if (k < 0)
                return -errno;
        r = parse_master(answer, (size_t)k, &master);
        if (r < 0)
                return r;
        memset(ret, 0, TAP_NAME_SIZE);
        if (master != 0 && !if_indextoname(master, ret))
                return -errno;
        return 0;
}
