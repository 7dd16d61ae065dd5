/* SPDX-License-Identifier: MIT */

/* ferry image: the small Linux guest of the demo and the tests (guest/image.h). */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "cli/cli.h"
#include "cli/output.h"
#include "guest/image.h"

#define OUTPUT_DEFAULT   "guest-image"
#define CONFIG_NAME      "vm.json"
#define CONFIG_MEMORY_MB 256

typedef struct image_values {
        const char *output, *cache, *kernel_package, *busybox, *agent, *crun;
        bool containers;
} image_values;

static const cli_option options[] = {
        { "output", "DIR", "where to (default ./" OUTPUT_DEFAULT ")", CLI_OPTION_TEXT,
          offsetof(image_values, output) },
        { "kernel-package", "FILE", "a linux-image .deb; default: the distribution's newest",
          CLI_OPTION_TEXT, offsetof(image_values, kernel_package) },
        { "busybox", "FILE", "a static busybox; default: busybox-static's", CLI_OPTION_TEXT,
          offsetof(image_values, busybox) },
        { "containers", NULL, "with crun, to run containers in (8 MB more)", CLI_OPTION_SWITCH,
          offsetof(image_values, containers) },
        { "crun", "FILE", "default: the installed one", CLI_OPTION_TEXT,
          offsetof(image_values, crun) },
        { "agent-dir", "DIR", "has the guest's programs; default: where they were built",
          CLI_OPTION_TEXT, offsetof(image_values, agent) },
        { "cache", "DIR", "for downloaded packages; default ~/.cache/ferry", CLI_OPTION_TEXT,
          offsetof(image_values, cache) },
};

static cli_exit print_json(const guest_image_result *result, const char *config) {
        return output_json(json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "kernel", result->kernel,
                                     "initrd", result->initrd, "description", result->description,
                                     "kernel_version", result->kernel_version, "cmdline",
                                     result->cmdline, "config", config));
}

/* A configuration that boots the image, for `ferry run --config`: its path. */
static int write_config(const char *folder, const guest_image_result *result, char **ret,
                        ferry_error *reterr) {
        _cleanup_(freep) char *at = realpath(folder, NULL), *path = NULL, *kernel = NULL,
                              *initrd = NULL, *dumped = NULL, *text = NULL;
        json_t *json;
        int r;

        kernel = realpath(result->kernel, NULL);
        initrd = realpath(result->initrd, NULL);
        if (!at || !kernel || !initrd || asprintf(&path, "%s/" CONFIG_NAME, at) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", folder);
        json = json_pack("{s:i, s:i, s:s, s:s, s:s, s:b}", "memory_mb", CONFIG_MEMORY_MB, "vcpus",
                         1, "kernel", kernel, "initrd", initrd, "cmdline", result->cmdline, "agent",
                         1);
        dumped = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
        json_decref(json);
        if (!dumped || asprintf(&text, "%s\n", dumped) < 0)
                text = NULL;
        r = text ? file_replace(AT_FDCWD, path, text, strlen(text), 0644, false) : -ENOMEM;
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "cannot write %s", path);
        *ret = TAKE_PTR(path);
        return 0;
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "'build'" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const image_values *v = values;
        const guest_image_options wanted = {
                .output_dir = v->output ? v->output : OUTPUT_DEFAULT,
                .cache_dir = v->cache,
                .kernel_deb = v->kernel_package,
                .busybox = v->busybox,
                .containers = v->containers || v->crun,
                .crun = v->crun,
                .agent_dir = v->agent,
        };
        _cleanup_(freep) char *config = NULL;
        guest_image_result result = { 0 };
        cli_exit code = CLI_EXIT_OK;

        if (!cli_need_words("image", words, 1, names))
                return CLI_EXIT_USAGE;
        if (strcmp(words->words[0], "build") != 0)
                return cli_fail_usage("image", "'%.64s': must be 'build'", words->words[0]);
        if (guest_image_build(&wanted, &result, &error) < 0)
                return cli_fail(&error);
        if (write_config(wanted.output_dir, &result, &config, &error) < 0)
                code = cli_fail(&error);
        else if (cli->json)
                code = print_json(&result, config);
        else
                printf("kernel   %s (%s)\ninitrd   %s\ncmdline  %s\nrun it   ferry run NAME "
                       "--config %s\n",
                       result.kernel, result.kernel_version, result.initrd, result.cmdline, config);
        guest_image_result_done(&result);
        return code;
}

const cli_verb cmd_image = {
        .name = "image",
        .arguments = "build [--output DIR] [...]",
        .summary = "build the small Linux guest of the demo and the tests",
        .details = "From the distribution's kernel package and busybox, without root, in seconds; "
                   "the same\ninputs give the same bytes. docs/guest-image.md says what is "
                   "inside.\nvm.json beside it boots "
                   "it: `ferry run NAME --config DIR/vm.json`.",
        .has_json = true,
        .options = options,
        .n_options = ELEMENTS(options),
        .values_size = sizeof(image_values),
        .run = run,
};
