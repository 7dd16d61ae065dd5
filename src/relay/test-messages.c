/* SPDX-License-Identifier: MIT */
/* Relays that carry the shims' messages between QEMU's blocks. */
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "relay/relay.h"

#define LIMIT_MS 60000 /* far away */
#define BULK     (2U << 20)

enum { SOURCE, DESTINATION };

/* `qemu` and `shim` are the ends that belong to these, `links` what is left of the connection. */
typedef struct both {
        relay *relays[2];
        int qemu[2], shim[2], links[2];
} both;

static void start(both *b, unsigned workers, bool hides_failure) {
        int connection[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, connection), 0);
        for (int i = SOURCE; i <= DESTINATION; i++) {
                relay_options options = {
                        .side = i == SOURCE ? RELAY_SOURCE : RELAY_DESTINATION,
                        .workers = workers,
                        .messages = true,
                        .hides_failure = hides_failure && i == SOURCE,
                };
                int local[2], messages[2], remote = dup(connection[i]);

                b->links[i] = connection[i];
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, local), 0);
                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, messages), 0);
                b->qemu[i] = local[0];
                b->shim[i] = messages[0];
                options.messages_fd_consume = messages[1];
                assert_int_equal(relay_start(local[1], &remote, 1, &options, &b->relays[i]), 0);
        }
}

static void close_one(int *fd) {
        if (*fd >= 0)
                close(*fd);
        *fd = -1;
}

static void stop(both *b) {
        for (int i = SOURCE; i <= DESTINATION; i++) {
                b->relays[i] = relay_stop(b->relays[i]);
                close_one(&b->qemu[i]);
                close_one(&b->shim[i]);
                close_one(&b->links[i]);
        }
}

