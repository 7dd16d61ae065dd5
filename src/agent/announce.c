/* SPDX-License-Identifier: MIT */
#include "agent/announce.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/if_ether.h>
#include <netpacket/packet.h>
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

static int announce(int fd, const char *name, struct in_addr address) {
        struct sockaddr_ll to = { .sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_ARP),
                                  .sll_ifindex = (int)if_nametoindex(name),
                                  .sll_halen = ETH_ALEN };
        struct ether_arp arp = { .ea_hdr = { .ar_hrd = htons(ARPHRD_ETHER),
                                             .ar_pro = htons(ETH_P_IP),
                                             .ar_hln = ETH_ALEN,
                                             .ar_pln = 4,
                                             .ar_op = htons(ARPOP_REQUEST) } };
        int r;

        r = hardware_address(fd, name, arp.arp_sha);
        if (r < 0)
                return r == -ENODEV ? 0 : r; /* a tunnel has no neighbours */
        memcpy(arp.arp_spa, &address, sizeof(address));
        memcpy(arp.arp_tpa, &address, sizeof(address));
        memset(to.sll_addr, 0xff, ETH_ALEN);
        return sendto(fd, &arp, sizeof(arp), 0, (const struct sockaddr *)&to, sizeof(to)) < 0
                       ? -errno
                       : 0;
}

int announce_addresses(void) {
        _cleanup_(closep) int fd = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_ARP));
        struct ifaddrs *all;
        int first = 0;

        if (fd < 0 || getifaddrs(&all) < 0)
                return -errno;
        for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
                struct sockaddr_in address;
                int r;

                if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || !(i->ifa_flags & IFF_UP) ||
                    (i->ifa_flags & IFF_LOOPBACK))
                        continue;
                memcpy(&address, i->ifa_addr, sizeof(address));
                r = announce(fd, i->ifa_name, address.sin_addr);
                if (r < 0 && first == 0)
                        first = r;
        }
        freeifaddrs(all);
        return first;
}
