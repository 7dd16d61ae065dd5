/* SPDX-License-Identifier: MIT */
#pragma once

/* Gratuitous ARP for each IPv4 address, an unsolicited Neighbor Advertisement for each global IPv6
 * one, of each interface that is up: the switches and neighbours learn where the guest is now.
 * Negative errno: of the first that failed; the others are sent. */
int announce_addresses(void);
