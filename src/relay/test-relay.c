/* SPDX-License-Identifier: MIT */
#include "relay/relay.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <zstd.h>

#define LIMIT_MS 60000 /* far away */
#define BULK     (3U << 20)

typedef enum content { RANDOM, ZERO, TEXT, _CONTENT_MAX } content;

static uint8_t *make(content what, size_t n) {
        uint8_t *data = calloc(1, n);
        uint64_t x = 88172645463325252ULL;

        assert_non_null(data);
        for (size_t i = 0; what != ZERO && i < n; i++) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                data[i] = what == RANDOM ? (uint8_t)x : (uint8_t) "the guest's memory"[x % 18];
        }
        return data;
}

static size_t count_entries(const char *path) {
        DIR *dir = opendir(path);
        size_t n = 0;

        assert_non_null(dir);
        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}

static void pair(int ret[2]) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret), 0);
}

static relay_state wait_end(relay *r, const char **ret_problem) {
        struct pollfd p = { .fd = relay_get_fd(r), .events = POLLIN };

        assert_int_equal(poll(&p, 1, LIMIT_MS), 1);
        return relay_get_state(r, ret_problem);
}

#define MANY 5

/* Two relays back to back; `qemu` are the ends that their QEMUs would have, `links` what the shims
 * keep of the connections, `link` of the first. */
typedef struct both {
        size_t n_tasks, n_fds, n_links;
        relay *source, *destination;
        int qemu[2], *link, links[MANY][2];
} both;

static int start_one(int local, int remote, const relay_options *options, relay **ret) {
        return relay_start(local, &remote, 1, options, ret);
}

/* `crossed`: the destination takes the first two connections for each other. */
static void start_over(both *b, unsigned workers, size_t n, bool crossed) {
        relay_options source = { .side = RELAY_SOURCE, .workers = workers },
                      destination = { .side = RELAY_DESTINATION, .workers = workers };
        int s[2], d[2], to[MANY], from[MANY];

        b->n_tasks = count_entries("/proc/self/task");
        b->n_fds = count_entries("/proc/self/fd");
        pair(s);
        pair(d);
        b->n_links = n;
        b->link = b->links[0];
        for (size_t i = 0; i < n; i++)
                pair(b->links[i]);
        b->qemu[0] = s[0];
        b->qemu[1] = d[0];
        for (size_t i = 0; i < n; i++) {
                to[i] = dup(b->links[i][0]);
                from[i] = dup(b->links[crossed && i < 2 ? 1 - i : i][1]);
        }
        assert_int_equal(relay_start(s[1], to, n, &source, &b->source), 0);
        assert_int_equal(relay_start(d[1], from, n, &destination, &b->destination), 0);
}

static void start(both *b, unsigned workers) {
        start_over(b, workers, 1, false);
}

static void stop(both *b) {
        relay_stop(b->source);
        relay_stop(b->destination);
        for (size_t i = 0; i < 2; i++) {
                close(b->qemu[i]);
                for (size_t k = 0; k < b->n_links; k++)
                        close(b->links[k][i]);
        }
        assert_int_equal(count_entries("/proc/self/fd"), b->n_fds);
        /* the kernel takes a joined thread off a moment later */
        while (count_entries("/proc/self/task") > b->n_tasks)
                (void)poll(NULL, 0, 1);
}

static size_t write_some(int fd, const uint8_t *data, size_t n) {
        ssize_t k = send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);

        return k > 0 ? (size_t)k : 0;
}

/* Writes `in` at one end while it reads the other, and expects the same. */
static void carry(int from, int to, const uint8_t *in, size_t n) {
        uint8_t *out = malloc(n);
        size_t sent = 0, got = 0;

        while (got < n) {
                struct pollfd p[] = { { .fd = to, .events = POLLIN },
                                      { .fd = sent < n ? from : -1, .events = POLLOUT } };
                ssize_t k;

                assert_true(poll(p, 2, LIMIT_MS) > 0);
                if (p[1].revents)
                        sent += write_some(from, in + sent, n - sent);
                if (p[0].revents) {
                        k = read(to, out + got, n - got);
                        assert_true(k > 0);
                        got += (size_t)k;
                }
        }
        assert_memory_equal(in, out, n);
        free(out);
}

