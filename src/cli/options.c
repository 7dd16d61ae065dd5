/* SPDX-License-Identifier: MIT */
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#define NEAREST_MAX 24U /* longer words are nobody's typing error */
#define OPTIONS_MAX 64U
#define HELP_COLUMN 28

static size_t min_size(size_t a, size_t b) {
        return a < b ? a : b;
}

/* Levenshtein's distance, for words up to NEAREST_MAX. */
static size_t edit_distance(const char *a, const char *b) {
        size_t row[NEAREST_MAX + 1], n_a = strlen(a), n_b = strlen(b);

        if (n_a > NEAREST_MAX || n_b > NEAREST_MAX)
                return SIZE_MAX;
        for (size_t j = 0; j <= n_b; j++)
                row[j] = j;
        for (size_t i = 1; i <= n_a; i++) {
                size_t diagonal = row[0];

                row[0] = i;
                for (size_t j = 1; j <= n_b; j++) {
                        size_t change = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);

                        diagonal = row[j];
                        row[j] = min_size(change, min_size(row[j - 1], row[j]) + 1);
                }
        }
        return row[n_b];
}

const char *cli_nearest(const char *word, const char *const *candidates) {
        const char *nearest = NULL;
        size_t best = 1 + strlen(word) / 3; /* more wrong than that is another word */

        for (; *candidates; candidates++) {
                size_t distance = edit_distance(word, *candidates);

                if (strlen(word) > 2 && strncmp(*candidates, word, strlen(word)) == 0)
                        return *candidates;
                if (distance <= best) {
                        best = distance;
                        nearest = *candidates;
                }
        }
        return nearest;
}

static int unknown_option(const cli_option *options, size_t n_options, const char *name,
                          ferry_error *reterr) {
        const char *names[OPTIONS_MAX + 1] = { NULL }, *nearest;

        for (size_t i = 0; i < n_options && i < OPTIONS_MAX; i++)
                names[i] = options[i].name;
        nearest = cli_nearest(name, names);
        if (nearest)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "unknown option --%s; did you mean --%s?", name, nearest);
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "unknown option --%s",
                               name);
}

static int bad_value(const cli_option *option, const char *value, const char *expected,
                     ferry_error *reterr) {
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "--%s %s: %s", option->name,
                               value, expected);
}

static int out_of_range(const cli_option *option, const char *value, ferry_error *reterr) {
        if (option->maximum == UINT64_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "--%s %s: must be at least %llu", option->name, value,
                                       (unsigned long long)option->minimum);
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                               "--%s %s: must be from %llu to %llu", option->name, value,
                               (unsigned long long)option->minimum,
                               (unsigned long long)option->maximum);
}

/* Decimal digits only: strtoull would take " +1", "-1" and "0x1" as well. */
static bool parse_digits(const char *text, const char **ret_end, uint64_t *ret) {
        uint64_t value = 0;
        const char *c = text;

        for (; *c >= '0' && *c <= '9'; c++)
                if (__builtin_mul_overflow(value, 10U, &value) ||
                    __builtin_add_overflow(value, (uint64_t)(*c - '0'), &value))
                        return false;
        *ret_end = c;
        *ret = value;
        return c != text;
}

static bool parse_suffix(const char *suffix, uint64_t *value) {
        static const char letters[] = "KMGT";
        const char *letter;

        if (suffix[0] == '\0')
                return true;
        letter = strchr(letters, suffix[0]);
        if (!letter || suffix[1] != '\0')
                return false;
        return !__builtin_mul_overflow(*value, 1ULL << (10 * (letter - letters + 1)), value);
}

static int parse_number(const cli_option *option, const char *text, cli_number *ret,
                        ferry_error *reterr) {
        bool is_size = option->kind == CLI_OPTION_SIZE;
        const char *end;
        uint64_t value;

        if (!parse_digits(text, &end, &value) || (!is_size && *end != '\0') ||
            (is_size && !parse_suffix(end, &value)))
                return bad_value(option, text,
                                 is_size ? "must be a number of bytes, such as 64M"
                                         : "must be a whole number",
                                 reterr);
        if (option->maximum > 0 && (value < option->minimum || value > option->maximum))
                return out_of_range(option, text, reterr);
        *ret = (cli_number){ .given = true, .value = value };
        return 0;
}

static int parse_real(const cli_option *option, const char *text, cli_real *ret,
                      ferry_error *reterr) {
        char *end;
        double value = strtod(text, &end);

        if (end == text || *end != '\0' || !isfinite(value))
                return bad_value(option, text, "must be a number", reterr);
        if (option->maximum > 0 &&
            (value < (double)option->minimum || value > (double)option->maximum))
                return out_of_range(option, text, reterr);
        *ret = (cli_real){ .given = true, .value = value };
        return 0;
}

