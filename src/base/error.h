/* SPDX-License-Identifier: MIT */
#pragma once

/* An error on its way to a person or a peer: a gRPC code and a text that says what to do.
 *
 * Set at the origin, prefixed on the way up, dropped (and logged) once, at the end. Every
 * function that fills one also returns a negative errno, so nobody looks inside to branch. */

#include "base/cleanup.h"

/* The gRPC codes, as on the wire (google/rpc/code.proto). */
typedef enum ferry_code {
        FERRY_OK = 0,
        FERRY_CANCELLED = 1,
        FERRY_UNKNOWN = 2,
        FERRY_INVALID_ARGUMENT = 3,
        FERRY_DEADLINE_EXCEEDED = 4,
        FERRY_NOT_FOUND = 5,
        FERRY_ALREADY_EXISTS = 6,
        FERRY_PERMISSION_DENIED = 7,
        FERRY_RESOURCE_EXHAUSTED = 8,
        FERRY_FAILED_PRECONDITION = 9,
        FERRY_ABORTED = 10,
        FERRY_OUT_OF_RANGE = 11,
        FERRY_UNIMPLEMENTED = 12,
        FERRY_INTERNAL = 13,
        FERRY_UNAVAILABLE = 14,
        FERRY_DATA_LOSS = 15,
        FERRY_UNAUTHENTICATED = 16,
} ferry_code;

typedef struct ferry_error {
        ferry_code code;
        char *message; /* owned; NULL while nothing is set, or when out of memory */
} ferry_error;

#define FERRY_ERROR_INIT ((ferry_error){ .code = FERRY_OK })

/* Replaces what is set. `error` may be NULL. Returns `r`, which must be negative. */
int ferry_error_set(ferry_error *error, ferry_code code, int r, const char *format, ...)
        _printf_(4, 5);

/* The same with the code that errno `-r` maps to and ": strerror" appended. */
int ferry_error_set_errno(ferry_error *error, int r, const char *format, ...) _printf_(3, 4);

/* Puts "text: " before the message; does nothing if none is set. Returns `r`. */
int ferry_error_prefix(ferry_error *error, int r, const char *format, ...) _printf_(3, 4);

/* Moves `from` into `to` (either may be NULL); `from` is empty afterwards. */
void ferry_error_move(ferry_error *to, ferry_error *from);

void ferry_error_done(ferry_error *error);

/* Never NULL. */
const char *ferry_error_message(const ferry_error *error);

/* "FailedPrecondition" and so on; "Code(N)" has no name: "Unknown". */
const char *ferry_code_to_string(int code);

/* The one table errno -> code; `r` negative. */
ferry_code ferry_code_from_errno(int r);

static inline void ferry_error_donep(ferry_error *error) {
        ferry_error_done(error);
}
