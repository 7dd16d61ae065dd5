/* SPDX-License-Identifier: MIT */
#include "tls/tunnel.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/ssl.h>

#include "base/fd.h"

#define LIMIT_MS 60000 /* far away */
#define BULK     (8U << 20)

static void pair(int ret[2]) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret), 0);
}

static size_t count_fds(void) {
        DIR *dir = opendir("/proc/self/fd");
        size_t n = 0;

        assert_non_null(dir);
        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}

static tls_options options_of(tls_role role, uint8_t key) {
        tls_options o = { .role = role, .identity = "session-1" };

        memset(o.key, key, sizeof(o.key));
        return o;
}

static tls_tunnel *start(int wire, const tls_options *o, int *ret_plain) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        tls_tunnel *t = NULL;

        if (tls_tunnel_start(wire, o, ret_plain, &t, &error) < 0)
                fail_msg("%s", ferry_error_message(&error));
        return t;
}

typedef struct both {
        size_t n_fds;
        tls_tunnel *client, *server;
        int plain[2]; /* the client's, the server's */
} both;

static void start_both(both *b, const tls_options *client, const tls_options *server) {
        int wire[2];

        b->n_fds = count_fds();
        pair(wire);
        b->client = start(wire[0], client, &b->plain[0]);
        b->server = start(wire[1], server, &b->plain[1]);
}

static void start_good(both *b) {
        tls_options client = options_of(TLS_CLIENT, 7), server = options_of(TLS_SERVER, 7);

        start_both(b, &client, &server);
}

/* Threads end a moment after their owners have let go. */
static void stop(both *b) {
        tls_tunnel_free(b->client);
        tls_tunnel_free(b->server);
        fd_close(b->plain[0]);
        fd_close(b->plain[1]);
        tls_tunnel_drain_all(LIMIT_MS * UINT64_C(1000));
        while (count_fds() > b->n_fds)
                (void)poll(NULL, 0, 1);
}

static void expect_end(int fd) {
        uint8_t byte;
        ssize_t k = read(fd, &byte, 1);

        assert_true(k == 0 || (k < 0 && errno == ECONNRESET));
}

static void expect_problem(tls_tunnel *t, const char *text) {
        char *problem = tls_tunnel_get_problem(t);

        if (!problem || !strstr(problem, text))
                fail_msg("problem: %s; not: %s", problem ? problem : "none", text);
        free(problem);
}

static void expect_no_problem(tls_tunnel *t) {
        char *problem = tls_tunnel_get_problem(t);

        if (problem)
                fail_msg("problem: %s", problem);
}

typedef struct writer {
        int fd;
        const uint8_t *data;
        size_t n;
} writer;

static void *write_it(void *userdata) {
        writer *w = userdata;

        for (size_t at = 0; at < w->n;) {
                ssize_t k = send(w->fd, w->data + at, w->n - at, MSG_NOSIGNAL);

                if (k < 0)
                        return NULL;
                at += (size_t)k;
        }
        (void)shutdown(w->fd, SHUT_WR);
        return NULL;
}

static void read_it(int fd, const uint8_t *expected, size_t n) {
        uint8_t *got = malloc(n + 1);
        size_t have = 0;
        ssize_t k;

        assert_non_null(got);
        while ((k = read(fd, got + have, n + 1 - have)) > 0)
                have += (size_t)k;
        assert_int_equal(k, 0);
        assert_int_equal(have, n);
        assert_memory_equal(got, expected, n);
        free(got);
}

static uint8_t *noise(size_t n) {
        uint8_t *data = malloc(n);
        uint64_t x = 88172645463325252ULL;

        assert_non_null(data);
        for (size_t i = 0; i < n; i++) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                data[i] = (uint8_t)x;
        }
        return data;
}

static void carries_both_ways_at_once(void **state) {
        uint8_t *data = noise(BULK);
        writer w[2];
        pthread_t threads[2];
        both b;

        start_good(&b);
        for (size_t i = 0; i < 2; i++) {
                w[i] = (writer){ b.plain[i], data, BULK };
                assert_int_equal(pthread_create(&threads[i], NULL, write_it, &w[i]), 0);
        }
        /* one after the other: the first must not be stopped by the second, which nobody reads */
        read_it(b.plain[1], data, BULK);
        read_it(b.plain[0], data, BULK);
        for (size_t i = 0; i < 2; i++)
                assert_int_equal(pthread_join(threads[i], NULL), 0);
        expect_no_problem(b.client);
        expect_no_problem(b.server);
        stop(&b);
        free(data);
}

