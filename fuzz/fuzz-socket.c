/* SPDX-License-Identifier: MIT */

/* protocol_info, as any caller may write it. */

#include "fuzz.h"
#include "migration/socket.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        migration_socket_source source;

        if (migration_socket_parse(data, n, &source, &error) < 0) {
                FUZZ_REQUIRE(error.code == FERRY_INVALID_ARGUMENT);
                return 0;
        }
        if (source.by_token)
                FUZZ_REQUIRE(source.n_token > 0 && source.n_token <= MIGRATION_SOCKET_TOKEN_MAX);
        else
                FUZZ_REQUIRE(source.pid >= 0 && source.fd >= 0);
        return 0;
}
