/* SPDX-License-Identifier: MIT */

/* ferry run: a new sandbox. Writes its configuration, starts its shim, waits until the VM runs;
 * when that fails nothing stays. */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/cli.h"
#include "cli/end.h"
#include "cli/launch.h"
#include "cli/output.h"
#include "cli/reach.h"
#include "cli/run-config.h"
#include "cli/sandbox.h"
#include "cli/wire-json.h"

#define START_TIMEOUT (120 * USEC_PER_SEC)
#define LOG_LINES     8U

typedef struct run_values {
        run_config_values config;
        bool wait;
} run_values;

#define AT(field) (offsetof(run_values, config) + offsetof(run_config_values, field))

static const cli_option options[] = {
        { "config", "FILE", "the VM's configuration, JSON (docs/vm-config.md)", CLI_OPTION_TEXT,
          AT(file) },
        { "memory", "MIB", "without --config: the guest's memory (default 256)", CLI_OPTION_NUMBER,
          AT(memory) },
        { "vcpus", "N", "without --config: virtual CPUs (default 1)", CLI_OPTION_NUMBER,
          AT(vcpus) },
        { "kernel", "FILE", "without --config: the guest's kernel", CLI_OPTION_TEXT, AT(kernel) },
        { "initrd", "FILE", "without --config: its initramfs", CLI_OPTION_TEXT, AT(initrd) },
        { "cmdline", "TEXT", "without --config: its command line (Linux: default console=ttyS0)",
          CLI_OPTION_TEXT, AT(cmdline) },
        { "disk", "FILE", "without --config: a raw image or block device; may be repeated",
          CLI_OPTION_TEXTS, AT(disks) },
        { "network", NULL, "without --config: a network device on the host's bridge",
          CLI_OPTION_SWITCH, AT(network) },
        { "bridge", "INTERFACE", "without --config: a network device on this bridge",
          CLI_OPTION_TEXT, AT(bridge) },
        { "wait", NULL, "stay until the sandbox ends or moves away", CLI_OPTION_SWITCH,
          offsetof(run_values, wait) },
};

typedef struct watcher {
        bool running, stopped, ended;
        char reason[512];
} watcher;

static void on_status(const ProtobufCMessage *message, void *userdata) {
        const shim_status *s = (const shim_status *)message;
        watcher *w = userdata;

        w->running = s->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING;
        /* "none" before the start is no end */
        w->stopped = s->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_STOPPED;
        if (s->exit_reason[0] != '\0')
                snprintf(w->reason, sizeof(w->reason), "%s", s->exit_reason);
}

static void on_end(const ferry_error *error, void *userdata) {
        watcher *w = userdata;

        w->ended = true;
}

static int wait_until_runs(rpc_group *group, rpc *shim, watcher *w, ferry_error *reterr) {
        uint64_t deadline = now_usec() + START_TIMEOUT;
        int r;

        r = call_watch(shim, on_status, on_end, w, reterr);
        while (r == 0 && !w->running && !w->stopped && !w->ended && now_usec() < deadline)
                r = rpc_group_wait(group, deadline, reterr);
        if (r < 0 || w->running)
                return r;
        if (w->stopped)
                return ferry_error_set(reterr, FERRY_INTERNAL, -EIO, "the VM ended at once%s%s",
                                       w->reason[0] ? ": " : "", w->reason);
        if (w->ended)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -EPIPE, "its shim ended");
        return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, -ETIMEDOUT,
                               "the VM did not run within 120 s");
}

static void print_log(const char *root, const char *name, const char *file) {
        _cleanup_(freep) char *tail = sandbox_log_tail(root, name, file, LOG_LINES);

        if (tail)
                fprintf(stderr, "--- the end of %s ---\n%s\n", file, tail);
}

/* A start that failed: nothing of it stays, and the person sees what the logs said. The VM is
 * ours to end: it was started by this very command and nobody was told of it. */
static void undo(const host *h, const char *name, rpc_group *group, rpc *shim,
                 const ferry_error *why) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *last = NULL;

        rpc_group_set_deaf(group, "undoing the start");
        if (shim && rpc_is_open(shim))
                (void)call_stop(shim, true, NULL);
        (void)end_wait(h, group, name, NULL); /* it writes to its log to the last */
        if (why->code == FERRY_UNAVAILABLE)
                last = sandbox_last_error(h->root, name); /* why it went away */
        fprintf(stderr, "ferry: %s was not started: %s\n", name,
                last ? last : ferry_error_message(why));
        print_log(h->root, name, "shim.log");
        print_log(h->root, name, "qemu.log");
        if (end_wait_and_remove(h, group, name, &error) < 0)
                fprintf(stderr, "ferry: cannot clean up after %s: %s\n", name,
                        ferry_error_message(&error));
}