static void a_byte_does_not_wait(void **state) {
        both b;

        start_good(&b);
        for (uint8_t i = 0; i < 200; i++) {
                uint8_t byte = 0;

                assert_int_equal(write(b.plain[i % 2], &i, 1), 1);
                assert_int_equal(read(b.plain[1 - i % 2], &byte, 1), 1);
                assert_int_equal(byte, i);
        }
        stop(&b);
}

/* What was written before the owner let go, arrives; though somebody else holds the plain end. */
static void freed_it_sends_the_rest(void **state) {
        uint8_t *data = noise(100000);
        int other;
        both b;

        start_good(&b);
        other = dup(b.plain[0]);
        assert_int_equal(write(b.plain[0], data, 100000), 100000);
        b.client = tls_tunnel_free(b.client);
        read_it(b.plain[1], data, 100000);
        b.server = tls_tunnel_free(b.server);
        fd_close(other);
        stop(&b);
        free(data);
}

/* There is no room for the end behind what was written: it still comes, and is no cut. */
static void a_slow_reader_sees_a_clean_end(void **state) {
        tls_options client = options_of(TLS_CLIENT, 7), server = options_of(TLS_SERVER, 7);
        uint8_t *data = noise(BULK);
        int wire[2], small = 1;
        pthread_t thread;
        writer w;
        both b = { .n_fds = count_fds() };

        pair(wire);
        for (size_t i = 0; i < 2; i++)
                assert_int_equal(setsockopt(wire[i], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)),
                                 0);
        b.client = start(wire[0], &client, &b.plain[0]);
        b.server = start(wire[1], &server, &b.plain[1]);
        w = (writer){ b.plain[0], data, BULK };
        assert_int_equal(pthread_create(&thread, NULL, write_it, &w), 0);
        read_it(b.plain[1], data, BULK);
        assert_int_equal(pthread_join(thread, NULL), 0);
        expect_no_problem(b.server);
        stop(&b);
        free(data);
}

static void freed_in_the_handshake(void **state) {
        tls_options client = options_of(TLS_CLIENT, 7);
        size_t n_fds = count_fds();
        int wire[2], plain;
        tls_tunnel *t;

        pair(wire);
        t = start(wire[0], &client, &plain);
        assert_int_equal(write(plain, "hello", 5), 5);
        tls_tunnel_free(t);
        fd_close(plain);
        fd_close(wire[1]); /* else it would wait for a while */
        tls_tunnel_drain_all(LIMIT_MS * UINT64_C(1000));
        while (count_fds() > n_fds)
                (void)poll(NULL, 0, 1);
}

static void both_ends_know_the_same_binding(void **state) {
        uint8_t one[TLS_BINDING_SIZE] = { 0 }, two[TLS_BINDING_SIZE] = { 1 },
                before[TLS_BINDING_SIZE];
        uint8_t byte = 0;
        both b;

        for (size_t i = 0; i < 2; i++) {
                memcpy(before, one, sizeof(one));
                start_good(&b);
                assert_int_equal(write(b.plain[0], &byte, 1), 1);
                assert_int_equal(read(b.plain[1], &byte, 1), 1);
                assert_int_equal(write(b.plain[1], &byte, 1), 1);
                assert_int_equal(read(b.plain[0], &byte, 1), 1);
                assert_true(tls_tunnel_get_binding(b.client, one));
                assert_true(tls_tunnel_get_binding(b.server, two));
                assert_memory_equal(one, two, sizeof(one));
                assert_memory_not_equal(one, before, sizeof(one)); /* fresh each time */
                stop(&b);
        }
}

