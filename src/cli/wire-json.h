/* SPDX-License-Identifier: MIT */
#pragma once

/* Messages of the wire as JSON, by protobuf-c's descriptors: fields by their names in the .proto,
 * enums by name without the prefix ("PHASE_DONE" -> "done"), bytes as hex, timestamps as
 * microseconds since 1970. Numbers and texts are there even when zero, absent messages, empty
 * bytes and unset choices are not. */

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

int wire_to_json(const ProtobufCMessage *message, json_t **ret);

/* "done" for PHASE_DONE; "unknown" for a value that the .proto does not have. */
const char *wire_enum_name(const ProtobufCEnumDescriptor *descriptor, int value,
                           char buffer[static 64]);
