/* SPDX-License-Identifier: MIT */

/* A VM's configuration, which may come from another host. What is taken must survive its own
 * canonical form. */

#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "vm/vm-config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(vm_config_freep) vm_config *config = NULL, *again = NULL;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *text = NULL, *second = NULL;

        if (vm_config_parse((const char *)data, n, &config, &error) < 0) {
                FUZZ_REQUIRE(!config);
                FUZZ_REQUIRE(error.code != FERRY_OK);
                return 0;
        }
        FUZZ_REQUIRE(vm_config_format(config, &text) == 0);
        FUZZ_REQUIRE(vm_config_parse(text, strlen(text), &again, NULL) == 0);
        FUZZ_REQUIRE(vm_config_format(again, &second) == 0);
        FUZZ_REQUIRE(strcmp(text, second) == 0);
        return 0;
}