static void another_key_is_refused(void **state) {
        tls_options client = options_of(TLS_CLIENT, 7), server = options_of(TLS_SERVER, 8);
        uint8_t binding[TLS_BINDING_SIZE];
        both b;

        for (size_t i = 0; i < 2; i++) { /* the key's bytes, then its name */
                start_both(&b, &client, &server);
                (void)send(b.plain[0], "secret", 6, MSG_NOSIGNAL); /* it may be over by now */
                expect_end(b.plain[1]);
                expect_end(b.plain[0]);
                expect_problem(b.server, "has not this session's key");
                assert_false(tls_tunnel_get_binding(b.server, binding));
                stop(&b);
                server = options_of(TLS_SERVER, 7);
                server.identity = "session-2";
        }
}

static void what_is_not_tls_is_refused(void **state) {
        static const char garbage[] =
                "FERY\0\0\0\x10 something that is not TLS at all, long enough";
        tls_options o[] = { options_of(TLS_SERVER, 7), options_of(TLS_CLIENT, 7) };

        for (size_t i = 0; i < 2; i++) {
                int wire[2], plain;
                tls_tunnel *t;

                pair(wire);
                t = start(wire[0], &o[i], &plain);
                assert_int_equal(send(wire[1], garbage, sizeof(garbage), MSG_NOSIGNAL),
                                 sizeof(garbage));
                expect_end(plain);
                expect_problem(t, "does not speak TLS 1.3");
                tls_tunnel_free(t);
                fd_close(plain);
                fd_close(wire[1]);
        }
}

/* ---- somebody in the middle ---- */

typedef struct middle {
        int a, b;       /* the client's wire, the server's */
        size_t flip_at; /* of the client's bytes; SIZE_MAX: none */
        size_t cut_at;  /* of the client's bytes */
        size_t n;
        uint8_t *record; /* nullable: what the client sent */
} middle;

static void *run_middle(void *userdata) {
        middle *m = userdata;
        uint8_t data[4096];

        for (;;) {
                struct pollfd p[] = { { .fd = m->a, .events = POLLIN },
                                      { .fd = m->b, .events = POLLIN } };
                ssize_t k;

                if (poll(p, 2, LIMIT_MS) <= 0)
                        break;
                if (p[1].revents) {
                        k = recv(m->b, data, sizeof(data), 0);
                        if (k <= 0)
                                break;
                        (void)send(m->a, data, (size_t)k, MSG_NOSIGNAL);
                }
                if (p[0].revents) {
                        k = recv(m->a, data, 1, 0); /* each byte is a place */
                        if (k <= 0 || m->n == m->cut_at)
                                break;
                        if (m->record)
                                m->record[m->n] = data[0];
                        if (m->n++ == m->flip_at)
                                data[0] ^= 1;
                        (void)send(m->b, data, 1, MSG_NOSIGNAL);
                }
        }
        (void)shutdown(m->a, SHUT_RDWR);
        (void)shutdown(m->b, SHUT_RDWR);
        return NULL;
}

/* The client writes `n` bytes; how many came out at the server before the end. */
static size_t through(middle *m, size_t n) {
        tls_options client = options_of(TLS_CLIENT, 7), server = options_of(TLS_SERVER, 7);
        uint8_t *data = noise(n), *got = malloc(n + 1);
        int one[2], two[2], plain[2];
        tls_tunnel *c, *s;
        pthread_t thread;
        size_t have = 0;
        ssize_t k;

        pair(one);
        pair(two);
        m->a = one[1];
        m->b = two[1];
        m->n = 0;
        assert_int_equal(pthread_create(&thread, NULL, run_middle, m), 0);
        c = start(one[0], &client, &plain[0]);
        s = start(two[0], &server, &plain[1]);
        (void)send(plain[0], data, n, MSG_NOSIGNAL);
        (void)shutdown(plain[0], SHUT_WR);
        while ((k = read(plain[1], got + have, n + 1 - have)) > 0)
                have += (size_t)k;
        assert_true(have <= n);
        assert_memory_equal(got, data, have); /* nothing else ever comes out */
        (void)shutdown(plain[1], SHUT_WR);
        expect_end(plain[0]);
        assert_int_equal(pthread_join(thread, NULL), 0);
        if (have < n) {
                char *problem = tls_tunnel_get_problem(s);

                assert_non_null(problem);
                free(problem);
        }
        tls_tunnel_free(c);
        tls_tunnel_free(s);
        for (size_t i = 0; i < 2; i++)
                fd_close(plain[i]);
        fd_close(one[1]);
        fd_close(two[1]);
        free(data);
        free(got);
        return have;
}

