/* SPDX-License-Identifier: MIT */
#pragma once

/* A guest's NIC on the network of a namespace that somebody else has made (CNI): the guest takes
 * the place of the one interface in it. Its tap is moved there, and every frame that the interface
 * receives goes to the guest, every one of the guest's out by the interface. The interface keeps
 * its addresses, for who checks or deletes it; the guest is to be given the same. */

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define NIC_ADDRESSES_MAX 32U
#define NIC_ROUTES_MAX    64U

typedef struct nic_address {
        bool ipv6;
        uint8_t bytes[16]; /* the first 4 of IPv4 */
        uint8_t prefix;
} nic_address;

typedef struct nic_route {
        bool ipv6;
        uint8_t to[16]; /* all zero with prefix 0: the default route */
        uint8_t prefix;
        bool has_gateway, has_source, onlink;
        uint8_t gateway[16], source[16];
        uint32_t metric;
} nic_route;

typedef struct nic_network {
        char name[IF_NAMESIZE]; /* "eth0" */
        uint8_t mac[6];
        uint32_t mtu;
        nic_address addresses[NIC_ADDRESSES_MAX]; /* not link-local ones */
        size_t n_addresses;
        nic_route routes[NIC_ROUTES_MAX]; /* those without a gateway first */
        size_t n_routes;
} nic_network;

/* Opens a namespace; -EINVAL when the file is none of a network. */
int nic_open_namespace(const char *path, int *ret_fd, ferry_error *reterr);
/* Two descriptors, one namespace. `b` -EBADF: our own. */
bool nic_same_namespace(int a, int b);

/* What there is to join; -ENODEV: no interface besides the loopback. "eth0" if it is there, else
 * the first. */
int nic_look(int namespace_fd, nic_network *ret, ferry_error *reterr);
/* The tap, which is in our own namespace or in that one already, joins. -EBUSY: another VM has
 * joined, or what is like it. Nothing is left of a failure. */
int nic_join(int namespace_fd, const char *tap, const nic_network *network, ferry_error *reterr);
/* Frames go to the interface again. 0 too when none of ours is there. */
int nic_leave(int namespace_fd, const char *interface);

/* In a sandbox's folder: which namespace its NIC has joined ("path", "device", "inode",
 * "interface").
 */
#define NIC_RECORD "network.json"
/* For a shim that has gone: leaves what the record says. */
void nic_clear(int folder);
