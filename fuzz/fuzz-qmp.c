/* SPDX-License-Identifier: MIT */

/* A hostile QEMU at the other end of the QMP socket. The first byte of the input says how far the
 * handshake has come (bit 0), and how the rest is cut into writes (bits 1-7); the rest is what
 * QEMU writes. Whatever that is: each command is answered exactly once, and nothing crashes. */

#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fd.h"
#include "fuzz.h"
#include "qmp/qmp-client.h"
#include "vm/migration-info.h"

#define N_COMMANDS 3

static unsigned n_answers;

static void on_answer(qmp_client *client, int r, const json_t *value, const qmp_error *error,
                      void *userdata) {
        vm_migration_info_store store;

        n_answers++;
        if (r == 0 && !error)
                vm_migration_info_parse(value, &store);
        else if (r == 0)
                FUZZ_REQUIRE(error->class_name && error->description);
        FUZZ_REQUIRE((r < 0) + (value != NULL) + (error != NULL) == 1);
}

static void on_event(qmp_client *client, const qmp_event *event, void *userdata) {
        vm_migration_status_from_string(json_string_value(json_object_get(event->data, "status")));
}

static void send_text(int fd, sd_event *event, const void *text, size_t n) {
        if (send(fd, text, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                return;
        while (sd_event_run(event, 0) > 0)
                ;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        static const char greeting[] = "{\"QMP\":{\"version\":{\"qemu\":{\"major\":7,\"minor\":2,"
                                       "\"micro\":0},\"package\":\"\"}}}\n";
        static const char accepted[] = "{\"return\":{},\"id\":1}\n";
        const qmp_client_handlers handlers = { .on_event = on_event };
        unsigned n_asked = 0;
        qmp_client *client;
        sd_event *event;
        size_t step;
        int pair[2];

        if (n < 1)
                return 0;
        FUZZ_REQUIRE(sd_event_new(&event) >= 0);
        FUZZ_REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
        FUZZ_REQUIRE(qmp_client_new(event, pair[0], USEC_INFINITY, &handlers, NULL, &client) == 0);
        if (data[0] & 1) {
                send_text(pair[1], event, greeting, strlen(greeting));
                send_text(pair[1], event, accepted, strlen(accepted));
        }
        n_answers = 0;
        step = data[0] >> 1 ? data[0] >> 1 : n;
        for (size_t at = 1; at < n; at += step) {
                size_t k = n - at < step ? n - at : step;

                if (n_asked < N_COMMANDS && qmp_client_invoke(client, "query-migrate", NULL,
                                                              USEC_INFINITY, on_answer, NULL) == 0)
                        n_asked++;
                send_text(pair[1], event, data + at, k);
        }
        client = qmp_client_close(client);
        FUZZ_REQUIRE(n_answers == n_asked);
        fd_close(pair[1]);
        sd_event_unref(event);
        return 0;
}
