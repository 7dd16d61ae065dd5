/* SPDX-License-Identifier: MIT */

/* A bundle's config.json, whoever wrote it. */

#include "fuzz.h"
#include "oci/oci.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        static const oci_options options = {
                .root = "/r", .cgroup = "/c", .files_folder = "/f", .shared_folder = "/s"
        };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(oci_config_done) oci_config config;
        char *text = NULL;

        if (oci_translate((const char *)data, n, &options, &config, &error) < 0)
                FUZZ_REQUIRE(!config.text && error.code != FERRY_OK);
        else
                FUZZ_REQUIRE(config.text && config.n_files <= OCI_FILES_MAX);
        if (oci_translate_process((const char *)data, n, &text, NULL) == 0)
                free(text);
        free(oci_annotation((const char *)data, n, "io.ferry.sandbox-id"));
        return 0;
}
