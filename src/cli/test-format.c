/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/format.h"
#include "cli/table.h"

static void test_bytes(void **state) {
        static const struct {
                uint64_t bytes;
                const char *text;
        } cases[] = {
                { 0, "0 B" },
                { 1023, "1023 B" },
                { 1024, "1.0 KiB" },
                { 1024 * 1024 - 1, "1.0 MiB" },
                { 72456789, "69.1 MiB" },
                { UINT64_MAX, "16.0 EiB" },
        };
        char buffer[FORMAT_MAX];

        for (size_t i = 0; i < ELEMENTS(cases); i++)
                assert_string_equal(format_bytes(cases[i].bytes, buffer), cases[i].text);
}

static void test_short_bytes(void **state) {
        static const struct {
                uint64_t bytes;
                const char *text;
        } cases[] = {
                { 0, "0" },
                { 1023, "1023" },
                { 1024, "1K" },
                { 1024 * 1024 - 1, "1M" },
                { 72456789, "69M" },
                { 1610612736, "1.5G" },
                { UINT64_MAX, "16E" },
        };
        char buffer[FORMAT_MAX];

        for (size_t i = 0; i < ELEMENTS(cases); i++)
                assert_string_equal(format_bytes_short(cases[i].bytes, buffer), cases[i].text);
}

static void test_durations(void **state) {
        static const struct {
                uint64_t usec;
                const char *text;
        } cases[] = {
                { 0, "0 us" },
                { 870, "870 us" },
                { 5200, "5.2 ms" },
                { 1840000, "1.84 s" },
                { 185 * USEC_PER_SEC, "3 min 5 s" },
                { 7440 * USEC_PER_SEC, "2 h 4 min" },
                { 262800 * USEC_PER_SEC, "3 d 1 h" },
                { UINT64_MAX, "213503982 d 8 h" },
        };
        char buffer[FORMAT_MAX];

        for (size_t i = 0; i < ELEMENTS(cases); i++)
                assert_string_equal(format_duration(cases[i].usec, buffer), cases[i].text);
}

static void test_time(void **state) {
        char buffer[FORMAT_MAX];

        assert_string_equal(format_time(0, buffer), "1970-01-01T00:00:00Z");
        assert_string_equal(format_time(1764842400ULL * USEC_PER_SEC + 999999, buffer),
                            "2025-12-04T10:00:00Z");
}

static void test_table(void **state) {
        static const char expected[] = "NAME        STATE  X\n"
                                       "a-long-one  up     1\n"
                                       "b           ?[1m   \n"
                                       "b           ?[1m   \n";
        _cleanup_(table_freep) table *t = NULL;
        _cleanup_(freep) char *text = NULL;
        size_t n;
        FILE *file;

        assert_int_equal(table_new(3, &t), 0);
        assert_int_equal(table_add(t, (const char *[]){ "NAME", "STATE", "X" }), 0);
        assert_int_equal(table_add(t, (const char *[]){ "a-long-one", "up", "1" }), 0);
        for (unsigned i = 0; i < 20; i++)
                assert_int_equal(table_add(t, (const char *[]){ "b", "\033[1m", "" }), 0);
        file = open_memstream(&text, &n);
        assert_non_null(file);
        table_print(t, file);
        fclose(file);
        assert_int_equal(strncmp(text, expected, strlen(expected)), 0);
        assert_null(strchr(text, '\033'));
}

static void test_table_bounds(void **state) {
        table *t = NULL;

        assert_int_equal(table_new(0, &t), -EINVAL);
        assert_int_equal(table_new(TABLE_COLUMNS_MAX + 1, &t), -EINVAL);
        assert_null(t);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_bytes),     cmocka_unit_test(test_short_bytes),
                cmocka_unit_test(test_durations), cmocka_unit_test(test_time),
                cmocka_unit_test(test_table),     cmocka_unit_test(test_table_bounds),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