static void expect_eof(int fd) {
        uint8_t byte;

        assert_int_equal(read(fd, &byte, 1), 0);
}

static void carried_and_ended(unsigned workers, content what, size_t n_links) {
        uint8_t *data = make(what, BULK);
        relay_figures f;
        uint8_t word[4];
        both b;

        start_over(&b, workers, n_links, false);
        carry(b.qemu[0], b.qemu[1], data, BULK);
        carry(b.qemu[1], b.qemu[0], data, 1000); /* the return path */
        shutdown(b.qemu[0], SHUT_WR);
        expect_eof(b.qemu[1]);
        shutdown(b.qemu[1], SHUT_WR);
        expect_eof(b.qemu[0]);
        assert_int_equal(wait_end(b.source, NULL), RELAY_ENDED);
        assert_int_equal(wait_end(b.destination, NULL), RELAY_ENDED);
        relay_get_figures(b.source, &f);
        assert_int_equal(f.received, 1000);
        assert_true(f.received_usec > 0 && f.sent_usec > 0);
        assert_int_equal(f.sent, BULK);
        if (workers > 0 && what != RANDOM)
                assert_true(f.sent_wire < BULK - BULK / 20);
        assert_true(f.sent_wire < BULK + BULK / 20);
        /* what comes next is the handover's, and was left alone */
        for (size_t i = 0; i < n_links; i++) {
                assert_int_equal(write(b.links[i][0], "next", 4), 4);
                assert_int_equal(read(b.links[i][1], word, 4), 4);
                assert_memory_equal(word, "next", 4);
        }
        stop(&b);
        free(data);
}

static void what_is_written_arrives(void **state) {
        for (unsigned workers = 0; workers <= 3; workers++)
                for (content what = 0; what < _CONTENT_MAX; what++)
                        carried_and_ended(workers, what, 1);
}

static void it_takes_turns_on_several_connections(void **state) {
        for (size_t n = 2; n <= MANY; n++)
                for (unsigned workers = 0; workers <= 2; workers += 2)
                        carried_and_ended(workers, TEXT, n);
}

static void one_of_several_is_cut(void **state) {
        uint8_t *data = make(RANDOM, BULK);

        for (size_t cut = 0; cut < 3; cut++) {
                both b;

                start_over(&b, 0, 3, false);
                carry(b.qemu[0], b.qemu[1], data, 100000);
                shutdown(b.links[cut][0], SHUT_RDWR);
                for (size_t i = 0; i < 3; i++) /* so that each has its turn */
                        (void)write_some(b.qemu[0], data, BULK);
                assert_int_equal(wait_end(b.source, NULL), RELAY_FAILED);
                assert_int_equal(wait_end(b.destination, NULL), RELAY_FAILED);
                stop(&b);
        }
        free(data);
}

static void connections_are_not_taken_for_each_other(void **state) {
        const char *problem;
        both b;

        start_over(&b, 0, 3, true);
        for (uint8_t i = 1; i <= 2; i++) { /* a frame each */
                relay_figures f;

                assert_int_equal(write_some(b.qemu[0], &i, 1), 1);
                do
                        relay_get_figures(b.source, &f);
                while (f.sent < i);
        }
        assert_int_equal(wait_end(b.destination, &problem), RELAY_FAILED);
        assert_non_null(strstr(problem, "channel"));
        assert_int_equal(wait_end(b.source, NULL), RELAY_FAILED);
        stop(&b);
}

/* The handover may speak before the other side's relay has seen the END before it. */
static void what_follows_an_end_is_left_alone(void **state) {
        uint8_t word[4];
        both b;

        start(&b, 1);
        shutdown(b.qemu[1], SHUT_WR);
        expect_eof(b.qemu[0]); /* so its END is out */
        assert_int_equal(write(b.link[1], "next", 4), 4);
        carry(b.qemu[0], b.qemu[1], (const uint8_t *)"last", 4);
        shutdown(b.qemu[0], SHUT_WR);
        assert_int_equal(wait_end(b.source, NULL), RELAY_ENDED);
        assert_int_equal(wait_end(b.destination, NULL), RELAY_ENDED);
        assert_int_equal(read(b.link[0], word, 4), 4);
        assert_memory_equal(word, "next", 4);
        stop(&b);
}

