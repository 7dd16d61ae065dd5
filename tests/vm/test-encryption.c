/* SPDX-License-Identifier: MIT */
/* Encrypted sessions over two real QEMUs: they move, alone and with what else goes over the
 * connections; who sits in the middle, or has other papers, gets nothing but the migration's end.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"

#include "middle.h"
#include "steps.h"

static CompressionSettings compression = COMPRESSION_SETTINGS__INIT;
static char papers[64]; /* a folder */

static int setup(void **state) {
        pair *p = calloc(1, sizeof(*p));

        (void)unsetenv("FERRY_TLS_CONFIG");
        pair_start(p, 1000, 2048);
        p->options.encryption = ENCRYPTION__ENCRYPTION_PSK;
        *state = p;
        return 0;
}

static void there_and_back(pair *p) {
        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        migrate_whole(p, &p->a, &p->b);
        assert_exactly_one_runs(p, &p->b);
        p->options.handover = HANDOVER__HANDOVER_CALLER;
        migrate_whole(p, &p->b, &p->a);
        assert_exactly_one_runs(p, &p->a);
        guest_check(&p->a);
}

static void test_it_moves_there_and_back(void **state) {
        there_and_back(*state);
}

static void test_with_all_that_goes_over_the_connections(void **state) {
        pair *p = *state;

        p->options.optional_channels_case = INITIALIZE_OPTIONS__OPTIONAL_CHANNELS_CHANNELS;
        p->options.channels = 3;
        there_and_back(p);
        p->options.checksum_verification = true;
        p->options.compression_settings = &compression;
        p->options.verify_memory = true;
        there_and_back(p);
}

static void test_cancel_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        call_cancel(p, &p->a, 0);
        host_wait_detail(&p->a, "S_CANCELLED");
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
}

static void test_connection_cut_in_the_copy(void **state) {
        pair *p = *state;

        copy_slowly(p);
        cut_connection(p);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        expect_rolled_back(p);
}

/* ---- somebody in the middle ---- */

typedef struct fault {
        size_t at; /* which byte of the source's is changed */
        size_t n_seen;
        bool plain_seen;
} fault;

static void change(uint8_t *data, size_t n, bool of_source, void *userdata) {
        fault *f = userdata;

        f->plain_seen |= memmem(data, n, "FERY", 4) != NULL;
        if (!of_source)
                return;
        if (f->n_seen <= f->at && f->at < f->n_seen + n)
                data[f->at - f->n_seen] ^= 16;
        f->n_seen += n;
}

static void test_who_changes_a_byte_ends_it(void **state) {
        static const size_t places[] = { 3, 100, 300, 5000, 1000000 };
        pair *p = *state;

        for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
                fault f = { .at = places[i] };
                middle m = { .look = change, .userdata = &f };

                middle_start(&m, p);
                host_wait_detail(&p->a, "S_FAILED");
                host_wait_detail(&p->b, "D_FAILED");
                middle_end(&m);
                assert_true(f.n_seen > f.at);
                assert_false(f.plain_seen);
                cleanup_both(p);
                assert_exactly_one_runs(p, &p->a);
        }
        guest_check(&p->a);
        then_it_moves(p);
}

/* ---- what the hosts say ---- */

static void write_config(const char *name, const char *text) {
        char path[128];
        int fd;

        snprintf(path, sizeof(path), "%s/%s", papers, name);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
        fd_close(fd);
}

/* Of the shims that are started from here on. */
static void use_config(const char *name) {
        char path[128];

        snprintf(path, sizeof(path), "%s/%s", papers, name);
        assert_int_equal(setenv("FERRY_TLS_CONFIG", path, true), 0);
}

static void restart_b(pair *p, const char *config) {
        host_kill_shim(&p->b, SIGTERM);
        use_config(config);
        host_start(&p->b, NULL);
}

