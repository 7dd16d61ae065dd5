/* SPDX-License-Identifier: MIT */

/* ferry recover: a shim for a VM whose shim has died. */

#include <stdio.h>

#include "cli/cli.h"
#include "cli/end.h"
#include "cli/launch.h"
#include "cli/sandbox.h"

static int recover(const cli_context *cli, const char *name, bool *ret_started,
                   ferry_error *reterr) {
        _cleanup_(host_freep) host *h = NULL;
        bool has_shim = true;
        int r;

        r = sandbox_check_exists(cli->root, name, reterr);
        if (r == 0)
                r = host_read(cli->root, &h, reterr);
        if (r < 0)
                return r;
        r = sandbox_has_shim(cli->root, name, &has_shim, NULL);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s", name);
        *ret_started = !has_shim;
        if (has_shim)
                return 0;
        if (!end_has_living_vm(cli->root, name))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ESRCH,
                                       "no VM of %s is left to recover; `ferry --root %s stop %s` "
                                       "removes what remains",
                                       name, cli->root, name);
        return launch_shim(h, name, NULL, reterr);
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        bool started = false;

        if (!cli_need_words("recover", words, 1, names))
                return CLI_EXIT_USAGE;
        if (recover(cli, words->words[0], &started, &error) < 0)
                return cli_fail(&error);
        fprintf(stderr, "ferry: %s\n", started ? "a new shim has taken over" : "its shim runs");
        return CLI_EXIT_OK;
}

const cli_verb cmd_recover = {
        .name = "recover",
        .arguments = "NAME",
        .summary = "start a shim again for a VM that has lost its own",
        .details = "QEMU outlives its shim. The new shim finds the running VM and the journal, and "
                   "goes on\nwhere the old one was; the guest does not notice.",
        .run = run,
};
