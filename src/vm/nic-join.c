/* SPDX-License-Identifier: MIT */
/* A tap takes the place of an interface: by the kernel's traffic control, which sends on what one
 * of the two receives by the other. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/tc_act/tc_mirred.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "vm/nic-internal.h"

static unsigned index_in(int namespace_fd, const char *name) {
        unsigned index;
        int home = -EBADF;

        if (nic_enter(namespace_fd, &home) < 0)
                return 0;
        index = if_nametoindex(name);
        nic_go_home(home);
        return index;
}

static int ask_link(int fd, unsigned index, uint16_t attribute, uint32_t value, unsigned flags) {
        struct ifinfomsg info = { .ifi_family = AF_UNSPEC,
                                  .ifi_index = (int)index,
                                  .ifi_flags = flags,
                                  .ifi_change = flags };
        rtnl_request m;

        rtnl_begin(&m, RTM_NEWLINK, 0, &info, sizeof(info));
        if (attribute != 0)
                rtnl_put_u32(&m, attribute, value);
        return rtnl_ask(fd, &m);
}

/* Nothing but the guest is to speak on it: best effort. */
static void silence_ipv6(int namespace_fd, const char *name) {
        char path[64];
        int home = -EBADF, fd;

        (void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", name);
        if (nic_enter(namespace_fd, &home) < 0)
                return;
        fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0)
                (void)!write(fd, "1", 1);
        fd_close(fd);
        nic_go_home(home);
}

/* ---- the way of the frames ---- */

static void begin_ingress(rtnl_request *m, uint16_t type, uint16_t flags, unsigned index) {
        struct tcmsg info = { .tcm_family = AF_UNSPEC,
                              .tcm_ifindex = (int)index,
                              .tcm_parent = TC_H_INGRESS,
                              .tcm_handle = TC_H_MAKE(TC_H_INGRESS, 0) };

        rtnl_begin(m, type, flags, &info, sizeof(info));
        rtnl_put_text(m, TCA_KIND, "ingress");
}

static int add_ingress(int fd, unsigned index) {
        rtnl_request m;

        begin_ingress(&m, RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, index);
        return rtnl_ask(fd, &m);
}

static int remove_ingress(int fd, unsigned index) {
        rtnl_request m;

        begin_ingress(&m, RTM_DELQDISC, 0, index);
        return rtnl_ask(fd, &m);
}

static void put_redirect(rtnl_request *m, unsigned to) {
        struct tc_mirred redirect = { .action = TC_ACT_STOLEN,
                                      .eaction = TCA_EGRESS_REDIR,
                                      .ifindex = to };
        size_t actions = rtnl_nest(m, TCA_U32_ACT), first = rtnl_nest(m, 1), options;

        rtnl_put_text(m, TCA_ACT_KIND, "mirred");
        options = rtnl_nest(m, TCA_ACT_OPTIONS);
        rtnl_put(m, TCA_MIRRED_PARMS, &redirect, sizeof(redirect));
        rtnl_end(m, options);
        rtnl_end(m, first);
        rtnl_end(m, actions);
}

/* Every frame: the one key of the filter has no bits. */
static int add_redirect(int fd, unsigned from, unsigned to) {
        struct tcmsg info = { .tcm_family = AF_UNSPEC,
                              .tcm_ifindex = (int)from,
                              .tcm_parent = TC_H_MAKE(TC_H_INGRESS, 0),
                              .tcm_info = TC_H_MAKE(1U << 16, htons(ETH_P_ALL)) };
        const struct tc_u32_sel match = { .flags = TC_U32_TERMINAL, .nkeys = 1 };
        uint8_t selector[sizeof(match) + sizeof(struct tc_u32_key)] = { 0 };
        rtnl_request m;
        size_t options;

        memcpy(selector, &match, sizeof(match));
        rtnl_begin(&m, RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, &info, sizeof(info));
        rtnl_put_text(&m, TCA_KIND, "u32");
        options = rtnl_nest(&m, TCA_OPTIONS);
        rtnl_put(&m, TCA_U32_SEL, selector, sizeof(selector));
        put_redirect(&m, to);
        rtnl_end(&m, options);
        return rtnl_ask(fd, &m);
}

static int connect_both(int fd, unsigned interface, unsigned tap) {
        int r = add_ingress(fd, tap);

        if (r == 0)
                r = add_redirect(fd, tap, interface);
        if (r == 0)
                r = add_redirect(fd, interface, tap);
        return r;
}

/* ---- the whole ---- */

static int move_tap(int from_fd, unsigned index, int to_namespace) {
        return ask_link(from_fd, index, IFLA_NET_NS_FD, (uint32_t)to_namespace, 0);
}

static int join(int namespace_fd, int there, const char *tap, const nic_network *network) {
        unsigned interface = index_in(namespace_fd, network->name);
        unsigned moved = index_in(namespace_fd, tap);
        int r;

        if (interface == 0 || moved == 0)
                return -ENODEV;
        silence_ipv6(namespace_fd, tap);
        r = ask_link(there, moved, IFLA_MTU, network->mtu, 0);
        if (r == 0)
                r = ask_link(there, moved, 0, 0, IFF_UP);
        /* the interface first: who has it has the place */
        if (r == 0)
                r = add_ingress(there, interface);
        if (r < 0)
                return r == -EEXIST ? -EBUSY : r;
        r = connect_both(there, interface, moved);
        if (r < 0)
                (void)remove_ingress(there, interface);
        return r;
}

int nic_join(int namespace_fd, const char *tap, const nic_network *network, ferry_error *reterr) {
        _cleanup_(closep) int here = rtnl_open(), there = -EBADF, home = -EBADF;
        unsigned index = if_nametoindex(tap);
        int r;

        home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
        if (here < 0 || home < 0)
                return ferry_error_set_errno(reterr, here < 0 ? here : -errno, "network");
        r = nic_rtnl(namespace_fd, &there);
        if (r == 0 && index != 0)
                r = move_tap(here, index, namespace_fd);
        if (r == -EEXIST)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "the network namespace has a %s already: another VM's?",
                                       tap);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "bring tap %s into the network namespace",
                                             tap);
        r = join(namespace_fd, there, tap, network);
        if (r == 0)
                return 0;
        index = index_in(namespace_fd, tap);
        if (index != 0 && move_tap(there, index, home) < 0)
                log_warning("tap %s stays in a network namespace that it could not join", tap);
        if (r == -EBUSY)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, r,
                                       "network: the frames of %s go to somebody else already (the "
                                       "interface has an ingress qdisc)",
                                       network->name);
        return ferry_error_set_errno(reterr, r, "network: connect %s with tap %s", network->name,
                                     tap);
}

int nic_leave(int namespace_fd, const char *interface) {
        _cleanup_(closep) int there = -EBADF;
        unsigned index;
        int r;

        r = nic_rtnl(namespace_fd, &there);
        if (r < 0)
                return r;
        index = index_in(namespace_fd, interface);
        r = index == 0 ? 0 : remove_ingress(there, index);
        return r == -ENOENT || r == -EINVAL ? 0 : r;
}
