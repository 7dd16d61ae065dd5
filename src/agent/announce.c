/* SPDX-License-Identifier: MIT */
#include "agent/announce.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/if_ether.h>
#include <netinet/ip6.h>
#include <netpacket/packet.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/cleanup.h"

static int hardware_address(int fd, const char *name, uint8_t ret[ETH_ALEN]) {
        struct ifreq request = { 0 };

        (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
        if (ioctl(fd, SIOCGIFHWADDR, &request) < 0)
                return -errno;
        if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
                return -ENODEV;
        memcpy(ret, request.ifr_hwaddr.sa_data, ETH_ALEN);
        return 0;
}

static int send_to(int fd, const char *name, const uint8_t mac[ETH_ALEN], uint16_t protocol,
                   const void *packet, size_t n) {
        struct sockaddr_ll to = { .sll_family = AF_PACKET,
                                  .sll_protocol = htons(protocol),
                                  .sll_ifindex = (int)if_nametoindex(name),
                                  .sll_halen = ETH_ALEN };

        memcpy(to.sll_addr, mac, ETH_ALEN);
        return sendto(fd, packet, n, 0, (const struct sockaddr *)&to, sizeof(to)) < 0 ? -errno : 0;
}

static int announce_ipv4(int fd, const char *name, const uint8_t mac[ETH_ALEN],
                         struct in_addr address) {
        static const uint8_t everybody[ETH_ALEN] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
        struct ether_arp arp = { .ea_hdr = { .ar_hrd = htons(ARPHRD_ETHER),
                                             .ar_pro = htons(ETH_P_IP),
                                             .ar_hln = ETH_ALEN,
                                             .ar_pln = 4,
                                             .ar_op = htons(ARPOP_REQUEST) } };

        memcpy(arp.arp_sha, mac, ETH_ALEN);
        memcpy(arp.arp_spa, &address, sizeof(address));
        memcpy(arp.arp_tpa, &address, sizeof(address));
        return send_to(fd, name, everybody, ETH_P_ARP, &arp, sizeof(arp));
}

/* RFC 4861 4.4, 4.6.1, 7.2.6. */
typedef struct advertisement {
        struct ip6_hdr ip;
        struct nd_neighbor_advert message;
        struct nd_opt_hdr option;
        uint8_t mac[ETH_ALEN];
} __attribute__((packed)) advertisement;

/* RFC 4443 2.3: over the addresses, the length, the protocol's number, and the message. */
static uint16_t icmp6_checksum(const advertisement *a) {
        const uint8_t *bytes = (const uint8_t *)a;
        uint32_t sum = sizeof(*a) - sizeof(a->ip) + IPPROTO_ICMPV6;

        for (size_t i = offsetof(advertisement, ip.ip6_src); i < sizeof(*a); i += 2)
                sum += (uint32_t)bytes[i] << 8 | bytes[i + 1];
        while (sum >> 16)
                sum = (sum & 0xffff) + (sum >> 16);
        return htons((uint16_t)~sum);
}

static int announce_ipv6(int fd, const char *name, const uint8_t mac[ETH_ALEN],
                         const struct in6_addr *address) {
        static const uint8_t all_nodes[ETH_ALEN] = { 0x33, 0x33, 0, 0, 0, 1 };
        advertisement a = {
                .ip = { .ip6_flow = htonl(6U << 28),
                        .ip6_plen = htons(sizeof(a) - sizeof(a.ip)),
                        .ip6_nxt = IPPROTO_ICMPV6,
                        .ip6_hlim = 255,
                        .ip6_src = *address,
                        .ip6_dst = { .s6_addr = { 0xff, 0x02, [15] = 1 } } },
                .message = { .nd_na_hdr.icmp6_type = ND_NEIGHBOR_ADVERT,
                             .nd_na_hdr.icmp6_dataun = { { ND_NA_FLAG_OVERRIDE } },
                             .nd_na_target = *address },
                .option = { .nd_opt_type = ND_OPT_TARGET_LINKADDR, .nd_opt_len = 1 },
        };

        memcpy(a.mac, mac, ETH_ALEN);
        a.message.nd_na_hdr.icmp6_cksum = icmp6_checksum(&a);
        return send_to(fd, name, all_nodes, ETH_P_IPV6, &a, sizeof(a));
}

/* Link-local addresses are not told: after ConfigureNetwork the kernel still looks whether they are
 * anybody else's. */
static bool is_global(const struct in6_addr *a) {
        return !IN6_IS_ADDR_LINKLOCAL(a) && !IN6_IS_ADDR_LOOPBACK(a) && !IN6_IS_ADDR_MULTICAST(a) &&
               !IN6_IS_ADDR_UNSPECIFIED(a);
}

static int announce(int fd, const struct ifaddrs *i) {
        struct sockaddr_in6 ipv6;
        struct sockaddr_in ipv4;
        uint8_t mac[ETH_ALEN];
        int r;

        if (!i->ifa_addr ||
            (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6) ||
            !(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK))
                return 0;
        r = hardware_address(fd, i->ifa_name, mac);
        if (r < 0)
                return r == -ENODEV ? 0 : r; /* a tunnel has no neighbours */
        if (i->ifa_addr->sa_family == AF_INET) {
                memcpy(&ipv4, i->ifa_addr, sizeof(ipv4));
                return announce_ipv4(fd, i->ifa_name, mac, ipv4.sin_addr);
        }
        memcpy(&ipv6, i->ifa_addr, sizeof(ipv6));
        return is_global(&ipv6.sin6_addr) ? announce_ipv6(fd, i->ifa_name, mac, &ipv6.sin6_addr)
                                          : 0;
}

int announce_addresses(void) {
        /* of protocol 0: it receives nothing */
        _cleanup_(closep) int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        struct ifaddrs *all;
        int first = 0;

        if (fd < 0 || getifaddrs(&all) < 0)
                return -errno;
        for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
                int r = announce(fd, i);

                if (r < 0 && first == 0)
                        first = r;
        }
        freeifaddrs(all);
        return first;
}
