/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "migration/place.h"

static char root[64], one[96], two[96], name[PLACE_NAME_SIZE], found[SANDBOX_ID_MAX + 1];

static int begin(void **state) {
        snprintf(root, sizeof(root), "/tmp/ferry-place-XXXXXX");
        assert_non_null(mkdtemp(root));
        snprintf(one, sizeof(one), "%s/one", root);
        snprintf(two, sizeof(two), "%s/two", root);
        assert_int_equal(mkdir(one, 0700), 0);
        assert_int_equal(mkdir(two, 0700), 0);
        return place_name("/c.sock", "default", "pod", name);
}

static int end(void **state) {
        (void)rmdir(one);
        (void)rmdir(two);
        return rmdir(root); /* nothing else is left */
}

static void test_a_name_is_of_all_three(void **state) {
        char again[PLACE_NAME_SIZE], other[PLACE_NAME_SIZE];

        assert_int_equal(strlen(name), PLACE_NAME_SIZE - 1);
        assert_int_equal(place_name("/c.sock", "default", "pod", again), 0);
        assert_string_equal(name, again);
        assert_int_equal(place_name("/d.sock", "default", "pod", other), 0);
        assert_string_not_equal(name, other);
        assert_int_equal(place_name("/c.sock", "k8s.io", "pod", other), 0);
        assert_string_not_equal(name, other);
        assert_int_equal(place_name("/c.sock", "default", "pod2", other), 0);
        assert_string_not_equal(name, other);
}

static void test_it_leads_there_until_it_is_forgotten(void **state) {
        ferry_error error = FERRY_ERROR_INIT;

        assert_false(place_follow(root, name, found));
        assert_int_equal(place_note(one, name, NULL), 0);
        assert_int_equal(place_note(one, name, NULL), 0);
        assert_true(place_follow(root, name, found));
        assert_string_equal(found, "one");
        place_forget(two);
        assert_true(place_follow(root, name, found));
        assert_int_equal(place_note(two, name, &error), -EEXIST);
        assert_int_equal(error.code, FERRY_FAILED_PRECONDITION);
        ferry_error_done(&error);
        place_forget(one);
        assert_false(place_follow(root, name, found));
}

static void test_of_one_that_has_gone(void **state) {
        assert_int_equal(place_note(one, name, NULL), 0);
        assert_int_equal(rmdir(one), 0);
        assert_false(place_follow(root, name, found));
        assert_int_equal(place_note(two, name, NULL), 0);
        assert_true(place_follow(root, name, found));
        assert_string_equal(found, "two");
        place_forget(two);
}

static void test_links_of_somebody_else(void **state) {
        static const char *const targets[] = {
                "../one", "/etc",
                ".",      "..",
                "one/..", "0123456789012345678901234567890123456789012345678901234567890123456789",
        };
        char path[160];

        snprintf(path, sizeof(path), "%s/.pod-%s", root, name);
        for (size_t i = 0; i < ELEMENTS(targets); i++) {
                assert_int_equal(symlink(targets[i], path), 0);
                assert_false(place_follow(root, name, found));
                place_forget(one);
                assert_int_equal(unlink(path), 0);
        }
        assert_int_not_equal(place_note("one", name, NULL), 0);
        assert_int_not_equal(place_note("/nonexistent/one", name, NULL), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_a_name_is_of_all_three, begin, end),
                cmocka_unit_test_setup_teardown(test_it_leads_there_until_it_is_forgotten, begin,
                                                end),
                cmocka_unit_test_setup_teardown(test_of_one_that_has_gone, begin, end),
                cmocka_unit_test_setup_teardown(test_links_of_somebody_else, begin, end),
        };

        return cmocka_run_group_tests_name("place", tests, NULL, NULL);
}
