/* SPDX-License-Identifier: MIT */
#include "base/rtnl.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

#define ANSWER_SIZE 32768U /* what the kernel fills at most, of a dump */

int rtnl_open(void) {
        int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

        return fd < 0 ? -errno : fd;
}

/* ---- a request ---- */

/* Zeroed; NULL: no room. */
static void *extend(rtnl_request *m, size_t n) {
        size_t at = m->header.nlmsg_len, padded = NLMSG_ALIGN(n);

        if (m->overflow || n > RTNL_SIZE || padded > RTNL_SIZE - at) {
                m->overflow = true;
                return NULL;
        }
        m->header.nlmsg_len += (uint32_t)padded;
        return (uint8_t *)m + at; /* of all of it: gcc takes m->bytes for the header here */
}

void rtnl_begin(rtnl_request *m, uint16_t type, uint16_t flags, const void *body, size_t n) {
        void *room;

        *m = (rtnl_request){ .header = { .nlmsg_len = NLMSG_HDRLEN,
                                         .nlmsg_type = type,
                                         .nlmsg_flags = flags | NLM_F_REQUEST } };
        room = extend(m, n);
        if (room)
                memcpy(room, body, n);
}

void rtnl_put(rtnl_request *m, uint16_t type, const void *data, size_t n) {
        const struct rtattr head = { .rta_len = (uint16_t)RTA_LENGTH(n), .rta_type = type };
        uint8_t *room = n > RTNL_SIZE ? NULL : extend(m, RTA_LENGTH(n));

        if (!room) {
                m->overflow = true;
                return;
        }
        memcpy(room, &head, sizeof(head));
        if (n > 0)
                memcpy(room + RTA_LENGTH(0), data, n);
}

void rtnl_put_u32(rtnl_request *m, uint16_t type, uint32_t value) {
        rtnl_put(m, type, &value, sizeof(value));
}

void rtnl_put_text(rtnl_request *m, uint16_t type, const char *text) {
        rtnl_put(m, type, text, strlen(text) + 1);
}

size_t rtnl_nest(rtnl_request *m, uint16_t type) {
        size_t at = m->header.nlmsg_len;

        rtnl_put(m, type, NULL, 0);
        return at;
}

void rtnl_end(rtnl_request *m, size_t nest) {
        if (!m->overflow)
                ((struct rtattr *)(void *)(m->bytes + nest))->rta_len =
                        (uint16_t)(m->header.nlmsg_len - nest);
}

/* ---- answers ---- */

static int error_of(const struct nlmsghdr *answer) {
        const struct nlmsgerr *e = NLMSG_DATA(answer);

        if (answer->nlmsg_len < NLMSG_LENGTH(sizeof(*e)) || e->error > 0)
                return -EBADMSG;
        return e->error;
}

static ssize_t receive(int fd, void *buffer, size_t n) {
        ssize_t k;

        do
                k = recv(fd, buffer, n, MSG_TRUNC);
        while (k < 0 && errno == EINTR);
        if (k < 0)
                return -errno;
        return (size_t)k > n ? -EMSGSIZE : k;
}

static int post(int fd, rtnl_request *m, uint16_t flags) {
        static uint32_t number;

        if (m->overflow)
                return -EMSGSIZE;
        m->header.nlmsg_flags |= flags;
        m->header.nlmsg_seq = ++number;
        return send(fd, m->bytes, m->header.nlmsg_len, 0) < 0 ? -errno : 0;
}

int rtnl_ask(int fd, rtnl_request *m) {
        _Alignas(struct nlmsghdr)
                uint8_t buffer[RTNL_SIZE + 512]; /* an error repeats the request */
        int r = post(fd, m, NLM_F_ACK);

        while (r == 0) {
                ssize_t k = receive(fd, buffer, sizeof(buffer));
                size_t left = k < 0 ? 0 : (size_t)k;

                if (k < 0)
                        return (int)k;
                for (const struct nlmsghdr *h = (const void *)buffer; NLMSG_OK(h, left);
                     h = NLMSG_NEXT(h, left))
                        if (h->nlmsg_seq == m->header.nlmsg_seq && h->nlmsg_type == NLMSG_ERROR)
                                return error_of(h);
        }
        return r;
}

int rtnl_dump(int fd, rtnl_request *m, rtnl_each each, void *userdata) {
        _Alignas(struct nlmsghdr) uint8_t buffer[ANSWER_SIZE];
        int r = post(fd, m, NLM_F_DUMP), result = 0;

        while (r == 0) {
                ssize_t k = receive(fd, buffer, sizeof(buffer));
                size_t left = k < 0 ? 0 : (size_t)k;

                if (k < 0)
                        return (int)k;
                for (const struct nlmsghdr *h = (const void *)buffer; NLMSG_OK(h, left);
                     h = NLMSG_NEXT(h, left)) {
                        if (h->nlmsg_seq != m->header.nlmsg_seq)
                                continue;
                        if (h->nlmsg_type == NLMSG_ERROR)
                                return error_of(h);
                        if (h->nlmsg_flags & NLM_F_DUMP_INTR)
                                result = -EINTR;
                        if (h->nlmsg_type == NLMSG_DONE)
                                return result;
                        if (result == 0)
                                result = each(h, userdata);
                }
        }
        return r;
}

void rtnl_attributes(const struct nlmsghdr *object, size_t n_body, const struct rtattr *table[],
                     size_t n_table) {
        size_t before = NLMSG_SPACE(n_body), left;

        for (size_t i = 0; i < n_table; i++)
                table[i] = NULL;
        if (object->nlmsg_len < before)
                return;
        left = object->nlmsg_len - before;
        for (const struct rtattr *a = (const void *)((const uint8_t *)object + before);
             RTA_OK(a, left); a = RTA_NEXT(a, left)) {
                unsigned type = a->rta_type & (unsigned)NLA_TYPE_MASK;

                if (type < n_table)
                        table[type] = a;
        }
}

uint32_t rtnl_u32(const struct rtattr *attribute) {
        uint32_t value = 0;

        if (attribute && RTA_PAYLOAD(attribute) == sizeof(value))
                memcpy(&value, RTA_DATA(attribute), sizeof(value));
        return value;
}
