/* SPDX-License-Identifier: MIT */
#include "base/pump.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE (16UL << 20)

typedef struct world {
        int left, right; /* the ends that are not the pump's */
        pump *pump;
        uint8_t *data, *got;
} world;

static int setup(void **state) {
        world *w = calloc(1, sizeof(*w));
        int a[2], b[2];

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a), 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, b), 0);
        w->left = a[0];
        w->right = b[0];
        w->data = malloc(SIZE);
        w->got = malloc(SIZE);
        for (size_t i = 0; i < SIZE; i++)
                w->data[i] = (uint8_t)(i * 2654435761U >> 13);
        assert_int_equal(pump_start(a[1], b[1], &w->pump), 0);
        *state = w;
        return 0;
}

static int teardown(void **state) {
        world *w = *state;

        pump_free(w->pump);
        close(w->left);
        close(w->right);
        free(w->data);
        free(w->got);
        free(w);
        return 0;
}

typedef struct sender {
        const world *w;
        int fd;
} sender;

static void *send_all(void *userdata) {
        const sender *s = userdata;

        for (size_t at = 0; at < SIZE;) {
                ssize_t n = send(s->fd, s->w->data + at, SIZE - at, MSG_NOSIGNAL);

                if (n <= 0)
                        break;
                at += (size_t)n;
        }
        (void)shutdown(s->fd, SHUT_WR);
        return NULL;
}

static size_t read_all(const world *w, int fd) {
        size_t at = 0;
        ssize_t n;

        while (at < SIZE && (n = read(fd, w->got + at, SIZE - at)) > 0)
                at += (size_t)n;
        return at;
}

static void test_both_ways_to_the_end(void **state) {
        world *w = *state;
        sender senders[2] = { { w, w->left }, { w, w->right } };
        int receivers[2] = { w->right, w->left };

        for (size_t i = 0; i < 2; i++) {
                pthread_t thread;
                char more;

                assert_int_equal(pthread_create(&thread, NULL, send_all, &senders[i]), 0);
                assert_int_equal(read_all(w, receivers[i]), SIZE);
                assert_memory_equal(w->data, w->got, SIZE);
                assert_int_equal(read(receivers[i], &more, 1), 0); /* the end is told */
                assert_int_equal(pthread_join(thread, NULL), 0);
        }
}

static void test_one_side_goes(void **state) {
        world *w = *state;
        char more;

        assert_int_equal(shutdown(w->left, SHUT_RDWR), 0);
        assert_int_equal(read(w->right, &more, 1), 0);
}

/* Nobody reads: the thread has its hands full. */
static void test_ended_in_the_middle(void **state) {
        world *w = *state;
        sender s = { w, w->left };
        pthread_t thread;

        assert_int_equal(pthread_create(&thread, NULL, send_all, &s), 0);
        assert_int_equal(recv(w->right, w->got, 1, MSG_PEEK), 1);
        w->pump = pump_free(w->pump);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_true(read_all(w, w->right) < SIZE);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_both_ways_to_the_end),
                TEST(test_one_side_goes),
                TEST(test_ended_in_the_middle),
        };

        return cmocka_run_group_tests_name("pump", tests, NULL, NULL);
}
