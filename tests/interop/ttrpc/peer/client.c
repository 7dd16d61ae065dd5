/* SPDX-License-Identifier: MIT */
/* The C client on the Go server: client SOCKET. Exit 0 when all went as it should. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>

#include "bytes-value.h"
#include "ttrpc/ttrpc.h"

#define SERVICE    "interop.Test"
#define N_CALLS    1000U
#define N_MESSAGES 20000U
#define PATIENCE   (60ULL * 1000000)
/* The key and length of the payload, and of its one field. */
#define NESTED 10U

static unsigned n_failed;

static bool check(const char *name, bool ok) {
        if (!ok) {
                fprintf(stderr, "# C client: %s: failed\n", name);
                n_failed++;
        }
        return ok;
}

/* Calls with text, expects this code and text (the reply, or the status's; NULL: any). */
static bool expect_with(ttrpc_client *client, const ttrpc_call_options *options, const char *method,
                        const char *request, int32_t code, const char *expected) {
        bytes_value v = bytes_value_pack(request, strlen(request));
        uint8_t *payload = NULL;
        char *message = NULL, *reply = NULL;
        int32_t got;
        size_t n;
        bool ok;
        int r;

        r = ttrpc_client_call_sync(client, SERVICE, method, v.data, v.n, options, &got, &message,
                                   &payload, &n);
        if (r == 0 && got == TTRPC_OK)
                reply = bytes_value_unpack(payload, n, &n);
        else if (message)
                reply = strdup(message);
        ok = r == 0 && got == code && reply && (!expected || strcmp(reply, expected) == 0);
        if (!ok)
                fprintf(stderr, "# %s: r %d, code %d, \"%s\"\n", method, r, (int)got,
                        reply ? reply : "");
        free(v.data);
        free(payload);
        free(message);
        free(reply);
        return ok;
}

static bool expect(ttrpc_client *client, const char *method, const char *request, int32_t code,
                   const char *expected) {
        const ttrpc_call_options options = { .timeout_usec = PATIENCE };

        return expect_with(client, &options, method, request, code, expected);
}

/* The server, which knows the deadline too, may answer first. */
static bool deadline_passes(ttrpc_client *client) {
        const ttrpc_call_options options = { .timeout_usec = 20000 };
        uint8_t *payload;
        char *message;
        int32_t code;
        size_t n;
        int r = ttrpc_client_call_sync(client, SERVICE, "Hold", NULL, 0, &options, &code, &message,
                                       &payload, &n);

        free(payload);
        free(message);
        return (r == -ETIMEDOUT || r == 0) && code == TTRPC_DEADLINE_EXCEEDED;
}

static bool sends_size(ttrpc_client *client, size_t n, int expected) {
        uint8_t *bytes = calloc(1, n), *payload = NULL;
        bytes_value v = bytes_value_pack(bytes, n);
        char *message;
        int32_t code;
        int r;

        free(bytes);
        r = ttrpc_client_call_sync(client, SERVICE, "Echo", v.data, v.n, NULL, &code, &message,
                                   &payload, &n);
        free(v.data);
        free(payload);
        free(message);
        return r == expected && (r < 0 || code == TTRPC_OK);
}

/* ---- many calls, streams ---- */

typedef struct outcome {
        unsigned n_ended, n_ok, n_messages;
        bool wrong;
        int32_t code;
        char message[64];
} outcome;

static void on_end(int r, const ttrpc_status *status, const uint8_t *payload, size_t n,
                   void *userdata) {
        outcome *o = userdata;

        (void)payload;
        (void)n;
        o->n_ended++;
        o->n_ok += r == 0 && status->code == TTRPC_OK;
        o->code = status->code;
        snprintf(o->message, sizeof(o->message), "%s", status->message);
}

static void on_number(const uint8_t *payload, size_t n, void *userdata) {
        char *text = bytes_value_unpack(payload, n, &n), expected[16] = "";
        outcome *o = userdata;

        if (o->n_messages > 0)
                snprintf(expected, sizeof(expected), "%u", o->n_messages);
        o->wrong |= !text || strcmp(text, expected) != 0;
        o->n_messages++;
        free(text);
}

