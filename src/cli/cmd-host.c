/* SPDX-License-Identifier: MIT */

/* ferry host: what a state root says about its host (cli/host.h). */

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/host.h"
#include "cli/output.h"

static const cli_option options[] = {
        { "name", "NAME", "set: the host's name", CLI_OPTION_TEXT, offsetof(host_values, name) },
        { "netns", "NAME", "set: the network namespace of its sandboxes (/run/netns/NAME)",
          CLI_OPTION_TEXT, offsetof(host_values, netns) },
        { "address", "IP", "set: where migrations reach it (default 127.0.0.1)", CLI_OPTION_TEXT,
          offsetof(host_values, address) },
        { "bridge", "INTERFACE", "set: the bridge that its guests are put on", CLI_OPTION_TEXT,
          offsetof(host_values, bridge) },
        { "qemu", "PATH", "set: its QEMU (default: the one in PATH)", CLI_OPTION_TEXT,
          offsetof(host_values, qemu) },
        { "disk-root", "DIR", "set: writable disks of sandboxes that arrive lie below it",
          CLI_OPTION_TEXT, offsetof(host_values, disk_root) },
        { "containerd", "SOCKET", "set: its containerd, for sandboxes with containers",
          CLI_OPTION_TEXT, offsetof(host_values, containerd) },
        { "cache-dir", "DIR", "set: containers' roots (default " HOST_CACHE_DIR ")",
          CLI_OPTION_TEXT, offsetof(host_values, cache_dir) },
};

static cli_exit show(const cli_context *cli) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(host_freep) host *h = NULL;
        json_t *json;

        if (host_read(cli->root, &h, &error) < 0)
                return cli_fail(&error);
        if (cli->json)
                return output_json(host_to_json(h, &json) < 0 ? NULL : json);
        printf("name:     %s\nroot:     %s\nnetns:    %s\naddress:  %s\nbridge:   %s\n"
               "qemu:     %s\ndisks:    %s\ncontainerd: %s\ncache:    %s\n",
               h->name, h->root, h->netns ? h->netns : "(ours)", h->address,
               h->bridge ? h->bridge : "(none)", h->qemu ? h->qemu : "(in PATH)",
               h->disk_root ? h->disk_root : "(none)", h->containerd ? h->containerd : "(none)",
               h->cache_dir);
        return CLI_EXIT_OK;
}

/* What is named may be made later; until then no sandbox starts. */
static void warn(const host_values *v) {
        char path[128];

        if (v->netns) {
                snprintf(path, sizeof(path), "/run/netns/%s", v->netns);
                if (access(path, F_OK) < 0)
                        fprintf(stderr,
                                "ferry: there is no network namespace %s yet (`ip netns add %s`)\n",
                                v->netns, v->netns);
        } else if (v->bridge) {
                /* in another namespace it cannot be seen from here */
                snprintf(path, sizeof(path), "/sys/class/net/%s/bridge", v->bridge);
                if (access(path, F_OK) < 0)
                        fprintf(stderr, "ferry: there is no bridge %s yet\n", v->bridge);
        }
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "'set' or 'show'" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const host_values *v = values;

        if (!cli_need_words("host", words, 1, names))
                return CLI_EXIT_USAGE;
        if (strcmp(words->words[0], "show") == 0) {
                if (v->name || v->netns || v->address || v->bridge || v->qemu || v->disk_root ||
                    v->containerd || v->cache_dir)
                        return cli_fail_usage("host", "`host show` takes no values");
                return show(cli);
        }
        if (strcmp(words->words[0], "set") != 0)
                return cli_fail_usage("host", "'%.64s': must be 'set' or 'show'", words->words[0]);
        if (!v->name)
                return cli_fail_usage("host", "--name is missing");
        if (host_write(cli->root, v, &error) < 0)
                return error.code == FERRY_INVALID_ARGUMENT
                               ? cli_fail_usage("host", "--%s", ferry_error_message(&error))
                               : cli_fail(&error);
        warn(v);
        return cli->json ? show(cli) : CLI_EXIT_OK;
}

const cli_verb cmd_host = {
        .name = "host",
        .arguments = "set --name NAME [...] | show",
        .summary = "say, or show, what host a state root stands for",
        .details = "A host is, for now, a state root on this machine. `host set` writes "
                   "<root>/host.json;\nwithout it a root is this machine as it stands: no "
                   "namespace, 127.0.0.1, no bridge, the QEMU in PATH.",
        .has_json = true,
        .options = options,
        .n_options = ELEMENTS(options),
        .values_size = sizeof(host_values),
        .run = run,
};