static void a_byte_does_not_wait(void **state) {
        both b;

        start(&b, 2);
        for (uint8_t i = 0; i < 200; i++) {
                carry(b.qemu[0], b.qemu[1], &i, 1);
                carry(b.qemu[1], b.qemu[0], &i, 1);
        }
        stop(&b);
}

/* Nobody reads: the writer is stopped after what the queues hold, and goes on when somebody does.
 */
static void who_does_not_read_stops_who_writes(void **state) {
        enum { MUCH = 64 << 20 };
        uint8_t *data = make(RANDOM, MUCH), *out = malloc(MUCH);
        size_t sent = 0, got = 0;
        both b;

        start(&b, 0);
        for (struct pollfd p = { .fd = b.qemu[0], .events = POLLOUT };
             sent < MUCH && poll(&p, 1, 500) > 0;)
                sent += write_some(b.qemu[0], data + sent, MUCH - sent);
        assert_true(sent < MUCH / 4);
        while (got < sent) {
                ssize_t k = read(b.qemu[1], out + got, sent - got);

                assert_true(k > 0);
                got += (size_t)k;
        }
        assert_memory_equal(data, out, sent);
        stop(&b);
        free(data);
        free(out);
}

static void stopped_in_the_middle(void **state) {
        uint8_t *data = make(RANDOM, BULK);

        for (unsigned workers = 0; workers <= 2; workers++) {
                both b;

                start(&b, workers);
                for (size_t i = 0; i < 10; i++) /* full, empty, and between */
                        (void)write_some(b.qemu[0], data, workers == 1 ? 1 : BULK);
                stop(&b);
        }
        free(data);
}

static void a_stopped_relay_leaves_the_connection_open(void **state) {
        uint8_t byte = 0;
        both b;

        start(&b, 0);
        b.source = relay_stop(b.source);
        assert_int_equal(recv(b.link[0], &byte, 1, MSG_DONTWAIT), -1);
        assert_int_equal(errno, EAGAIN);
        assert_int_equal(relay_get_state(b.destination, NULL), RELAY_RUNS);
        stop(&b);
}

/* ---- what a source's relay puts on the connection ---- */

typedef struct wire {
        uint8_t *plain, *bytes;
        size_t n_plain, n;
} wire;

/* One block of each content, a short one, END. */
static wire record(unsigned workers) {
        static const size_t lengths[] = { 5000, 70000, RELAY_PAYLOAD_MAX, 1, 3000 };
        relay_options options = { .side = RELAY_SOURCE, .workers = workers };
        wire w = { .n_plain = 0 };
        int local[2], remote[2];
        relay *r;

        pair(local);
        pair(remote);
        assert_int_equal(start_one(local[1], remote[1], &options, &r), 0);
        w.plain = malloc(1 << 20);
        w.bytes = malloc(1 << 20);
        for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
                uint8_t *data = make((content)(i % _CONTENT_MAX), lengths[i]);
                relay_figures f;

                memcpy(w.plain + w.n_plain, data, lengths[i]);
                w.n_plain += lengths[i];
                for (size_t sent = 0; sent < lengths[i];)
                        sent += write_some(local[0], data + sent, lengths[i] - sent);
                do { /* all of it, and no more, is out before the next */
                        uint8_t *to = w.bytes + w.n;
                        ssize_t k = recv(remote[0], to, (1 << 20) - w.n, MSG_DONTWAIT);

                        w.n += k > 0 ? (size_t)k : 0;
                        relay_get_figures(r, &f);
                } while (f.sent < w.n_plain || f.sent_wire > w.n);
                free(data);
        }
        shutdown(local[0], SHUT_WR);
        assert_int_equal(recv(remote[0], w.bytes + w.n, RELAY_HEADER_SIZE, MSG_WAITALL),
                         RELAY_HEADER_SIZE);
        w.n += RELAY_HEADER_SIZE;
        relay_stop(r);
        close(local[0]);
        close(remote[0]);
        return w;
}

