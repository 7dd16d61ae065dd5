/* SPDX-License-Identifier: MIT */
/* What a network namespace that somebody else has made has in it. */
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/nsfs.h>
#include <net/if_arp.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "vm/nic-internal.h"

#define PREFERRED "eth0"

/* ---- namespaces ---- */

int nic_open_namespace(const char *path, int *ret_fd, ferry_error *reterr) {
        _cleanup_(closep) int fd = -EBADF;

        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "network namespace %s", path);
        if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "network namespace %s: the file is none", path);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

bool nic_same_namespace(int a, int b) {
        struct stat first, second;

        if (fstat(a, &first) < 0)
                return false;
        if ((b < 0 ? stat("/proc/thread-self/ns/net", &second) : fstat(b, &second)) < 0)
                return false;
        return first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

int nic_enter(int namespace_fd, int *ret_home) {
        _cleanup_(closep) int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

        if (home < 0 || setns(namespace_fd, CLONE_NEWNET) < 0)
                return -errno;
        *ret_home = TAKE_FD(home);
        return 0;
}

void nic_go_home(int home_consume) {
        if (setns(home_consume, CLONE_NEWNET) < 0)
                abort();
        fd_close(home_consume);
}

int nic_rtnl(int namespace_fd, int *ret_fd) {
        int home = -EBADF, fd, r;

        r = nic_enter(namespace_fd, &home);
        if (r < 0)
                return r;
        fd = rtnl_open();
        nic_go_home(home);
        if (fd < 0)
                return fd;
        *ret_fd = fd;
        return 0;
}

/* ---- the interface ---- */

typedef struct search {
        nic_network *network;
        unsigned index; /* 0: none yet */
        size_t n_others;
        int r;
} search;

static int on_link(const struct nlmsghdr *object, void *userdata) {
        const struct ifinfomsg *info = NLMSG_DATA(object);
        const struct rtattr *a[IFLA_MAX + 1];
        const char *name;
        search *s = userdata;

        if (object->nlmsg_type != RTM_NEWLINK || object->nlmsg_len < NLMSG_LENGTH(sizeof(*info)))
                return -EBADMSG;
        rtnl_attributes(object, sizeof(*info), a, ELEMENTS(a));
        if (info->ifi_type != ARPHRD_ETHER || !(info->ifi_flags & IFF_UP) || !a[IFLA_IFNAME] ||
            !a[IFLA_ADDRESS] || RTA_PAYLOAD(a[IFLA_ADDRESS]) != sizeof(s->network->mac))
                return 0;
        name = RTA_DATA(a[IFLA_IFNAME]);
        if (strnlen(name, RTA_PAYLOAD(a[IFLA_IFNAME])) >= IF_NAMESIZE)
                return -EBADMSG;
        if (s->index != 0) {
                s->n_others++;
                if (strcmp(name, PREFERRED) != 0)
                        return 0;
        }
        s->index = (unsigned)info->ifi_index;
        (void)snprintf(s->network->name, sizeof(s->network->name), "%s", name);
        memcpy(s->network->mac, RTA_DATA(a[IFLA_ADDRESS]), sizeof(s->network->mac));
        s->network->mtu = rtnl_u32(a[IFLA_MTU]);
        return 0;
}

static int find_interface(int fd, search *s) {
        struct ifinfomsg info = { .ifi_family = AF_UNSPEC };
        rtnl_request m;
        int r;

        rtnl_begin(&m, RTM_GETLINK, 0, &info, sizeof(info));
        r = rtnl_dump(fd, &m, on_link, s);
        if (r == 0 && s->index == 0)
                r = -ENODEV;
        return r;
}

/* ---- its addresses ---- */

static size_t width(bool ipv6) {
        return ipv6 ? 16 : 4;
}

static bool copy_address(const struct rtattr *a, bool ipv6, uint8_t ret[16]) {
        if (!a || RTA_PAYLOAD(a) != width(ipv6))
                return false;
        memcpy(ret, RTA_DATA(a), width(ipv6));
        return true;
}

static int on_address(const struct nlmsghdr *object, void *userdata) {
        const struct ifaddrmsg *info = NLMSG_DATA(object);
        const struct rtattr *a[IFA_MAX + 1];
        search *s = userdata;
        nic_network *n = s->network;
        nic_address address = { .ipv6 = false };

        if (object->nlmsg_type != RTM_NEWADDR || object->nlmsg_len < NLMSG_LENGTH(sizeof(*info)))
                return -EBADMSG;
        /* the guest makes its own link-local address; what a router has given, it gives again */
        if (info->ifa_index != s->index || info->ifa_scope == RT_SCOPE_LINK ||
            !(info->ifa_flags & IFA_F_PERMANENT) ||
            (info->ifa_family != AF_INET && info->ifa_family != AF_INET6))
                return 0;
        rtnl_attributes(object, sizeof(*info), a, ELEMENTS(a));
        address.ipv6 = info->ifa_family == AF_INET6;
        address.prefix = info->ifa_prefixlen;
        if (!copy_address(a[IFA_LOCAL] ? a[IFA_LOCAL] : a[IFA_ADDRESS], address.ipv6,
                          address.bytes))
                return -EBADMSG;
        if (n->n_addresses == NIC_ADDRESSES_MAX)
                return -E2BIG;
        n->addresses[n->n_addresses++] = address;
        return 0;
}

/* ---- its routes ---- */

static bool is_for_guest(const struct rtmsg *route, const struct rtattr *const a[],
                         const search *s) {
        uint32_t table = a[RTA_TABLE] ? rtnl_u32(a[RTA_TABLE]) : route->rtm_table;

        return table == RT_TABLE_MAIN && route->rtm_type == RTN_UNICAST &&
               !(route->rtm_flags & RTM_F_CLONED) && route->rtm_protocol != RTPROT_RA &&
               rtnl_u32(a[RTA_OIF]) == s->index &&
               (route->rtm_family == AF_INET || route->rtm_family == AF_INET6);
}

static bool is_link_local(const nic_route *route) {
        return route->ipv6 && route->to[0] == 0xfe && (route->to[1] & 0xc0) == 0x80;
}

static int on_route(const struct nlmsghdr *object, void *userdata) {
        const struct rtmsg *info = NLMSG_DATA(object);
        const struct rtattr *a[RTA_MAX + 1];
        nic_route route = { .ipv6 = false };
        search *s = userdata;
        nic_network *n = s->network;
        size_t at;

        if (object->nlmsg_type != RTM_NEWROUTE || object->nlmsg_len < NLMSG_LENGTH(sizeof(*info)))
                return -EBADMSG;
        rtnl_attributes(object, sizeof(*info), a, ELEMENTS(a));
        if (!is_for_guest(info, a, s))
                return 0;
        route.ipv6 = info->rtm_family == AF_INET6;
        route.prefix = info->rtm_dst_len;
        route.metric = rtnl_u32(a[RTA_PRIORITY]);
        route.onlink = info->rtm_flags & RTNH_F_ONLINK;
        if (a[RTA_DST] && !copy_address(a[RTA_DST], route.ipv6, route.to))
                return -EBADMSG;
        route.has_gateway = copy_address(a[RTA_GATEWAY], route.ipv6, route.gateway);
        route.has_source = copy_address(a[RTA_PREFSRC], route.ipv6, route.source);
        if (is_link_local(&route))
                return 0;
        if (n->n_routes == NIC_ROUTES_MAX)
                return -E2BIG;
        at = n->n_routes++;
        if (!route.has_gateway)
                for (; at > 0 && n->routes[at - 1].has_gateway; at--)
                        n->routes[at] = n->routes[at - 1];
        n->routes[at] = route;
        return 0;
}

static int look(int fd, search *s) {
        struct ifaddrmsg address = { .ifa_family = AF_UNSPEC };
        struct rtmsg route = { .rtm_family = AF_UNSPEC };
        rtnl_request m;
        int r;

        r = find_interface(fd, s);
        if (r < 0)
                return r;
        rtnl_begin(&m, RTM_GETADDR, 0, &address, sizeof(address));
        r = rtnl_dump(fd, &m, on_address, s);
        if (r < 0)
                return r;
        rtnl_begin(&m, RTM_GETROUTE, 0, &route, sizeof(route));
        return rtnl_dump(fd, &m, on_route, s);
}

int nic_look(int namespace_fd, nic_network *ret, ferry_error *reterr) {
        _cleanup_(closep) int fd = -EBADF;
        search s = { .network = ret };
        int r;

        *ret = (nic_network){ .mtu = 0 };
        r = nic_rtnl(namespace_fd, &fd);
        if (r == 0)
                r = look(fd, &s);
        if (r == -E2BIG)
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, r,
                                       "network: %s has more than %u addresses or %u routes",
                                       ret->name, NIC_ADDRESSES_MAX, NIC_ROUTES_MAX);
        if (r == -ENODEV)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, r,
                                       "the network namespace has no interface that is up");
        return r < 0 ? ferry_error_set_errno(reterr, r, "the network namespace") : 0;
}
