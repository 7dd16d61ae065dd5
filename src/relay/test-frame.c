/* SPDX-License-Identifier: MIT */
#include "relay/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PAYLOAD 300U
#define WIRE    (RELAY_HEADER_SIZE + PAYLOAD)

static const relay_expected expected = {
        .sender = RELAY_SOURCE, .channel = 3, .sequence = 258, .flags = RELAY_FLAG_ZSTD
};

static const char *take(const uint8_t *wire, relay_header *ret) {
        const char *problem = relay_header_parse(wire, &expected, ret);

        if (problem || ret->type == RELAY_FRAME_END)
                return problem;
        if (ret->n_payload != PAYLOAD ||
            relay_payload_check(wire + RELAY_HEADER_SIZE, PAYLOAD) != ret->check)
                return "a block was changed on the way";
        return NULL;
}

static void make(uint8_t wire[WIRE]) {
        relay_header h = { .type = RELAY_FRAME_DATA,
                           .channel = 3,
                           .n_payload = PAYLOAD,
                           .n_plain = PAYLOAD,
                           .sequence = 258 };

        for (size_t i = 0; i < PAYLOAD; i++)
                wire[RELAY_HEADER_SIZE + i] = (uint8_t)(i * 7 + i / 256);
        h.check = relay_payload_check(wire + RELAY_HEADER_SIZE, PAYLOAD);
        relay_header_format(&h, RELAY_SOURCE, wire);
}

static void there_and_back(void **state) {
        uint8_t wire[WIRE];
        relay_header h;

        make(wire);
        assert_null(take(wire, &h));
        assert_int_equal(h.type, RELAY_FRAME_DATA);
        assert_int_equal(h.channel, 3);
        assert_int_equal(h.sequence, 258);
        assert_int_equal(h.n_plain, PAYLOAD);
        assert_int_equal(h.flags, 0);
}

static void every_bit_is_refused(uint8_t *wire, size_t n) {
        relay_header h;

        assert_null(take(wire, &h));
        for (size_t bit = 0; bit < n * 8; bit++) {
                wire[bit / 8] ^= (uint8_t)(1U << bit % 8);
                assert_non_null(take(wire, &h));
                wire[bit / 8] ^= (uint8_t)(1U << bit % 8);
        }
        assert_null(take(wire, &h));
}

static void every_bit_counts(void **state) {
        uint8_t wire[WIRE];

        make(wire);
        every_bit_is_refused(wire, sizeof(wire));
}

static void every_bit_of_an_end_counts(void **state) {
        relay_header h = { .type = RELAY_FRAME_END, .channel = 3, .sequence = 258 };
        uint8_t wire[RELAY_HEADER_SIZE];

        relay_header_format(&h, RELAY_SOURCE, wire);
        every_bit_is_refused(wire, sizeof(wire));
}

/* A peer that counts its checksums rightly, and lies. */
static void refused(relay_header h, const relay_expected *e, relay_side sender) {
        uint8_t wire[RELAY_HEADER_SIZE];
        relay_header ret = { .sequence = 99 };

        relay_header_format(&h, sender, wire);
        assert_non_null(relay_header_parse(wire, e, &ret));
        assert_int_equal(ret.sequence, 99);
}

static void lies_are_refused(void **state) {
        const relay_header good = { .type = RELAY_FRAME_DATA,
                                    .channel = 3,
                                    .n_payload = 10,
                                    .n_plain = 10,
                                    .sequence = 258 };
        relay_expected plain = expected;
        relay_header h;

        refused(good, &expected, RELAY_DESTINATION); /* our own, come back */
        for (unsigned type = 0; type < 256; type++)
                if (type != RELAY_FRAME_DATA) {
                        h = good;
                        h.type = (relay_frame_type)type;
                        refused(h, &expected, RELAY_SOURCE);
                }
        for (unsigned flags = 2; flags < 256; flags++) {
                h = good;
                h.flags = (uint8_t)flags;
                refused(h, &expected, RELAY_SOURCE);
        }
        h = good;
        h.flags = RELAY_FLAG_ZSTD;
        plain.flags = 0;
        refused(h, &plain, RELAY_SOURCE);
        h = good;
        h.channel = 2;
        refused(h, &expected, RELAY_SOURCE);
        h = good;
        h.sequence = 257; /* again */
        refused(h, &expected, RELAY_SOURCE);
        h.sequence = 259; /* one is missing */
        refused(h, &expected, RELAY_SOURCE);
        h = good;
        h.n_payload = h.n_plain = 0;
        refused(h, &expected, RELAY_SOURCE);
        h.n_payload = h.n_plain = RELAY_PAYLOAD_MAX + 1;
        refused(h, &expected, RELAY_SOURCE);
        h.n_payload = h.n_plain = UINT32_MAX;
        refused(h, &expected, RELAY_SOURCE);
        h = good;
        h.n_plain = 11;
        refused(h, &expected, RELAY_SOURCE);
        h = good;
        h.flags = RELAY_FLAG_ZSTD;
        h.n_plain = RELAY_PAYLOAD_MAX + 1;
        refused(h, &expected, RELAY_SOURCE);
        h = good;
        h.type = RELAY_FRAME_END;
        refused(h, &expected, RELAY_SOURCE);
        h.type = RELAY_FRAME_BROKEN;
        refused(h, &expected, RELAY_SOURCE);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(there_and_back),
                cmocka_unit_test(every_bit_counts),
                cmocka_unit_test(every_bit_of_an_end_counts),
                cmocka_unit_test(lies_are_refused),
        };

        return cmocka_run_group_tests_name("relay-frame", tests, NULL, NULL);
}
