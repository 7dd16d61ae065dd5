/* SPDX-License-Identifier: MIT */

/* What a QEMU, or somebody in its place, may write to its QMP socket, in pieces of any size: the
 * first byte says how large. */

#include <string.h>

#include "fuzz.h"
#include "qmp/qmp-line.h"

static void take_lines(qmp_line_reader *reader) {
        const char *line;
        size_t n;

        while (qmp_line_reader_next(reader, &line, &n) > 0) {
                json_t *object = NULL;

                FUZZ_REQUIRE(!memchr(line, '\n', n));
                if (qmp_line_parse(line, n, &object) == 0)
                        FUZZ_REQUIRE(json_is_object(object));
                json_decref(object);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        qmp_line_reader reader = { 0 };
        size_t piece = n > 0 ? data[0] % 64U + 1U : 1;

        while (n > 0) {
                size_t n_space, n_now;
                char *space;

                if (qmp_line_reader_space(&reader, &space, &n_space) < 0)
                        break;
                n_now = n < piece ? n : piece;
                if (n_now > n_space)
                        n_now = n_space;
                memcpy(space, data, n_now);
                qmp_line_reader_added(&reader, n_now);
                data += n_now;
                n -= n_now;
                take_lines(&reader);
        }
        qmp_line_reader_done(&reader);
        return 0;
}
