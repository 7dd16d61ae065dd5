/* SPDX-License-Identifier: MIT */
#include "cli/output.h"

static int dump(json_t *json_consume, size_t flags) {
        int r;

        if (!json_consume)
                return -ENOMEM;
        /* more digits would show what a double makes of 0.1 */
        r = json_dumpf(json_consume, stdout, flags | JSON_REAL_PRECISION(15));
        json_decref(json_consume);
        if (r < 0 || fputc('\n', stdout) == EOF || fflush(stdout) != 0)
                return -EIO;
        return 0;
}

cli_exit output_json(json_t *json_consume) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r = dump(json_consume, JSON_INDENT(2));

        if (r == 0)
                return CLI_EXIT_OK;
        ferry_error_set_errno(&error, r, "cannot write the output");
        return cli_fail(&error);
}

int output_json_line(json_t *json_consume) {
        return dump(json_consume, JSON_COMPACT);
}
