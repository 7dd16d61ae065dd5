/* SPDX-License-Identifier: MIT */
/* Frames and envelopes against bytes taken down from Go, whole, cut at each place, and damaged. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ttrpc/test-wire.h"

/* {"S", "M", "pay", 1 ms, {"k": "v"}}, as Go's marshaller writes it */
static const uint8_t request_wire[] = {
        0x0a, 0x01, 'S',  0x12, 0x01, 'M',  0x1a, 0x03, 'p',  'a',  'y', 0x20,
        0xc0, 0x84, 0x3d, 0x2a, 0x06, 0x0a, 0x01, 'k',  0x12, 0x01, 'v',
};
static const uint8_t failure_wire[] = { 0x0a, 0x08, 0x08, 0x05, 0x12, 0x04, 'g', 'o', 'n', 'e' };

/* Parses a copy of exactly this size, for ASan. */
static int parse_request(const uint8_t *wire, size_t n, ttrpc_request *q) {
        uint8_t *exact = malloc(n + !n);
        int r;

        assert_non_null(exact);
        memcpy(exact, wire, n);
        r = ttrpc_request_parse(exact, n, q);
        free(exact);
        return r;
}

static int parse_response(const uint8_t *wire, size_t n, ttrpc_response *p) {
        uint8_t *exact = malloc(n + !n);
        int r;

        assert_non_null(exact);
        memcpy(exact, wire, n);
        r = ttrpc_response_parse(exact, n, p);
        free(exact);
        return r;
}

static void header_goes_both_ways(void **state) {
        const uint8_t wire[TTRPC_HEADER_SIZE] = { 0, 0x40, 0, 0, 1, 2, 3, 5, 1, 0xff };
        uint8_t again[TTRPC_HEADER_SIZE];
        ttrpc_frame_header h;

        for (size_t cut = 0; cut < sizeof(wire); cut++) {
                uint8_t *part = malloc(cut + !cut);

                assert_non_null(part);
                memcpy(part, wire, cut);
                assert_int_equal(ttrpc_frame_parse(part, cut, &h), 0);
                free(part);
        }
        assert_int_equal(ttrpc_frame_parse(wire, sizeof(wire), &h), 1);
        assert_int_equal(h.length, TTRPC_MESSAGE_MAX);
        assert_int_equal(h.stream_id, 0x01020305);
        assert_int_equal(h.type, TTRPC_FRAME_REQUEST);
        assert_int_equal(h.flags, 0xff);
        ttrpc_frame_format(&h, again);
        assert_memory_equal(again, wire, sizeof(wire));
}

static void header_of_a_stranger_is_refused(void **state) {
        const uint8_t wire[TTRPC_HEADER_SIZE] = "GET / HTTP";
        ttrpc_frame_header h;

        assert_int_equal(ttrpc_frame_parse(wire, sizeof(wire), &h), -EPROTO);
}

static void request_reads_as_go_wrote_it(void **state) {
        uint8_t again[sizeof(request_wire)];
        ttrpc_request q;

        assert_int_equal(ttrpc_request_parse(request_wire, sizeof(request_wire), &q), 0);
        assert_memory_equal(q.service.data, "S", q.service.n);
        assert_memory_equal(q.method.data, "M", q.method.n);
        assert_int_equal(q.n_payload, 3);
        assert_memory_equal(q.payload, "pay", 3);
        assert_int_equal(q.timeout_nano, 1000000);
        assert_int_equal(q.n_metadata, 1);
        assert_memory_equal(q.metadata[0].key.data, "k", 1);
        assert_memory_equal(q.metadata[0].value.data, "v", 1);
        assert_int_equal(ttrpc_request_size(&q), sizeof(request_wire));
        ttrpc_request_format(&q, again);
        assert_memory_equal(again, request_wire, sizeof(again));
}

/* Between two fields a cut message is a shorter one; in a field it is an error. */
static void request_cut_anywhere_is_safe(void **state) {
        const size_t ends[] = { 0, 3, 6, 11, 15 };
        ttrpc_request q;

        for (size_t cut = 0; cut < sizeof(request_wire); cut++) {
                int expected = -EBADMSG;

                for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
                        if (ends[i] == cut)
                                expected = 0;
                assert_int_equal(parse_request(request_wire, cut, &q), expected);
        }
}

/* Any single byte changed: taken or refused, never read past the end (ASan). */
static void request_damaged_anywhere_is_safe(void **state) {
        uint8_t wire[sizeof(request_wire)];
        ttrpc_request q;

        for (size_t i = 0; i < sizeof(wire); i++)
                for (unsigned value = 0; value < 256; value++) {
                        memcpy(wire, request_wire, sizeof(wire));
                        wire[i] = (uint8_t)value;
                        (void)parse_request(wire, sizeof(wire), &q);
                }
}

static void negative_timeout_takes_ten_bytes(void **state) {
        ttrpc_request q = { .service = wire_text(""), .method = wire_text(""), .timeout_nano = -1 };
        uint8_t wire[32];

        assert_int_equal(ttrpc_request_size(&q), 2 + 2 + 11);
        ttrpc_request_format(&q, wire);
        q.timeout_nano = 0;
        assert_int_equal(parse_request(wire, 15, &q), 0);
        assert_int_equal(q.timeout_nano, -1);
}

