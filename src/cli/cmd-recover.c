/* SPDX-License-Identifier: MIT */

/* ferry recover: makes a sandbox whole again. A shim that died is started anew; a migration session
 * that was left open or undecided is settled with the other host. */

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/end.h"
#include "cli/mover-containers.h"
#include "cli/outcome.h"
#include "cli/output.h"
#include "cli/pair.h"
#include "cli/peer.h"
#include "cli/reach.h"
#include "cli/sandbox.h"

#define TRIES_MAX    5U
#define TRY_INTERVAL (100 * USEC_PER_MSEC)

typedef struct recover_values {
        const char *to;
        bool cancel, force, stale;
        const char *fenced, *reason;
} recover_values;

static const cli_option options[] = {
        { "to", "TARGET", "the migration's other host; default: as `ferry migrate` noted it",
          CLI_OPTION_TEXT, offsetof(recover_values, to) },
        { "cancel", NULL, "roll back a transfer that is still under way", CLI_OPTION_SWITCH,
          offsetof(recover_values, cancel) },
        { "force", NULL, "run this host's copy, the other host being lost for good",
          CLI_OPTION_SWITCH, offsetof(recover_values, force) },
        { "fenced", "PROOF", "with --force: how it is known that the other host is off",
          CLI_OPTION_TEXT, offsetof(recover_values, fenced) },
        { "reason", "TEXT", "with --force: for the audit log", CLI_OPTION_TEXT,
          offsetof(recover_values, reason) },
        { "copy-may-be-stale", NULL, "with --force at a destination: the source may have run on",
          CLI_OPTION_SWITCH, offsetof(recover_values, stale) },
};

/* One of the two hosts. */
typedef struct place {
        peer *host;
        rpc *shim;           /* the group's; NULL: nothing of the sandbox is there */
        shim_status *status; /* with `shim` */
        bool started;        /* its shim, by us */
} place;

typedef struct recovery {
        const cli_context *cli;
        const char *name;
        const recover_values *values;
        rpc_group *group;
        place here, there;
        char *recorded; /* the other root, as noted; NULL */
} recovery;

static void place_done(place *p) {
        if (p->status)
                protobuf_c_message_free_unpacked(&p->status->base, NULL);
        p->host = peer_free(p->host);
}

static void recovery_done(recovery *r) {
        rpc_group_free(r->group); /* the connections too */
        place_done(&r->here);
        place_done(&r->there);
        free(r->recorded);
}

static bool is_left(const char *root, const char *name) {
        bool has_shim = false;

        return sandbox_has_shim(root, name, &has_shim, NULL) < 0 || has_shim ||
               end_has_living_vm(root, name) || end_has_open_session(root, name);
}

/* The shim of one host, started where it died, and what it knows. */
static int look_at(recovery *r, place *p, const char *label, ferry_error *reterr) {
        const char *name = peer_sandbox(p->host, r->name);
        bool has_shim = true;
        int e;

        e = sandbox_check_exists(p->host->root, name, reterr);
        if (e < 0)
                return e;
        if (!is_left(p->host->root, name))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ESRCH,
                                       "no VM of %s is left to recover; `ferry --root %s stop %s` "
                                       "removes what remains",
                                       name, p->host->root, name);
        /* One that is just being killed still seems to be there. */
        for (unsigned tries = 0; tries < TRIES_MAX; tries++) {
                ferry_error_done(reterr);
                (void)sandbox_has_shim(p->host->root, name, &has_shim, NULL);
                e = p->host->operations->open(p->host, r->group, r->name, true, label, &p->shim,
                                              reterr);
                if (e == 0)
                        e = end_status_settled(r->group, p->shim, &p->status, reterr);
                if (e == 0 || reterr->code != FERRY_UNAVAILABLE)
                        break;
                p->shim = p->shim ? rpc_close(p->shim) : NULL;
                if (end_pause(r->group, TRY_INTERVAL, NULL) < 0)
                        break;
        }
        p->started = !has_shim;
        return e;
}

static const Ferry__Shim__V1__Session *session_of(const place *p) {
        return p->status ? p->status->session : NULL;
}

static bool has_part(const place *p, const char *session_id) {
        if (!p->status)
                return false;
        if (p->status->session && strcmp(p->status->session->session_id, session_id) == 0)
                return true;
        for (size_t i = 0; i < p->status->n_tombstones; i++)
                if (strcmp(p->status->tombstones[i]->session_id, session_id) == 0)
                        return true;
        return false;
}