static void test_a_host_that_wants_it(void **state) {
        ProtobufCBinaryData exported = { .len = 0 };
        pair *p = *state;

        write_config("require.json", "{\"require\": true}");
        restart_b(p, "require.json");
        p->options.encryption = ENCRYPTION__ENCRYPTION_NONE;
        snprintf(p->session, sizeof(p->session), "plain");
        call_export(p, &p->a, 0, &exported);
        call_import(p, &p->b, &exported, FAILED_PRECONDITION);
        assert_non_null(strstr(call_message(), "nothing unencrypted"));
        free(exported.data);
        call_cancel(p, &p->a, 0);
        host_wait_detail(&p->a, "S_CANCELLED");
        call_cleanup(p, &p->a, 0);
        p->options.encryption = ENCRYPTION__ENCRYPTION_PSK;
        migrate_whole(p, &p->a, &p->b);
        assert_exactly_one_runs(p, &p->b);
        /* nor does it send */
        p->options.encryption = ENCRYPTION__ENCRYPTION_NONE;
        snprintf(p->session, sizeof(p->session), "plain-2");
        call_export(p, &p->b, FAILED_PRECONDITION, &exported);
        host_wait_detail(&p->b, "");
}

static const char script[] =
        "exec >/dev/null 2>&1; cd $0 && ca() { openssl req -x509 -newkey ec -pkeyopt "
        "ec_paramgen_curve:P-256 -nodes "
        "-days 2 -subj /CN=$1 -keyout $1.key -out $1.pem; } && host() { openssl req -newkey ec "
        "-pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$1 -addext subjectAltName=DNS:$1 "
        "-keyout $1.key -out $1.csr && openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key "
        "-CAcreateserial -days $3 -copy_extensions copy -out $1.pem; } && ca good && ca other && "
        "host a good 2 && host b good 2 && host stranger other 2 && host late good -1 && "
        "for h in a b stranger late; do printf "
        "'{\"certificate\": \"%s/%s.pem\", \"key\": \"%s/%s.key\", \"ca\": \"%s/good.pem\"}' "
        "$0 $h $0 $h $0 >$h.json; done && printf '{\"certificate\": \"%s/b.pem\", \"key\": "
        "\"%s/b.key\", \"ca\": \"%s/good.pem\", \"names\": [\"c\"]}' $0 $0 $0 >names.json";

static void make_papers(void) {
        pid_t pid = fork();
        int status;

        assert_true(pid >= 0);
        if (pid == 0) {
                execl("/bin/sh", "sh", "-c", script, papers, NULL);
                _exit(127);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
}

static void expect_failure(pair *p, const char *config) {
        restart_b(p, config);
        session_open(p, true);
        transfer_both(p);
        host_wait_detail(&p->a, "S_FAILED");
        host_wait_detail(&p->b, "D_FAILED");
        cleanup_both(p);
        assert_exactly_one_runs(p, &p->a);
}

static void test_certificates(void **state) {
        ProtobufCBinaryData exported = { .len = 0 };
        pair *p = *state;

        p->options.encryption = ENCRYPTION__ENCRYPTION_X509;
        snprintf(p->session, sizeof(p->session), "no-papers");
        call_export(p, &p->a, FAILED_PRECONDITION, &exported);
        make_papers();
        host_kill_shim(&p->a, SIGKILL);
        use_config("a.json");
        host_start(&p->a, NULL);
        restart_b(p, "b.json");
        there_and_back(p);
        expect_failure(p, "stranger.json");
        expect_failure(p, "late.json");
        expect_failure(p, "names.json");
        restart_b(p, "b.json");
        there_and_back(p);
}

static int end(void **state) {
        char command[128];
        int r = end_pair(state);

        snprintf(command, sizeof(command), "rm -rf %s/*", papers);
        return r ? r : system(command);
}

static int make_folder(void **state) {
        strcpy(papers, "/tmp/ferry-tls-XXXXXX");
        return mkdtemp(papers) ? 0 : -1;
}

static int remove_folder(void **state) {
        return rmdir(papers);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, end)

/* One argument: a pattern, to run only the tests that it names. */
int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                TEST(test_it_moves_there_and_back),
                TEST(test_with_all_that_goes_over_the_connections),
                TEST(test_cancel_in_the_copy),
                TEST(test_connection_cut_in_the_copy),
                TEST(test_who_changes_a_byte_ends_it),
                TEST(test_a_host_that_wants_it),
                TEST(test_certificates),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("encryption", tests, make_folder, remove_folder);
}
