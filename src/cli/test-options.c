/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "cli/options.h"

typedef struct values {
        bool force;
        const char *to;
        cli_texts disks;
        cli_number passes, bandwidth, handover;
        cli_real scale;
} values;

static const char *const handovers[] = { "caller", "direct", NULL };

static const cli_option table[] = {
        { "force", NULL, "", CLI_OPTION_SWITCH, offsetof(values, force) },
        { "to", "TARGET", "", CLI_OPTION_TEXT, offsetof(values, to) },
        { "disk", "PATH", "", CLI_OPTION_TEXTS, offsetof(values, disks) },
        { "max-passes", "N", "", CLI_OPTION_NUMBER, offsetof(values, passes), 1, 100,
          .letter = 'm' },
        { "bandwidth", "SIZE", "", CLI_OPTION_SIZE, offsetof(values, bandwidth) },
        { "throttling-scale", "P", "", CLI_OPTION_REAL, offsetof(values, scale), 1, 100 },
        { "handover", "KIND", "", CLI_OPTION_CHOICE, offsetof(values, handover),
          .choices = handovers },
};

#define PARSE(...)                                                                                 \
        parse((char *[]){ __VA_ARGS__, NULL },                                                     \
              (int)(sizeof((char *[]){ __VA_ARGS__ }) / sizeof(char *)))

static values v;
static cli_words words;
static char message[256];

static int parse(char **argv, int argc) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        v = (values){ 0 };
        words = (cli_words){ 0 };
        message[0] = '\0';
        r = cli_options_parse(table, ELEMENTS(table), argc, argv, &v, &words, &error);
        if (r < 0)
                strncpy(message, ferry_error_message(&error), sizeof(message) - 1);
        return r;
}

static void test_all_kinds(void **state) {
        assert_int_equal(PARSE("name", "--force", "--to", "/b", "--max-passes=7", "--disk", "/x",
                               "--disk=/y", "--bandwidth", "2M", "--throttling-scale", "12.5",
                               "--handover", "direct", "last"),
                         0);
        assert_true(v.force);
        assert_string_equal(v.to, "/b");
        assert_int_equal(v.passes.value, 7);
        assert_int_equal(v.disks.n, 2);
        assert_string_equal(v.disks.texts[1], "/y");
        assert_int_equal(v.bandwidth.value, 2 * 1024 * 1024);
        assert_true(v.scale.given && v.scale.value > 12.4 && v.scale.value < 12.6);
        assert_int_equal(v.handover.value, 1);
        assert_int_equal(words.n, 2);
        assert_string_equal(words.words[0], "name");
        assert_string_equal(words.words[1], "last");
}

static void test_absent_is_not_given(void **state) {
        assert_int_equal(PARSE("name"), 0);
        assert_false(v.passes.given || v.bandwidth.given || v.handover.given || v.scale.given);
        assert_null(v.to);
}

static void test_letters(void **state) {
        assert_int_equal(PARSE("a", "-m", "7", "b", "--", "-m"), 0);
        assert_int_equal(v.passes.value, 7);
        assert_int_equal(words.n, 3);
        assert_string_equal(words.words[2], "-m");
        assert_int_equal(PARSE("-m", "0"), -EINVAL);
        assert_string_equal(message, "--max-passes 0: must be from 1 to 100");
        assert_int_equal(PARSE("-m"), -EINVAL);
        assert_string_equal(message, "--max-passes needs a value (N)");
        assert_int_equal(PARSE("-m7"), -EINVAL);
}

static void test_two_dashes_end_options(void **state) {
        assert_int_equal(PARSE("--", "--force", "-x"), 0);
        assert_false(v.force);
        assert_int_equal(words.n, 2);
        assert_string_equal(words.words[0], "--force");
}

static void test_refusals(void **state) {
        static const struct {
                const char *arguments[3], *message;
        } cases[] = {
                { { "--max-pases", "3" },
                  "unknown option --max-pases; did you mean --max-passes?" },
                { { "--max" }, "unknown option --max; did you mean --max-passes?" },
                { { "--utterly-else" }, "unknown option --utterly-else" },
                { { "-f" }, "unknown option -f; options begin with two dashes" },
                { { "--force=yes" }, "--force takes no value" },
                { { "--to" }, "--to needs a value (TARGET)" },
                { { "--to", "" }, "--to '': must not be empty" },
                { { "--to=" }, "--to '': must not be empty" },
                { { "--max-passes", "0" }, "--max-passes 0: must be from 1 to 100" },
                { { "--max-passes", "101" }, "--max-passes 101: must be from 1 to 100" },
                { { "--max-passes", "-1" }, "--max-passes -1: must be a whole number" },
                { { "--max-passes", "+1" }, "--max-passes +1: must be a whole number" },
                { { "--max-passes", "0x1" }, "--max-passes 0x1: must be a whole number" },
                { { "--max-passes", "3M" }, "--max-passes 3M: must be a whole number" },
                { { "--max-passes", "18446744073709551616" },
                  "--max-passes 18446744073709551616: must be a whole number" },
                { { "--bandwidth", "1X" },
                  "--bandwidth 1X: must be a number of bytes, such as 64M" },
                { { "--bandwidth", "99999999999T" },
                  "--bandwidth 99999999999T: must be a number of bytes, such as 64M" },
                { { "--throttling-scale", "nan" }, "--throttling-scale nan: must be a number" },
                { { "--throttling-scale", "0.5" },
                  "--throttling-scale 0.5: must be from 1 to 100" },
                { { "--throttling-scale", "5%" }, "--throttling-scale 5%: must be a number" },
                { { "--handover", "maybe" }, "--handover maybe: must be one of caller, direct" },
        };

        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                char *argv[3];
                int argc = 0;

                for (; argc < 3 && cases[i].arguments[argc]; argc++)
                        argv[argc] = (char *)cases[i].arguments[argc];
                assert_int_equal(parse(argv, argc), -EINVAL);
                assert_string_equal(message, cases[i].message);
        }
}

static void test_counts_are_capped(void **state) {
        char *argv[2 * (CLI_TEXTS_MAX + 1)], *many[CLI_WORDS_MAX + 1];

        for (size_t i = 0; i <= CLI_TEXTS_MAX; i++) {
                argv[2 * i] = (char *)"--disk";
                argv[2 * i + 1] = (char *)"/x";
        }
        assert_int_equal(parse(argv, (int)ELEMENTS(argv) - 2), 0);
        assert_int_equal(parse(argv, (int)ELEMENTS(argv)), -EINVAL);
        for (size_t i = 0; i <= CLI_WORDS_MAX; i++)
                many[i] = (char *)"w";
        assert_int_equal(parse(many, CLI_WORDS_MAX), 0);
        assert_int_equal(parse(many, CLI_WORDS_MAX + 1), -EINVAL);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_all_kinds), cmocka_unit_test(test_absent_is_not_given),
                cmocka_unit_test(test_letters),   cmocka_unit_test(test_two_dashes_end_options),
                cmocka_unit_test(test_refusals),  cmocka_unit_test(test_counts_are_capped),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
