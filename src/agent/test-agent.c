/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/parameters.h"
#include "agent/request.h"
#include "base/cleanup.h"

static void test_parameter_get(void **state) {
        static const char text[] = "quiet ferry.run=demo xferry.run=no ferry.runs=no\tferry.gw= "
                                   "run=no ferry.ip=1 ferry.ip=2\n";
        char value[16] = "before";

        assert_true(parameter_get(text, "run", value, sizeof(value)));
        assert_string_equal(value, "demo");
        assert_true(parameter_get(text, "gw", value, sizeof(value)));
        assert_string_equal(value, "");
        assert_true(parameter_get(text, "ip", value, sizeof(value)));
        assert_string_equal(value, "2");
        assert_false(parameter_get(text, "hostname", value, sizeof(value)));
        assert_false(parameter_get("", "run", value, sizeof(value)));
        assert_true(parameter_get(text, "run", value, 5));
        assert_false(parameter_get(text, "run", value, 4));
}

static void test_parameter_number(void **state) {
        static const char text[] = "ferry.a=-1 ferry.b=12x ferry.c= ferry.d=100 ferry.e=0x10 "
                                   "ferry.f=99999999999999999999999 ferry.g=-";

        assert_int_equal(parameter_number(text, "a", -1, 10, 5), -1);
        assert_int_equal(parameter_number(text, "b", -1, 100, 5), 5);
        assert_int_equal(parameter_number(text, "c", -1, 100, 5), 5);
        assert_int_equal(parameter_number(text, "d", -1, 100, 5), 100);
        assert_int_equal(parameter_number(text, "d", -1, 99, 5), 5);
        assert_int_equal(parameter_number(text, "e", -1, 100, 5), 5);
        assert_int_equal(parameter_number(text, "f", -1, 100, 5), 5);
        assert_int_equal(parameter_number(text, "g", -1, 100, 5), 5);
        assert_int_equal(parameter_number(text, "nothing", -1, 100, 5), 5);
}

static void test_parameter_address(void **state) {
        static const char *const bad[] = { "",
                                           "10.0.0.1",
                                           "10.0.0.1/",
                                           "10.0.0.1/0",
                                           "/24",
                                           "10.0.0.1/31",
                                           "10.0.0.1/240",
                                           "10.0.0/24",
                                           "a.b.c.d/8",
                                           "10.0.0.1/2x",
                                           "10.0.0.1000000000000/24" };
        struct in_addr address, mask;

        assert_true(parameter_address("10.77.0.10/24", &address, &mask));
        assert_int_equal(ntohl(address.s_addr), 0x0a4d000a);
        assert_int_equal(ntohl(mask.s_addr), 0xffffff00);
        assert_true(parameter_address("10.0.0.1/30", &address, &mask));
        assert_int_equal(ntohl(mask.s_addr), 0xfffffffc);
        assert_true(parameter_address("128.0.0.1/1", &address, &mask));
        assert_int_equal(ntohl(mask.s_addr), 0x80000000);
        for (size_t i = 0; i < ELEMENTS(bad); i++)
                assert_false(parameter_address(bad[i], &address, &mask));
}

/* From a heap copy of exactly that size, so that ASan sees one byte too far. */
static int parse(const char *text, size_t n, request *ret, size_t *ret_used) {
        char *copy = malloc(n + !n);
        int r;

        assert_non_null(copy);
        memcpy(copy, text, n);
        r = request_parse(copy, n, ret, ret_used);
        free(copy);
        return r;
}

static void test_request_every_cut(void **state) {
        static const char wire[] = "GET /rate?mb=5 HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\nGET";
        size_t n = sizeof(wire) - 1 - 3, used = 0;
        request r;

        for (size_t cut = 0; cut < n; cut++)
                assert_int_equal(parse(wire, cut, &r, &used), 0);
        assert_int_equal(parse(wire, n + 3, &r, &used), 1);
        assert_int_equal(used, n);
        assert_string_equal(r.path, "/rate?mb=5");
        assert_true(r.is_get);
        assert_true(r.keep_alive);
}

static void test_request_keep_alive(void **state) {
        static const struct {
                const char *text;
                bool is_get;
                bool keep_alive;
        } cases[] = {
                { "GET / HTTP/1.1\r\n\r\n", true, true },
                { "GET / HTTP/1.0\r\n\r\n", true, false },
                { "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", true, false },
                { "GET / HTTP/1.1\r\nCONNECTION:Close \r\n\r\n", true, false },
                { "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true, true },
                { "GET / HTTP/1.1\r\nXConnection: close\r\n\r\n", true, true },
                { "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", false, true },
        };

        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                request r;
                size_t used;

                assert_int_equal(parse(cases[i].text, strlen(cases[i].text), &r, &used), 1);
                assert_int_equal(r.is_get, cases[i].is_get);
                assert_int_equal(r.keep_alive, cases[i].keep_alive);
        }
}

static void test_request_bad(void **state) {
        static const char *const bad[] = {
                "\r\n\r\n",
                "GET\r\n\r\n",
                "GET /\r\n\r\n",
                "GET  HTTP/1.1\r\n\r\n",
                "GET x HTTP/1.1\r\n\r\n",
                "GET / HTTP/2.0\r\n\r\n",
                "GET / HTTP/1.10\r\n\r\n",
                "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
                "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        };
        char text[REQUEST_MAX];
        request r;
        size_t used;

        for (size_t i = 0; i < ELEMENTS(bad); i++)
                assert_int_equal(parse(bad[i], strlen(bad[i]), &r, &used), -EBADMSG);
        memset(text, 'a', sizeof(text));
        assert_int_equal(parse(text, sizeof(text) - 1, &r, &used), 0);
        assert_int_equal(parse(text, sizeof(text), &r, &used), -EMSGSIZE);
        memcpy(text, "GET /", 5);
        memcpy(text + sizeof(text) - 13, " HTTP/1.1\r\n\r\n", 13);
        assert_int_equal(parse(text, sizeof(text), &r, &used), -EBADMSG); /* the path */
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_parameter_get),      cmocka_unit_test(test_parameter_number),
                cmocka_unit_test(test_parameter_address),  cmocka_unit_test(test_request_every_cut),
                cmocka_unit_test(test_request_keep_alive), cmocka_unit_test(test_request_bad),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