static void wire_done(wire *w) {
        free(w->plain);
        free(w->bytes);
}

/* Gives a destination's relay these bytes, then the connection's end. What reaches QEMU is a
 * beginning of what was written, and only a whole stream has an end. */
static relay_state take(const wire *w, const uint8_t *bytes, size_t n, unsigned workers,
                        char problem[256]) {
        relay_options options = { .side = RELAY_DESTINATION, .workers = workers };
        uint8_t *got = malloc(w->n_plain + 1), end[RELAY_HEADER_SIZE];
        int local[2], remote[2];
        const char *why;
        size_t n_got = 0;
        relay_state state;
        relay *r;

        pair(local);
        pair(remote);
        shutdown(local[0], SHUT_WR); /* its QEMU has said all it had to */
        assert_int_equal(start_one(local[1], remote[1], &options, &r), 0);
        for (size_t sent = 0; sent < n;) {
                struct pollfd p[] = { { .fd = local[0], .events = POLLIN },
                                      { .fd = remote[0], .events = POLLOUT } };
                ssize_t k;

                assert_true(poll(p, 2, LIMIT_MS) > 0);
                if (p[0].revents & POLLIN) {
                        k = read(local[0], got + n_got, w->n_plain + 1 - n_got);
                        if (k > 0)
                                n_got += (size_t)k;
                }
                if (p[1].revents & (POLLHUP | POLLERR))
                        break; /* it has seen enough */
                k = send(remote[0], bytes + sent, n - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
                sent += k > 0 ? (size_t)k : 0;
        }
        /* its END is out: what it hears from here on is about what it reads */
        (void)recv(remote[0], end, sizeof(end), MSG_WAITALL);
        shutdown(remote[0], SHUT_WR);
        for (;;) {
                ssize_t k = read(local[0], got + n_got, w->n_plain + 1 - n_got);

                if (k <= 0)
                        break;
                n_got += (size_t)k;
        }
        state = wait_end(r, &why);
        snprintf(problem, 256, "%s", why ? why : "");
        assert_true(n_got <= w->n_plain);
        assert_memory_equal(got, w->plain, n_got);
        assert_int_equal(state, n_got == w->n_plain && !why ? RELAY_ENDED : RELAY_FAILED);
        relay_stop(r);
        close(local[0]);
        close(remote[0]);
        free(got);
        return state;
}

static size_t frame_size(const uint8_t *at) {
        return RELAY_HEADER_SIZE +
               ((size_t)at[8] << 24 | (size_t)at[9] << 16 | (size_t)at[10] << 8 | at[11]);
}

static void a_cut_is_no_end(void **state) {
        for (unsigned workers = 0; workers <= 2; workers += 2) {
                wire w = record(workers);
                char problem[256];

                assert_int_equal(take(&w, w.bytes, w.n, workers, problem), RELAY_ENDED);
                for (size_t at = 0; at < w.n; at += frame_size(w.bytes + at)) {
                        const size_t cuts[] = { 0,
                                                1,
                                                RELAY_HEADER_SIZE - 1,
                                                RELAY_HEADER_SIZE,
                                                RELAY_HEADER_SIZE + 1,
                                                frame_size(w.bytes + at) / 2,
                                                frame_size(w.bytes + at) - 1 };

                        for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
                                if (cuts[i] >= frame_size(w.bytes + at))
                                        continue;
                                assert_int_equal(take(&w, w.bytes, at + cuts[i], workers, problem),
                                                 RELAY_FAILED);
                                assert_non_null(strstr(problem, "cut"));
                        }
                }
                wire_done(&w);
        }
}

