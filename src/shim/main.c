/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "shim/check.h"
#include "shim/containerd.h"
#include "shim/options.h"
#include "shim/shim.h"
#include "shim/template-maker.h"

int main(int argc, char **argv) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        shim_options options;

        if (containerd_calls(argc, argv))
                return containerd_main(argc, argv);
        if (shim_options_parse(argc, argv, &options, &error) < 0) {
                fprintf(stderr, "containerd-shim-ferry-v2: %s\n", ferry_error_message(&error));
                return 2;
        }
        if (options.verb == SHIM_HELP)
                return fputs(shim_help, stdout) < 0;
        if (options.verb == SHIM_VERSION)
                return printf("containerd-shim-ferry-v2 " FERRY_VERSION "\n") < 0;
        if (options.verb == SHIM_CHECK) {
                if (shim_check(&options, &error) == 0)
                        return 0;
                fprintf(stderr, "%s\n", ferry_error_message(&error));
                return 1;
        }
        ferry_log_init(STDERR_FILENO, options.log_level);
        if (options.verb == SHIM_TEMPLATE)
                return template_maker_run(&options, &error) < 0;
        return shim_serve(&options, &error) < 0;
}
