/* SPDX-License-Identifier: MIT */
#include "qmp/qmp-line.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "qmp/qmp-client.h"

#define READ_MIN 4096U

void qmp_line_reader_done(qmp_line_reader *reader) {
        free(reader->buffer);
        *reader = (qmp_line_reader){ 0 };
}

int qmp_line_reader_space(qmp_line_reader *reader, char **ret, size_t *ret_n) {
        size_t n = reader->end - reader->begin;

        if (n >= QMP_LINE_MAX)
                return -EMSGSIZE;
        if (reader->begin > 0) {
                memmove(reader->buffer, reader->buffer + reader->begin, n);
                reader->scanned -= reader->begin;
                reader->begin = 0;
                reader->end = n;
        }
        if (reader->size - n < READ_MIN) {
                size_t size = reader->size > 0 ? reader->size * 2 : 16 * READ_MIN;
                char *buffer;

                if (size > QMP_LINE_MAX + READ_MIN)
                        size = QMP_LINE_MAX + READ_MIN;
                if (size > reader->size) {
                        buffer = realloc(reader->buffer, size);
                        if (!buffer)
                                return -ENOMEM;
                        reader->buffer = buffer;
                        reader->size = size;
                }
        }
        *ret = reader->buffer + n;
        *ret_n = reader->size - n;
        return 0;
}

void qmp_line_reader_added(qmp_line_reader *reader, size_t n) {
        reader->end += n;
}

int qmp_line_reader_next(qmp_line_reader *reader, const char **ret, size_t *ret_n) {
        while (reader->scanned < reader->end) {
                const char *from = reader->buffer + reader->scanned, *line, *newline;
                size_t n;

                newline = memchr(from, '\n', reader->end - reader->scanned);
                if (!newline) {
                        reader->scanned = reader->end;
                        break;
                }
                line = reader->buffer + reader->begin;
                n = (size_t)(newline - line);
                reader->begin += n + 1;
                reader->scanned = reader->begin;
                while (n > 0 && (line[n - 1] == '\r' || line[n - 1] == ' '))
                        n--;
                if (n == 0)
                        continue;
                *ret = line;
                *ret_n = n;
                return 1;
        }
        return 0;
}

/* jansson recurses with the nesting and allocates with the elements: look before it leaps. */
static bool shape_is_sane(const char *line, size_t n) {
        unsigned depth = 0, elements = 0;
        bool in_string = false;

        for (size_t i = 0; i < n; i++) {
                char c = line[i];

                if (in_string) {
                        if (c == '\\')
                                i++;
                        else if (c == '"')
                                in_string = false;
                        continue;
                }
                if (c == '"')
                        in_string = true;
                else if (c == '{' || c == '[') {
                        if (++depth > QMP_DEPTH_MAX || ++elements > QMP_ELEMENTS_MAX)
                                return false;
                } else if (c == '}' || c == ']') {
                        if (depth-- == 0)
                                return false;
                } else if (c == ',' && ++elements > QMP_ELEMENTS_MAX)
                        return false;
        }
        return depth == 0 && !in_string;
}

int qmp_line_parse(const char *line, size_t n, json_t **ret) {
        json_error_t error;
        json_t *value;

        if (n == 0 || line[0] != '{' || !shape_is_sane(line, n))
                return -EBADMSG;
        value = json_loadb(line, n, JSON_REJECT_DUPLICATES, &error);
        /* QEMU prints uint64 whole; one over INT64_MAX must not cost us the connection. */
        if (!value && json_error_code(&error) == json_error_numeric_overflow)
                value = json_loadb(line, n, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL,
                                   &error);
        if (!value)
                return json_error_code(&error) == json_error_out_of_memory ? -ENOMEM : -EBADMSG;
        if (!json_is_object(value)) {
                json_decref(value);
                return -EBADMSG;
        }
        *ret = value;
        return 0;
}
