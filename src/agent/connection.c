/* SPDX-License-Identifier: MIT */
#include "agent/connection.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

short connection_events(const connection *c) {
        bool full = c->n_out > OUTPUT_MAX - ANSWER_MAX || c->n_in == sizeof(c->in);
        int events = (c->n_out > 0 ? POLLOUT : 0) | (full || c->closing ? 0 : POLLIN);

        return (short)events;
}

/* There is room: the caller looked. */
static void put_answer(connection *c, int status, const char *body) {
        const char *reason = status == 200   ? "OK"
                             : status == 404 ? "Not Found"
                             : status == 405 ? "Method Not Allowed"
                                             : "Bad Request";
        int n = snprintf(c->out + c->n_out, ANSWER_MAX,
                         "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
                         "Content-Length: %zu\r\nCache-Control: no-store\r\n%s\r\n%s",
                         status, reason, strlen(body), c->closing ? "Connection: close\r\n" : "",
                         body);

        c->n_out += (size_t)n < ANSWER_MAX ? (size_t)n : ANSWER_MAX - 1;
}

/* All whole requests that are here, as long as there is room for answers. */
static void answer_requests(connection *c, connection_handler handler, void *userdata) {
        while (!c->closing && c->n_out <= OUTPUT_MAX - ANSWER_MAX) {
                char body[ANSWER_MAX / 2] = "";
                request got;
                size_t used = 0;
                int r = request_parse(c->in, c->n_in, &got, &used);
                int status;

                if (r == 0)
                        return;
                if (r < 0) {
                        c->closing = true;
                        put_answer(c, 400, "{\"error\":\"bad request\"}\n");
                        return;
                }
                c->closing = !got.keep_alive;
                if (got.is_get) {
                        status = handler(&got, body, sizeof(body), userdata);
                } else {
                        status = 405;
                        (void)snprintf(body, sizeof(body), "{\"error\":\"only GET\"}\n");
                }
                put_answer(c, status, body);
                c->n_in -= used;
                memmove(c->in, c->in + used, c->n_in);
        }
}

/* Negative errno when the connection broke. */
static int send_output(connection *c) {
        ssize_t n;

        if (c->n_out == 0)
                return 0;
        n = send(c->fd, c->out, c->n_out, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        c->n_out -= (size_t)n;
        memmove(c->out, c->out + n, c->n_out);
        return 0;
}

bool connection_process(connection *c, connection_handler handler, void *userdata) {
        if (!c->closing && c->n_in < sizeof(c->in)) {
                ssize_t n = recv(c->fd, c->in + c->n_in, sizeof(c->in) - c->n_in, MSG_DONTWAIT);

                if (n < 0 && errno != EAGAIN && errno != EINTR)
                        return false;
                if (n == 0)
                        c->closing = true; /* it may still read what it asked for */
                if (n > 0)
                        c->n_in += (size_t)n;
        }
        answer_requests(c, handler, userdata);
        if (send_output(c) < 0)
                return false;
        /* Room again: requests that waited for it are answered now, not at the next byte. */
        answer_requests(c, handler, userdata);
        return !c->closing || c->n_out > 0;
}