/* No session of it is open here, and no other host was named. */
static cli_exit finish_alone(const recovery *r) {
        const shim_status *status = r->here.status;
        bool has_ended = status->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_STOPPED ||
                         status->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_NONE;
        char state[64];
        cli_exit code;

        (void)reach_vm_state(status, state);
        if (r->cli->json) {
                code = output_json(json_pack("{s:s, s:s, s:s}", "name", r->name, "outcome",
                                             has_ended         ? "ended"
                                             : r->here.started ? "shim started"
                                                               : "nothing to do",
                                             "vm_state", state));
                return code == CLI_EXIT_OK && has_ended ? CLI_EXIT_FAILED : code;
        }
        fprintf(stderr, "ferry: %s\n",
                r->here.started ? "a new shim has taken over" : "its shim runs");
        if (status->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_NONE)
                fprintf(stderr,
                        "ferry: no VM of it is here; `ferry --root %s stop %s` removes it\n",
                        r->cli->root, r->name);
        else if (has_ended)
                fprintf(stderr,
                        "ferry: its VM has ended%s%s; `ferry --root %s stop %s` removes it\n",
                        status->exit_reason[0] ? ": " : "", status->exit_reason, r->cli->root,
                        r->name);
        else if (status->vm_state != FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING)
                fprintf(stderr, "ferry: its VM is %s\n", state);
        return has_ended ? CLI_EXIT_FAILED : CLI_EXIT_OK;
}

/* An empty shim on one side, beside the sandbox that runs on the other: of a migration that could
 * not clear away all. */
static bool clear_leftover(recovery *r, place *p, const place *other, int *ret_r) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        mover m;

        if (r->there.host->sandbox) /* pods of CRI's, which are CRI's to remove */
                return false;
        if (!p->status || p->status->vm_state != FERRY__SHIM__V1__VM_STATE__VM_STATE_NONE ||
            !other->status ||
            other->status->vm_state != FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING)
                return false;
        p->shim = rpc_close(p->shim);
        p->host->operations->forward(p->host, r->name, other->host);
        *ret_r = mover_init(&m, r->group, p->host, other->host, r->name, &error);
        if (*ret_r == 0) {
                mover_take_containers(&m, p->status);
                *ret_r = mover_clear_side(&m, p->host, true, &error);
                mover_done(&m);
        }
        if (*ret_r < 0)
                fprintf(stderr, "ferry: %s: not all was cleared away: %s\n", p->host->root,
                        ferry_error_message(&error));
        else
                fprintf(stderr, "ferry: what a migration left of %s in %s is removed\n", r->name,
                        p->host->root);
        return true;
}

/* It runs on the other side, and all is done there. */
static cli_exit finish_there(const recovery *r) {
        if (r->cli->json)
                return output_json(json_pack("{s:s, s:s, s:s}", "name", r->name, "outcome",
                                             "nothing to do", "runs_at", r->there.host->name));
        printf("%s runs on host %s (ferry --root %s status %s)\n", r->name, r->there.host->name,
               r->there.host->root, r->name);
        return CLI_EXIT_OK;
}

/* A session, and nobody knows with whom. */
static cli_exit explain_session(const recovery *r) {
        const Ferry__Shim__V1__Session *s = r->here.status->session;

        fprintf(stderr,
                "ferry: %s is the %s of the migration session %s, which is %s here; name the other "
                "host: `ferry --root %s recover %s --to TARGET`\n",
                r->name, s->origin, s->session_id, s->undecided ? "undecided" : s->state,
                r->cli->root, r->name);
        return s->undecided ? CLI_EXIT_UNDECIDED : CLI_EXIT_REFUSED;
}

