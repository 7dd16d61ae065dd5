/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "cli/host.h"
#include "cli/sandbox.h"

static char root[64];

static int setup(void **state) {
        strcpy(root, "/tmp/ferry-test-XXXXXX");
        return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state) {
        _cleanup_(freep) char *path = NULL;
        sandbox_names names;

        if (sandbox_list(root, &names, NULL) < 0)
                return -1;
        for (size_t i = 0; i < names.n; i++)
                (void)sandbox_remove(root, names.names[i], NULL);
        sandbox_names_done(&names);
        if (asprintf(&path, "%s/host.json", root) < 0)
                return -1;
        (void)unlink(path);
        return rmdir(root);
}

static void write_file(const char *name, const char *file, const char *text) {
        _cleanup_(freep) char *path = NULL;

        assert_true(asprintf(&path, "%s/%s%s%s", root, name, file ? "/" : "", file ? file : "") >
                    0);
        assert_int_equal(file_replace(AT_FDCWD, path, text, strlen(text), 0600, false), 0);
}

static void test_names(void **state) {
        static const char *const good[] = { "a", "0", "web-1.example",
                                            "a2345678901234567890123456789012345678901" };
        static const char *const bad[] = { "",
                                           ".",
                                           "..",
                                           "-a",
                                           ".a",
                                           "A",
                                           "a/b",
                                           "a b",
                                           "a_b",
                                           "\n",
                                           "a23456789012345678901234567890123456789012" };

        for (size_t i = 0; i < ELEMENTS(good); i++)
                assert_int_equal(sandbox_check_name(good[i], NULL), 0);
        for (size_t i = 0; i < ELEMENTS(bad); i++)
                assert_int_equal(sandbox_check_name(bad[i], NULL), -EINVAL);
}

static void test_make_list_remove(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        sandbox_names names;

        assert_int_equal(sandbox_make(root, "b", NULL), 0);
        assert_int_equal(sandbox_make(root, "a", NULL), 0);
        assert_int_equal(sandbox_make(root, "a", &error), -EEXIST);
        assert_int_equal(error.code, FERRY_ALREADY_EXISTS);
        write_file("Not-a-sandbox", NULL, "x");
        assert_int_equal(sandbox_list(root, &names, NULL), 0);
        assert_int_equal(names.n, 2);
        assert_string_equal(names.names[0], "a");
        sandbox_names_done(&names);
        assert_int_equal(sandbox_check_exists(root, "a", NULL), 0);
        write_file("a", "shim.log", "one\ntwo\nthree\n");
        assert_int_equal(sandbox_remove(root, "a", NULL), 0);
        assert_int_equal(sandbox_remove(root, "a", NULL), 0);
        assert_int_equal(sandbox_check_exists(root, "a", &error), -ENOENT);
        assert_int_equal(error.code, FERRY_NOT_FOUND);
        assert_int_equal(sandbox_remove(root, "b", NULL), 0);
        {
                _cleanup_(freep) char *path = NULL;

                assert_true(asprintf(&path, "%s/Not-a-sandbox", root) > 0);
                assert_int_equal(unlink(path), 0);
        }
}

static void test_a_held_sandbox_stays(void **state) {
        _cleanup_(freep) char *path = NULL;
        _cleanup_(closep) int lock = -EBADF;
        bool has_shim = true;
        pid_t pid;

        assert_int_equal(sandbox_make(root, "a", NULL), 0);
        assert_int_equal(sandbox_has_shim(root, "a", &has_shim, &pid), 0);
        assert_false(has_shim);
        write_file("a", "shim.lock", "123\n");
        assert_int_equal(sandbox_has_shim(root, "a", &has_shim, &pid), 0);
        assert_false(has_shim);
        assert_true(asprintf(&path, "%s/a/shim.lock", root) > 0);
        lock = open(path, O_RDONLY | O_CLOEXEC);
        assert_int_equal(flock(lock, LOCK_EX), 0);
        assert_int_equal(sandbox_has_shim(root, "a", &has_shim, &pid), 0);
        assert_true(has_shim);
        assert_int_equal(pid, 123);
        assert_int_equal(sandbox_remove(root, "a", NULL), -EBUSY);
        assert_int_equal(sandbox_check_exists(root, "a", NULL), 0);
        lock = fd_close(lock);
        assert_int_equal(sandbox_remove(root, "a", NULL), 0);
}

static void test_log_tail(void **state) {
        _cleanup_(freep) char *none = NULL, *two = NULL, *all = NULL;

        assert_int_equal(sandbox_make(root, "a", NULL), 0);
        none = sandbox_log_tail(root, "a", "shim.log", 2);
        assert_null(none);
        write_file("a", "shim.log", "one\ntwo\nthree\n\n");
        two = sandbox_log_tail(root, "a", "shim.log", 2);
        assert_string_equal(two, "two\nthree");
        all = sandbox_log_tail(root, "a", "shim.log", 9);
        assert_string_equal(all, "one\ntwo\nthree");
}

static void test_host(void **state) {
        _cleanup_(host_freep) host *absent = NULL, *h = NULL;

        assert_int_equal(host_read(root, &absent, NULL), 0);
        assert_false(absent->is_set);
        assert_null(absent->netns);
        assert_string_equal(absent->address, "127.0.0.1");
        assert_int_equal(host_write(root, "b", "ferry-b", "10.77.0.2", "br0", NULL), 0);
        assert_int_equal(host_read(root, &h, NULL), 0);
        assert_true(h->is_set);
        assert_string_equal(h->name, "b");
        assert_string_equal(h->netns, "ferry-b");
        assert_string_equal(h->address, "10.77.0.2");
        assert_string_equal(h->bridge, "br0");
}

static void test_bad_hosts(void **state) {
        static const char *const texts[] = {
                "",
                "{",
                "[]",
                "{}",
                "{\"name\": 1}",
                "{\"name\": \"a\", \"name\": \"b\"}",
                "{\"name\": \"a\", \"nets\": \"b\"}",
                "{\"name\": \"a\", \"netns\": \"../b\"}",
                "{\"name\": \"a\", \"address\": \"localhost\"}",
                "{\"name\": \"a\", \"bridge\": \"sixteen-letters-\"}",
        };

        for (size_t i = 0; i < ELEMENTS(texts); i++) {
                host *h = NULL;

                write_file("host.json", NULL, texts[i]);
                assert_int_equal(host_read(root, &h, NULL), -EINVAL);
                assert_null(h);
        }
        assert_int_equal(host_write(root, "a", "..", NULL, NULL, NULL), -EINVAL);
        assert_int_equal(host_write(root, NULL, NULL, NULL, NULL, NULL), -EINVAL);
        assert_int_equal(host_write(root, "a", NULL, "1.2.3", NULL, NULL), -EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_names),
                cmocka_unit_test_setup_teardown(test_make_list_remove, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_held_sandbox_stays, setup, teardown),
                cmocka_unit_test_setup_teardown(test_log_tail, setup, teardown),
                cmocka_unit_test_setup_teardown(test_host, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_hosts, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
