/* SPDX-License-Identifier: MIT */

/* An exported state, as a hostile source may write it. */

#include "fuzz.h"
#include "migration/state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(migration_state_freep) migration_state *state = NULL;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (migration_state_decode(data, n, "session", &state, &error) < 0) {
                FUZZ_REQUIRE(!state);
                FUZZ_REQUIRE(error.code != FERRY_OK);
        } else
                FUZZ_REQUIRE(state->message && state->config);
        return 0;
}