static void on_any(const uint8_t *payload, size_t n, void *userdata) {
        outcome *o = userdata;

        (void)payload;
        (void)n;
        o->n_messages++;
}

static bool wait_for(ttrpc_client *client, const outcome *o, unsigned n_ended) {
        while (o->n_ended < n_ended)
                if (ttrpc_client_wait(client, PATIENCE) < 0)
                        return false;
        return true;
}

static bool many_at_once(ttrpc_client *client) {
        outcome o = { 0 };

        for (unsigned i = 0; i < N_CALLS; i++)
                if (ttrpc_client_call(client, SERVICE, "Echo", (const uint8_t *)"\x0a\x01x", 3,
                                      NULL, on_end, &o, NULL) < 0)
                        return false;
        return wait_for(client, &o, N_CALLS) && o.n_ok == N_CALLS;
}

static bool stream(ttrpc_client *client, unsigned n) {
        outcome o = { 0 };
        char text[16];
        bytes_value v;
        int r;

        snprintf(text, sizeof(text), "%u", n);
        v = bytes_value_pack(text, strlen(text));
        r = ttrpc_client_stream(client, SERVICE, "Count", v.data, v.n, NULL, on_number, on_end, &o,
                                NULL);
        free(v.data);
        return r == 0 && wait_for(client, &o, 1) && o.n_ok == 1 && o.n_messages == n && !o.wrong;
}

static bool stream_that_fails(ttrpc_client *client) {
        outcome o = { 0 };

        return ttrpc_client_stream(client, SERVICE, "CountFail", NULL, 0, NULL, on_any, on_end, &o,
                                   NULL) == 0 &&
               wait_for(client, &o, 1) && o.n_messages == 1 && o.code == TTRPC_ABORTED &&
               strcmp(o.message, "enough") == 0;
}

/* ---- all of it ---- */

static void check_calls(ttrpc_client *client) {
        static const ttrpc_pair me = { "who", "me" };
        const ttrpc_call_options as_me = { .metadata = &me, .n_metadata = 1 };

        check("unary", expect(client, "Echo", "hello", TTRPC_OK, "hello"));
        check("empty", expect(client, "Echo", "", TTRPC_OK, ""));
        check("status", expect(client, "Fail", "", TTRPC_FAILED_PRECONDITION, "not now"));
        check("unknown method",
              expect(client, "Nothing", "", TTRPC_UNIMPLEMENTED, "method Nothing"));
        check("metadata", expect_with(client, &as_me, "Who", "", TTRPC_OK, "me"));
        check("no metadata", expect(client, "Who", "", TTRPC_OK, ""));
        check("deadline arrives", expect(client, "HasDeadline", "", TTRPC_OK, "yes"));
        check("no deadline", expect_with(client, NULL, "HasDeadline", "", TTRPC_OK, "no"));
        check("deadline passes", deadline_passes(client));
        check("many at once", many_at_once(client));
}

static void check_sizes(ttrpc_client *client) {
        size_t largest = 4194304 - (2 + strlen(SERVICE) + 2 + 4 + NESTED);

        check("largest request", sends_size(client, largest, 0));
        check("request too large", sends_size(client, largest + 1, -EMSGSIZE));
        check("largest reply", expect(client, "Size", "4194294", TTRPC_OK, NULL));
}

static void check_streams(ttrpc_client *client) {
        check("stream of nothing", stream(client, 0));
        check("stream of an empty message", stream(client, 1));
        check("stream", stream(client, N_MESSAGES));
        check("stream that fails", stream_that_fails(client));
}

int main(int argc, char **argv) {
        ttrpc_client *client;

        if (argc != 2 || !check("connect", ttrpc_client_connect(argv[1], &client) == 0))
                return 1;
        check_calls(client);
        check_sizes(client);
        check_streams(client);
        check("alive at the end", expect(client, "Echo", "x", TTRPC_OK, "x"));
        ttrpc_client_free(client);
        return n_failed > 0;
}
