/* SPDX-License-Identifier: MIT */
#include "agent/interface.h"

#include <linux/if_addr.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/rtnl.h"

#define ADDRESSES_MAX 64U
#define ROUTES_MAX    128U
#define MAC_SIZE      6U

typedef Ferry__Agent__V1__ConfigureNetworkRequest network_request;

/* ---- what is asked for ---- */

static bool is_address(const ProtobufCBinaryData *a) {
        return a->len == 4 || a->len == 16;
}

static bool is_like(const ProtobufCBinaryData *a, const ProtobufCBinaryData *to) {
        return a->len == 0 || a->len == to->len;
}

static bool is_name(const char *name) {
        if (name[0] == '\0' || strlen(name) >= IF_NAMESIZE || strcmp(name, ".") == 0 ||
            strcmp(name, "..") == 0 || strcmp(name, "lo") == 0)
                return false;
        for (const char *c = name; *c; c++)
                if (*c <= ' ' || *c >= 0x7f || *c == '/' || *c == ':' || *c == '%')
                        return false;
        return true;
}

static const char *find_fault(const network_request *q) {
        if (!is_name(q->name))
                return "name";
        if (q->mac.len != MAC_SIZE || (q->mac.data[0] & 1))
                return "MAC address";
        if (q->n_addresses > ADDRESSES_MAX)
                return "number of addresses";
        if (q->n_routes > ROUTES_MAX)
                return "number of routes";
        for (size_t i = 0; i < q->n_addresses; i++)
                if (!is_address(&q->addresses[i]->address) ||
                    q->addresses[i]->prefix > 8 * q->addresses[i]->address.len)
                        return "address";
        for (size_t i = 0; i < q->n_routes; i++) {
                const Ferry__Agent__V1__NetworkRoute *route = q->routes[i];

                if (!is_address(&route->to) || route->prefix > 8 * route->to.len ||
                    !is_like(&route->gateway, &route->to) || !is_like(&route->source, &route->to))
                        return "route";
        }
        return NULL;
}

/* ---- the interface ---- */

/* A device of the machine's: what containers have made has no hardware below it. */
static int on_link(const struct nlmsghdr *object, void *userdata) {
        const struct ifinfomsg *info = NLMSG_DATA(object);
        const struct rtattr *a[IFLA_MAX + 1];
        int *index = userdata;

        if (object->nlmsg_len < NLMSG_LENGTH(sizeof(*info)))
                return -EBADMSG;
        rtnl_attributes(object, sizeof(*info), a, ELEMENTS(a));
        if (info->ifi_type == ARPHRD_ETHER && !a[IFLA_LINKINFO] && *index == 0)
                *index = info->ifi_index;
        return 0;
}

static int find_interface(int fd, int *ret) {
        struct ifinfomsg info = { .ifi_family = AF_UNSPEC };
        rtnl_request m;
        int r;

        *ret = 0;
        rtnl_begin(&m, RTM_GETLINK, 0, &info, sizeof(info));
        r = rtnl_dump(fd, &m, on_link, ret);
        return r == 0 && *ret == 0 ? -ENODEV : r;
}

static int set_flags(int fd, int index, unsigned up) {
        struct ifinfomsg info = { .ifi_index = index, .ifi_flags = up, .ifi_change = IFF_UP };
        rtnl_request m;

        rtnl_begin(&m, RTM_NEWLINK, 0, &info, sizeof(info));
        return rtnl_ask(fd, &m);
}

/* While it is down. */
static int set_identity(int fd, int index, const network_request *q) {
        struct ifinfomsg info = { .ifi_index = index };
        rtnl_request m;

        rtnl_begin(&m, RTM_NEWLINK, 0, &info, sizeof(info));
        rtnl_put(&m, IFLA_ADDRESS, q->mac.data, q->mac.len);
        if (q->mtu > 0)
                rtnl_put_u32(&m, IFLA_MTU, q->mtu);
        rtnl_put_text(&m, IFLA_IFNAME, q->name);
        return rtnl_ask(fd, &m);
}

/* ---- addresses and routes ---- */

/* Those of IPv4: taking the interface down took the others, and all routes. */
typedef struct old_addresses {
        int index;
        struct {
                uint8_t bytes[4], prefix;
        } items[ADDRESSES_MAX];
        size_t n;
} old_addresses;

static int on_address(const struct nlmsghdr *object, void *userdata) {
        const struct ifaddrmsg *info = NLMSG_DATA(object);
        const struct rtattr *a[IFA_MAX + 1];
        old_addresses *old = userdata;

        if (object->nlmsg_len < NLMSG_LENGTH(sizeof(*info)))
                return -EBADMSG;
        rtnl_attributes(object, sizeof(*info), a, ELEMENTS(a));
        if ((int)info->ifa_index != old->index || info->ifa_family != AF_INET || !a[IFA_LOCAL] ||
            RTA_PAYLOAD(a[IFA_LOCAL]) != sizeof(old->items[0].bytes) || old->n == ADDRESSES_MAX)
                return 0;
        memcpy(old->items[old->n].bytes, RTA_DATA(a[IFA_LOCAL]), sizeof(old->items[0].bytes));
        old->items[old->n++].prefix = info->ifa_prefixlen;
        return 0;
}

