/* SPDX-License-Identifier: MIT */
#include "cli/wire-json.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define DEPTH_MAX 8U

static json_t *message_to_json(const ProtobufCMessage *message, unsigned depth);

/* Enum values of the wire begin with the enum's own name: VmState -> VM_STATE_. */
static size_t prefix_length(const char *enum_name, const char *value_name) {
        size_t i = 0;

        for (const char *c = enum_name; *c; c++) {
                if (isupper((unsigned char)*c) && c != enum_name && value_name[i++] != '_')
                        return 0;
                if (value_name[i++] != toupper((unsigned char)*c))
                        return 0;
        }
        return value_name[i] == '_' && value_name[i + 1] != '\0' ? i + 1 : 0;
}

const char *wire_enum_name(const ProtobufCEnumDescriptor *descriptor, int value,
                           char buffer[static 64]) {
        const ProtobufCEnumValue *found = protobuf_c_enum_descriptor_get_value(descriptor, value);
        const char *name = found ? found->name : "UNKNOWN";
        size_t i;

        if (found)
                name += prefix_length(descriptor->short_name, name);
        for (i = 0; name[i] && i < 63; i++)
                buffer[i] = (char)tolower((unsigned char)name[i]);
        buffer[i] = '\0';
        return buffer;
}

static json_t *bytes_to_json(const ProtobufCBinaryData *bytes) {
        static const char digits[] = "0123456789abcdef";
        char *text = malloc(bytes->len * 2 + 1);
        json_t *json;

        if (!text)
                return NULL;
        for (size_t i = 0; i < bytes->len; i++) {
                text[2 * i] = digits[bytes->data[i] >> 4];
                text[2 * i + 1] = digits[bytes->data[i] & 15];
        }
        json = json_stringn_nocheck(text, bytes->len * 2);
        free(text);
        return json;
}

/* A shim's text need not be UTF-8; JSON's must. */
static json_t *text_to_json(const char *text) {
        json_t *json = json_string(text ? text : "");

        return json ? json : json_string("(not UTF-8)");
}

static bool is_timestamp(const ProtobufCMessageDescriptor *descriptor) {
        return strcmp(descriptor->name, "google.protobuf.Timestamp") == 0;
}

/* Timestamp is int64 seconds, int32 nanos; read by descriptor, so that no header is needed. */
static json_t *timestamp_to_json(const ProtobufCMessage *message) {
        int64_t seconds = 0;
        int32_t nanos = 0;

        for (unsigned i = 0; i < message->descriptor->n_fields; i++) {
                const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
                const char *at = (const char *)message + field->offset;

                if (field->id == 1)
                        memcpy(&seconds, at, sizeof(seconds));
                else if (field->id == 2)
                        memcpy(&nanos, at, sizeof(nanos));
        }
        if (seconds < 0 || seconds > INT64_MAX / (int64_t)USEC_PER_SEC - 1)
                return json_integer(0);
        return json_integer(seconds * (json_int_t)USEC_PER_SEC + nanos / (int)NSEC_PER_USEC);
}

static json_t *value_to_json(const ProtobufCFieldDescriptor *field, const void *at,
                             unsigned depth) {
        char name[64];

        switch (field->type) {
        case PROTOBUF_C_TYPE_INT32:
        case PROTOBUF_C_TYPE_SINT32:
        case PROTOBUF_C_TYPE_SFIXED32:
                return json_integer(*(const int32_t *)at);
        case PROTOBUF_C_TYPE_INT64:
        case PROTOBUF_C_TYPE_SINT64:
        case PROTOBUF_C_TYPE_SFIXED64:
                return json_integer(*(const int64_t *)at);
        case PROTOBUF_C_TYPE_UINT32:
        case PROTOBUF_C_TYPE_FIXED32:
                return json_integer(*(const uint32_t *)at);
        case PROTOBUF_C_TYPE_UINT64:
        case PROTOBUF_C_TYPE_FIXED64: {
                uint64_t value = *(const uint64_t *)at;

                return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
        }
        case PROTOBUF_C_TYPE_FLOAT:
                return json_real((double)*(const float *)at);
        case PROTOBUF_C_TYPE_DOUBLE:
                return json_real(*(const double *)at);
        case PROTOBUF_C_TYPE_BOOL:
                return json_boolean(*(const protobuf_c_boolean *)at);
        case PROTOBUF_C_TYPE_ENUM:
                return json_string(wire_enum_name(field->descriptor, *(const int *)at, name));
        case PROTOBUF_C_TYPE_STRING:
                return text_to_json(*(char *const *)at);
        case PROTOBUF_C_TYPE_BYTES:
                return bytes_to_json(at);
        case PROTOBUF_C_TYPE_MESSAGE:
                return message_to_json(*(ProtobufCMessage *const *)at, depth + 1);
        }
        return NULL;
}

