/* SPDX-License-Identifier: MIT */
#pragma once

/* Requests to the kernel's routing netlink, for the shim and for the guest's agent (so: cleanup.h
 * and nothing else of base). A socket stays in the network namespace that it was made in. */

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RTNL_SIZE 2048U

typedef struct rtnl_request {
        union {
                struct nlmsghdr header;
                uint8_t bytes[RTNL_SIZE];
        };
        bool overflow; /* it had no room: rtnl_ask() gives -EMSGSIZE */
} rtnl_request;

/* A socket, CLOEXEC, or negative errno. */
int rtnl_open(void);

/* `body`: ifinfomsg, ifaddrmsg, rtmsg, tcmsg. */
void rtnl_begin(rtnl_request *m, uint16_t type, uint16_t flags, const void *body, size_t n);
void rtnl_put(rtnl_request *m, uint16_t type, const void *data, size_t n);
void rtnl_put_u32(rtnl_request *m, uint16_t type, uint32_t value);
void rtnl_put_text(rtnl_request *m, uint16_t type, const char *text); /* with its NUL */
/* What is put until rtnl_end() is inside. */
size_t rtnl_nest(rtnl_request *m, uint16_t type);
void rtnl_end(rtnl_request *m, size_t nest);

/* 0, or the kernel's answer as negative errno. */
int rtnl_ask(int fd, rtnl_request *m);

/* Once for each object of a dump; negative ends it (the rest is read, and thrown away). */
typedef int (*rtnl_each)(const struct nlmsghdr *object, void *userdata);
/* -EINTR: it changed meanwhile, ask again. */
int rtnl_dump(int fd, rtnl_request *m, rtnl_each each, void *userdata);

/* The attributes behind a body of `n_body` bytes: table[type], NULL: not there. */
void rtnl_attributes(const struct nlmsghdr *object, size_t n_body, const struct rtattr *table[],
                     size_t n_table);
/* 0 when it is not there, or of another size. */
uint32_t rtnl_u32(const struct rtattr *attribute);
