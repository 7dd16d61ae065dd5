/* SPDX-License-Identifier: MIT */
#include "middle.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/fd.h"

#include "steps.h"

/* False: this way is at its end. */
static bool pass_on(middle *m, bool of_source) {
        int from = of_source ? m->a : m->b, to = of_source ? m->b : m->a;
        uint8_t data[65536];
        ssize_t k = recv(from, data, sizeof(data), 0);

        if (k <= 0)
                return false;
        m->look(data, (size_t)k, of_source, m->userdata);
        return send(to, data, (size_t)k, MSG_NOSIGNAL) == k;
}

static void *run(void *userdata) {
        middle *m = userdata;

        for (bool open = true; open;) {
                struct pollfd p[] = { { .fd = m->a, .events = POLLIN },
                                      { .fd = m->b, .events = POLLIN } };

                open = poll(p, 2, -1) > 0 && (!p[0].revents || pass_on(m, true)) &&
                       (!p[1].revents || pass_on(m, false));
        }
        shutdown(m->a, SHUT_RDWR);
        shutdown(m->b, SHUT_RDWR);
        return NULL;
}

/* What is held is held by who says it: little of it waits here. */
static void keep_small(int fd) {
        int n = 65536;

        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &n, sizeof(n)), 0);
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &n, sizeof(n)), 0);
}

void middle_connect(middle *m, pair *p, host *source) {
        host *destination = source == &p->a ? &p->b : &p->a;
        int of_source;

        connect_hosts(p);
        m->a = TAKE_FD(destination->socket);
        of_source = TAKE_FD(source->socket);
        connect_hosts(p);
        m->b = TAKE_FD(source->socket);
        source->socket = of_source;
        keep_small(m->a);
        keep_small(m->b);
        assert_int_equal(pthread_create(&m->thread, NULL, run, m), 0);
}

void middle_start(middle *m, pair *p) {
        session_open(p, false);
        middle_connect(m, p, &p->a);
        call_socket(p, &p->a, 0);
        call_socket_by_token(p, &p->b, 0);
        transfer_both(p);
}

void middle_cut(middle *m) {
        shutdown(m->a, SHUT_RDWR);
        shutdown(m->b, SHUT_RDWR);
}

void middle_end(middle *m) {
        assert_int_equal(pthread_join(m->thread, NULL), 0);
        fd_close(m->a);
        fd_close(m->b);
}
