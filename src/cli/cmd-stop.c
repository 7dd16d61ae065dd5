/* SPDX-License-Identifier: MIT */

/* ferry stop: ends a sandbox and removes what it leaves. */

#include <stdio.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/end.h"
#include "cli/peer.h"
#include "cli/reach.h"
#include "cli/sandbox.h"

#define TRIES_MAX    5U
#define TRY_INTERVAL (100 * USEC_PER_MSEC)

typedef struct stop_values {
        bool force;
} stop_values;

static const cli_option options[] = {
        { "force", NULL, "even while a migration session is open", CLI_OPTION_SWITCH,
          offsetof(stop_values, force) },
};

/* The shim ends its VM; a shim that died is started again first, so that it is always a shim, and
 * its journal, that decides whether this VM may be ended. */
static int stop_vm(const cli_context *cli, rpc_group *group, const char *name, bool force,
                   ferry_error *reterr) {
        _cleanup_(message_freep) shim_status *status = NULL;
        _cleanup_(peer_freep) peer *here = NULL;
        _cleanup_(rpc_closep) rpc *shim = NULL;
        int r;

        r = peer_open(cli->root, &here, reterr);
        if (r == 0)
                r = here->operations->open(here, group, name, true, "the shim", &shim, reterr);
        if (r == 0 && !force)
                r = end_status_settled(group, shim, &status, reterr);
        return r < 0 ? r : call_stop(shim, force, reterr);
}

static int stop_once(const cli_context *cli, const host *h, rpc_group *group, const char *name,
                     bool force, ferry_error *reterr) {
        bool has_shim = true;
        int r;

        r = sandbox_has_shim(cli->root, name, &has_shim, NULL);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s", name);
        if (has_shim || end_has_living_vm(cli->root, name)) {
                r = stop_vm(cli, group, name, force, reterr);
                if (r < 0)
                        return r;
        } else if (!force && end_has_open_session(cli->root, name))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "a migration of %s is not settled, and what is left here "
                                       "may be needed for that: `ferry --root %s recover %s`, or "
                                       "--force",
                                       name, cli->root, name);
        return end_wait_and_remove(h, group, name, reterr);
}

static int stop(const cli_context *cli, const char *name, bool force, ferry_error *reterr) {
        _cleanup_(rpc_group_freep) rpc_group *group = NULL;
        _cleanup_(host_freep) host *h = NULL;
        int r;

        r = sandbox_check_exists(cli->root, name, reterr);
        if (r == 0)
                r = host_read(cli->root, &h, reterr);
        if (r == 0)
                r = rpc_group_new(&group, reterr);
        if (r < 0)
                return r;
        /* A `ferry migrate` that sees the shim end starts it again, to ask its journal; and one
         * that is just being killed still seems to be there. */
        for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
                ferry_error_done(reterr);
                r = stop_once(cli, h, group, name, force, reterr);
                if (r == 0 || (reterr->code != FERRY_ABORTED && reterr->code != FERRY_UNAVAILABLE))
                        break;
                if (end_pause(group, TRY_INTERVAL, NULL) < 0)
                        break;
        }
        return r;
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const stop_values *v = values;

        if (!cli_need_words("stop", words, 1, names))
                return CLI_EXIT_USAGE;
        if (stop(cli, words->words[0], v->force, &error) < 0)
                return cli_fail(&error);
        return CLI_EXIT_OK;
}

const cli_verb cmd_stop = {
        .name = "stop",
        .arguments = "NAME [--force]",
        .summary = "end a sandbox: its VM, its shim and its files",
        .details = "The VM ends at once, as if its power was cut. Refused (4) while a migration "
                   "session is\nopen; --force then ends this side's copy, which may be the only "
                   "one.",
        .options = options,
        .n_options = ELEMENTS(options),
        .values_size = sizeof(stop_values),
        .run = run,
};
