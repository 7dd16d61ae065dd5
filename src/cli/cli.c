/* SPDX-License-Identifier: MIT */
#include "cli/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli/rpc.h"

cli_exit cli_interrupted(void) {
        return (cli_exit)((int)CLI_EXIT_SIGNAL + rpc_get_signal());
}

static cli_exit exit_from_code(ferry_code code) {
        switch (code) {
        case FERRY_OK:
                return CLI_EXIT_OK;
        case FERRY_INVALID_ARGUMENT:
        case FERRY_UNIMPLEMENTED: /* an option that this version does not have */
                return CLI_EXIT_USAGE;
        case FERRY_NOT_FOUND:
                return CLI_EXIT_NOT_FOUND;
        case FERRY_FAILED_PRECONDITION:
        case FERRY_ALREADY_EXISTS:
                return CLI_EXIT_REFUSED;
        case FERRY_CANCELLED:
                return rpc_get_signal() ? cli_interrupted() : CLI_EXIT_FAILED;
        case FERRY_UNKNOWN:
        case FERRY_DEADLINE_EXCEEDED:
        case FERRY_PERMISSION_DENIED:
        case FERRY_RESOURCE_EXHAUSTED:
        case FERRY_ABORTED:
        case FERRY_OUT_OF_RANGE:
        case FERRY_INTERNAL:
        case FERRY_UNAVAILABLE:
        case FERRY_DATA_LOSS:
        case FERRY_UNAUTHENTICATED:
                return CLI_EXIT_FAILED;
        }
        return CLI_EXIT_FAILED;
}

cli_exit cli_exit_of(const ferry_error *error) {
        cli_exit code = exit_from_code(error->code);

        return code != CLI_EXIT_OK ? code : CLI_EXIT_FAILED;
}

cli_exit cli_fail(const ferry_error *error) {
        fflush(stdout);
        fprintf(stderr, "ferry: %s\n", ferry_error_message(error));
        return cli_exit_of(error);
}

cli_exit cli_fail_usage(const char *verb, const char *format, ...) {
        va_list arguments;

        fflush(stdout);
        fprintf(stderr, "ferry: ");
        va_start(arguments, format);
        vfprintf(stderr, format, arguments);
        va_end(arguments);
        fprintf(stderr, "\nferry: see `ferry %s%s--help`\n", verb ? verb : "", verb ? " " : "");
        return CLI_EXIT_USAGE;
}

bool cli_need_words(const char *verb, const cli_words *words, size_t n, const char *const *names) {
        if (words->n < n) {
                cli_fail_usage(verb, "%s is missing", names[words->n]);
                return false;
        }
        if (words->n > n) {
                cli_fail_usage(verb, "'%.64s' is one word too many", words->words[n]);
                return false;
        }
        return true;
}

static void print_help(const cli_verb *verb, const cli_option *options, size_t n_options) {
        printf("Usage: ferry %s %s\n\n%s\n\nOptions:\n", verb->name, verb->arguments,
               verb->summary);
        cli_options_print(stdout, options, n_options);
        if (verb->details)
                printf("\n%s\n", verb->details);
}

/* What every verb takes, before and behind its name. */
typedef struct shared_values {
        const char *root;
        bool json, help;
} shared_values;

cli_exit cli_run_verb(const cli_context *global, const cli_verb *verb, int argc, char **argv) {
        static const cli_option shared[] = {
                { "root", "DIR",
                  "this host's state (default $FERRY_ROOT, else " CLI_ROOT_DEFAULT ")",
                  CLI_OPTION_TEXT, offsetof(shared_values, root) },
                { "help", NULL, "this text", CLI_OPTION_SWITCH, offsetof(shared_values, help) },
                { "json", NULL, "print JSON", CLI_OPTION_SWITCH, offsetof(shared_values, json) },
        };
        size_t n_shared = verb->has_json ? 3 : 2, n = verb->n_options + n_shared;
        size_t shared_at = (verb->values_size + 15) / 16 * 16;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) cli_option *options = calloc(n, sizeof(*options));
        _cleanup_(freep) char *values = calloc(1, shared_at + sizeof(shared_values));
        const shared_values *given;
        cli_context context = *global;
        cli_words words;
        int r;

        if (!options || !values) {
                ferry_error_set_errno(&error, -ENOMEM, "ferry %s", verb->name);
                return cli_fail(&error);
        }
        if (verb->n_options > 0)
                memcpy(options, verb->options, verb->n_options * sizeof(*options));
        for (size_t i = 0; i < n_shared; i++) {
                options[verb->n_options + i] = shared[i];
                options[verb->n_options + i].offset += shared_at;
        }
        given = (const void *)(values + shared_at);

        r = cli_options_parse(options, n, argc - 1, argv + 1, values, &words, &error);
        if (given->help) {
                print_help(verb, options, n);
                return CLI_EXIT_OK;
        }
        if (r < 0)
                return cli_fail_usage(verb->name, "%s", ferry_error_message(&error));
        if (context.json && !verb->has_json)
                return cli_fail_usage(verb->name, "`ferry %s` has no --json", verb->name);
        if (given->root)
                context.root = given->root;
        if (context.root[0] != '/')
                return cli_fail_usage(verb->name, "--root %s: must be an absolute path",
                                      context.root);
        context.json = context.json || given->json;
        return verb->run(&context, &words, values);
}
