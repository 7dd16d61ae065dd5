/* SPDX-License-Identifier: MIT */
#include "ttrpc/envelope.h"

#include <errno.h>
#include <string.h>

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

/* ---- reading ---- */

typedef struct cursor {
        const uint8_t *at, *end;
} cursor;

typedef struct field {
        uint32_t number;
        unsigned wire;
        uint64_t value;
        const uint8_t *data;
        size_t n;
} field;

static int read_varint(cursor *c, uint64_t *ret) {
        uint64_t value = 0;

        for (unsigned shift = 0; shift < 70; shift += 7) {
                uint8_t byte;

                if (c->at == c->end)
                        return -EBADMSG;
                byte = *c->at++;
                if (shift == 63 && byte > 1)
                        return -EBADMSG;
                value |= (uint64_t)(byte & 0x7f) << shift;
                if (!(byte & 0x80)) {
                        *ret = value;
                        return 0;
                }
        }
        return -EBADMSG;
}

static int skip_bytes(cursor *c, uint64_t n, field *f) {
        if (n > (uint64_t)(c->end - c->at))
                return -EBADMSG;
        f->data = c->at;
        f->n = (size_t)n;
        c->at += n;
        return 0;
}

/* 1 a field, 0 the end, -EBADMSG. */
static int next_field(cursor *c, field *f) {
        uint64_t key, n;
        int r;

        if (c->at == c->end)
                return 0;
        if (read_varint(c, &key) < 0 || key >> 3 == 0 || key >> 3 > 0x1fffffff)
                return -EBADMSG;
        *f = (field){ .number = (uint32_t)(key >> 3), .wire = (unsigned)(key & 7) };
        switch (f->wire) {
        case WIRE_VARINT:
                r = read_varint(c, &f->value);
                break;
        case WIRE_64:
                r = skip_bytes(c, 8, f);
                break;
        case WIRE_BYTES:
                r = read_varint(c, &n);
                if (r == 0)
                        r = skip_bytes(c, n, f);
                break;
        case WIRE_32:
                r = skip_bytes(c, 4, f);
                break;
        default:
                r = -EBADMSG;
        }
        return r < 0 ? r : 1;
}

static int take_text(const field *f, ttrpc_text *ret) {
        if (f->wire != WIRE_BYTES || !ttrpc_utf8_is_valid((const char *)f->data, f->n))
                return -EBADMSG;
        *ret = (ttrpc_text){ (const char *)f->data, f->n };
        return 0;
}

static int take_pair(const field *f, ttrpc_envelope_pair *ret) {
        cursor c = { f->data, f->data + f->n };
        field inner;
        int r;

        if (f->wire != WIRE_BYTES)
                return -EBADMSG;
        *ret = (ttrpc_envelope_pair){ .key = { "", 0 }, .value = { "", 0 } };
        while ((r = next_field(&c, &inner)) > 0)
                if ((inner.number == 1 && take_text(&inner, &ret->key) < 0) ||
                    (inner.number == 2 && take_text(&inner, &ret->value) < 0))
                        return -EBADMSG;
        return r;
}

int ttrpc_request_parse(const uint8_t *data, size_t n, ttrpc_request *ret) {
        cursor c = { data, data + n };
        field f;
        int r;

        ret->service = ret->method = (ttrpc_text){ "", 0 };
        ret->payload = NULL;
        ret->n_payload = 0;
        ret->timeout_nano = 0;
        ret->n_metadata = 0;
        while ((r = next_field(&c, &f)) > 0) {
                switch (f.number) {
                case 1:
                        r = take_text(&f, &ret->service);
                        break;
                case 2:
                        r = take_text(&f, &ret->method);
                        break;
                case 3:
                        r = f.wire == WIRE_BYTES ? 0 : -EBADMSG;
                        ret->payload = f.data;
                        ret->n_payload = f.n;
                        break;
                case 4:
                        r = f.wire == WIRE_VARINT ? 0 : -EBADMSG;
                        ret->timeout_nano = (int64_t)f.value;
                        break;
                case 5:
                        r = ret->n_metadata < TTRPC_METADATA_MAX
                                    ? take_pair(&f, &ret->metadata[ret->n_metadata++])
                                    : -EBADMSG;
                        break;
                default:
                        r = 0;
                }
                if (r < 0)
                        return r;
        }
        return r;
}

static int take_status(const field *f, ttrpc_response *ret) {
        cursor c = { f->data, f->data + f->n };
        field inner;
        int r;

        if (f->wire != WIRE_BYTES)
                return -EBADMSG;
        while ((r = next_field(&c, &inner)) > 0) {
                if (inner.number == 1 && inner.wire != WIRE_VARINT)
                        return -EBADMSG;
                if (inner.number == 1)
                        ret->code = (int32_t)inner.value;
                else if (inner.number == 2 && take_text(&inner, &ret->message) < 0)
                        return -EBADMSG;
        }
        return r;
}

