/* SPDX-License-Identifier: MIT */
/* In the kernel: a tap that takes the place of a veth in a namespace. Needs root. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "base/fd.h"
#include "vm/nic.h"
#include "vm/tap.h"

#define LIMIT_MSEC 20000

/* We live in a namespace of our own; `pod` is another, with one end of a veth, out0 - eth0. */
typedef struct bed {
        int pod;
} bed;

static void must(const char *command) {
        int r = system(command);

        if (r != 0)
                fprintf(stderr, "%s: %d\n", command, r);
        assert_int_equal(r, 0);
}

static int setup(void **state) {
        static bed b;
        int home;

        if (geteuid() != 0 || unshare(CLONE_NEWNET) < 0)
                exit(77);
        home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
        assert_int_equal(unshare(CLONE_NEWNET), 0);
        b.pod = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
        assert_true(home >= 0 && b.pod >= 0);
        assert_int_equal(setns(home, CLONE_NEWNET), 0);
        fd_close(home);
        *state = &b;
        return 0;
}

static void in_pod(const bed *b, const char *command) {
        int home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

        assert_int_equal(setns(b->pod, CLONE_NEWNET), 0);
        must(command);
        assert_int_equal(setns(home, CLONE_NEWNET), 0);
        fd_close(home);
}

static void test_nothing_to_join(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const bed *b = *state;
        nic_network n;
        int fd;

        in_pod(b, "ip link set lo up");
        assert_int_equal(nic_look(b->pod, &n, &error), -ENODEV);
        assert_int_equal(nic_open_namespace("/dev/null", &fd, &error), -EINVAL);
        assert_int_equal(nic_open_namespace("/proc/self/ns/mnt", &fd, &error), -EINVAL);
        assert_int_equal(nic_open_namespace("/nonexistent", &fd, &error), -ENOENT);
        assert_int_equal(nic_open_namespace("/proc/thread-self/ns/net", &fd, &error), 0);
        assert_true(nic_same_namespace(fd, -EBADF));
        assert_false(nic_same_namespace(b->pod, fd));
        fd_close(fd);
}

static const nic_route *route_to(const nic_network *n, bool ipv6, unsigned prefix) {
        for (size_t i = 0; i < n->n_routes; i++)
                if (n->routes[i].ipv6 == ipv6 && n->routes[i].prefix == prefix)
                        return &n->routes[i];
        return NULL;
}

static void test_what_is_found(void **state) {
        static const uint8_t mac[] = { 2, 0, 0, 0, 0, 0x17 };
        const bed *b = *state;
        const nic_route *route;
        nic_network n;
        char command[256];

        (void)snprintf(
                command, sizeof(command),
                "ip link add out0 address 02:00:00:00:00:01 type veth peer name eth0 address "
                "02:00:00:00:00:17 netns /proc/%d/fd/%d",
                (int)getpid(), b->pod);
        must(command);
        must("ip addr add 10.77.0.1/24 dev out0 && ip link set out0 mtu 1400 up");
        in_pod(b, "ip link add br9 type bridge && ip link set br9 up && "
                  "ip link set eth0 mtu 1400 && ip link set eth0 up && "
                  "ip addr add 10.77.0.23/24 dev eth0 && "
                  "ip -6 addr add fd00:77::23/64 dev eth0 nodad && "
                  "ip route add default via 10.77.0.1 metric 5 && "
                  "ip route add 192.0.2.0/25 via 198.51.100.1 dev eth0 onlink && "
                  "ip -6 route add default via fd00:77::1");
        assert_int_equal(nic_look(b->pod, &n, NULL), 0);
        assert_string_equal(n.name, "eth0");
        assert_memory_equal(n.mac, mac, 6);
        assert_int_equal(n.mtu, 1400);
        assert_int_equal(n.n_addresses, 2);
        for (size_t i = 0; i < 2; i++) {
                char text[INET6_ADDRSTRLEN];

                (void)inet_ntop(n.addresses[i].ipv6 ? AF_INET6 : AF_INET, n.addresses[i].bytes,
                                text, sizeof(text));
                assert_string_equal(text, n.addresses[i].ipv6 ? "fd00:77::23" : "10.77.0.23");
                assert_int_equal(n.addresses[i].prefix, n.addresses[i].ipv6 ? 64 : 24);
        }
        assert_int_equal(n.n_routes, 5);
        route = route_to(&n, false, 0);
        assert_true(route && route->has_gateway && route->metric == 5);
        assert_memory_equal(route->gateway, ((uint8_t[]){ 10, 77, 0, 1 }), 4);
        route = route_to(&n, false, 24);
        assert_true(route && !route->has_gateway && route->has_source);
        route = route_to(&n, false, 25);
        assert_true(route && route->onlink && route->has_gateway);
        assert_true(route_to(&n, true, 0) && route_to(&n, true, 64));
        for (size_t i = 1; i < n.n_routes; i++)
                assert_true(n.routes[i].has_gateway || !n.routes[i - 1].has_gateway);
}

