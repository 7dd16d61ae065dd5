/* SPDX-License-Identifier: MIT */

/* What a ttrpc peer may send: the first byte says as what the rest is read. A message that is taken
 * must mean the same when it is written again. */

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "fuzz.h"
#include "ttrpc/envelope.h"
#include "ttrpc/frame.h"

static bool text_equals(const ttrpc_text *a, const ttrpc_text *b) {
        return a->n == b->n && (a->n == 0 || memcmp(a->data, b->data, a->n) == 0);
}

static void try_frame(const uint8_t *data, size_t n) {
        uint8_t again[TTRPC_HEADER_SIZE];
        ttrpc_frame_header header;

        if (ttrpc_frame_parse(data, n, &header) <= 0)
                return;
        ttrpc_frame_format(&header, again);
        FUZZ_REQUIRE(memcmp(data, again, sizeof(again)) == 0);
}

static void try_request(const uint8_t *data, size_t n) {
        static ttrpc_request request, again;
        _cleanup_(freep) uint8_t *wire = NULL;
        size_t size;

        if (ttrpc_request_parse(data, n, &request) < 0)
                return;
        size = ttrpc_request_size(&request);
        wire = malloc(size > 0 ? size : 1);
        FUZZ_REQUIRE(wire);
        ttrpc_request_format(&request, wire);
        FUZZ_REQUIRE(ttrpc_request_parse(wire, size, &again) == 0);
        FUZZ_REQUIRE(text_equals(&request.service, &again.service));
        FUZZ_REQUIRE(text_equals(&request.method, &again.method));
        FUZZ_REQUIRE(request.n_payload == again.n_payload);
        FUZZ_REQUIRE(request.timeout_nano == again.timeout_nano);
        FUZZ_REQUIRE(request.n_metadata == again.n_metadata);
        for (size_t i = 0; i < request.n_metadata; i++) {
                FUZZ_REQUIRE(text_equals(&request.metadata[i].key, &again.metadata[i].key));
                FUZZ_REQUIRE(text_equals(&request.metadata[i].value, &again.metadata[i].value));
        }
}

static void try_response(const uint8_t *data, size_t n) {
        _cleanup_(freep) uint8_t *wire = NULL;
        ttrpc_response response, again;
        size_t size;

        if (ttrpc_response_parse(data, n, &response) < 0)
                return;
        size = ttrpc_response_size(&response);
        wire = malloc(size > 0 ? size : 1);
        FUZZ_REQUIRE(wire);
        ttrpc_response_format(&response, wire);
        FUZZ_REQUIRE(ttrpc_response_parse(wire, size, &again) == 0);
        FUZZ_REQUIRE(response.code == again.code);
        if (response.code != 0) /* OK has no message */
                FUZZ_REQUIRE(text_equals(&response.message, &again.message));
        FUZZ_REQUIRE(response.n_payload == again.n_payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        if (n == 0)
                return 0;
        switch (data[0] % 3) {
        case 0:
                try_frame(data + 1, n - 1);
                break;
        case 1:
                try_request(data + 1, n - 1);
                break;
        default:
                try_response(data + 1, n - 1);
                break;
        }
        return 0;
}
