/* SPDX-License-Identifier: MIT */
#pragma once

/* Command-line options as a table: parsed, range-checked and printed as help from one place.
 *
 * "--name value", "--name=value", "--switch", "-n value" for few; "--" ends the options; all else
 * are words, before or behind. What is not in the table is an error that names the nearest option.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

#define CLI_WORDS_MAX 256U
#define CLI_TEXTS_MAX 8U

typedef enum cli_option_kind {
        CLI_OPTION_SWITCH, /* bool */
        CLI_OPTION_TEXT,   /* const char *, not empty; borrowed from argv */
        CLI_OPTION_TEXTS,  /* cli_texts: may be given again */
        CLI_OPTION_NUMBER, /* cli_number */
        CLI_OPTION_SIZE,   /* cli_number, with a suffix K, M, G or T (powers of 1024) */
        CLI_OPTION_REAL,   /* cli_real */
        CLI_OPTION_CHOICE, /* cli_number: the index in `choices` */
        _CLI_OPTION_KIND_MAX,
} cli_option_kind;

typedef struct cli_number {
        bool given;
        uint64_t value;
} cli_number;

typedef struct cli_real {
        bool given;
        double value;
} cli_real;

typedef struct cli_texts {
        size_t n;
        const char *texts[CLI_TEXTS_MAX];
} cli_texts;

typedef struct cli_option {
        const char *name;    /* without dashes */
        const char *metavar; /* NULL for switches */
        const char *help;
        cli_option_kind kind;
        size_t offset;              /* in the verb's values */
        uint64_t minimum, maximum;  /* of numbers, sizes and reals; both 0: no limit */
        const char *const *choices; /* NULL-terminated */
        char letter; /* "-n" for "--lines", where every other program has it; 0: none */
} cli_option;

typedef struct cli_words {
        size_t n;
        const char *words[CLI_WORDS_MAX];
} cli_words;

/* `argv` from the first argument on. -EINVAL with a text for the person; `values` may then be
 * half filled in. */
int cli_options_parse(const cli_option *options, size_t n_options, int argc, char **argv,
                      void *values, cli_words *ret_words, ferry_error *reterr);

void cli_options_print(FILE *file, const cli_option *options, size_t n_options);

/* The entry of a NULL-terminated list that `word` probably meant, or NULL. */
const char *cli_nearest(const char *word, const char *const *candidates);