static void a_flipped_bit_is_found(void **state) {
        for (unsigned workers = 0; workers <= 1; workers++) {
                wire w = record(workers);
                char problem[256];

                for (size_t at = 0; at < w.n; at += frame_size(w.bytes + at)) {
                        size_t n = frame_size(w.bytes + at);

                        /* each byte of a header, some of the payload */
                        for (size_t i = 0; i < n;
                             i += i < RELAY_HEADER_SIZE ? 1 : 1 + (n - i) / 3) {
                                w.bytes[at + i] ^= (uint8_t)(1U << i % 8);
                                assert_int_equal(take(&w, w.bytes, w.n, workers, problem),
                                                 RELAY_FAILED);
                                if (!strstr(problem, "broken"))
                                        fail_msg("frame at %zu, byte %zu: %s", at, i, problem);
                                w.bytes[at + i] ^= (uint8_t)(1U << i % 8);
                        }
                }
                assert_int_equal(take(&w, w.bytes, w.n, workers, problem), RELAY_ENDED);
                wire_done(&w);
        }
}

/* A frame left out, twice, or in another's place: each is sound for itself. */
static void the_order_counts(void **state) {
        wire w = record(0);
        size_t first = frame_size(w.bytes), second = frame_size(w.bytes + first);
        uint8_t *bytes = malloc(w.n + first);
        char problem[256];

        assert_int_equal(take(&w, w.bytes + first, w.n - first, 0, problem), RELAY_FAILED);
        memcpy(bytes, w.bytes, first);
        memcpy(bytes + first, w.bytes, w.n);
        assert_int_equal(take(&w, bytes, w.n + first, 0, problem), RELAY_FAILED);
        memcpy(bytes, w.bytes + first, second);
        memcpy(bytes + second, w.bytes, first);
        memcpy(bytes + first + second, w.bytes + first + second, w.n - first - second);
        assert_int_equal(take(&w, bytes, w.n, 0, problem), RELAY_FAILED);
        free(bytes);
        wire_done(&w);
}

/* Good checks, and a payload that is not what the header says. */
static void packed_lies_are_refused(void **state) {
        wire w = { .plain = make(ZERO, 1), .n_plain = 0 };
        uint8_t bytes[RELAY_HEADER_SIZE * 2 + 4096], *zeros = make(ZERO, RELAY_PAYLOAD_MAX + 1);
        char problem[256];

        for (int lie = 0; lie < 4; lie++) {
                size_t plain = lie == 0 ? RELAY_PAYLOAD_MAX + 1 : 1000, n;
                relay_header h = { .type = RELAY_FRAME_DATA, .flags = RELAY_FLAG_ZSTD },
                             end = { .type = RELAY_FRAME_END, .sequence = 1 };

                n = ZSTD_compress(bytes + RELAY_HEADER_SIZE, 4096, zeros, plain, 1);
                assert_false(ZSTD_isError(n));
                h.n_plain = lie == 1 ? 999 : lie == 2 ? 1001 : lie == 0 ? RELAY_PAYLOAD_MAX : 1000;
                if (lie == 3) /* something behind it */
                        memset(bytes + RELAY_HEADER_SIZE + n++, 0, 1);
                h.n_payload = (uint32_t)n;
                h.check = relay_payload_check(bytes + RELAY_HEADER_SIZE, n);
                relay_header_format(&h, RELAY_SOURCE, bytes);
                end.check = relay_payload_check(bytes, 0);
                relay_header_format(&end, RELAY_SOURCE, bytes + RELAY_HEADER_SIZE + n);
                n += RELAY_HEADER_SIZE * 2;
                assert_int_equal(take(&w, bytes, n, 1, problem), RELAY_FAILED);
                assert_non_null(strstr(problem, "unpacked"));
                assert_int_equal(take(&w, bytes, n, 0, problem), RELAY_FAILED);
                assert_non_null(strstr(problem, "agreed"));
        }
        free(zeros);
        wire_done(&w);
}