static int parse_choice(const cli_option *option, const char *text, cli_number *ret,
                        ferry_error *reterr) {
        char list[128] = "";

        for (size_t i = 0; option->choices[i]; i++) {
                size_t used = strlen(list);

                if (strcmp(text, option->choices[i]) == 0) {
                        *ret = (cli_number){ .given = true, .value = i };
                        return 0;
                }
                snprintf(list + used, sizeof(list) - used, "%s%s", i > 0 ? ", " : "",
                         option->choices[i]);
        }
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                               "--%s %s: must be one of %s", option->name, text, list);
}

static int parse_texts(const cli_option *option, const char *text, cli_texts *ret,
                       ferry_error *reterr) {
        if (ret->n == CLI_TEXTS_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "--%s: at most %u times", option->name, CLI_TEXTS_MAX);
        ret->texts[ret->n++] = text;
        return 0;
}

static int parse_value(const cli_option *option, const char *text, void *values,
                       ferry_error *reterr) {
        void *target = (char *)values + option->offset;

        if (text[0] == '\0')
                return bad_value(option, "''", "must not be empty", reterr);
        switch (option->kind) {
        case CLI_OPTION_TEXT:
                *(const char **)target = text;
                return 0;
        case CLI_OPTION_TEXTS:
                return parse_texts(option, text, target, reterr);
        case CLI_OPTION_NUMBER:
        case CLI_OPTION_SIZE:
                return parse_number(option, text, target, reterr);
        case CLI_OPTION_REAL:
                return parse_real(option, text, target, reterr);
        case CLI_OPTION_CHOICE:
                return parse_choice(option, text, target, reterr);
        case CLI_OPTION_SWITCH:
        case _CLI_OPTION_KIND_MAX:
                break;
        }
        return ferry_error_set(reterr, FERRY_INTERNAL, -EINVAL, "--%s: no such kind", option->name);
}

static const cli_option *find_option(const cli_option *options, size_t n_options,
                                     const char *name) {
        for (size_t i = 0; i < n_options; i++)
                if (strcmp(options[i].name, name) == 0)
                        return &options[i];
        return NULL;
}

/* "-n" alone; its value is the next argument. */
static const cli_option *find_letter(const cli_option *options, size_t n_options,
                                     const char *text) {
        for (size_t i = 0; i < n_options; i++)
                if (options[i].letter && text[0] == '-' && text[1] == options[i].letter &&
                    text[2] == '\0')
                        return &options[i];
        return NULL;
}

/* One option at argv[0]; returns how many arguments it took. */
static int parse_option(const cli_option *options, size_t n_options, int argc, char **argv,
                        void *values, ferry_error *reterr) {
        const cli_option *option = find_letter(options, n_options, argv[0]);
        const char *text = option ? option->name : argv[0] + 2, *equals = strchr(text, '=');
        char name[64];
        size_t n_name = equals ? (size_t)(equals - text) : strlen(text);
        int r;

        if (n_name >= sizeof(name))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "unknown option %.60s...", argv[0]);
        memcpy(name, text, n_name);
        name[n_name] = '\0';
        option = find_option(options, n_options, name);
        if (!option)
                return unknown_option(options, n_options, name, reterr);
        if (option->kind == CLI_OPTION_SWITCH) {
                if (equals)
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                               "--%s takes no value", name);
                *(bool *)((char *)values + option->offset) = true;
                return 1;
        }
        if (!equals && argc < 2)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "--%s needs a value (%s)", name, option->metavar);
        r = parse_value(option, equals ? equals + 1 : argv[1], values, reterr);
        return r < 0 ? r : equals ? 1 : 2;
}

int cli_options_parse(const cli_option *options, size_t n_options, int argc, char **argv,
                      void *values, cli_words *ret_words, ferry_error *reterr) {
        cli_words words = { 0 };
        bool only_words = false;

        for (int i = 0; i < argc;) {
                bool is_long = strncmp(argv[i], "--", 2) == 0;
                bool is_option = is_long || find_letter(options, n_options, argv[i]);
                int r;

                if (!only_words && is_long && argv[i][2] == '\0') {
                        only_words = true;
                        i++;
                        continue;
                }
                if (!only_words && is_option) {
                        r = parse_option(options, n_options, argc - i, argv + i, values, reterr);
                        if (r < 0)
                                return r;
                        i += r;
                        continue;
                }
                if (!only_words && argv[i][0] == '-' && argv[i][1] != '\0')
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                               "unknown option %.60s; options begin with two "
                                               "dashes",
                                               argv[i]);
                if (words.n == CLI_WORDS_MAX)
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                               "too many words");
                words.words[words.n++] = argv[i++];
        }
        *ret_words = words;
        return 0;
}

void cli_options_print(FILE *file, const cli_option *options, size_t n_options) {
        for (size_t i = 0; i < n_options; i++) {
                char left[96];

                snprintf(left, sizeof(left), "  --%s%s%s", options[i].name,
                         options[i].metavar ? " " : "",
                         options[i].metavar ? options[i].metavar : "");
                if (strlen(left) < HELP_COLUMN)
                        fprintf(file, "%-*s%s\n", HELP_COLUMN, left, options[i].help);
                else
                        fprintf(file, "%s\n%*s%s\n", left, HELP_COLUMN, "", options[i].help);
        }
}