int ttrpc_response_parse(const uint8_t *data, size_t n, ttrpc_response *ret) {
        cursor c = { data, data + n };
        field f;
        int r;

        *ret = (ttrpc_response){ .message = { "", 0 } };
        while ((r = next_field(&c, &f)) > 0) {
                if (f.number == 1 && take_status(&f, ret) < 0)
                        return -EBADMSG;
                if (f.number == 2) {
                        if (f.wire != WIRE_BYTES)
                                return -EBADMSG;
                        ret->payload = f.data;
                        ret->n_payload = f.n;
                }
        }
        return r;
}

/* ---- writing ---- */

static size_t varint_size(uint64_t value) {
        size_t n = 1;

        while (value >>= 7)
                n++;
        return n;
}

/* Fields 1 to 15 only: one byte of key. */
static size_t bytes_size(size_t n) {
        return 1 + varint_size(n) + n;
}

static uint8_t *put_varint(uint8_t *at, uint64_t value) {
        while (value >= 0x80) {
                *at++ = (uint8_t)(value | 0x80);
                value >>= 7;
        }
        *at++ = (uint8_t)value;
        return at;
}

static uint8_t *put_bytes(uint8_t *at, unsigned number, const void *data, size_t n) {
        *at++ = (uint8_t)(number << 3 | WIRE_BYTES);
        at = put_varint(at, n);
        if (n > 0)
                memcpy(at, data, n);
        return at + n;
}

static size_t pair_size(const ttrpc_envelope_pair *pair) {
        return bytes_size(pair->key.n) + bytes_size(pair->value.n);
}

size_t ttrpc_request_size(const ttrpc_request *q) {
        size_t n = bytes_size(q->service.n) + bytes_size(q->method.n);

        if (q->n_payload > 0)
                n += bytes_size(q->n_payload);
        if (q->timeout_nano != 0)
                n += 1 + varint_size((uint64_t)q->timeout_nano);
        for (size_t i = 0; i < q->n_metadata; i++)
                n += bytes_size(pair_size(&q->metadata[i]));
        return n;
}

void ttrpc_request_format(const ttrpc_request *q, uint8_t *at) {
        at = put_bytes(at, 1, q->service.data, q->service.n);
        at = put_bytes(at, 2, q->method.data, q->method.n);
        if (q->n_payload > 0)
                at = put_bytes(at, 3, q->payload, q->n_payload);
        if (q->timeout_nano != 0) {
                *at++ = 4 << 3 | WIRE_VARINT;
                at = put_varint(at, (uint64_t)q->timeout_nano);
        }
        for (size_t i = 0; i < q->n_metadata; i++) {
                const ttrpc_envelope_pair *pair = &q->metadata[i];

                *at++ = 5 << 3 | WIRE_BYTES;
                at = put_varint(at, pair_size(pair));
                at = put_bytes(at, 1, pair->key.data, pair->key.n);
                at = put_bytes(at, 2, pair->value.data, pair->value.n);
        }
}

static size_t status_size(const ttrpc_response *p) {
        size_t n = 1 + varint_size((uint64_t)(int64_t)p->code);

        return p->message.n > 0 ? n + bytes_size(p->message.n) : n;
}

size_t ttrpc_response_size(const ttrpc_response *p) {
        size_t n = p->code != 0 ? bytes_size(status_size(p)) : 0;

        return p->n_payload > 0 ? n + bytes_size(p->n_payload) : n;
}

void ttrpc_response_format(const ttrpc_response *p, uint8_t *at) {
        if (p->code != 0) {
                *at++ = 1 << 3 | WIRE_BYTES;
                at = put_varint(at, status_size(p));
                *at++ = 1 << 3 | WIRE_VARINT;
                at = put_varint(at, (uint64_t)(int64_t)p->code);
                if (p->message.n > 0)
                        at = put_bytes(at, 2, p->message.data, p->message.n);
        }
        if (p->n_payload > 0)
                put_bytes(at, 2, p->payload, p->n_payload);
}

/* ---- text ---- */

bool ttrpc_utf8_is_valid(const char *text, size_t n) {
        const uint8_t *s = (const uint8_t *)text;

        for (size_t i = 0; i < n;) {
                uint32_t point, low;
                size_t more;

                if (s[i] < 0x80) {
                        i++;
                        continue;
                }
                if (s[i] >= 0xc2 && s[i] <= 0xdf)
                        more = 1, low = 0x80, point = s[i] & 0x1f;
                else if ((s[i] & 0xf0) == 0xe0)
                        more = 2, low = 0x800, point = s[i] & 0x0f;
                else if (s[i] >= 0xf0 && s[i] <= 0xf4)
                        more = 3, low = 0x10000, point = s[i] & 0x07;
                else
                        return false;
                if (n - i <= more)
                        return false;
                for (size_t k = 1; k <= more; k++) {
                        if ((s[i + k] & 0xc0) != 0x80)
                                return false;
                        point = point << 6 | (s[i + k] & 0x3f);
                }
                if (point < low || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff))
                        return false;
                i += more + 1;
        }
        return true;
}
