/* SPDX-License-Identifier: MIT */

/* ferry migrate: moves a running sandbox to another host. mover.c does it, settle.c is the way out;
 * here is what the person sees. */

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/check.h"
#include "cli/cli.h"
#include "cli/find.h"
#include "cli/format.h"
#include "cli/migrate-options.h"
#include "cli/mover.h"
#include "cli/outcome.h"
#include "cli/output.h"
#include "cli/peer.h"
#include "cli/sandbox.h"
#include "cli/view.h"
#include "services/annotations.h"

static int open_peers(const cli_context *cli, const char *name, const char *target, peer **ret_from,
                      peer **ret_to, ferry_error *reterr) {
        int r;

        r = sandbox_check_exists(cli->root, name, reterr);
        if (r == 0)
                r = peer_check_target(target, reterr);
        if (r == 0)
                r = peer_open(cli->root, ret_from, reterr);
        if (r == 0)
                r = peer_open(target, ret_to, reterr);
        if (r < 0)
                return r;
        if (outcome_is_same_place(cli->root, target))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EEXIST,
                                       "--to %s is the root that %s is in", target, name);
        return 0;
}

static cli_exit migrate(const cli_context *cli, mover *m, InitializeOptions *options,
                        ferry_error *error) {
        bool by_caller = options->handover == HANDOVER__HANDOVER_CALLER;
        mover_place place;
        view v;

        view_init(&v);
        m->on_change = view_change;
        m->userdata = &v;
        if (mover_run(m, options, by_caller, error) == 0) {
                view_end(&v, m);
                return outcome_success(cli, m);
        }
        view_end(&v, m);
        if (!m->begun)
                return outcome_not_begun(cli, m, error);
        if (error->code == FERRY_CANCELLED)
                fprintf(stderr, "ferry: cancelling; the sandbox will go on at the source\n");
        place = mover_settle(m, true);
        view_end(&v, m);
        return outcome_after_failure(cli, m, place, error);
}

static void files_done(outcome_files *files) {
        out_file_done(&files->report);
        out_file_done(&files->trace);
}

/* --check. False: told why it cannot. */
static bool may_go(const cli_context *cli, rpc_group *group, const mover *m,
                   const InitializeOptions *options, cli_exit *ret_code) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        bool good = false;
        check c;

        if (check_run(&c, group, m->from, m->to, m->name, options, &error) < 0)
                *ret_code = cli_fail(&error);
        else {
                good = check_is_good(&c);
                *ret_code = CLI_EXIT_REFUSED;
        }
        if (!good && error.code == FERRY_OK) {
                fprintf(stderr, "ferry: %s cannot go to host %s:\n", m->name, m->to->name);
                check_print_reasons(&c, stderr);
                if (cli->json)
                        (void)output_json(check_to_json(&c));
        }
        check_done(&c);
        return good;
}

static bool is_session_id(const char *text) {
        size_t n = strlen(text);

        return n > 0 && n < SESSION_ID_SIZE &&
               strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == n;
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(rpc_group_freep) rpc_group *group = NULL;
        _cleanup_(peer_freep) peer *from = NULL, *to = NULL;
        _cleanup_(files_done) outcome_files files = { OUT_FILE_INIT, OUT_FILE_INIT };
        _cleanup_(freep) char *name = NULL;
        const migrate_values *v = values;
        migrate_request request;
        cli_exit code;
        mover m;

        if (!cli_need_words("migrate", words, 1, names))
                return CLI_EXIT_USAGE;
        if (!v->to)
                return cli_fail_usage("migrate", "--to is missing");
        if (v->network && v->network[0] != '/' && strcmp(v->network, "none") != 0)
                return cli_fail_usage("migrate",
                                      "--network '%.64s': must be an absolute path, or none",
                                      v->network);
        if (v->keep_address && v->network && strcmp(v->network, "none") == 0)
                return cli_fail_usage("migrate", "--keep-address and --network none contradict "
                                                 "each other");
        if (v->keep_address && v->await_pod)
                return cli_fail_usage(
                        "migrate",
                        "--keep-address with --await-pod: who makes the "
                        "containers there gives them the annotation " ANNOTATION_KEEP_ADDRESS
                        "=true");
        if (v->session_id && !is_session_id(v->session_id))
                return cli_fail_usage("migrate",
                                      "--session-id '%.64s': up to %u letters, digits "
                                      "and '-'",
                                      v->session_id, SESSION_ID_SIZE - 1);
        if (rpc_group_new(&group, &error) < 0 ||
            find_sandbox(cli->root, group, words->words[0], &name, &error) < 0 ||
            open_peers(cli, name, v->to, &from, &to, &error) < 0)
                return cli_fail(&error);
        if (out_file_open("report", v->report, &files.report, &error) < 0 ||
            out_file_open("trace", v->trace, &files.trace, &error) < 0 ||
            migrate_request_init(&request, v, &error) < 0)
                return cli_fail(&error);
        if (mover_init(&m, group, from, to, name, &error) < 0) {
                migrate_request_done(&request);
                return cli_fail(&error);
        }
        if (v->check && !may_go(cli, group, &m, &request.options, &code)) {
                mover_done(&m);
                migrate_request_done(&request);
                return code;
        }
        if (v->timeout.given)
                m.deadline_usec = m.start_usec + v->timeout.value * USEC_PER_SEC;
        m.files = &files;
        m.network = v->network;
        m.keeps_address = v->keep_address;
        m.awaits = v->await_pod;
        if (v->session_id)
                snprintf(m.session_id, sizeof(m.session_id), "%s", v->session_id);
        code = migrate(cli, &m, &request.options, &error);
        mover_done(&m);
        migrate_request_done(&request);
        return code;
}

const cli_verb cmd_migrate = {
        .name = "migrate",
        .arguments = "NAME --to TARGET [...]",
        .summary = "move a running sandbox to another host",
        .details = "NAME may be that of a container of containerd's: its whole sandbox moves.\n"
                   "TARGET is the state root of another host of this machine (`ferry host set`). "
                   "The guest\nkeeps running, its memory and connections are kept. Ctrl-C or "
                   "SIGTERM cancels and rolls\nback: the sandbox goes on at the source. Exit code "
                   "5: it failed and runs at the source;\n6: undecided, neither side runs it until "
                   "`ferry recover`; 130: cancelled, as asked.",
        .has_json = true,
        .options = migrate_options,
        .n_options = N_MIGRATE_OPTIONS,
        .values_size = sizeof(migrate_values),
        .run = run,
};
