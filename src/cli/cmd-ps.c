/* SPDX-License-Identifier: MIT */

/* ferry ps: the programs of `ferry exec` in the guest. */

#include <stdio.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/format.h"
#include "cli/output.h"
#include "cli/reach.h"
#include "cli/table.h"
#include "cli/wire-json.h"
#include "exec.pb-c.h"

#define QUICK (10 * USEC_PER_SEC)

static int print_table(const Ferry__Exec__V1__ListResponse *list) {
        _cleanup_(table_freep) table *t = NULL;

        if (table_new(4, &t) < 0 ||
            table_add(t, (const char *[]){ "ID", "PID", "TERMINAL", "STATE" }) < 0)
                return -ENOMEM;
        for (size_t i = 0; i < list->n_programs; i++) {
                const Ferry__Exec__V1__Program *p = list->programs[i];
                char pid[16] = "-", state[40] = "running";

                if (p->pid > 0)
                        snprintf(pid, sizeof(pid), "%u", p->pid);
                if (p->detached) /* came with the sandbox; who ran it has not followed yet */
                        snprintf(state, sizeof(state), "%s", "running, nobody attached");
                if (p->ended)
                        snprintf(state, sizeof(state), "ended: %u", p->exit_status);
                if (table_add(t, (const char *[]){ p->id, pid, p->terminal ? "yes" : "no",
                                                   state }) < 0)
                        return -ENOMEM;
        }
        table_print(t, stdout);
        return 0;
}

static cli_exit print(const cli_context *cli, const ProtobufCMessage *reply) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        json_t *object = NULL;

        if (!cli->json) {
                if (print_table((const Ferry__Exec__V1__ListResponse *)reply) == 0)
                        return CLI_EXIT_OK;
                ferry_error_set_errno(&error, -ENOMEM, "ps");
                return cli_fail(&error);
        }
        (void)wire_to_json(reply, &object);
        return output_json(object);
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        Ferry__Exec__V1__ListRequest request = FERRY__EXEC__V1__LIST_REQUEST__INIT;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(message_freep) ProtobufCMessage *reply = NULL;
        cli_exit code;
        reach r;

        if (!cli_need_words("ps", words, 1, names))
                return CLI_EXIT_USAGE;
        if (reach_open(cli, words->words[0], &r, &error) < 0)
                return cli_fail(&error);
        if (rpc_call(r.shim, &ferry__exec__v1__exec__descriptor, "List", &request.base, QUICK,
                     &reply, &error) < 0)
                code = cli_fail(&error);
        else
                code = print(cli, reply);
        reach_done(&r);
        return code;
}

const cli_verb cmd_ps = {
        .name = "ps",
        .arguments = "NAME [--json]",
        .summary = "list the programs that `ferry exec` runs in the guest",
        .has_json = true,
        .run = run,
};
