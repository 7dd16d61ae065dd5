/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "cli/host.h"
#include "cli/pair.h"
#include "cli/run-config.h"
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
                                           "host.json",
                                           "host.json.1.new",
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

static void make_folder_below(const char *name) {
        _cleanup_(freep) char *path = NULL;

        assert_true(asprintf(&path, "%s/%s", root, name) > 0);
        assert_int_equal(mkdir(path, 0700), 0);
}

static void assert_there(const char *name, bool there) {
        _cleanup_(freep) char *path = NULL;

        assert_true(asprintf(&path, "%s/%s", root, name) > 0);
        assert_int_equal(access(path, F_OK) == 0, there);
}

static void remove_below(const char *name) {
        _cleanup_(freep) char *path = NULL;

        assert_true(asprintf(&path, "%s/%s", root, name) > 0);
        assert_int_equal(remove(path), 0);
}

/* A root may be a folder that holds other things: they are nobody's to list, to stop or to remove.
 */
static void test_other_folders_are_left_alone(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        sandbox_names names;

        make_folder_below("proj");
        make_folder_below("proj/sub");
        write_file("proj", "thesis.txt", "years of work");
        write_file("proj", "config.json", "{}");
        assert_int_equal(sandbox_list(root, &names, NULL), 0);
        assert_int_equal(names.n, 0);
        sandbox_names_done(&names);
        assert_int_equal(sandbox_check_exists(root, "proj", &error), -ENOENT);
        assert_true(sandbox_remove(root, "proj", &error) < 0);
        assert_int_equal(sandbox_make(root, "proj", &error), -EEXIST);
        assert_non_null(strstr(ferry_error_message(&error), "not a sandbox"));
        assert_there("proj/thesis.txt", true);
        assert_there("proj/config.json", true);
        assert_there("proj/sub", true);
        remove_below("proj/thesis.txt");
        remove_below("proj/config.json");
        remove_below("proj/sub");
        remove_below("proj");
}

static void test_a_strangers_file_in_a_sandbox_keeps_all_of_it(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        assert_int_equal(sandbox_make(root, "a", NULL), 0);
        write_file("a", "journal", "x");
        write_file("a", "qemu.log.old", "x");
        write_file("a", "config.json.42.new", "x");
        write_file("a", "journal.txt", "a note of mine");
        assert_int_equal(sandbox_remove(root, "a", &error), -ENOTEMPTY);
        assert_non_null(strstr(ferry_error_message(&error), "journal.txt"));
        assert_there("a/journal", true);
        assert_there("a/qemu.log.old", true);
        remove_below("a/journal.txt");
        make_folder_below("a/shim.log"); /* our name, but not a file */
        assert_int_equal(sandbox_remove(root, "a", &error), -ENOTEMPTY);
        assert_there("a/journal", true);
        remove_below("a/shim.log");
        assert_int_equal(sandbox_remove(root, "a", &error), 0);
        assert_there("a", false);
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
        assert_int_equal(host_write(root,
                                    &(host_values){ .name = "b",
                                                    .netns = "ferry-b",
                                                    .address = "10.77.0.2",
                                                    .bridge = "br0",
                                                    .qemu = "/opt/qemu",
                                                    .disk_root = "/disks" },
                                    NULL),
                         0);
        assert_int_equal(host_read(root, &h, NULL), 0);
        assert_true(h->is_set);
        assert_string_equal(h->name, "b");
        assert_string_equal(h->netns, "ferry-b");
        assert_string_equal(h->address, "10.77.0.2");
        assert_string_equal(h->bridge, "br0");
        assert_string_equal(h->qemu, "/opt/qemu");
        assert_string_equal(h->disk_root, "/disks");
}