static void say(int fd, const char *text) {
        assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void expect(int fd, const char *text) {
        char got[64] = "";
        size_t n = 0;

        while (n < strlen(text)) {
                ssize_t k = read(fd, got + n, strlen(text) - n);

                assert_true(k > 0);
                n += (size_t)k;
        }
        assert_string_equal(got, text);
}

static void expect_eof(int fd) {
        uint8_t byte;

        assert_int_equal(read(fd, &byte, 1), 0);
}

static void wait_state(relay *r, relay_state expected, const char *problem) {
        struct pollfd p = { .fd = relay_get_fd(r), .events = POLLIN };
        const char *text;

        assert_int_equal(poll(&p, 1, LIMIT_MS), 1);
        assert_int_equal(relay_get_state(r, &text), expected);
        if (problem && !strstr(text, problem))
                fail_msg("\"%s\" instead of \"%s\"", text, problem);
}

static void messages_go_both_ways_beside_the_stream(void **state) {
        for (unsigned workers = 0; workers <= 2; workers += 2) {
                both b;

                start(&b, workers, false);
                say(b.qemu[SOURCE], "memory");
                say(b.shim[SOURCE], "OFFER");
                expect(b.qemu[DESTINATION], "memory");
                expect(b.shim[DESTINATION], "OFFER");
                say(b.shim[DESTINATION], "READY");
                say(b.qemu[DESTINATION], "request");
                expect(b.qemu[SOURCE], "request");
                expect(b.shim[SOURCE], "READY");
                stop(&b);
        }
}

/* What QEMU has sent before a message has been given to the other QEMU before it. */
static void a_message_does_not_overtake(void **state) {
        uint8_t *data = malloc(BULK), *got = malloc(BULK);
        size_t n = 0;
        both b;

        start(&b, 0, false);
        for (size_t i = 0; i < BULK; i++)
                data[i] = (uint8_t)(i * 31 + i / 999);
        for (size_t sent = 0; sent < BULK;) {
                ssize_t k = send(b.qemu[SOURCE], data + sent, BULK - sent, MSG_DONTWAIT);

                sent += k > 0 ? (size_t)k : 0;
                k = recv(b.qemu[DESTINATION], got + n, BULK - n, MSG_DONTWAIT);
                n += k > 0 ? (size_t)k : 0;
        }
        for (; n < BULK; n += (size_t)recv(b.qemu[DESTINATION], got + n, BULK - n, 0))
                ;
        assert_memory_equal(data, got, BULK);
        say(b.shim[SOURCE], "OFFER");
        expect(b.shim[DESTINATION], "OFFER");
        stop(&b);
        free(data);
        free(got);
}

static void an_end_ends_only_the_stream(void **state) {
        both b;

        start(&b, 0, false);
        shutdown(b.qemu[SOURCE], SHUT_WR);
        expect_eof(b.qemu[DESTINATION]);
        shutdown(b.qemu[DESTINATION], SHUT_WR);
        expect_eof(b.qemu[SOURCE]);
        say(b.shim[DESTINATION], "RUNNING");
        expect(b.shim[SOURCE], "RUNNING");
        assert_int_equal(relay_get_state(b.relays[SOURCE], NULL), RELAY_RUNS);
        stop(&b);
}

static void last_words_arrive(void **state) {
        both b;

        start(&b, 0, false);
        say(b.shim[DESTINATION], "DECLINED");
        close_one(&b.shim[DESTINATION]);
        wait_state(b.relays[DESTINATION], RELAY_ENDED, NULL);
        b.relays[DESTINATION] = relay_stop(b.relays[DESTINATION]);
        close_one(&b.links[DESTINATION]);
        expect(b.shim[SOURCE], "DECLINED");
        expect_eof(b.shim[SOURCE]);
        wait_state(b.relays[SOURCE], RELAY_FAILED, "cut before the stream's end");
        stop(&b);
}

static void a_break_ends_both(void **state) {
        both b;

        start(&b, 0, false);
        say(b.qemu[SOURCE], "x");
        expect(b.qemu[DESTINATION], "x");
        shutdown(b.links[SOURCE], SHUT_RDWR);
        expect_eof(b.qemu[SOURCE]);
        expect_eof(b.qemu[DESTINATION]);
        expect_eof(b.shim[SOURCE]);
        expect_eof(b.shim[DESTINATION]);
        wait_state(b.relays[SOURCE], RELAY_FAILED, NULL);
        wait_state(b.relays[DESTINATION], RELAY_FAILED, NULL);
        stop(&b);
}

/* More than any buffer holds goes into nothing, until the relay is stopped. */
static void a_break_is_hidden(void **state) {
        uint8_t block[65536] = { 0 };
        both b;

        start(&b, 0, true);
        shutdown(b.links[SOURCE], SHUT_RDWR);
        wait_state(b.relays[SOURCE], RELAY_FAILED, NULL);
        for (size_t i = 0; i < 256; i++)
                assert_true(send(b.qemu[SOURCE], block, sizeof(block), MSG_NOSIGNAL) > 0);
        b.relays[SOURCE] = relay_stop(b.relays[SOURCE]);
        assert_int_equal(send(b.qemu[SOURCE], block, 1, MSG_NOSIGNAL), -1);
        stop(&b);
}

static void messages_that_were_not_agreed_on_are_refused(void **state) {
        relay_options plain = { .side = RELAY_DESTINATION };
        relay_header h = { .type = RELAY_FRAME_MESSAGE, .n_payload = 1, .n_plain = 1 };
        uint8_t wire[RELAY_HEADER_SIZE + 1] = { 0 };
        int connection[2], local[2];
        relay *r;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, connection), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, local), 0);
        assert_int_equal(relay_start(local[1], &connection[1], 1, &plain, &r), 0);
        h.check = relay_payload_check(wire + RELAY_HEADER_SIZE, 1);
        relay_header_format(&h, RELAY_SOURCE, wire);
        assert_int_equal(write(connection[0], wire, sizeof(wire)), sizeof(wire));
        wait_state(r, RELAY_FAILED, "unknown type");
        relay_stop(r);
        close(connection[0]);
        close(local[0]);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(messages_go_both_ways_beside_the_stream),
                cmocka_unit_test(a_message_does_not_overtake),
                cmocka_unit_test(an_end_ends_only_the_stream),
                cmocka_unit_test(last_words_arrive),
                cmocka_unit_test(a_break_ends_both),
                cmocka_unit_test(a_break_is_hidden),
                cmocka_unit_test(messages_that_were_not_agreed_on_are_refused),
        };

        return cmocka_run_group_tests_name("messages", tests, NULL, NULL);
}
