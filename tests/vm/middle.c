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

void middle_start(middle *m, pair *p) {
        int of_a;

        session_open(p, false);
        connect_hosts(p); /* what the source gets; then what the destination gets */
        m->a = p->b.socket;
        p->b.socket = -EBADF;
        of_a = p->a.socket;
        call_socket(p, &p->a, 0);
        p->a.socket = -EBADF;
        connect_hosts(p);
        m->b = p->a.socket;
        p->a.socket = of_a;
        call_socket_by_token(p, &p->b, 0);
        assert_int_equal(pthread_create(&m->thread, NULL, run, m), 0);
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