static int write_config(const host *h, const char *name, const char *text, char **ret_path,
                        ferry_error *reterr) {
        int r;

        r = sandbox_path(h->root, name, "config.json", ret_path, reterr);
        if (r < 0)
                return r;
        r = file_replace(AT_FDCWD, *ret_path, text, strlen(text), 0600, false);
        return r < 0 ? ferry_error_set_errno(reterr, r, "cannot write %s", *ret_path) : 0;
}

static int start(const host *h, const char *name, const char *config, rpc_group *group, watcher *w,
                 rpc **ret_shim, ferry_error *reterr) {
        _cleanup_(freep) char *config_path = NULL, *socket_path = NULL;
        int r;

        r = write_config(h, name, config, &config_path, reterr);
        if (r == 0)
                r = launch_shim(h, name, config_path, NULL, reterr);
        if (r == 0)
                r = sandbox_path(h->root, name, "shim.sock", &socket_path, reterr);
        if (r == 0)
                r = rpc_open(group, socket_path, "the shim", ret_shim, reterr);
        if (r == 0)
                r = wait_until_runs(group, *ret_shim, w, reterr);
        return r;
}

static cli_exit wait_for_end(rpc_group *group, const watcher *w) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        while (!w->stopped && !w->ended)
                if (rpc_group_wait(group, UINT64_MAX, &error) < 0)
                        return cli_interrupted(); /* the sandbox runs on */
        if (w->reason[0] != '\0')
                fprintf(stderr, "ferry: %s\n", w->reason);
        return CLI_EXIT_OK;
}

static cli_exit tell(const cli_context *cli, const char *name, rpc *shim) {
        _cleanup_(message_freep) shim_status *status = NULL;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        json_t *object = NULL;

        if (!cli->json)
                return CLI_EXIT_OK;
        if (call_status(shim, &status, &error) < 0)
                return cli_fail(&error);
        if (wire_to_json(&status->base, &object) < 0 ||
            json_object_set_new(object, "name", json_string(name)) < 0) {
                json_decref(object);
                object = NULL;
        }
        return output_json(object);
}

static cli_exit run_sandbox(const cli_context *cli, const char *name, const host *h,
                            const char *config, bool wait) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(rpc_group_freep) rpc_group *group = NULL;
        watcher w = { 0 };
        rpc *shim = NULL; /* the group's */
        cli_exit code;

        if (rpc_group_new(&group, &error) < 0 || sandbox_make(cli->root, name, &error) < 0)
                return cli_fail(&error);
        if (start(h, name, config, group, &w, &shim, &error) < 0) {
                undo(h, name, group, shim, &error);
                return cli_exit_of(&error);
        }
        code = tell(cli, name, shim);
        return code == CLI_EXIT_OK && wait ? wait_for_end(group, &w) : code;
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *config = NULL;
        _cleanup_(host_freep) host *h = NULL;
        const run_values *v = values;
        bool is_usage = false;

        if (!cli_need_words("run", words, 1, names))
                return CLI_EXIT_USAGE;
        if (sandbox_check_name(words->words[0], &error) < 0)
                return cli_fail_usage("run", "%s", ferry_error_message(&error));
        if (run_config_make(&v->config, &config, &is_usage, &error) < 0)
                return is_usage ? cli_fail_usage("run", "%s", ferry_error_message(&error))
                                : cli_fail(&error);
        if (host_read(cli->root, &h, &error) < 0)
                return cli_fail(&error);
        return run_sandbox(cli, words->words[0], h, config, v->wait);
}

const cli_verb cmd_run = {
        .name = "run",
        .arguments = "NAME --config FILE | NAME --kernel FILE [--memory MIB] [...]",
        .summary = "start a sandbox: a VM and its shim",
        .details = "Returns when the VM runs (not: when its guest has booted). The sandbox lives "
                   "on by itself\nuntil `ferry stop`, or until its guest powers off.",
        .has_json = true,
        .options = options,
        .n_options = ELEMENTS(options),
        .values_size = sizeof(run_values),
        .run = run,
};
