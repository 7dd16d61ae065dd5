/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/fd.h"

static void test_error_keeps_the_code_and_gains_context(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        assert_int_equal(ferry_error_set(&error, FERRY_NOT_FOUND, -ENOENT, "no disk %d", 3),
                         -ENOENT);
        assert_int_equal(ferry_error_prefix(&error, -ENOENT, "import"), -ENOENT);
        assert_string_equal(ferry_error_message(&error), "import: no disk 3");
        assert_int_equal(error.code, FERRY_NOT_FOUND);
        assert_int_equal(ferry_error_set(NULL, FERRY_INTERNAL, -EIO, "dropped"), -EIO);
}

static void test_error_from_errno(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        ferry_error_set_errno(&error, -ENOENT, "open %s", "x");
        assert_int_equal(error.code, FERRY_NOT_FOUND);
        assert_string_equal(ferry_error_message(&error), "open x: No such file or directory");
        assert_int_equal(ferry_code_from_errno(-EXDEV), FERRY_INTERNAL);
}

static void test_error_moves(void **state) {
        _cleanup_(ferry_error_donep) ferry_error a = FERRY_ERROR_INIT, b = FERRY_ERROR_INIT;

        ferry_error_set(&a, FERRY_ABORTED, -EIO, "one");
        ferry_error_move(&b, &a);
        assert_null(a.message);
        assert_string_equal(ferry_error_message(&b), "one");
        ferry_error_move(NULL, &b);
        assert_null(b.message);
}

static void make_folder(char *path) {
        strcpy(path, "/tmp/ferry-test-XXXXXX");
        assert_non_null(mkdtemp(path));
}

static void test_file_replace_and_read(void **state) {
        _cleanup_(freep) char *text = NULL;
        char folder[32];
        size_t n;
        int dir;

        make_folder(folder);
        dir = open(folder, O_DIRECTORY | O_CLOEXEC);
        assert_true(dir >= 0);
        assert_int_equal(file_replace(dir, "f", "old", 3, 0600, false), 0);
        assert_int_equal(file_replace(dir, "f", "newer", 5, 0600, true), 0);
        assert_int_equal(file_read(dir, "f", 5, &text, &n), 0);
        assert_int_equal(n, 5);
        assert_string_equal(text, "newer");
        assert_int_equal(file_read(dir, "f", 4, &text, &n), -EFBIG);
        assert_int_equal(file_read(dir, "absent", 4, &text, &n), -ENOENT);
        assert_int_equal(unlinkat(dir, "f", 0), 0);
        fd_close(dir);
        assert_int_equal(rmdir(folder), 0); /* nothing else was left in it */
}

static void test_fds_travel(void **state) {
        int pair[2], pipe_fds[2], got[2];
        size_t n_got;
        char byte;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
        assert_int_equal(fd_send(pair[0], "x", 1, pipe_fds, 2), 1);
        assert_int_equal(fd_receive(pair[1], &byte, 1, got, 2, &n_got), 1);
        assert_int_equal(n_got, 2);
        assert_int_equal(fcntl(got[0], F_GETFD), FD_CLOEXEC);
        assert_int_equal(write(got[1], "y", 1), 1);
        assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
        assert_int_equal(byte, 'y');
        fd_close(got[0]);
        fd_close(got[1]);

        /* more than asked for: refused, and none of them stays open */
        int probe = dup(0);
        fd_close(probe);
        assert_int_equal(fd_send(pair[0], "x", 1, pipe_fds, 2), 1);
        assert_int_equal(fd_receive(pair[1], &byte, 1, got, 1, &n_got), -EMSGSIZE);
        int again = dup(0);
        assert_int_equal(again, probe);
        fd_close(again);
        for (int i = 0; i < 2; i++) {
                fd_close(pair[i]);
                fd_close(pipe_fds[i]);
        }
}

static void test_unix_listen_replaces_only_a_dead_socket(void **state) {
        char folder[32], path[64], deep[256];
        int one, two, client;

        make_folder(folder);
        snprintf(path, sizeof(path), "%s/s", folder);
        assert_int_equal(unix_listen(path, 0600, 8, &one), 0);
        assert_int_equal(unix_listen(path, 0600, 8, &two), -EADDRINUSE);
        assert_int_equal(unix_connect(path, &client), 0);
        fd_close(client);
        fd_close(one);
        assert_int_equal(unix_connect(path, &client), -ECONNREFUSED);
        assert_int_equal(unix_listen(path, 0600, 8, &two), 0);
        fd_close(two);
        memset(deep, 'd', sizeof(deep) - 1);
        deep[255] = '\0';
        assert_int_equal(unix_listen(deep, 0600, 8, &two), -ENAMETOOLONG);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rmdir(folder), 0);
}

static void test_digests_are_the_published_ones(void **state) {
        uint8_t digest[DIGEST_SIZE], other[DIGEST_SIZE], key[DIGEST_SIZE] = { 1 };
        char text[2 * DIGEST_SIZE + 1];

        digest_sha256("abc", 3, digest); /* FIPS 180-2, appendix B.1 */
        hex_encode(digest, sizeof(digest), text);
        assert_string_equal(text,
                            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_int_equal(hex_decode(text, 64, other, DIGEST_SIZE), 0);
        assert_true(digest_equal(digest, other));
        assert_int_equal(hex_decode(text, 63, other, DIGEST_SIZE), -EINVAL);
        assert_int_equal(hex_decode("zz", 2, other, 1), -EINVAL);
        digest_hmac(key, &(digest_part){ "ab", 2 }, 1, digest);
        digest_hmac(key, (digest_part[]){ { "a", 1 }, { "b", 1 } }, 2, other);
        assert_false(digest_equal(digest, other));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_error_keeps_the_code_and_gains_context),
                cmocka_unit_test(test_error_from_errno),
                cmocka_unit_test(test_error_moves),
                cmocka_unit_test(test_file_replace_and_read),
                cmocka_unit_test(test_fds_travel),
                cmocka_unit_test(test_digests_are_the_published_ones),
                cmocka_unit_test(test_unix_listen_replaces_only_a_dead_socket),
        };

        return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
