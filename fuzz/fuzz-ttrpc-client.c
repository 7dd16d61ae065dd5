/* SPDX-License-Identifier: MIT */

/* A hostile ttrpc server. The first byte of the input says how the rest is cut into writes, the
 * second what the callbacks do: cancel themselves, call again, free the client. The rest is what
 * the server writes, the answers to streams 1, 3, 5, ... . Each call ends exactly once, whatever
 * comes. */

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "fuzz.h"
#include "ttrpc/ttrpc.h"

enum {
        CANCEL_IN_MESSAGE = 1,
        CANCEL_OTHER = 2, /* in a reply */
        CALL_AGAIN = 4,
        FREE_IN_REPLY = 8,
        FREE_IN_MESSAGE = 16,
};

#define CALLS_MAX 16

typedef struct call {
        ttrpc_slot *slot; /* NULL: over */
        unsigned n_ends, n_destroyed;
        bool cancelled;
} call;

static struct {
        ttrpc_client *client;
        uint8_t behaviour;
        call calls[CALLS_MAX];
        size_t n_calls;
} now;

static void start(bool stream);

static void cancel(call *c) {
        ttrpc_slot *slot = TAKE_PTR(c->slot);

        if (!slot)
                return;
        c->cancelled = true;
        ttrpc_slot_cancel(slot);
        FUZZ_REQUIRE(c->n_destroyed == 1);
}

static void free_client(void) {
        now.client = ttrpc_client_free(TAKE_PTR(now.client));
}

static void on_end(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                   void *userdata) {
        call *c = userdata;
        volatile uint8_t sum = 0;

        FUZZ_REQUIRE(c->slot && !c->cancelled && c->n_ends == 0 && c->n_destroyed == 0);
        FUZZ_REQUIRE(status && status->message && r <= 0);
        FUZZ_REQUIRE(n == 0 || (r == 0 && status->code == TTRPC_OK));
        FUZZ_REQUIRE(r == 0 || status->code != TTRPC_OK);
        for (size_t i = 0; i < n; i++)
                sum = (uint8_t)(sum + payload[i]);
        c->n_ends++;
        c->slot = NULL;
        if (now.behaviour & CANCEL_OTHER)
                cancel(&now.calls[(size_t)(c - now.calls + 1) % now.n_calls]);
        if (now.behaviour & CALL_AGAIN && now.client)
                start(n % 2);
        if (now.behaviour & FREE_IN_REPLY)
                free_client();
}

static void on_message(const uint8_t *payload, size_t n, void *userdata) {
        call *c = userdata;

        FUZZ_REQUIRE(c->slot && c->n_ends == 0);
        if (now.behaviour & CANCEL_IN_MESSAGE && n % 2)
                cancel(c);
        if (now.behaviour & FREE_IN_MESSAGE && n % 3)
                free_client();
}

static void on_destroy(void *userdata) {
        call *c = userdata;

        FUZZ_REQUIRE(c->n_destroyed++ == 0);
        FUZZ_REQUIRE(c->n_ends + c->cancelled == 1);
}

static void start(bool stream) {
        const uint8_t payload[] = { 1, 2, 3 };
        call *c = &now.calls[now.n_calls];
        int r;

        if (now.n_calls == CALLS_MAX)
                return;
        r = stream ? ttrpc_client_stream(now.client, "s", "L", payload, sizeof(payload), NULL,
                                         on_message, on_end, c, &c->slot)
                   : ttrpc_client_call(now.client, "s", "E", payload, sizeof(payload), NULL, on_end,
                                       c, &c->slot);
        if (r < 0) {
                FUZZ_REQUIRE(r == -ENOTCONN);
                return;
        }
        ttrpc_slot_set_destroy(c->slot, on_destroy);
        now.n_calls++;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        size_t step;
        int pair[2];

        if (n < 2)
                return 0;
        memset(&now, 0, sizeof(now));
        step = data[0] ? data[0] : n;
        now.behaviour = data[1];
        FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        FUZZ_REQUIRE(ttrpc_client_new(pair[0], &now.client) == 0);
        for (unsigned i = 0; i < 4; i++)
                start(i % 2);
        for (size_t at = 2; at < n && now.client; at += step) {
                size_t k = n - at < step ? n - at : step;

                if (send(pair[1], data + at, k, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)k)
                        break;
                (void)ttrpc_client_process(now.client);
        }
        close(pair[1]);
        if (now.client)
                (void)ttrpc_client_process(now.client);
        free_client();
        for (size_t i = 0; i < now.n_calls; i++) {
                const call *c = &now.calls[i];

                FUZZ_REQUIRE(!c->slot && c->n_ends + c->cancelled == 1 && c->n_destroyed == 1);
        }
        return 0;
}
