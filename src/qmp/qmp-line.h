/* SPDX-License-Identifier: MIT */
#pragma once

/* Bytes in, JSON objects out: the part of QMP that reads what a hostile peer may have written.
 * Pure: no fd, no clock. */

#include <stddef.h>

#include <jansson.h>

#include "base/cleanup.h"

/* Elements of all arrays and objects of one line: bounds the memory that parsing can take, which
 * is many times the text's. */
#define QMP_ELEMENTS_MAX (256U * 1024)

typedef struct qmp_line_reader {
        char *buffer;
        size_t begin, end, size; /* unread bytes are [begin, end) */
        size_t scanned;          /* no newline in [begin, scanned) */
} qmp_line_reader;

void qmp_line_reader_done(qmp_line_reader *reader);

/* Room for more bytes; what was returned by next() is gone. -EMSGSIZE when an unfinished line has
 * reached QMP_LINE_MAX, -ENOMEM. After writing k bytes to *ret, call added(k). */
int qmp_line_reader_space(qmp_line_reader *reader, char **ret, size_t *ret_n);
void qmp_line_reader_added(qmp_line_reader *reader, size_t n);

/* 1 and a line without its line end, borrowed from the reader; 0: need more. Blank lines are
 * skipped. */
int qmp_line_reader_next(qmp_line_reader *reader, const char **ret, size_t *ret_n);

/* One line to one object. -EBADMSG (not one JSON object, too deep, too many elements), -ENOMEM.
 * Integers over 64 bits signed become reals. */
int qmp_line_parse(const char *line, size_t n, json_t **ret);