static void unknown_fields_are_skipped(void **state) {
        /* fields 9 (varint), 10 (64 bit), 11 (bytes), 12 (32 bit), then the method */
        const uint8_t wire[] = { 0x48, 0xff, 0x01, 0x51, 1, 2, 3, 4, 5,    6, 7,  8,
                                 0x5a, 1,    'x',  0x65, 1, 2, 3, 4, 0x12, 1, 'M' };
        const uint8_t group[] = { 0x4b, 0x4c };
        ttrpc_request q;

        assert_int_equal(parse_request(wire, sizeof(wire), &q), 0);
        assert_int_equal(q.method.n, 1);
        assert_int_equal(parse_request(group, sizeof(group), &q), -EBADMSG);
}

static void wrong_wire_types_are_refused(void **state) {
        for (uint8_t number = 1; number <= 5; number++) {
                uint8_t wire[] = { (uint8_t)(number << 3 | (number == 4 ? 2 : 0)), 0 };
                ttrpc_request q;

                assert_int_equal(parse_request(wire, sizeof(wire), &q), -EBADMSG);
        }
}

static void text_must_be_utf8(void **state) {
        const uint8_t wire[] = { 0x0a, 0x02, 0xc3, 0x28 };
        ttrpc_request q;

        assert_int_equal(parse_request(wire, sizeof(wire), &q), -EBADMSG);
}

static void metadata_is_capped(void **state) {
        uint8_t wire[2 * (TTRPC_METADATA_MAX + 1)];
        ttrpc_request q;

        for (size_t i = 0; i < sizeof(wire); i += 2) {
                wire[i] = 0x2a; /* an empty pair */
                wire[i + 1] = 0;
        }
        assert_int_equal(parse_request(wire, 2 * TTRPC_METADATA_MAX, &q), 0);
        assert_int_equal(q.n_metadata, TTRPC_METADATA_MAX);
        assert_int_equal(parse_request(wire, sizeof(wire), &q), -EBADMSG);
}

static void response_ok_comes_in_two_forms(void **state) {
        const uint8_t rust[] = { 0x0a, 0x00, 0x12, 0x01, 'x' }, go[] = { 0x12, 0x01, 'x' };
        ttrpc_response p;

        assert_int_equal(ttrpc_response_parse(rust, sizeof(rust), &p), 0);
        assert_int_equal(p.code, 0);
        assert_int_equal(p.n_payload, 1);
        assert_int_equal(ttrpc_response_parse(go, sizeof(go), &p), 0);
        assert_int_equal(p.code, 0);
        assert_int_equal(p.n_payload, 1);
        assert_int_equal(parse_response(go, 0, &p), 0);
        assert_int_equal(p.code, 0);
        assert_int_equal(p.n_payload, 0);
}

static void response_with_a_status(void **state) {
        uint8_t again[sizeof(failure_wire)];
        ttrpc_response p;

        assert_int_equal(ttrpc_response_parse(failure_wire, sizeof(failure_wire), &p), 0);
        assert_int_equal(p.code, TTRPC_NOT_FOUND);
        assert_int_equal(p.message.n, 4);
        assert_memory_equal(p.message.data, "gone", 4);
        assert_int_equal(ttrpc_response_size(&p), sizeof(failure_wire));
        ttrpc_response_format(&p, again);
        assert_memory_equal(again, failure_wire, sizeof(again));
        for (size_t cut = 1; cut < sizeof(failure_wire); cut++)
                assert_int_equal(parse_response(failure_wire, cut, &p), -EBADMSG);
        for (size_t i = 0; i < sizeof(failure_wire); i++)
                for (unsigned value = 0; value < 256; value++) {
                        uint8_t wire[sizeof(failure_wire)];

                        memcpy(wire, failure_wire, sizeof(wire));
                        wire[i] = (uint8_t)value;
                        (void)parse_response(wire, sizeof(wire), &p);
                }
}

static void utf8_is_what_unicode_says(void **state) {
        const char *good[] = { "",
                               "a",
                               "\xc2\x80",
                               "\xdf\xbf",
                               "\xe0\xa0\x80",
                               "\xed\x9f\xbf",
                               "\xef\xbf\xbf",
                               "\xf0\x90\x80\x80",
                               "\xf4\x8f\xbf\xbf" };
        const char *bad[] = { "\x80",
                              "\xc0\x80",
                              "\xc1\xbf",
                              "\xc2",
                              "\xc2z",
                              "\xe0\x9f\xbf",
                              "\xed\xa0\x80",
                              "\xef\xbf",
                              "\xf0\x8f\xbf\xbf",
                              "\xf4\x90\x80\x80",
                              "\xf5\x80\x80\x80",
                              "\xff" };

        for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
                assert_true(ttrpc_utf8_is_valid(good[i], strlen(good[i])));
        for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
                assert_false(ttrpc_utf8_is_valid(bad[i], strlen(bad[i])));
        assert_true(ttrpc_utf8_is_valid("a\0b", 3));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(header_goes_both_ways),
                cmocka_unit_test(header_of_a_stranger_is_refused),
                cmocka_unit_test(request_reads_as_go_wrote_it),
                cmocka_unit_test(request_cut_anywhere_is_safe),
                cmocka_unit_test(request_damaged_anywhere_is_safe),
                cmocka_unit_test(negative_timeout_takes_ten_bytes),
                cmocka_unit_test(unknown_fields_are_skipped),
                cmocka_unit_test(wrong_wire_types_are_refused),
                cmocka_unit_test(text_must_be_utf8),
                cmocka_unit_test(metadata_is_capped),
                cmocka_unit_test(response_ok_comes_in_two_forms),
                cmocka_unit_test(response_with_a_status),
                cmocka_unit_test(utf8_is_what_unicode_says),
        };

        return cmocka_run_group_tests_name("ttrpc-codec", tests, NULL, NULL);
}