static void whoever_changes_a_byte_ends_it(void **state) {
        middle m = { .flip_at = SIZE_MAX, .cut_at = SIZE_MAX };
        size_t n;

        assert_int_equal(through(&m, 1000), 1000);
        n = m.n;
        for (size_t at = 0; at < n; at += at < 400 ? 7 : 61) {
                m.flip_at = at;
                if (through(&m, 1000) != 0)
                        assert_true(at >= n - 64); /* the alert at the end, after all was there */
        }
}

static void whoever_cuts_it_makes_no_end(void **state) {
        middle m = { .flip_at = SIZE_MAX, .cut_at = SIZE_MAX };
        size_t n;

        assert_int_equal(through(&m, 1000), 1000);
        n = m.n;
        for (size_t at = 0; at < n - 64; at += 29) {
                m.cut_at = at;
                assert_int_equal(through(&m, 1000), 0);
        }
}

static void what_was_recorded_is_worth_nothing(void **state) {
        middle m = { .flip_at = SIZE_MAX, .cut_at = SIZE_MAX, .record = malloc(1 << 16) };
        tls_options server = options_of(TLS_SERVER, 7);
        int wire[2], plain;
        tls_tunnel *t;

        assert_int_equal(through(&m, 1000), 1000);
        pair(wire);
        t = start(wire[0], &server, &plain);
        (void)send(wire[1], m.record, m.n, MSG_NOSIGNAL);
        expect_end(plain);
        expect_problem(t, "TLS");
        tls_tunnel_free(t);
        fd_close(plain);
        fd_close(wire[1]);
        free(m.record);
}

/* ---- another TLS ---- */

static void an_older_tls_is_refused(void **state) {
        SSL_CTX *context = SSL_CTX_new(TLS_method());
        tls_options server = options_of(TLS_SERVER, 7);
        int wire[2], plain;
        tls_tunnel *t;
        SSL *ssl;

        assert_int_equal(SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION), 1);
        pair(wire);
        t = start(wire[0], &server, &plain);
        ssl = SSL_new(context);
        assert_int_equal(SSL_set_fd(ssl, wire[1]), 1);
        assert_true(SSL_connect(ssl) <= 0);
        expect_end(plain);
        expect_problem(t, "no TLS 1.3");
        SSL_free(ssl);
        SSL_CTX_free(context);
        tls_tunnel_free(t);
        fd_close(plain);
        fd_close(wire[1]);
}

/* ---- certificates ---- */

typedef struct papers {
        char folder[64];
        char paths[8][128];
} papers;

static void shell(const char *folder, const char *script) {
        char command[4096];

        (void)snprintf(command, sizeof(command),
                       "cd %s && { %s; } >log 2>&1 || { cat log; exit 1; }", folder, script);
        assert_int_equal(system(command), 0); /* NOLINT: the test's own words */
}

static const char make_papers[] =
        "ca() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        "-subj /CN=$1 -keyout $1.key -out $1.pem; };"
        "host() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$1 "
        "-addext subjectAltName=DNS:$1 -keyout $1.key -out $1.csr && "
        "openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days $3 "
        "-copy_extensions copy -out $1.pem; };"
        "ca good && ca other && host one good 2 && host two good 2 && host stranger other 2 && "
        "host late good -1";

static const char *in(papers *p, size_t slot, const char *name) {
        size_t n = strlen(p->folder);

        memcpy(p->paths[slot], p->folder, n);
        (void)snprintf(p->paths[slot] + n, sizeof(p->paths[slot]) - n, "/%s", name);
        return p->paths[slot];
}

static tls_files files_of(papers *p, size_t slot, const char *host, const char *ca,
                          const char *const *names) {
        char name[32];
        tls_files f = { .names = names };

        (void)snprintf(name, sizeof(name), "%s.pem", host);
        f.certificate = in(p, slot, name);
        (void)snprintf(name, sizeof(name), "%s.key", host);
        f.key = in(p, slot + 1, name);
        (void)snprintf(name, sizeof(name), "%s.pem", ca);
        f.ca = in(p, slot + 2, name);
        return f;
}

