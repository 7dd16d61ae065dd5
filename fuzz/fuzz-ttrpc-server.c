/* SPDX-License-Identifier: MIT */

/* A hostile ttrpc client. The first byte of the input says how the rest is cut into writes (bits
 * 0-6) and whether the peer then stops writing but reads on (bit 7). The methods answer at once, or
 * later, or not at all, from callbacks too. Whatever comes in: what goes out is frames with sound
 * responses in them, each call is let go of, and an unanswered one is told that its caller left. */

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "fuzz.h"
#include "ttrpc/envelope.h"
#include "ttrpc/frame.h"
#include "ttrpc/ttrpc.h"

#define KEPT_MAX 16

static struct {
        ttrpc_call *kept[KEPT_MAX];
        size_t n_kept;
        size_t n_gone;
} seen;

/* ---- methods ---- */

static void echo(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                 void *userdata) {
        FUZZ_REQUIRE(ttrpc_call_reply(call, payload, n) == 0);
        FUZZ_REQUIRE(ttrpc_call_reply(call, payload, n) == -EALREADY);
}

/* As many messages as the payload has bytes, the metadata's keys, the end. */
static void list(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                 void *userdata) {
        size_t n_pairs;
        const ttrpc_pair *pairs = ttrpc_call_get_metadata(call, &n_pairs);

        for (size_t i = 0; i < n && i < 8; i++)
                (void)ttrpc_call_send(call, payload + i, i % 2);
        for (size_t i = 0; i < n_pairs; i++)
                (void)ttrpc_call_send(call, (const uint8_t *)pairs[i].key, strlen(pairs[i].key));
        FUZZ_REQUIRE(ttrpc_call_finish(call) == 0);
}

static void forget(ttrpc_call *call) {
        for (size_t i = 0; i < seen.n_kept; i++)
                if (seen.kept[i] == call) {
                        seen.kept[i] = seen.kept[--seen.n_kept];
                        ttrpc_call_unref(call);
                        return;
                }
}

static void on_gone(ttrpc_call *call, void *userdata) {
        seen.n_gone++;
        FUZZ_REQUIRE(ttrpc_call_reply(call, NULL, 0) == -ENOTCONN);
        forget(call);
}

/* Answered when the next one is kept over the cap, or never. */
static void keep(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                 void *userdata) {
        if (seen.n_kept == KEPT_MAX) {
                ttrpc_call *oldest = seen.kept[0];

                (void)ttrpc_call_fail(oldest, n > 0 ? payload[0] : TTRPC_ABORTED, "%s %.*s",
                                      ttrpc_call_get_method(oldest), (int)n, (const char *)payload);
                forget(oldest);
        }
        ttrpc_call_set_callbacks(call, on_gone, NULL, NULL);
        seen.kept[seen.n_kept++] = ttrpc_call_ref(call);
}

static void drop(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                 void *userdata) {
}

static const ttrpc_method methods_[] = {
        { "E", 0, echo },
        { "L", 1, list },
        { "K", 2, keep },
        { "D", 2, drop },
};
static const ttrpc_service service = { "s", methods_, ELEMENTS(methods_) };

/* ---- the peer ---- */

typedef struct output {
        uint8_t data[1U << 20];
        size_t n;
} output;

static void receive(int fd, output *out) {
        ssize_t k;

        while (out->n < sizeof(out->data) &&
               (k = recv(fd, out->data + out->n, sizeof(out->data) - out->n, MSG_DONTWAIT)) > 0)
                out->n += (size_t)k;
}

static void check(const output *out) {
        ttrpc_frame_header header;
        ttrpc_response response;

        for (size_t at = 0; ttrpc_frame_parse(out->data + at, out->n - at, &header) != 0;) {
                FUZZ_REQUIRE(out->data[at] == 0);
                at += TTRPC_HEADER_SIZE;
                if (out->n - at < header.length)
                        return; /* we ran out of room */
                if (header.type == TTRPC_FRAME_RESPONSE)
                        FUZZ_REQUIRE(ttrpc_response_parse(out->data + at, header.length,
                                                          &response) == 0);
                else
                        FUZZ_REQUIRE(header.type == TTRPC_FRAME_DATA);
                at += header.length;
        }
}

static void serve(ttrpc_server *server, int fd, output *out) {
        FUZZ_REQUIRE(ttrpc_server_process(server) == 0);
        receive(fd, out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        static output out;
        ttrpc_server *server;
        size_t step;
        int pair[2];

        if (n < 1)
                return 0;
        step = data[0] & 0x7f ? data[0] & 0x7f : n;
        seen.n_gone = 0;
        out.n = 0;
        FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        FUZZ_REQUIRE(ttrpc_server_new(&server) == 0);
        FUZZ_REQUIRE(ttrpc_server_register(server, &service, NULL, NULL) == 0);
        FUZZ_REQUIRE(ttrpc_server_add_connection(server, pair[0]) == 0);
        for (size_t at = 1; at < n; at += step) {
                size_t k = n - at < step ? n - at : step;

                if (send(pair[1], data + at, k, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)k)
                        break; /* it has closed */
                serve(server, pair[1], &out);
        }
        if (data[0] & 0x80)
                (void)shutdown(pair[1], SHUT_WR);
        serve(server, pair[1], &out);
        serve(server, pair[1], &out);
        check(&out);
        FUZZ_REQUIRE(ttrpc_server_get_pending(server) <= KEPT_MAX + 1);
        close(pair[1]);
        FUZZ_REQUIRE(ttrpc_server_process(server) == 0);
        FUZZ_REQUIRE(ttrpc_server_process(server) == 0);
        /* the peer has gone: so have all the calls */
        FUZZ_REQUIRE(seen.n_kept == 0);
        FUZZ_REQUIRE(ttrpc_server_get_pending(server) == 0);
        ttrpc_server_free(server);
        return 0;
}
