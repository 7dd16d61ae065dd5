/* SPDX-License-Identifier: MIT */

/* ferry ls: the sandboxes of a state root. */

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/cli.h"
#include "cli/end.h"
#include "cli/format.h"
#include "cli/output.h"
#include "cli/pair.h"
#include "cli/reach.h"
#include "cli/sandbox.h"
#include "cli/table.h"
#include "cli/wire-json.h"

typedef struct entry {
        shim_status *status; /* NULL: no shim answers */
        const char *state;
        bool undecided;
        char *advice; /* the command that helps; NULL: none is needed */
} entry;

static void entry_done(entry *e) {
        if (e->status)
                protobuf_c_message_free_unpacked(&e->status->base, NULL);
        free(e->advice);
        *e = (entry){ 0 };
}

/* One that cannot be told leaves the list as it is. */
static void advise(const cli_context *cli, const char *name, entry *e) {
        _cleanup_(freep) char *other =
                pair_find(cli->root, name, e->status ? e->status->session->session_id : NULL);

        if (asprintf(&e->advice, "ferry --root %s recover %s%s%s", cli->root, name,
                     e->undecided ? " --to " : "",
                     !e->undecided ? ""
                     : other       ? other
                                   : "TARGET") < 0)
                e->advice = NULL;
}

/* Never fails for one sandbox: the list shows what can be known. False: interrupted. */
static bool look_at(const cli_context *cli, rpc_group *group, const char *name,
                    char state[static 64], entry *ret) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(rpc_closep) rpc *shim = NULL;
        _cleanup_(freep) char *path = NULL;
        bool has_shim = false;

        *ret = (entry){ .state = "unreachable" };
        if (sandbox_has_shim(cli->root, name, &has_shim, NULL) < 0)
                return true;
        if (!has_shim) {
                bool has_vm = end_has_living_vm(cli->root, name);

                ret->state = has_vm ? "no shim" : "ended";
                ret->undecided = end_has_open_session(cli->root, name);
                if (has_vm || ret->undecided)
                        advise(cli, name, ret);
                return true;
        }
        if (sandbox_path(cli->root, name, "shim.sock", &path, &error) < 0 ||
            rpc_open(group, path, "the shim", &shim, &error) < 0 ||
            call_status(shim, &ret->status, &error) < 0)
                return error.code != FERRY_CANCELLED;
        ret->state = reach_vm_state(ret->status, state);
        ret->undecided = ret->status->session && ret->status->session->undecided;
        if (ret->undecided)
                advise(cli, name, ret);
        return true;
}

/* The containers' names, with commas; "-". */
static int list_containers(const shim_status *s, char **ret) {
        const Ferry__Shim__V1__Containerd *c = s ? s->containerd : NULL;
        size_t size = 2, at = 0;
        char *text;

        for (size_t i = 0; c && i < c->n_containers; i++)
                size += strlen(c->containers[i]->id) + 1;
        text = malloc(size);
        if (!text)
                return -ENOMEM;
        strcpy(text, "-");
        for (size_t i = 0; c && i < c->n_containers; i++)
                at += (size_t)snprintf(text + at, size - at, "%s%s", i > 0 ? "," : "",
                                       c->containers[i]->id);
        *ret = text;
        return 0;
}

static int add_row(table *t, const char *name, const entry *e) {
        char vcpus[FORMAT_MAX] = "-", memory[FORMAT_MAX] = "-", since[FORMAT_MAX] = "-";
        _cleanup_(freep) char *session = NULL, *containers = NULL;
        const shim_status *s = e->status;

        if (s && s->vcpus > 0)
                snprintf(vcpus, sizeof(vcpus), "%u", s->vcpus);
        if (s && s->memory_bytes > 0)
                format_bytes(s->memory_bytes, memory);
        if (s && s->running_since_usec > 0 && s->running_since_usec < wall_usec())
                format_duration(wall_usec() - s->running_since_usec, since);
        if (asprintf(&session, "%s%s%s",
                     e->undecided      ? "undecided"
                     : s && s->session ? s->session->state
                                       : "-",
                     e->advice ? ": " : "", e->advice ? e->advice : "") < 0) {
                session = NULL;
                return -ENOMEM;
        }
        if (list_containers(s, &containers) < 0)
                return -ENOMEM;
        return table_add(t, (const char *[]){ name, e->state, vcpus, memory, since,
                                              s && s->session ? s->session->origin : "-",
                                              containers, session });
}

static int add_json(json_t *list, const char *name, const entry *e) {
        json_t *object, *status = NULL;

        if (e->status && wire_to_json(&e->status->base, &status) < 0)
                return -ENOMEM;
        object = json_pack("{s:s, s:s, s:s?, s:o}", "name", name, "state", e->state, "recover",
                           e->advice, "status", status ? status : json_null());
        return json_array_append_new(list, object) < 0 ? -ENOMEM : 0;
}

static cli_exit print_list(const cli_context *cli, const sandbox_names *names, rpc_group *group) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(table_freep) table *t = NULL;
        json_t *list = json_array();
        int r = 0;

        if (!list || table_new(8, &t) < 0 ||
            table_add(t, (const char *[]){ "NAME", "STATE", "VCPUS", "MEMORY", "RUNNING", "ORIGIN",
                                           "CONTAINERS", "SESSION" }) < 0)
                r = -ENOMEM;
        for (size_t i = 0; r == 0 && i < names->n; i++) {
                char state[64];
                entry e;

                if (!look_at(cli, group, names->names[i], state, &e)) {
                        entry_done(&e);
                        json_decref(list);
                        return cli_interrupted();
                }
                r = cli->json ? add_json(list, names->names[i], &e)
                              : add_row(t, names->names[i], &e);
                entry_done(&e);
        }
        if (r < 0) {
                json_decref(list);
                ferry_error_set_errno(&error, r, "ls");
                return cli_fail(&error);
        }
        if (cli->json)
                return output_json(list);
        json_decref(list);
        if (names->n > 0)
                table_print(t, stdout);
        else
                fprintf(stderr, "ferry: no sandboxes in %s\n", cli->root);
        return CLI_EXIT_OK;
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(rpc_group_freep) rpc_group *group = NULL;
        sandbox_names names;
        cli_exit code;

        if (!cli_need_words("ls", words, 0, NULL))
                return CLI_EXIT_USAGE;
        if (sandbox_list(cli->root, &names, &error) < 0)
                return cli_fail(&error);
        code = rpc_group_new(&group, &error) < 0 ? cli_fail(&error)
                                                 : print_list(cli, &names, group);
        sandbox_names_done(&names);
        return code;
}

const cli_verb cmd_ls = {
        .name = "ls",
        .arguments = "[--json]",
        .summary = "list the sandboxes of this host",
        .has_json = true,
        .run = run,
};
