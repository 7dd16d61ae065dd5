/* SPDX-License-Identifier: MIT */

/* An exported state, as a hostile source may write it. */

#include "fuzz.h"
#include "migration/state.h"

/* The other way in for a Compatibility: InitializeOptions. */
static void read_compatibility(const uint8_t *data, size_t n) {
        _cleanup_(differences_done) differences d = { .n = 0 };
        Ferry__State__V1__Compatibility *c;
        vm_facts same;

        if (compatibility_unpack(data, n, &c) < 0)
                return;
        compatibility_view(c, &same);
        compatibility_compare(c, "there", &same, &d);
        ferry__state__v1__compatibility__free_unpacked(c, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(migration_state_freep) migration_state *state = NULL;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        read_compatibility(data, n);
        if (migration_state_decode(data, n, "session", &state, &error) < 0) {
                FUZZ_REQUIRE(!state);
                FUZZ_REQUIRE(error.code != FERRY_OK);
        } else
                FUZZ_REQUIRE(state->message && state->config);
        return 0;
}
