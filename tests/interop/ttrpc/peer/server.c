/* SPDX-License-Identifier: MIT */
/* The C server for the Go client: listens on descriptor 3, ends with standard input. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "bytes-value.h"
#include "ttrpc/ttrpc.h"

#define UNUSED __attribute__((unused))

static void reply_bytes(ttrpc_call *call, const void *bytes, size_t n) {
        bytes_value v = bytes_value_pack(bytes, n);

        (void)ttrpc_call_reply(call, v.data, v.n);
        free(v.data);
}

static size_t number_of(const uint8_t *payload, size_t n) {
        char *text = bytes_value_unpack(payload, n, &n);
        size_t number = text ? strtoul(text, NULL, 10) : 0;

        free(text);
        return number;
}

static void on_echo(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods UNUSED,
                    void *userdata UNUSED) {
        (void)ttrpc_call_reply(call, payload, n);
}

static void on_fail(ttrpc_call *call, const uint8_t *payload UNUSED, size_t n UNUSED,
                    const void *methods UNUSED, void *userdata UNUSED) {
        (void)ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION, "not now");
}

static void on_who(ttrpc_call *call, const uint8_t *payload UNUSED, size_t n,
                   const void *methods UNUSED, void *userdata UNUSED) {
        const ttrpc_pair *pairs = ttrpc_call_get_metadata(call, &n);
        const char *who = "";

        for (size_t i = 0; i < n; i++)
                if (strcmp(pairs[i].key, "who") == 0)
                        who = pairs[i].value;
        reply_bytes(call, who, strlen(who));
}

static void on_has_deadline(ttrpc_call *call, const uint8_t *payload UNUSED, size_t n UNUSED,
                            const void *methods UNUSED, void *userdata UNUSED) {
        const char *answer = ttrpc_call_get_deadline(call) == UINT64_MAX ? "no" : "yes";

        reply_bytes(call, answer, strlen(answer));
}

static void hold_ends(ttrpc_call *call, void *userdata UNUSED) {
        ttrpc_call_unref(call);
}

static void on_hold(ttrpc_call *call, const uint8_t *payload UNUSED, size_t n UNUSED,
                    const void *methods UNUSED, void *userdata UNUSED) {
        ttrpc_call_ref(call);
        ttrpc_call_set_callbacks(call, hold_ends, NULL, NULL);
}

static void on_sink(ttrpc_call *call, const uint8_t *payload UNUSED, size_t n,
                    const void *methods UNUSED, void *userdata UNUSED) {
        char text[32];

        snprintf(text, sizeof(text), "%zu", n);
        reply_bytes(call, text, strlen(text));
}

static void on_size(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods UNUSED,
                    void *userdata UNUSED) {
        size_t size = number_of(payload, n);
        uint8_t *bytes = calloc(1, size + 1);

        if (!bytes)
                abort();
        reply_bytes(call, bytes, size);
        free(bytes);
}

typedef struct counting {
        size_t at, end;
} counting;

static void count_on(ttrpc_call *call, void *userdata) {
        counting *c = userdata;

        while (c->at < c->end) {
                char text[32] = "";
                bytes_value v;
                int r;

                if (c->at > 0)
                        snprintf(text, sizeof(text), "%zu", c->at);
                v = bytes_value_pack(text, strlen(text));
                r = ttrpc_call_send(call, v.data, v.n);
                free(v.data);
                if (r == -EAGAIN)
                        return;
                if (r < 0)
                        break;
                c->at++;
        }
        (void)ttrpc_call_finish(call);
        free(c);
        ttrpc_call_unref(call);
}

static void count_ends(ttrpc_call *call, void *userdata) {
        free(userdata);
        ttrpc_call_unref(call);
}

static void on_count(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods UNUSED,
                     void *userdata UNUSED) {
        counting *c = calloc(1, sizeof(*c));

        if (!c)
                abort();
        c->end = number_of(payload, n);
        ttrpc_call_ref(call);
        ttrpc_call_set_callbacks(call, count_ends, count_on, c);
        count_on(call, c);
}

static void on_count_fail(ttrpc_call *call, const uint8_t *payload UNUSED, size_t n UNUSED,
                          const void *methods UNUSED, void *userdata UNUSED) {
        bytes_value v = bytes_value_pack("one", 3);

        (void)ttrpc_call_send(call, v.data, v.n);
        free(v.data);
        (void)ttrpc_call_fail(call, TTRPC_ABORTED, "enough");
}

static const ttrpc_method methods[] = {
        { "Echo", 0, on_echo },
        { "Fail", 0, on_fail },
        { "Who", 0, on_who },
        { "HasDeadline", 0, on_has_deadline },
        { "Hold", 0, on_hold },
        { "Sink", 0, on_sink },
        { "Size", 0, on_size },
        { "Count", 1, on_count },
        { "CountFail", 1, on_count_fail },
};
static const ttrpc_service service = { "interop.Test", methods,
                                       sizeof(methods) / sizeof(methods[0]) };

/* Milliseconds for poll. */
static int time_left(uint64_t until_usec) {
        struct timespec t;
        uint64_t now;

        if (until_usec == UINT64_MAX)
                return -1;
        clock_gettime(CLOCK_MONOTONIC, &t);
        now = (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
        return until_usec > now ? (int)((until_usec - now) / 1000) + 1 : 0;
}

int main(void) {
        ttrpc_server *server;
        struct pollfd p[2] = { { .fd = 0, .events = POLLIN }, { .events = POLLIN } };

        if (ttrpc_server_new(&server) < 0 ||
            ttrpc_server_register(server, &service, NULL, NULL) < 0 ||
            ttrpc_server_listen(server, 3) < 0)
                return 1;
        p[1].fd = ttrpc_server_get_fd(server);
        while (p[0].revents == 0) {
                if (poll(p, 2, time_left(ttrpc_server_get_timeout(server))) < 0 ||
                    ttrpc_server_process(server) < 0)
                        return 1;
        }
        ttrpc_server_free(server);
        return 0;
}
