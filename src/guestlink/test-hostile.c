/* SPDX-License-Identifier: MIT */

/* The host's end of a port, with a guest behind it that means harm. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "channel/frame.h"
#include "guestlink/port.h"
#include "guestlink/processes-internal.h"

#define STREAM     4U
#define BUFFER     (2U << 20) /* more than a socket takes */
#define WATCH_USEC (3 * CHANNEL_PROBE_USEC)
#define TURNS_MAX  200U /* a loop that spins has tens of thousands */

typedef struct world {
        char folder[48], path[64];
        int listener, guest;
        sd_event *event;
        guest_port *port;
        channel_stream *stream;
} world;

static void accept_guest(world *w) {
        fd_close(w->guest);
        w->guest = accept4(w->listener, NULL, NULL, SOCK_CLOEXEC);
        assert_true(w->guest >= 0);
}

static int setup(void **state) {
        world *w = calloc(1, sizeof(*w));

        w->guest = -EBADF;
        strcpy(w->folder, "/tmp/ferry-test-hostile-XXXXXX");
        assert_non_null(mkdtemp(w->folder));
        snprintf(w->path, sizeof(w->path), "%s/port", w->folder);
        assert_int_equal(unix_listen(w->path, 0600, 4, &w->listener), 0);
        assert_true(sd_event_new(&w->event) >= 0);
        assert_int_equal(guest_port_new(w->event, w->path, &w->port), 0);
        assert_int_equal(channel_open(guest_port_channel(w->port), STREAM, BUFFER, NULL,
                                      &(channel_handlers){ 0 }, NULL, &w->stream),
                         0);
        accept_guest(w);
        *state = w;
        return 0;
}

static int teardown(void **state) {
        world *w = *state;

        guest_port_free(w->port);
        sd_event_unref(w->event);
        fd_close(w->guest);
        fd_close(w->listener);
        assert_int_equal(unlink(w->path), 0);
        assert_int_equal(rmdir(w->folder), 0);
        free(w);
        return 0;
}

static size_t turns_in(world *w, uint64_t usec) {
        uint64_t until = now_usec() + usec, now;
        size_t n = 0;

        for (; (now = now_usec()) < until; n++)
                assert_true(sd_event_run(w->event, until - now) >= 0);
        return n;
}

static void grant_everything(world *w) {
        uint8_t payload[CHANNEL_WINDOW_SIZE], frame[CHANNEL_HEADER_SIZE + CHANNEL_WINDOW_SIZE];
        size_t n;

        channel_window_format(&(channel_window){ .limit = BUFFER }, payload);
        n = channel_frame_format(&(channel_frame){ .type = CHANNEL_FRAME_WINDOW,
                                                   .stream = STREAM,
                                                   .payload = payload,
                                                   .n_payload = sizeof(payload) },
                                 frame);
        assert_int_equal(send(w->guest, frame, n, MSG_NOSIGNAL), n);
}

static void test_a_guest_that_never_reads_costs_no_cpu(void **state) {
        static uint8_t bytes[BUFFER];
        world *w = *state;

        assert_int_equal(channel_write(w->stream, bytes, sizeof(bytes)), sizeof(bytes));
        guest_port_kick(w->port);
        grant_everything(w);
        assert_in_range(turns_in(w, WATCH_USEC), 1, TURNS_MAX);
}

static void test_garbage_is_skipped(void **state) {
        uint8_t garbage[4096];
        world *w = *state;

        for (size_t i = 0; i < sizeof(garbage); i++)
                garbage[i] = (uint8_t)(i * 31 + 7);
        assert_int_equal(send(w->guest, garbage, sizeof(garbage), MSG_NOSIGNAL), sizeof(garbage));
        assert_in_range(turns_in(w, 100 * USEC_PER_MSEC), 1, TURNS_MAX);
        assert_true(channel_get_counters(guest_port_channel(w->port))->skipped_bytes > 0);
}

/* What it says of an error goes to terminals, its code to callers. */
static void test_an_error_is_made_harmless(void **state) {
        static const int32_t codes[] = { 12345, -3, INT32_MIN, 17 };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        char *words = malloc(1 << 20);
        const char *said;

        memset(words, 'x', (1 << 20) - 1);
        memcpy(words, "\x1b[2J\r\nall is well\x7f", 18);
        words[(1 << 20) - 1] = '\0';
        for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
                ttrpc_status status = { .code = codes[i], .message = words };

                ferry_error_done(&error);
                error = FERRY_ERROR_INIT;
                assert_int_equal(guest_judge(0, &status, &error), -EREMOTEIO);
                assert_in_range(error.code, 1, 16);
        }
        said = ferry_error_message(&error);
        assert_in_range(strlen(said), 1, 1024);
        for (const char *c = said; *c; c++)
                assert_in_range((unsigned char)*c, ' ', '~');
        free(words);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_a_guest_that_never_reads_costs_no_cpu, setup,
                                                teardown),
                cmocka_unit_test(test_an_error_is_made_harmless),
                cmocka_unit_test_setup_teardown(test_garbage_is_skipped, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