/* NULL: they came together. Else what the server says. */
static void meet(papers *p, const char *client, const char *client_ca, const char *const *names,
                 const char *problem) {
        tls_files cf = files_of(p, 0, client, client_ca, NULL),
                  sf = files_of(p, 4, "two", "good", names);
        tls_options c = { .role = TLS_CLIENT, .identity = "session-1", .files = &cf },
                    s = { .role = TLS_SERVER, .identity = "session-1", .files = &sf };
        uint8_t byte = 5;
        both b;

        start_both(&b, &c, &s);
        (void)send(b.plain[0], &byte, 1, MSG_NOSIGNAL); /* it may be over by now */
        if (problem) {
                expect_end(b.plain[1]);
                expect_problem(b.server, problem);
        } else {
                assert_int_equal(read(b.plain[1], &byte, 1), 1);
                expect_no_problem(b.server);
        }
        stop(&b);
}

static void certificates(void **state) {
        static const char *const one[] = { "zero", "one", NULL }, *const three[] = { "three",
                                                                                     NULL };
        papers p = { .folder = "/tmp/ferry-tls-XXXXXX" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        tls_options o = { .role = TLS_CLIENT, .identity = "x" };
        tls_files none;
        tls_tunnel *t = NULL;
        int wire[2], plain = -EBADF;

        assert_non_null(mkdtemp(p.folder));
        shell(p.folder, make_papers);
        meet(&p, "one", "good", NULL, NULL);
        meet(&p, "one", "good", one, NULL);
        meet(&p, "one", "good", three, "hostname mismatch");
        meet(&p, "stranger", "good", NULL, "unable to get local issuer certificate");
        meet(&p, "late", "good", NULL, "certificate has expired");
        meet(&p, "one", "other", NULL, "does not accept this host's certificate");

        none = files_of(&p, 0, "nobody", "good", NULL);
        o.files = &none;
        pair(wire);
        assert_true(tls_tunnel_start(wire[0], &o, &plain, &t, &error) < 0);
        assert_non_null(strstr(ferry_error_message(&error), "nobody.pem"));
        fd_close(wire[1]);
        shell(p.folder, "rm -f -- *");
        assert_int_equal(rmdir(p.folder), 0);
}

static void keys_are_of_a_purpose(void **state) {
        uint8_t secret[32] = { 1 }, a[TLS_KEY_SIZE], b[TLS_KEY_SIZE];

        tls_derive_key(secret, "one", a);
        tls_derive_key(secret, "two", b);
        assert_memory_not_equal(a, b, sizeof(a));
        tls_derive_key(secret, "one", b);
        assert_memory_equal(a, b, sizeof(a));
        assert_memory_not_equal(a, secret, sizeof(a));
}

static void *nothing(void *userdata) {
        return userdata;
}

/* A sanitizer makes a thread of its own with the first one; OpenSSL reads its files once. */
static int warm_up(void **state) {
        pthread_t thread;
        both b;

        if (pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL))
                return -1;
        start_good(&b);
        assert_int_equal(write(b.plain[0], "x", 1), 1);
        tls_tunnel_free(b.client);
        tls_tunnel_free(b.server);
        fd_close(b.plain[0]);
        fd_close(b.plain[1]);
        tls_tunnel_drain_all(LIMIT_MS * UINT64_C(1000));
        return 0;
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(carries_both_ways_at_once),
                cmocka_unit_test(a_byte_does_not_wait),
                cmocka_unit_test(freed_it_sends_the_rest),
                cmocka_unit_test(a_slow_reader_sees_a_clean_end),
                cmocka_unit_test(freed_in_the_handshake),
                cmocka_unit_test(both_ends_know_the_same_binding),
                cmocka_unit_test(another_key_is_refused),
                cmocka_unit_test(what_is_not_tls_is_refused),
                cmocka_unit_test(whoever_changes_a_byte_ends_it),
                cmocka_unit_test(whoever_cuts_it_makes_no_end),
                cmocka_unit_test(what_was_recorded_is_worth_nothing),
                cmocka_unit_test(an_older_tls_is_refused),
                cmocka_unit_test(certificates),
                cmocka_unit_test(keys_are_of_a_purpose),
        };

        return cmocka_run_group_tests_name("tls-tunnel", tests, warm_up, NULL);
}
