/* SPDX-License-Identifier: MIT */
#pragma once

/* The two protobuf messages of the protocol, by hand: seven fields do not need a library, and the
 * payload is never copied. Pure. Source: PROTOCOL.md "Request", "Response". */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ttrpc/ttrpc.h"

#define TTRPC_METADATA_MAX 256U

/* Borrows from the bytes that were parsed; not NUL-terminated. */
typedef struct ttrpc_text {
        const char *data;
        size_t n;
} ttrpc_text;

typedef struct ttrpc_envelope_pair {
        ttrpc_text key, value;
} ttrpc_envelope_pair;

typedef struct ttrpc_request {
        ttrpc_text service, method;
        const uint8_t *payload;
        size_t n_payload;
        int64_t timeout_nano; /* 0: none; negative: passed before it was sent */
        ttrpc_envelope_pair metadata[TTRPC_METADATA_MAX];
        size_t n_metadata;
} ttrpc_request;

typedef struct ttrpc_response {
        int32_t code;
        ttrpc_text message;
        const uint8_t *payload;
        size_t n_payload;
} ttrpc_response;

/* 0 or -EBADMSG. Unknown fields are skipped; strings are UTF-8; metadata over the cap is an error.
 */
int ttrpc_request_parse(const uint8_t *data, size_t n, ttrpc_request *ret);
int ttrpc_response_parse(const uint8_t *data, size_t n, ttrpc_response *ret);

/* The size of the serialized message, and the message. Text must have been checked. */
size_t ttrpc_request_size(const ttrpc_request *request);
void ttrpc_request_format(const ttrpc_request *request, uint8_t *ret);
size_t ttrpc_response_size(const ttrpc_response *response);
void ttrpc_response_format(const ttrpc_response *response, uint8_t *ret);

bool ttrpc_utf8_is_valid(const char *text, size_t n);