static int change_address(int fd, int index, uint16_t type, uint16_t flags, const void *address,
                          size_t n, uint32_t prefix) {
        struct ifaddrmsg info = { .ifa_family = n == 4 ? AF_INET : AF_INET6,
                                  .ifa_prefixlen = (uint8_t)prefix,
                                  .ifa_index = (unsigned)index };
        rtnl_request m;

        rtnl_begin(&m, type, flags, &info, sizeof(info));
        rtnl_put(&m, IFA_LOCAL, address, n);
        rtnl_put(&m, IFA_ADDRESS, address, n);
        /* the routes come by themselves; whose the address is CNI has found out */
        if (type == RTM_NEWADDR)
                rtnl_put_u32(&m, IFA_FLAGS, IFA_F_NOPREFIXROUTE | (n == 16 ? IFA_F_NODAD : 0U));
        return rtnl_ask(fd, &m);
}

static int remove_addresses(int fd, int index) {
        struct ifaddrmsg info = { .ifa_family = AF_INET };
        old_addresses old = { .index = index };
        rtnl_request m;
        int r;

        rtnl_begin(&m, RTM_GETADDR, 0, &info, sizeof(info));
        r = rtnl_dump(fd, &m, on_address, &old);
        for (size_t i = 0; r == 0 && i < old.n; i++) {
                r = change_address(fd, index, RTM_DELADDR, 0, old.items[i].bytes,
                                   sizeof(old.items[i].bytes), old.items[i].prefix);
                if (r == -EADDRNOTAVAIL) /* a secondary one goes with the first */
                        r = 0;
        }
        return r;
}

static int add_route(int fd, int index, const Ferry__Agent__V1__NetworkRoute *route) {
        struct rtmsg info = { .rtm_family = route->to.len == 4 ? AF_INET : AF_INET6,
                              .rtm_dst_len = (uint8_t)route->prefix,
                              .rtm_table = RT_TABLE_MAIN,
                              .rtm_protocol = RTPROT_STATIC,
                              .rtm_scope = route->gateway.len == 0 && route->to.len == 4
                                                   ? RT_SCOPE_LINK
                                                   : RT_SCOPE_UNIVERSE,
                              .rtm_type = RTN_UNICAST,
                              .rtm_flags = route->onlink ? RTNH_F_ONLINK : 0U };
        rtnl_request m;

        rtnl_begin(&m, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &info, sizeof(info));
        if (route->prefix > 0)
                rtnl_put(&m, RTA_DST, route->to.data, route->to.len);
        if (route->gateway.len > 0)
                rtnl_put(&m, RTA_GATEWAY, route->gateway.data, route->gateway.len);
        if (route->source.len > 0)
                rtnl_put(&m, RTA_PREFSRC, route->source.data, route->source.len);
        if (route->metric > 0)
                rtnl_put_u32(&m, RTA_PRIORITY, route->metric);
        rtnl_put_u32(&m, RTA_OIF, (uint32_t)index);
        return rtnl_ask(fd, &m);
}

/* ---- the whole ---- */

static int fill(int fd, int index, const network_request *q, const char **ret_what) {
        int r;

        *ret_what = "the old addresses";
        r = remove_addresses(fd, index);
        if (r < 0)
                return r;
        *ret_what = "its name, MAC address and MTU";
        r = set_identity(fd, index, q);
        if (r < 0)
                return r;
        *ret_what = "bringing it up";
        r = set_flags(fd, index, IFF_UP);
        *ret_what = "an address";
        for (size_t i = 0; r == 0 && i < q->n_addresses; i++)
                r = change_address(fd, index, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE,
                                   q->addresses[i]->address.data, q->addresses[i]->address.len,
                                   q->addresses[i]->prefix);
        if (r < 0)
                return r;
        *ret_what = "a route";
        for (size_t i = 0; r == 0 && i < q->n_routes; i++)
                r = add_route(fd, index, q->routes[i]);
        return r;
}

int interface_configure(const network_request *q, const char **ret_what) {
        _cleanup_(closep) int fd = -EBADF;
        int index, r;

        *ret_what = find_fault(q);
        if (*ret_what)
                return -EINVAL;
        *ret_what = "the interface";
        fd = rtnl_open();
        r = fd < 0 ? fd : find_interface(fd, &index);
        if (r == 0)
                r = set_flags(fd, index, 0);
        if (r < 0)
                return r;
        r = fill(fd, index, q, ret_what);
        if (r < 0)
                (void)set_flags(fd, index, 0);
        return r;
}
