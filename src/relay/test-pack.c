/* SPDX-License-Identifier: MIT */
#include "relay/pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MANY 1000

static int level_after(relay_level *l, relay_wait wait, unsigned n) {
        for (unsigned i = 0; i < n; i++)
                relay_level_note(l, wait);
        return relay_level_get(l);
}

static void the_level_follows_the_slower(void **state) {
        relay_level l;
        int first, high;

        relay_level_init(&l);
        first = relay_level_get(&l);
        assert_int_equal(level_after(&l, RELAY_WAIT_FILLER, MANY), first);
        high = level_after(&l, RELAY_WAIT_NONE, MANY);
        assert_true(high > first);
        assert_int_equal(level_after(&l, RELAY_WAIT_FILLER, MANY), high);
        assert_int_equal(level_after(&l, RELAY_WAIT_WORKERS, MANY), 0);
        assert_int_not_equal(level_after(&l, RELAY_WAIT_NONE, 16), 0); /* and back */
}

static relay_block new_block(size_t n) {
        relay_block b = { .plain = calloc(1, RELAY_PAYLOAD_MAX),
                          .packed = malloc(RELAY_PAYLOAD_MAX) };

        b.header = (relay_header){ .type = RELAY_FRAME_DATA, .n_plain = (uint32_t)n };
        return b;
}

static void fill_random(uint8_t *data, size_t n) {
        uint64_t x = 88172645463325252ULL;

        for (size_t i = 0; i < n; i++) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                data[i] = (uint8_t)x;
        }
}

static void packed_and_back(void **state) {
        relay_block b = new_block(RELAY_PAYLOAD_MAX);
        relay_packer *p;
        relay_level l;

        relay_level_init(&l);
        assert_int_equal(relay_packer_new(&p), 0);
        for (int i = 0; i < 3; i++) { /* at every kind of level */
                memset(b.plain, 'a' + i, RELAY_PAYLOAD_MAX / 2);
                relay_pack(p, &l, &b);
                if (relay_level_get(&l) == 0) {
                        assert_ptr_equal(b.payload, b.plain);
                        assert_int_equal(b.header.flags, 0);
                } else {
                        assert_ptr_equal(b.payload, b.packed);
                        assert_int_equal(b.header.flags, RELAY_FLAG_ZSTD);
                        assert_true(b.header.n_payload < 1000);
                        memset(b.plain, 0xee, RELAY_PAYLOAD_MAX);
                        assert_true(relay_unpack(p, &b));
                        assert_int_equal(b.plain[0], 'a' + i);
                        assert_int_equal(b.plain[RELAY_PAYLOAD_MAX - 1], 0);
                }
                (void)level_after(&l, i == 0 ? RELAY_WAIT_NONE : RELAY_WAIT_WORKERS, MANY);
        }
        relay_packer_free(p);
        free(b.plain);
        free(b.packed);
}

/* Tried less and less, and at once again when one shrinks. */
static void what_does_not_shrink_goes_as_it_is(void **state) {
        relay_block b = new_block(RELAY_PAYLOAD_MAX);
        relay_packer *p;
        unsigned tries = 0;
        relay_level l;

        relay_level_init(&l);
        assert_int_equal(relay_packer_new(&p), 0);
        fill_random(b.plain, RELAY_PAYLOAD_MAX);
        for (int i = 0; i < 100; i++) {
                relay_pack(p, &l, &b);
                assert_ptr_equal(b.payload, b.plain);
                assert_int_equal(b.header.n_payload, RELAY_PAYLOAD_MAX);
                assert_int_equal(b.header.flags, 0);
        }
        memset(b.plain, 0, RELAY_PAYLOAD_MAX);
        do {
                relay_pack(p, &l, &b);
                assert_true(++tries <= 17);
        } while (b.header.flags == 0);
        relay_pack(p, &l, &b);
        assert_int_equal(b.header.flags, RELAY_FLAG_ZSTD);
        relay_packer_free(p);
        free(b.plain);
        free(b.packed);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(the_level_follows_the_slower),
                cmocka_unit_test(packed_and_back),
                cmocka_unit_test(what_does_not_shrink_goes_as_it_is),
        };

        return cmocka_run_group_tests_name("relay-pack", tests, NULL, NULL);
}