/* ---- frames ---- */

static int packet_socket(const char *interface) {
        struct sockaddr_ll to = { .sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ALL),
                                  .sll_ifindex = (int)if_nametoindex(interface) };
        int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL));

        assert_true(fd >= 0);
        assert_int_equal(bind(fd, (const struct sockaddr *)&to, sizeof(to)), 0);
        return fd;
}

/* Others' frames come in between: the kernel's own. */
static void wait_for_frame(int fd, size_t before, const char *text) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        uint8_t frame[2048];

        for (;;) {
                ssize_t n;

                assert_int_equal(poll(&p, 1, LIMIT_MSEC), 1);
                n = read(fd, frame, sizeof(frame));
                if (n >= (ssize_t)(before + ETH_HLEN + strlen(text)) &&
                    memcmp(frame + before + ETH_HLEN, text, strlen(text)) == 0)
                        return;
        }
}

static size_t make_frame(uint8_t *frame, const char *text) {
        static const uint8_t header[ETH_HLEN] = {
                2, 0, 0, 0, 0, 0x17, 2, 0, 0, 0, 0, 1, 0x88, 0xb5
        };

        memset(frame, 0, 128);
        memcpy(frame, header, sizeof(header));
        memcpy(frame + sizeof(header), text, strlen(text));
        return 128;
}

static void test_frames_go_both_ways(void **state) {
        const size_t vnet = sizeof(struct virtio_net_hdr);
        _cleanup_(closep) int tap = -EBADF, second = -EBADF, out = -EBADF;
        uint8_t frame[256] = { 0 };
        char name[TAP_NAME_SIZE], other[TAP_NAME_SIZE];
        const bed *b = *state;
        nic_network n;
        size_t size;

        assert_int_equal(nic_look(b->pod, &n, NULL), 0);
        assert_int_equal(tap_create("", "", &tap, name, NULL), 0);
        assert_int_equal(nic_join(b->pod, name, &n, NULL), 0);
        assert_int_equal(if_nametoindex(name), 0);
        out = packet_socket("out0");

        size = make_frame(frame, "to the guest");
        assert_int_equal(write(out, frame, size), size);
        wait_for_frame(tap, vnet, "to the guest");
        memset(frame, 0, sizeof(frame));
        size = make_frame(frame + vnet, "from the guest");
        assert_int_equal(write(tap, frame, vnet + size), vnet + size);
        wait_for_frame(out, 0, "from the guest");

        /* one place, one guest */
        assert_int_equal(tap_create(name, "", &second, other, NULL), 0);
        assert_int_equal(nic_join(b->pod, other, &n, NULL), -EBUSY);
        second = fd_close(second);
        assert_int_equal(tap_create("another", "", &second, other, NULL), 0);
        assert_int_equal(nic_join(b->pod, other, &n, NULL), -EBUSY);
        assert_int_not_equal(if_nametoindex(other), 0);

        /* the guest's end frees it, and it is as it was */
        tap = fd_close(tap);
        assert_int_equal(nic_leave(b->pod, "eth0"), 0);
        assert_int_equal(nic_leave(b->pod, "eth0"), 0);
        in_pod(b, "test -z \"$(tc qdisc show dev eth0 ingress)\" && test -z \"$(ip -o link show "
                  "type tun)\"");
        assert_int_equal(nic_join(b->pod, other, &n, NULL), 0);
        assert_int_equal(nic_leave(b->pod, "eth0"), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_nothing_to_join),
                cmocka_unit_test(test_what_is_found),
                cmocka_unit_test(test_frames_go_both_ways),
        };

        return cmocka_run_group_tests(tests, setup, NULL);
}
