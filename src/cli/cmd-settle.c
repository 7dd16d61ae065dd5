/* SPDX-License-Identifier: MIT */

/* ferry settle: finishes a migration whose caller is gone, or that was left undecided. */

#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/mover.h"
#include "cli/outcome.h"
#include "cli/peer.h"
#include "cli/sandbox.h"

typedef struct settle_values {
        const char *to;
        bool cancel;
} settle_values;

static const cli_option options[] = {
        { "to", "TARGET", "the other host, as given to `ferry migrate`", CLI_OPTION_TEXT,
          offsetof(settle_values, to) },
        { "cancel", NULL, "roll back a transfer that is still under way", CLI_OPTION_SWITCH,
          offsetof(settle_values, cancel) },
};

/* The session's id, from whichever side still has it open. */
static int find_session(mover *m, ferry_error *reterr) {
        struct {
                peer *host;
                rpc **connection;
                const char *label;
        } sides[] = {
                { m->from, &m->source, "the source's shim" },
                { m->to, &m->destination, "the destination's shim" },
        };

        for (size_t i = 0; i < ELEMENTS(sides); i++) {
                _cleanup_(message_freep) shim_status *status = NULL;
                const peer_operations *operations = sides[i].host->operations;

                if (operations->open(sides[i].host, m->group, m->name, true, sides[i].label,
                                     sides[i].connection, NULL) < 0 ||
                    call_status(*sides[i].connection, &status, NULL) < 0 || !status->session)
                        continue;
                if (strlen(status->session->session_id) >= sizeof(m->session_id))
                        return ferry_error_set(reterr, FERRY_UNIMPLEMENTED, -ENAMETOOLONG,
                                               "the session %.64s is not one of `ferry migrate`",
                                               status->session->session_id);
                if ((strcmp(status->session->origin, "source") == 0) != (i == 0))
                        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                               "%s is the migration's %s: settle it from there, "
                                               "ferry --root %s settle %s --to %s",
                                               sides[i].host->root, status->session->origin,
                                               m->to->root, m->name, m->from->root);
                strcpy(m->session_id, status->session->session_id);
                return 0;
        }
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOENT,
                               "neither side has a migration session of %s that is open", m->name);
}

static cli_exit settle(const cli_context *cli, mover *m, bool cancel) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        mover_place place;

        if (find_session(m, &error) < 0)
                return cli_fail(&error);
        m->made_destination =
                m->destination || sandbox_check_exists(m->to->root, m->name, NULL) == 0;
        ferry_error_set(&error, FERRY_ABORTED, -ECONNABORTED, "the session %s was left open",
                        m->session_id);
        place = mover_settle(m, cancel);
        if (place == MOVER_AT_DESTINATION)
                return outcome_success(cli, m);
        return outcome_after_failure(cli, m, place, &error);
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(rpc_group_freep) rpc_group *group = NULL;
        _cleanup_(peer_freep) peer *from = NULL, *to = NULL;
        const settle_values *v = values;
        cli_exit code;
        mover m;

        if (!cli_need_words("settle", words, 1, names))
                return CLI_EXIT_USAGE;
        if (!v->to)
                return cli_fail_usage("settle", "--to is missing");
        if (outcome_is_same_place(cli->root, v->to))
                return cli_fail_usage("settle",
                                      "--to is this host: name the migration's other one");
        if (sandbox_check_name(words->words[0], &error) < 0 ||
            peer_open(cli->root, &from, &error) < 0 || peer_open(v->to, &to, &error) < 0 ||
            rpc_group_new(&group, &error) < 0 ||
            mover_init(&m, group, from, to, words->words[0], &error) < 0)
                return cli_fail(&error);
        code = settle(cli, &m, v->cancel);
        mover_done(&m);
        return code;
}

const cli_verb cmd_settle = {
        .name = "settle",
        .arguments = "NAME --to TARGET [--cancel]",
        .summary = "finish a migration that was left open or undecided",
        .details = "Asks both sides, carries the one's record to the other where that decides, and "
                   "closes the\nsession: 0 it runs at the destination, 5 it runs at the source, 6 "
                   "still undecided. A\ntransfer that is under way is left alone unless --cancel.",
        .has_json = true,
        .options = options,
        .n_options = ELEMENTS(options),
        .values_size = sizeof(settle_values),
        .run = run,
};
