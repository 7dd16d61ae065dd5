/* SPDX-License-Identifier: MIT */

/* What the other end of a relayed connection may write: the input as it is, and the same as the
 * fields of frames whose header has the right check, so that the checks behind it are reached. */

#include <string.h>

#include "fuzz.h"
#include "relay/frame.h"

static void take(const uint8_t *data, size_t n, const relay_expected *expected) {
        relay_header h;

        if (n < RELAY_HEADER_SIZE || relay_header_parse(data, expected, &h))
                return;
        FUZZ_REQUIRE(h.sequence == expected->sequence && h.channel == expected->channel);
        FUZZ_REQUIRE((h.flags & ~expected->flags) == 0);
        FUZZ_REQUIRE(h.n_payload <= RELAY_PAYLOAD_MAX && h.n_plain <= RELAY_PAYLOAD_MAX);
        FUZZ_REQUIRE((h.type == RELAY_FRAME_DATA) == (h.n_payload > 0));
        if (n - RELAY_HEADER_SIZE >= h.n_payload)
                (void)relay_payload_check(data + RELAY_HEADER_SIZE, h.n_payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        relay_expected expected = { .sender = RELAY_DESTINATION };
        uint8_t wire[RELAY_HEADER_SIZE];
        uint64_t words[3];

        take(data, n, &expected);
        for (; n >= 4 + sizeof(words); data += 4 + sizeof(words), n -= 4 + sizeof(words)) {
                memcpy(words, data + 4, sizeof(words));
                expected.flags = data[3] & RELAY_FLAG_ZSTD;
                relay_header_format(&(relay_header){ .type = (relay_frame_type)data[0],
                                                     .flags = data[1],
                                                     .channel = data[2],
                                                     .n_payload = (uint32_t)words[0],
                                                     .n_plain = (uint32_t)(words[0] >> 32),
                                                     .sequence = words[1],
                                                     .check = words[2] },
                                    RELAY_DESTINATION, wire);
                take(wire, sizeof(wire), &expected);
        }
        return 0;
}