/* Who finds a stream broken says so, last of all, and the one who sent it tells that. */
static void the_sender_hears_of_it(void **state) {
        const relay_expected expected = { .sender = RELAY_DESTINATION };
        relay_options source = { .side = RELAY_SOURCE },
                      destination = { .side = RELAY_DESTINATION };
        uint8_t told[RELAY_HEADER_SIZE], byte;
        int local[2], remote[2];
        wire w = record(0);
        const char *problem;
        relay_header h;
        relay *r;

        pair(local);
        pair(remote);
        assert_int_equal(start_one(local[1], remote[1], &destination, &r), 0);
        w.bytes[RELAY_HEADER_SIZE + 7] ^= 1;
        assert_int_equal(send(remote[0], w.bytes, 6000, MSG_NOSIGNAL), 6000);
        assert_int_equal(recv(remote[0], told, sizeof(told), MSG_WAITALL), sizeof(told));
        assert_null(relay_header_parse(told, &expected, &h));
        assert_int_equal(h.type, RELAY_FRAME_BROKEN);
        assert_true(recv(remote[0], &byte, 1, 0) <= 0);
        assert_int_equal(wait_end(r, &problem), RELAY_FAILED);
        assert_non_null(strstr(problem, "a block was changed"));
        relay_stop(r);
        close(local[0]);
        close(remote[0]);

        pair(local);
        pair(remote);
        assert_int_equal(send(remote[0], told, sizeof(told), 0), sizeof(told));
        close(remote[0]);
        assert_int_equal(send(local[0], told, 1, 0), 1); /* its writer finds nobody there */
        assert_int_equal(start_one(local[1], remote[1], &source, &r), 0);
        assert_int_equal(wait_end(r, &problem), RELAY_FAILED);
        assert_non_null(strstr(problem, "the other shim found"));
        relay_stop(r);
        close(local[0]);
        wire_done(&w);
}

static void a_peer_that_goes_is_noticed(void **state) {
        const char *problem;
        both b;

        start(&b, 0); /* its QEMU has ended its side, and then the shim goes; ours has not */
        shutdown(b.qemu[1], SHUT_WR);
        expect_eof(b.qemu[0]);
        b.destination = relay_stop(b.destination);
        shutdown(b.link[1], SHUT_RDWR);
        assert_int_equal(wait_end(b.source, &problem), RELAY_FAILED);
        assert_non_null(strstr(problem, "before all was sent"));
        stop(&b);
}

static void *nothing(void *userdata) {
        return userdata;
}

/* A sanitizer makes a thread of its own with the first one. */
static int warm_up(void **state) {
        pthread_t thread;

        return pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL);
}

static void bad_options(void **state) {
        relay_options options = { .side = RELAY_SOURCE, .workers = RELAY_WORKERS_MAX + 1 };
        size_t n_fds = count_entries("/proc/self/fd");
        relay *r = NULL;
        int p[2];

        pair(p);
        assert_int_equal(start_one(p[0], p[1], &options, &r), -EINVAL);
        options.workers = 0;
        pair(p);
        assert_int_equal(relay_start(p[0], p + 1, 0, &options, &r), -EINVAL);
        close(p[1]);
        assert_null(r);
        assert_int_equal(count_entries("/proc/self/fd"), n_fds);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(what_is_written_arrives),
                cmocka_unit_test(it_takes_turns_on_several_connections),
                cmocka_unit_test(one_of_several_is_cut),
                cmocka_unit_test(connections_are_not_taken_for_each_other),
                cmocka_unit_test(what_follows_an_end_is_left_alone),
                cmocka_unit_test(a_byte_does_not_wait),
                cmocka_unit_test(who_does_not_read_stops_who_writes),
                cmocka_unit_test(stopped_in_the_middle),
                cmocka_unit_test(a_stopped_relay_leaves_the_connection_open),
                cmocka_unit_test(a_cut_is_no_end),
                cmocka_unit_test(a_flipped_bit_is_found),
                cmocka_unit_test(the_order_counts),
                cmocka_unit_test(packed_lies_are_refused),
                cmocka_unit_test(the_sender_hears_of_it),
                cmocka_unit_test(a_peer_that_goes_is_noticed),
                cmocka_unit_test(bad_options),
        };

        return cmocka_run_group_tests_name("relay", tests, warm_up, NULL);
}
