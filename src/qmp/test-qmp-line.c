/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "qmp/qmp-client.h"
#include "qmp/qmp-line.h"

static void feed(qmp_line_reader *reader, const char *bytes, size_t n) {
        while (n > 0) {
                size_t room;
                char *space;

                assert_int_equal(qmp_line_reader_space(reader, &space, &room), 0);
                if (room > n)
                        room = n;
                memcpy(space, bytes, room);
                qmp_line_reader_added(reader, room);
                bytes += room;
                n -= room;
        }
}

static void assert_next(qmp_line_reader *reader, const char *expected) {
        const char *line;
        size_t n;

        assert_int_equal(qmp_line_reader_next(reader, &line, &n), 1);
        assert_int_equal(n, strlen(expected));
        assert_memory_equal(line, expected, n);
}

static void assert_nothing(qmp_line_reader *reader) {
        const char *line;
        size_t n;

        assert_int_equal(qmp_line_reader_next(reader, &line, &n), 0);
}

static void test_every_split_point(void **state) {
        const char *wire = "{\"a\":1}\r\n\r\n\n{}\n{\"b\": \"\xc3\xa9\"}\r\n";

        for (size_t cut = 0; cut <= strlen(wire); cut++) {
                qmp_line_reader reader = { 0 };
                const char *line;
                unsigned lines = 0;
                size_t n;

                feed(&reader, wire, cut);
                while (qmp_line_reader_next(&reader, &line, &n) > 0)
                        lines++;
                feed(&reader, wire + cut, strlen(wire) - cut);
                while (qmp_line_reader_next(&reader, &line, &n) > 0)
                        lines++;
                assert_int_equal(lines, 3);
                qmp_line_reader_done(&reader);
        }
}

static void test_byte_by_byte(void **state) {
        const char *wire = "{\"first\":1}\r\n{\"second\":2}\r\n";
        qmp_line_reader reader = { 0 };

        for (size_t i = 0; wire[i]; i++) {
                feed(&reader, wire + i, 1);
                if (wire[i] != '\n')
                        assert_nothing(&reader);
                else
                        assert_next(&reader, i < 15 ? "{\"first\":1}" : "{\"second\":2}");
        }
        qmp_line_reader_done(&reader);
}

static void test_a_long_line_has_an_end(void **state) {
        static char block[65536];
        qmp_line_reader reader = { 0 };
        size_t room, total = 0;
        char *space;
        int r;

        memset(block, 'x', sizeof(block));
        while ((r = qmp_line_reader_space(&reader, &space, &room)) == 0) {
                size_t n = room < sizeof(block) ? room : sizeof(block);

                memcpy(space, block, n);
                qmp_line_reader_added(&reader, n);
                total += n;
                assert_nothing(&reader);
                assert_true(total <= QMP_LINE_MAX + 65536);
        }
        assert_int_equal(r, -EMSGSIZE);
        assert_true(total >= QMP_LINE_MAX);
        qmp_line_reader_done(&reader);
}

static int parse(const char *text) {
        /* an exact copy on the heap: one byte too far is seen */
        size_t n = strlen(text);
        char *copy = malloc(n + !n);
        json_t *value = NULL;
        int r;

        memcpy(copy, text, n);
        r = qmp_line_parse(copy, n, &value);
        assert_true((r == 0) == (value != NULL));
        json_decref(value);
        free(copy);
        return r;
}

static void test_only_objects(void **state) {
        assert_int_equal(parse("{}"), 0);
        assert_int_equal(parse("{\"a\":[1,2,{\"b\":null}]}"), 0);
        assert_int_equal(parse(""), -EBADMSG);
        assert_int_equal(parse("[]"), -EBADMSG);
        assert_int_equal(parse("null"), -EBADMSG);
        assert_int_equal(parse("{"), -EBADMSG);
        assert_int_equal(parse("{}}"), -EBADMSG);
        assert_int_equal(parse("{} {}"), -EBADMSG);
        assert_int_equal(parse("{\"a\":\"}"), -EBADMSG);
        assert_int_equal(parse("{\"a\":\"\\"), -EBADMSG);
        assert_int_equal(parse("{\"a\":1,\"a\":2}"), -EBADMSG);
        assert_int_equal(parse("{\"a\":\"\xff\"}"), -EBADMSG);
        assert_int_equal(parse("{\"a\":\"\\u0000\"}"), -EBADMSG);
}

static void test_depth_and_elements_are_capped(void **state) {
        char deep[2 * QMP_DEPTH_MAX + 32], *text = deep, *wide;

        /* an object in [[[...]]] of exactly the depth, and one more */
        for (unsigned depth = QMP_DEPTH_MAX; depth <= QMP_DEPTH_MAX + 1; depth++) {
                text = deep;
                text += sprintf(text, "{\"a\":");
                memset(text, '[', depth - 1);
                text += depth - 1;
                memset(text, ']', depth - 1);
                text += depth - 1;
                strcpy(text, "}");
                assert_int_equal(parse(deep), depth <= QMP_DEPTH_MAX ? 0 : -EBADMSG);
        }
        /* brackets in strings are text */
        assert_int_equal(
                parse("{\"a\":\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
                      "[[[[[[[[[[\\\"[[[\"}"),
                0);
        wide = malloc(2 * QMP_ELEMENTS_MAX + 64);
        text = wide + sprintf(wide, "{\"a\":[");
        for (unsigned i = 0; i < QMP_ELEMENTS_MAX; i++)
                text += sprintf(text, "1,");
        strcpy(text, "1]}");
        assert_int_equal(parse(wide), -EBADMSG);
        free(wide);
}

static void test_huge_integers_are_survived(void **state) {
        const char *line = "{\"return\":18446744073709551615}";
        json_t *value;

        assert_int_equal(qmp_line_parse(line, strlen(line), &value), 0);
        assert_true(json_is_real(json_object_get(value, "return")));
        json_decref(value);
        line = "{\"return\":9223372036854775807}";
        assert_int_equal(qmp_line_parse(line, strlen(line), &value), 0);
        assert_true(json_integer_value(json_object_get(value, "return")) == INT64_MAX);
        json_decref(value);
        assert_int_equal(parse("{\"return\":1e999999}"), -EBADMSG);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_every_split_point),
                cmocka_unit_test(test_byte_by_byte),
                cmocka_unit_test(test_a_long_line_has_an_end),
                cmocka_unit_test(test_only_objects),
                cmocka_unit_test(test_depth_and_elements_are_capped),
                cmocka_unit_test(test_huge_integers_are_survived),
        };

        return cmocka_run_group_tests_name("qmp-line", tests, NULL, NULL);
}