static size_t element_size(ProtobufCType type) {
        switch (type) {
        case PROTOBUF_C_TYPE_INT32:
        case PROTOBUF_C_TYPE_SINT32:
        case PROTOBUF_C_TYPE_SFIXED32:
        case PROTOBUF_C_TYPE_UINT32:
        case PROTOBUF_C_TYPE_FIXED32:
                return sizeof(uint32_t);
        case PROTOBUF_C_TYPE_INT64:
        case PROTOBUF_C_TYPE_SINT64:
        case PROTOBUF_C_TYPE_SFIXED64:
        case PROTOBUF_C_TYPE_UINT64:
        case PROTOBUF_C_TYPE_FIXED64:
                return sizeof(uint64_t);
        case PROTOBUF_C_TYPE_FLOAT:
                return sizeof(float);
        case PROTOBUF_C_TYPE_DOUBLE:
                return sizeof(double);
        case PROTOBUF_C_TYPE_BOOL:
                return sizeof(protobuf_c_boolean);
        case PROTOBUF_C_TYPE_ENUM:
                return sizeof(int);
        case PROTOBUF_C_TYPE_STRING:
        case PROTOBUF_C_TYPE_MESSAGE:
                return sizeof(void *);
        case PROTOBUF_C_TYPE_BYTES:
                return sizeof(ProtobufCBinaryData);
        }
        return 0;
}

static json_t *repeated_to_json(const ProtobufCMessage *message,
                                const ProtobufCFieldDescriptor *field, unsigned depth) {
        size_t n = *(const size_t *)((const char *)message + field->quantifier_offset);
        const char *at = *(const char *const *)((const char *)message + field->offset);
        json_t *array = json_array();

        for (size_t i = 0; array && i < n; i++)
                if (json_array_append_new(
                            array,
                            value_to_json(field, at + i * element_size(field->type), depth)) < 0) {
                        json_decref(array);
                        array = NULL;
                }
        return array;
}

static bool is_present(const ProtobufCMessage *message, const ProtobufCFieldDescriptor *field) {
        const char *at = (const char *)message + field->offset;

        if ((field->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) != 0 &&
            *(const uint32_t *)((const char *)message + field->quantifier_offset) != field->id)
                return false;
        if (field->type == PROTOBUF_C_TYPE_MESSAGE)
                return *(void *const *)at != NULL;
        if (field->type == PROTOBUF_C_TYPE_BYTES)
                return ((const ProtobufCBinaryData *)at)->len > 0;
        return true;
}

static json_t *message_to_json(const ProtobufCMessage *message, unsigned depth) {
        json_t *object;

        if (is_timestamp(message->descriptor))
                return timestamp_to_json(message);
        object = json_object();
        if (depth > DEPTH_MAX)
                return object;
        for (unsigned i = 0; object && i < message->descriptor->n_fields; i++) {
                const ProtobufCFieldDescriptor *field = &message->descriptor->fields[i];
                json_t *value;

                if (field->label == PROTOBUF_C_LABEL_REPEATED)
                        value = repeated_to_json(message, field, depth);
                else if (is_present(message, field))
                        value = value_to_json(field, (const char *)message + field->offset, depth);
                else
                        continue;
                if (json_object_set_new(object, field->name, value) < 0) {
                        json_decref(object);
                        return NULL;
                }
        }
        return object;
}

int wire_to_json(const ProtobufCMessage *message, json_t **ret) {
        *ret = message_to_json(message, 0);
        return *ret ? 0 : -ENOMEM;
}
