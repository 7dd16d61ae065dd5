/* SPDX-License-Identifier: MIT */
#pragma once

/* What all verbs share: exit codes, the context, the table of verbs, the way errors are told. */

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "cli/options.h"

#define CLI_ROOT_DEFAULT "/run/ferry"

/* Scripts branch on these (ferry.1). */
typedef enum cli_exit {
        CLI_EXIT_OK = 0,
        CLI_EXIT_FAILED = 1,
        CLI_EXIT_USAGE = 2,
        CLI_EXIT_NOT_FOUND = 3,
        CLI_EXIT_REFUSED = 4,   /* not in this state */
        CLI_EXIT_STAYED = 5,    /* the migration failed, the sandbox runs at the source */
        CLI_EXIT_UNDECIDED = 6, /* neither side may run it yet: see `ferry recover` */
        CLI_EXIT_SIGNAL = 128,  /* and the signal's number: 130 for Ctrl-C */
} cli_exit;

typedef struct cli_context {
        const char *root; /* this host's state root; absolute */
        bool json;
} cli_context;

typedef struct cli_verb {
        const char *name;
        const char *arguments; /* for the usage line: "NAME --to TARGET" */
        const char *summary;   /* one line */
        const char *details;   /* printed below the options; NULL = nothing */
        bool has_json;         /* else --json is a usage error */
        const cli_option *options;
        size_t n_options;
        size_t values_size;
        /* `values` has `values_size` bytes, zeroed, filled in from the options. */
        cli_exit (*run)(const cli_context *cli, const cli_words *words, const void *values);
} cli_verb;

extern const cli_verb cmd_check;
extern const cli_verb cmd_console;
extern const cli_verb cmd_events;
extern const cli_verb cmd_exec;
extern const cli_verb cmd_host;
extern const cli_verb cmd_image;
extern const cli_verb cmd_logs;
extern const cli_verb cmd_ls;
extern const cli_verb cmd_migrate;
extern const cli_verb cmd_ps;
extern const cli_verb cmd_recover;
extern const cli_verb cmd_run;
extern const cli_verb cmd_status;
extern const cli_verb cmd_stop;

/* After a signal of rpc.h. */
cli_exit cli_interrupted(void);

/* The exit code that goes with the error's; never CLI_EXIT_OK. */
cli_exit cli_exit_of(const ferry_error *error);

/* Prints "ferry: message" and chooses the exit code from the error's. */
cli_exit cli_fail(const ferry_error *error);

/* The same for what the person typed: adds where help is. */
cli_exit cli_fail_usage(const char *verb, const char *format, ...) _printf_(2, 3);

/* Exactly `n` words, named in `names` for the message. False: told already. */
bool cli_need_words(const char *verb, const cli_words *words, size_t n, const char *const *names);

/* All of the verb: options parsed, --help answered, run. `argv[0]` is the verb's name. */
cli_exit cli_run_verb(const cli_context *global, const cli_verb *verb, int argc, char **argv);
