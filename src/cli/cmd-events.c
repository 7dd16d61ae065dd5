/* SPDX-License-Identifier: MIT */

/* ferry events: the notifications of a sandbox's migration session, as they come. */

#include <signal.h>
#include <stdio.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/format.h"
#include "cli/output.h"
#include "cli/reach.h"
#include "cli/wire-json.h"

typedef struct events_values {
        bool wait;
} events_values;

static const cli_option options[] = {
        { "wait", NULL, "wait for a session when there is none", CLI_OPTION_SWITCH,
          offsetof(events_values, wait) },
};

typedef struct follower {
        bool json, ended, session_began, reader_gone;
        ferry_error error;
} follower;

static uint64_t timestamp_usec(const Google__Protobuf__Timestamp *t) {
        if (!t || t->seconds < 0 || t->nanos < 0 ||
            t->seconds > INT64_MAX / (int64_t)USEC_PER_SEC - 1)
                return 0;
        return (uint64_t)t->seconds * USEC_PER_SEC + (uint32_t)t->nanos / NSEC_PER_USEC;
}

static void print_line(const NotificationsResponse *message) {
        const Notification *n = message->notification;
        char phase[64], how[64], origin[64], when[FORMAT_MAX], text[FORMAT_MAX];

        printf("%s  #%-3u %-11s %s/%s", format_time(timestamp_usec(message->update_time), when),
               message->message_id, wire_enum_name(&origin__descriptor, (int)n->origin, origin),
               wire_enum_name(&phase__descriptor, (int)n->phase, phase),
               wire_enum_name(&phase_state__descriptor, (int)n->state, how));
        if (n->progress) {
                printf("  pass %u  %s sent", n->progress->pass,
                       format_bytes(n->progress->bytes_sent, text));
                printf("  %s left", format_bytes(n->progress->bytes_remaining, text));
        }
        if (n->phase_details_case == NOTIFICATION__PHASE_DETAILS_BLACKOUT_EXITED &&
            n->blackout_exited)
                printf("  blackout %s",
                       format_duration(n->blackout_exited->blackout_duration_microseconds, text));
        if (n->reason && n->reason[0] != '\0')
                printf("  %s", n->reason);
        putchar('\n');
}

static void on_notification(const ProtobufCMessage *message, void *userdata) {
        const NotificationsResponse *response = (const NotificationsResponse *)message;
        follower *f = userdata;
        json_t *json;

        if (!response->notification || f->reader_gone)
                return;
        if (f->json) {
                if (wire_to_json(message, &json) < 0 || output_json_line(json) < 0)
                        f->reader_gone = true;
                return;
        }
        print_line(response);
        if (fflush(stdout) != 0)
                f->reader_gone = true;
}

static void on_end(const ferry_error *error, void *userdata) {
        follower *f = userdata;

        f->ended = true;
        if (error->code != FERRY_OK)
                ferry_error_set(&f->error, error->code, -EIO, "%s", ferry_error_message(error));
}

static void on_status(const ProtobufCMessage *message, void *userdata) {
        const shim_status *status = (const shim_status *)message;
        follower *f = userdata;

        if (status->session)
                f->session_began = true;
}

static int wait_for_session(reach *r, follower *f, ferry_error *reterr) {
        int e;

        e = call_watch(r->shim, on_status, on_end, f, reterr);
        while (e == 0 && !f->session_began && !f->ended)
                e = rpc_group_wait(r->group, UINT64_MAX, reterr);
        if (e == 0 && !f->session_began)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -ENOTCONN, "the shim has ended");
        return e;
}

static int follow(const cli_context *cli, const char *name, reach *r, follower *f,
                  ferry_error *reterr) {
        int e;

        e = call_notifications(r->shim, r->status->session->session_id, on_notification, on_end, f,
                               reterr);
        while (e == 0 && !f->ended && !f->reader_gone)
                e = rpc_group_wait(r->group, UINT64_MAX, reterr);
        if (e == 0 && f->error.code != FERRY_OK) {
                ferry_error_move(reterr, &f->error);
                return -EIO;
        }
        return e;
}

/* The Watch and the Notifications stream each have a connection: one stream a connection. */
static int run_events(const cli_context *cli, const char *name, bool wait, ferry_error *reterr) {
        follower f = { .json = cli->json, .error = FERRY_ERROR_INIT };
        reach r;
        int e;

        e = reach_open(cli, name, &r, reterr);
        if (e < 0)
                return e;
        if (!r.status->session && !wait)
                e = ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOENT,
                                    "%s has no migration session; --wait waits for one", name);
        else if (!r.status->session) {
                follower watcher = { .error = FERRY_ERROR_INIT };

                e = wait_for_session(&r, &watcher, reterr);
                ferry_error_done(&watcher.error);
                if (e == 0) {
                        reach_done(&r);
                        e = reach_open(cli, name, &r, reterr);
                        if (e < 0)
                                return e;
                }
                if (e == 0 && !r.status->session)
                        e = ferry_error_set(reterr, FERRY_UNAVAILABLE, -ENOENT,
                                            "the session of %s was over at once", name);
        }
        if (e == 0)
                e = follow(cli, name, &r, &f, reterr);
        ferry_error_done(&f.error);
        reach_done(&r);
        return e;
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const events_values *v = values;

        if (!cli_need_words("events", words, 1, names))
                return CLI_EXIT_USAGE;
        if (run_events(cli, words->words[0], v->wait, &error) < 0)
                return error.code == FERRY_CANCELLED ? cli_interrupted() : cli_fail(&error);
        return CLI_EXIT_OK;
}

const cli_verb cmd_events = {
        .name = "events",
        .arguments = "NAME [--wait] [--json]",
        .summary = "follow the notifications of a migration session",
        .details = "Prints the session's history, then what follows, until the session is cleaned "
                   "up. With\n--json each is one object on a line.",
        .has_json = true,
        .options = options,
        .n_options = ELEMENTS(options),
        .values_size = sizeof(events_values),
        .run = run,
};