static void test_pair(void **state) {
        _cleanup_(freep) char *found = NULL;

        assert_int_equal(sandbox_make(root, "web", NULL), 0);
        assert_null(pair_find(root, "web", NULL));
        pair_remember(root, "web", "session-1", "/run/ferry-b", NULL);
        assert_null(pair_find_name(root, "web"));
        found = pair_find(root, "web", "session-1");
        assert_string_equal(found, "/run/ferry-b");
        assert_null(pair_find(root, "web", "session-2"));
        write_file("web", "migration.json", "{\"session_id\": \"s\", \"other\": \"relative\"}");
        assert_null(pair_find(root, "web", NULL));
        write_file("web", "migration.json", "{");
        assert_null(pair_find(root, "web", NULL));
        pair_forget(root, "web");
        assert_null(pair_find(root, "web", NULL));
        pair_remember(root, "web", "session-1", "/run/ferry-b", "../web");
        assert_null(pair_find_name(root, "web"));
        pair_remember(root, "web", "session-1", "/run/ferry-b", "pod"); /* goes with the sandbox */
        assert_int_equal(sandbox_remove(root, "web", NULL), 0);
}

static void test_last_error(void **state) {
        _cleanup_(freep) char *text = NULL;

        assert_int_equal(sandbox_make(root, "web", NULL), 0);
        assert_null(sandbox_last_error(root, "web"));
        write_file("web", "shim.log",
                   "2026-01-01T00:00:00.000000Z error   the first\n"
                   "2026-01-01T00:00:00.000001Z error   no disk\n"
                   "2026-01-01T00:00:00.000002Z info    the end\n");
        text = sandbox_last_error(root, "web");
        assert_string_equal(text, "no disk");
}

/* A Linux kernel is given a console, what is none is not, and neither is one with a --cmdline. */
static void test_cmdline(void **state) {
        char kernel[128], bytes[0x300] = "";
        run_config_values values = { .kernel = kernel };
        static const char linux_cmdline[] = "\"console=ttyS0\"";
        bool is_usage;

        assert_true(snprintf(kernel, sizeof(kernel), "%s/vmlinuz", root) > 0);
        for (unsigned is_linux = 0; is_linux < 2; is_linux++)
                for (unsigned is_given = 0; is_given < 2; is_given++) {
                        _cleanup_(freep) char *text = NULL;

                        values.cmdline = is_given ? "quiet" : NULL;
                        memcpy(bytes + 0x202, is_linux ? "HdrS" : "....", 4);
                        assert_int_equal(
                                file_replace(AT_FDCWD, kernel, bytes, sizeof(bytes), 0600, false),
                                0);
                        assert_int_equal(run_config_make(&values, &text, &is_usage, NULL), 0);
                        assert_int_equal(strstr(text, linux_cmdline) != NULL,
                                         is_linux && !is_given);
                }
        assert_int_equal(unlink(kernel), 0);
}

static void test_bad_hosts(void **state) {
        static const host_values bad_values[] = {
                { .name = "a", .netns = ".." },        { .name = NULL },
                { .name = "a", .address = "1.2.3" },   { .name = "a", .qemu = "qemu" },
                { .name = "a", .disk_root = "disks" },
        };
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
        for (size_t i = 0; i < ELEMENTS(bad_values); i++)
                assert_int_equal(host_write(root, &bad_values[i], NULL), -EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_names),
                cmocka_unit_test_setup_teardown(test_make_list_remove, setup, teardown),
                cmocka_unit_test_setup_teardown(test_other_folders_are_left_alone, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_strangers_file_in_a_sandbox_keeps_all_of_it,
                                                setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_held_sandbox_stays, setup, teardown),
                cmocka_unit_test_setup_teardown(test_log_tail, setup, teardown),
                cmocka_unit_test_setup_teardown(test_last_error, setup, teardown),
                cmocka_unit_test_setup_teardown(test_pair, setup, teardown),
                cmocka_unit_test_setup_teardown(test_cmdline, setup, teardown),
                cmocka_unit_test_setup_teardown(test_host, setup, teardown),
                cmocka_unit_test_setup_teardown(test_bad_hosts, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