/* Where --to leads, and that it is the host of this session. */
static int look_there(recovery *r, const char *target, ferry_error *reterr) {
        const Ferry__Shim__V1__Session *s = session_of(&r->here);
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int e;

        e = peer_check_target(target, reterr);
        if (e == 0)
                e = peer_open(target, &r->there.host, reterr);
        if (e < 0)
                return e;
        if (r->recorded && outcome_is_same_place(r->recorded, target))
                r->there.host->sandbox = pair_find_name(r->cli->root, r->name);
        e = look_at(r, &r->there, "the other host's shim", &error);
        if (e < 0 && error.code != FERRY_NOT_FOUND)
                fprintf(stderr, "ferry: %s: %s\n", target, ferry_error_message(&error));
        if (!s || has_part(&r->there, s->session_id))
                return 0;
        if (r->recorded && strcmp(r->recorded, target) != 0 &&
            !outcome_is_same_place(r->recorded, target))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "%s has no part in the session %s of %s: that is with %s",
                                       target, s->session_id, r->name, r->recorded);
        if (r->there.status)
                fprintf(stderr,
                        "ferry: the %s in %s has no part in the session, and is left alone\n",
                        r->name, target);
        return 0;
}

static cli_exit tell(const recovery *r, mover *m, mover_place at) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        ferry_error_set(&error, FERRY_ABORTED, -ECONNABORTED, "the session %s was left open",
                        m->session_id);
        if (at == MOVER_AT_DESTINATION)
                return outcome_success(r->cli, m);
        if (at == MOVER_AT_SOURCE)
                return outcome_rolled_back(r->cli, m, &error);
        return outcome_after_failure(r->cli, m, at, &error);
}

static cli_exit settle(recovery *r, ferry_error *error) {
        bool found_here = session_of(&r->here) != NULL, here_is_source;
        const Ferry__Shim__V1__Session *s =
                found_here ? session_of(&r->here) : session_of(&r->there);
        place *source, *destination;
        cli_exit code;
        mover m;

        here_is_source = (strcmp(s->origin, "source") == 0) == found_here;
        source = here_is_source ? &r->here : &r->there;
        destination = here_is_source ? &r->there : &r->here;
        if (mover_init(&m, r->group, source->host, destination->host, r->name, error) < 0)
                return cli_fail(error);
        if (strlen(s->session_id) >= sizeof(m.session_id)) {
                ferry_error_set(error, FERRY_FAILED_PRECONDITION, -ENAMETOOLONG,
                                "the session %.64s is not one of `ferry migrate`: settle it with "
                                "what began it",
                                s->session_id);
                return cli_fail(error);
        }
        strcpy(m.session_id, s->session_id);
        mover_learn_containers(&m, source->status, destination->status);
        /* asked anew by mover_settle(), under their own names */
        source->shim = source->shim ? rpc_close(source->shim) : NULL;
        destination->shim = destination->shim ? rpc_close(destination->shim) : NULL;
        m.made_destination =
                sandbox_check_exists(destination->host->root,
                                     peer_sandbox(destination->host, r->name), NULL) == 0;
        m.awaits = r->there.host && r->there.host->sandbox;
        m.has_pod = m.awaits && strcmp(r->there.host->sandbox, r->name) != 0;
        code = tell(r, &m, mover_settle(&m, r->values->cancel));
        mover_done(&m);
        return code;
}

/* Without the other side. What it says, where it can be asked, counts more than any proof. */
static cli_exit force(recovery *r, ferry_error *error) {
        const Ferry__Shim__V1__Session *s = session_of(&r->here), *other = session_of(&r->there);
        char state[64];

        if (!s) {
                ferry_error_set(error, FERRY_FAILED_PRECONDITION, -ENOENT,
                                "%s has no migration session in %s: there is nothing to force",
                                r->name, r->cli->root);
                return cli_fail(error);
        }
        if (r->there.status && has_part(&r->there, s->session_id) &&
            !(other && strcmp(other->detail, "D_LOST") == 0)) {
                ferry_error_set(error, FERRY_FAILED_PRECONDITION, -EBUSY,
                                "the other host, %s, answers: `ferry --root %s recover %s` without "
                                "--force settles it",
                                r->there.host->root, r->cli->root, r->name);
                return cli_fail(error);
        }
        if (call_finalize_forced(r->here.shim, s->session_id, r->values->fenced, r->values->reason,
                                 r->values->stale, error) < 0 ||
            call_cleanup(r->here.shim, s->session_id, error) < 0)
                return cli_fail(error);
        pair_forget(r->cli->root, r->name);
        protobuf_c_message_free_unpacked(&r->here.status->base, NULL);
        r->here.status = NULL;
        if (call_status(r->here.shim, &r->here.status, error) < 0)
                return cli_fail(error);
        (void)reach_vm_state(r->here.status, state);
        if (r->cli->json)
                return output_json(json_pack("{s:s, s:s, s:s, s:s}", "name", r->name, "outcome",
                                             "forced", "vm_state", state, "runs_at",
                                             r->here.host->name));
        printf("%s is %s on host %s, by force (%s/%s/audit.log)\n", r->name, state,
               r->here.host->name, r->cli->root, r->name);
        return CLI_EXIT_OK;
}

