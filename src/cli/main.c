/* SPDX-License-Identifier: MIT */

/* ferry: runs sandboxes and moves them between hosts. Finds the verb; cmd-<verb>.c does it. */

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

static const cli_verb *const verbs[] = {
        &cmd_run,  &cmd_ls,    &cmd_status,  &cmd_console, &cmd_logs,    &cmd_exec,  &cmd_ps,
        &cmd_stop, &cmd_check, &cmd_migrate, &cmd_events,  &cmd_recover, &cmd_image, &cmd_host,
};

static const char exit_codes[] =
        "Exit codes:\n"
        "  0    it was done\n"
        "  1    it failed\n"
        "  2    the command line, or a file that it names, is wrong\n"
        "  3    there is no such sandbox, file or program\n"
        "  4    refused in this state\n"
        "  5    the migration failed; the sandbox runs at the source\n"
        "  6    undecided: neither side may run the sandbox yet; see `ferry recover --help`\n"
        "  130  interrupted (Ctrl-C); 143 by SIGTERM, 129 by a hang-up. A migration was rolled "
        "back\n";

/* Where the manual is: installed, or in the build folder that we run from. */
static void print_manual(void) {
        char self[4096];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - sizeof(".1"));

        if (n > 0) {
                memcpy(self + n, ".1", sizeof(".1"));
                if (access(self, R_OK) == 0) {
                        printf("The whole story: man -l %s\n", self);
                        return;
                }
        }
        printf("The whole story: man ferry\n");
}

static cli_exit print_help(void) {
        printf("Usage: ferry [--root DIR] [--json] VERB ...\n\n"
               "Runs Linux virtual machines and moves them, running, between hosts.\n\n"
               "Verbs (each has --help):\n");
        for (size_t i = 0; i < ELEMENTS(verbs); i++)
                printf("  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
        printf("  %-10s %s\n  %-10s %s\n\n", "version", "print the version", "help",
               "this text, or `help VERB`");
        printf("A host's sandboxes are in its state root: --root, else $FERRY_ROOT, "
               "else " CLI_ROOT_DEFAULT ".\n\n%s\n",
               exit_codes);
        print_manual();
        return CLI_EXIT_OK;
}

static const cli_verb *find_verb(const char *name) {
        for (size_t i = 0; i < ELEMENTS(verbs); i++)
                if (strcmp(verbs[i]->name, name) == 0)
                        return verbs[i];
        return NULL;
}

static cli_exit unknown_verb(const char *name) {
        const char *names[ELEMENTS(verbs) + 3] = { "version", "help" }, *nearest;

        for (size_t i = 0; i < ELEMENTS(verbs); i++)
                names[2 + i] = verbs[i]->name;
        nearest = cli_nearest(name, names);
        if (nearest)
                return cli_fail_usage(NULL, "there is no verb '%.64s'; did you mean '%s'?", name,
                                      nearest);
        return cli_fail_usage(NULL, "there is no verb '%.64s'", name);
}

static cli_exit print_version(const cli_context *cli, int argc, char **argv) {
        bool json = cli->json;

        for (int i = 1; i < argc; i++)
                if (strcmp(argv[i], "--json") == 0)
                        json = true;
                else if (strcmp(argv[i], "--help") == 0)
                        return print_help();
                else
                        return cli_fail_usage(NULL, "version takes no '%.64s'", argv[i]);
        if (json)
                printf("{\"version\": \"" FERRY_VERSION "\"}\n");
        else
                printf("ferry " FERRY_VERSION "\n");
        return CLI_EXIT_OK;
}

static cli_exit help_for(const cli_context *cli, int argc, char **argv) {
        char *help[2] = { NULL, (char *)"--help" };
        const cli_verb *verb;

        if (argc < 2 || strcmp(argv[1], "--help") == 0)
                return print_help();
        verb = find_verb(argv[1]);
        if (!verb)
                return unknown_verb(argv[1]);
        help[0] = argv[1];
        return cli_run_verb(cli, verb, 2, help);
}

/* What stands before the verb: --root DIR, --root=DIR, --json. Returns the verb's place. */
static int global_options(int argc, char **argv, cli_context *cli, bool *ret_help,
                          cli_exit *ret_exit) {
        int i;

        for (i = 1; i < argc && argv[i][0] == '-'; i++) {
                if (strcmp(argv[i], "--json") == 0)
                        cli->json = true;
                else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
                        *ret_help = true;
                else if (strcmp(argv[i], "--version") == 0) {
                        argv[i] = (char *)"version"; /* the verb of that name */
                        return i;
                } else if (strncmp(argv[i], "--root=", 7) == 0)
                        cli->root = argv[i] + 7;
                else if (strcmp(argv[i], "--root") == 0 && i + 1 < argc)
                        cli->root = argv[++i];
                else if (strcmp(argv[i], "--root") == 0)
                        return *ret_exit = cli_fail_usage(NULL, "--root needs a value (DIR)"), -1;
                else
                        return *ret_exit = cli_fail_usage(
                                       NULL, "unknown option %.64s before the verb", argv[i]),
                               -1;
        }
        return i;
}

static cli_exit dispatch(int argc, char **argv) {
        const char *root = getenv("FERRY_ROOT");
        cli_context cli = { .root = root && *root ? root : CLI_ROOT_DEFAULT };
        cli_exit code = CLI_EXIT_OK;
        const cli_verb *verb;
        bool help = false;
        int at;

        at = global_options(argc, argv, &cli, &help, &code);
        if (at < 0)
                return code;
        if (help)
                return print_help();
        if (at == argc)
                return cli_fail_usage(NULL, "a verb is missing");
        if (strcmp(argv[at], "version") == 0)
                return print_version(&cli, argc - at, argv + at);
        if (strcmp(argv[at], "help") == 0)
                return help_for(&cli, argc - at, argv + at);
        verb = find_verb(argv[at]);
        if (!verb)
                return unknown_verb(argv[at]);
        return cli_run_verb(&cli, verb, argc - at, argv + at);
}

int main(int argc, char **argv) {
        cli_exit code;

        /* A reader that goes away (`ferry events | head`) is an error of write(), not our end. */
        (void)signal(SIGPIPE, SIG_IGN);
        code = dispatch(argc, argv);
        if (fflush(stdout) != 0 && code == CLI_EXIT_OK) {
                fprintf(stderr, "ferry: cannot write the output\n");
                code = CLI_EXIT_FAILED;
        }
        return (int)code;
}
