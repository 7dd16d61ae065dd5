/* SPDX-License-Identifier: MIT */
#pragma once

/* Byte streams over a port that loses bytes: no byte of a stream is lost or repeated, whatever the
 * port drops, while both ends keep their channel. Pure: bytes in, bytes out, a time given; the same
 * code is the guest agent's and the shim's (docs/channel.md).
 *
 * Each stream has absolute offsets, a buffer of fixed size each way, and credit: a stream that
 * nobody reads holds up no other and costs no more than its buffers. Bytes leave the sender's
 * buffer when the receiver's user has consumed them, so what a receiver loses when it dies, or when
 * a guest moves away from it, is sent again to the one that comes after it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define CHANNEL_STREAMS_MAX 1024
#define CHANNEL_BUFFER_MIN  1024
#define CHANNEL_BUFFER_MAX  (4U << 20)

/* An answer that does not come in this time is asked for again; it doubles, up to the maximum. */
#define CHANNEL_PROBE_USEC     300000ULL
#define CHANNEL_PROBE_MAX_USEC 2400000ULL
/* What was consumed is told this late, unless there is much of it: to tell has its price too. */
#define CHANNEL_TELL_USEC 5000ULL

typedef struct channel channel;
typedef struct channel_stream channel_stream;
typedef struct channel_keep channel_keep; /* keep.h */

/* Called from channel_feed() only. They may use every call on any stream, channel_close() of this
 * one too; not channel_free(). Either may be NULL. */
typedef struct channel_handlers {
        void (*on_readable)(channel_stream *s, void *userdata); /* bytes, or the end */
        void (*on_writable)(channel_stream *s, void *userdata); /* room, or all was consumed */
} channel_handlers;

typedef struct channel_counters {
        uint64_t skipped_bytes;  /* that were no frame */
        uint64_t refused_frames; /* that broke a rule: beyond the credit, unknown kind of window */
        uint64_t resent_bytes;
        uint64_t probes;
} channel_counters;

/* -ENOMEM. */
int channel_new(channel **ret);
/* With all its streams. */
channel *channel_free(channel *c);

/* Called from channel_feed() when the peer shows a stream that is not open here; it may open it. */
void channel_set_on_unknown(channel *c, void (*on_unknown)(channel *c, uint32_t id, void *userdata),
                            void *userdata);

/* ---- streams ---- */

/* Both ends open a stream by the same id; what the other sends before is not lost, as it has no
 * credit yet. `buffer`: bytes each way. `keep`: NULL, or channel_keep_size(buffer) bytes that stay
 * the caller's and outlive the stream; zeros are a new stream, what an earlier one left there goes
 * on where that ended. -EINVAL for a buffer out of range or a keep that is not this stream's,
 * -EEXIST, -ENFILE over CHANNEL_STREAMS_MAX, -ENOMEM. */
size_t channel_keep_size(size_t buffer);
int channel_open(channel *c, uint32_t id, size_t buffer, channel_keep *keep,
                 const channel_handlers *handlers, void *userdata, channel_stream **ret);
/* Forgets it, unsent bytes too: after channel_stream_is_done(), or when they matter no more. */
void channel_close(channel_stream *s);

/* How much of the peer's may lie here, if not as much as of our own; before anything has come. */
int channel_set_window(channel_stream *s, size_t window);

uint32_t channel_stream_id(const channel_stream *s);

/* Takes what there is room for; returns that: 0 to `n`. Nothing after channel_end(). */
size_t channel_write(channel_stream *s, const void *data, size_t n);
size_t channel_room(const channel_stream *s);
/* The same without a copy: room that lies in one piece (0 if none), and how much of it was filled.
 */
uint8_t *channel_space(channel_stream *s, size_t *ret_n);
void channel_filled(channel_stream *s, size_t n);
/* Nothing more will be written. */
void channel_end(channel_stream *s);

/* What has come, in one piece; NULL and 0 if nothing. *ret_end: behind these bytes, all consumed,
 * comes nothing more. */
const uint8_t *channel_peek(channel_stream *s, size_t *ret_n, bool *ret_end);
/* The first `n` of channel_peek() are where they belong and will not be sent again. With 0 bytes
 * left and the end seen, consumes the end. */
void channel_consume(channel_stream *s, size_t n);

/* Everything written, and its end, was consumed by the peer. */
bool channel_is_drained(const channel_stream *s);
/* Drained, and the peer's end was consumed here: nothing is left to do. */
bool channel_is_done(const channel_stream *s);

/* ---- the port ---- */

/* Bytes from the port, in any pieces. Calls handlers. */
void channel_feed(channel *c, const void *data, size_t n, uint64_t now_usec);

/* The bytes to write to the port next; 0 when there are none. Good until the next call. */
size_t channel_output(channel *c, uint64_t now_usec, const uint8_t **ret);
/* The port took `n` of them. */
void channel_sent(channel *c, size_t n);

/* The port was opened again, or has another peer: what was under way may be lost. */
void channel_port_reset(channel *c);

/* When channel_output() is to be called even if nothing else happens; UINT64_MAX: never. */
uint64_t channel_deadline(const channel *c);

const channel_counters *channel_get_counters(const channel *c);

/* ---- one end that goes on in another process, or on another host ---- */

typedef struct channel_stream_state {
        uint32_t id;
        uint64_t consumed, written, acknowledged; /* as in channel_keep */
        const uint8_t *pending[2]; /* not acknowledged: two pieces, borrowed from the stream */
        size_t n_pending[2];
} channel_stream_state;

/* What another channel needs to take this stream over without loss. What came and was not consumed
 * is not in it: the peer sends it again. */
void channel_save(const channel_stream *s, channel_stream_state *ret);
/* The same, of a stream that is not open. The keep was channel_open()'s before, or
 * channel_fill_keep()'s; -EINVAL when it is neither. */
int channel_save_keep(const channel_keep *keep, channel_stream_state *ret);
/* Makes `keep`, of channel_keep_size(buffer) bytes, of it, for channel_open(). -EINVAL when the
 * state contradicts itself or holds more than `buffer`. Follow with channel_port_reset() when all
 * streams are open. */
int channel_fill_keep(channel_keep *keep, const channel_stream_state *state, size_t buffer);

DEFINE_CLEANUP(channel *, channel_free)