static cli_exit recover(recovery *r, ferry_error *error) {
        const char *target = r->values->to;
        int e;

        if (rpc_group_new(&r->group, error) < 0 ||
            peer_open(r->cli->root, &r->here.host, error) < 0)
                return cli_fail(error);
        e = look_at(r, &r->here, "the shim", error);
        /* Nothing here: with --to the session may be found at the other side. */
        if (e < 0 && (!target ||
                      (error->code != FERRY_NOT_FOUND && error->code != FERRY_FAILED_PRECONDITION)))
                return cli_fail(error);
        ferry_error_done(error);
        r->recorded = pair_find(r->cli->root, r->name,
                                session_of(&r->here) ? session_of(&r->here)->session_id : NULL);
        if (!target)
                target = r->recorded;
        if (!target && !r->values->force)
                return session_of(&r->here) ? explain_session(r) : finish_alone(r);
        if (target && look_there(r, target, error) < 0)
                return cli_fail(error);
        if (r->values->force)
                return force(r, error);
        if (session_of(&r->here) || session_of(&r->there))
                return settle(r, error);
        if (clear_leftover(r, &r->there, &r->here, &e)) {
                if (e == 0)
                        pair_forget(r->cli->root, r->name);
                return e < 0 ? CLI_EXIT_FAILED : finish_alone(r);
        }
        if (clear_leftover(r, &r->here, &r->there, &e))
                return e < 0 ? CLI_EXIT_FAILED : finish_there(r);
        if (r->here.started || !r->values->to) {
                pair_forget(r->cli->root, r->name);
                return finish_alone(r);
        }
        ferry_error_set(error, FERRY_NOT_FOUND, -ENOENT,
                        "neither %s nor %s has a migration session of %s that is open",
                        r->cli->root, target, r->name);
        return cli_fail(error);
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        recovery r = { .cli = cli, .values = values };
        cli_exit code;

        if (!cli_need_words("recover", words, 1, names))
                return CLI_EXIT_USAGE;
        r.name = words->words[0];
        if (sandbox_check_name(r.name, &error) < 0)
                return cli_fail(&error);
        if (r.values->to && outcome_is_same_place(cli->root, r.values->to))
                return cli_fail_usage("recover",
                                      "--to is this host: name the migration's other one");
        if (r.values->force && (!r.values->fenced || !r.values->reason))
                return cli_fail_usage("recover", "--force needs --fenced and --reason");
        if (!r.values->force && (r.values->fenced || r.values->reason || r.values->stale))
                return cli_fail_usage("recover", "--fenced, --reason and --copy-may-be-stale go "
                                                 "with --force");
        code = recover(&r, &error);
        recovery_done(&r);
        return code;
}

const cli_verb cmd_recover = {
        .name = "recover",
        .arguments = "NAME [--to TARGET] [--cancel | --force --fenced PROOF --reason TEXT]",
        .summary = "bring back a sandbox: its shim, and a migration that was left open",
        .details =
                "A shim that died is started again: QEMU outlives it, the guest does not notice. A "
                "migration\nwhose `ferry migrate` was killed, or that was left undecided, is "
                "settled "
                "from either host:\nboth sides are asked, the one's record is carried to the other "
                "where that decides, and the\nsession is closed.\n\n"
                "0: it is whole, and runs on the side that is told. 1: its VM has ended. 4: a "
                "transfer is under\nway and its source owns it: wait, or --cancel. 6: undecided, "
                "as "
                "the other side cannot be asked;\nboth are left as they are.\n\n"
                "--force runs this host's copy of an undecided session without the other side. If "
                "that still runs\nit, there are two: make sure first that its host is off, and say "
                "how in --fenced. Both texts go\nto the sandbox's audit.log. Refused while the "
                "other host answers.",
        .has_json = true,
        .options = options,
        .n_options = ELEMENTS(options),
        .values_size = sizeof(recover_values),
        .run = run,
};
