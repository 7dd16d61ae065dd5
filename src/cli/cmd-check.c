/* SPDX-License-Identifier: MIT */

/* ferry check: could `ferry migrate` with these options go through, and how would it go? */

#include <stdio.h>

#include "cli/check.h"
#include "cli/cli.h"
#include "cli/migrate-options.h"
#include "cli/output.h"
#include "cli/sandbox.h"

static cli_exit print(const cli_context *cli, const check *c) {
        const char *word;

        if (cli->json)
                (void)output_json(check_to_json(c));
        else {
                word = check_is_good(c) ? "can go" : "cannot go";
                printf("%s %s to host %s%s\n", c->name, word, c->to->name,
                       check_is_good(c) ? "" : ":");
                check_print_reasons(c, stdout);
                if (c->prediction)
                        check_print_prediction(c->prediction, stdout);
        }
        return check_is_good(c) ? CLI_EXIT_OK : CLI_EXIT_REFUSED;
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(rpc_group_freep) rpc_group *group = NULL;
        _cleanup_(peer_freep) peer *from = NULL, *to = NULL;
        const migrate_values *v = values;
        migrate_request request;
        cli_exit code;
        check c;

        if (!cli_need_words("check", words, 1, names))
                return CLI_EXIT_USAGE;
        if (!v->to)
                return cli_fail_usage("check", "--to is missing");
        if (sandbox_check_exists(cli->root, words->words[0], &error) < 0 ||
            peer_open(cli->root, &from, &error) < 0 || peer_open(v->to, &to, &error) < 0 ||
            rpc_group_new(&group, &error) < 0 || migrate_request_init(&request, v, &error) < 0)
                return cli_fail(&error);
        if (check_run(&c, group, from, to, words->words[0], &request.options, &error) == 0)
                code = print(cli, &c);
        else
                code = cli_fail(&error);
        check_done(&c);
        migrate_request_done(&request);
        return code;
}

const cli_verb cmd_check = {
        .name = "check",
        .arguments = "NAME --to TARGET [...]",
        .summary = "say whether a sandbox could migrate, and how it would go",
        .details =
                "Takes the options of `ferry migrate`. The guest, both hosts and their sandboxes "
                "are left as\nthey are. Exit code 0: it can go; 4: it cannot, every reason is "
                "printed.",
        .has_json = true,
        .options = migrate_options,
        .n_options = N_MIGRATE_OPTIONS,
        .values_size = sizeof(migrate_values),
        .run = run,
};
