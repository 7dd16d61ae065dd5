/* SPDX-License-Identifier: MIT */

/* The channel. A sender keeps what its peer has not consumed, and sends up to the peer's limit.
 * The port keeps order: an answer to a probe therefore tells for sure what of the bytes sent before
 * the probe has arrived; what has not is sent again. Nothing else makes a sender repeat itself. */
#include "channel/channel.h"

#include <errno.h>
#include <string.h>

#include "channel/frame.h"
#include "channel/keep.h"
#include "channel/ring.h"

#define OUTPUT_SIZE 65536U
/* A probe this often unanswered: the peer's parser may sit in the middle of a broken frame. */
#define TRIES_BEFORE_PADDING 2

struct channel_stream {
        channel *channel;
        channel_stream *next;
        uint32_t id;
        channel_handlers handlers;
        void *userdata;
        bool closed; /* freed when no handler runs */

        /* consumed and acknowledged offsets, and our bytes that the peer has not consumed */
        channel_keep *keep;
        bool keep_is_ours;

        /* what comes: consumed, then what `in` holds, then perhaps the end */
        ring in;
        bool in_ended;
        uint64_t told_limit;
        bool met; /* the peer has it open: what it was told before then it does not know */
        bool window_due, answer_due, resync_due;
        bool untold;        /* something was consumed */
        uint64_t tell_usec; /* when it is told at the latest; UINT64_MAX: the next output says */
        bool gap;           /* told of, until something fits again */
        uint64_t answer_to;

        /* what goes */
        uint64_t sent, limit;
        bool probe_due;
        uint64_t probe_number, probe_usec; /* the last one's, and when the next is due */
        uint64_t probed;                   /* was sent up to here when it went */
        unsigned tries;
};

struct channel {
        channel_stream *streams;
        channel_stream *turn; /* whose data goes next */
        size_t n_streams;
        void (*on_unknown)(channel *c, uint32_t id, void *userdata);
        void *userdata;
        unsigned dispatching;
        bool any_closed;
        uint64_t last_probe_number;
        channel_counters counters;

        uint8_t input[CHANNEL_FRAME_MAX];
        size_t n_input;
        uint8_t output[OUTPUT_SIZE];
        size_t n_output, n_taken;
};

/* ---- offsets ---- */

/* The end counts as one. */
static uint64_t goal_offset(const channel_stream *s) {
        return keep_written(s->keep) + keep_ended(s->keep);
}

static uint64_t received_offset(const channel_stream *s) {
        return keep_consumed(s->keep) + s->in.n + (s->in_ended && !keep_end_consumed(s->keep));
}

static uint64_t limit_offset(const channel_stream *s) {
        return keep_consumed(s->keep) + s->in.size;
}

/* ---- streams ---- */

void channel_set_on_unknown(channel *c, void (*on_unknown)(channel *c, uint32_t id, void *userdata),
                            void *userdata) {
        c->on_unknown = on_unknown;
        c->userdata = userdata;
}

int channel_new(channel **ret) {
        channel *c = calloc(1, sizeof(*c));

        if (!c)
                return -ENOMEM;
        *ret = c;
        return 0;
}

static void stream_free(channel_stream *s) {
        ring_done(&s->in);
        if (s->keep_is_ours)
                free(s->keep);
        free(s);
}

channel *channel_free(channel *c) {
        if (!c)
                return NULL;
        while (c->streams) {
                channel_stream *s = c->streams;

                c->streams = s->next;
                stream_free(s);
        }
        free(c);
        return NULL;
}

static channel_stream *find(const channel *c, uint32_t id) {
        for (channel_stream *s = c->streams; s; s = s->next)
                if (s->id == id && !s->closed)
                        return s;
        return NULL;
}

size_t channel_keep_size(size_t buffer) {
        return sizeof(channel_keep) + buffer;
}

/* What is kept already, or a beginning. */
static int take_keep(channel_stream *s, size_t buffer, channel_keep *keep) {
        if (!keep) {
                keep = calloc(1, channel_keep_size(buffer));
                if (!keep)
                        return -ENOMEM;
                s->keep_is_ours = true;
        }
        s->keep = keep;
        if (keep->format == 0) {
                keep->id = s->id;
                keep->size = buffer;
                keep->format = CHANNEL_KEEP_FORMAT; /* last: without it nothing else counts */
        }
        return keep->id == s->id && keep->size == buffer && channel_keep_is_sound(keep) ? 0
                                                                                        : -EINVAL;
}

int channel_open(channel *c, uint32_t id, size_t buffer, channel_keep *keep,
                 const channel_handlers *handlers, void *userdata, channel_stream **ret) {
        channel_stream *s, **end;
        int r;

        if (buffer < CHANNEL_BUFFER_MIN || buffer > CHANNEL_BUFFER_MAX)
                return -EINVAL;
        if (find(c, id))
                return -EEXIST;
        if (c->n_streams == CHANNEL_STREAMS_MAX)
                return -ENFILE;
        s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;
        s->channel = c;
        s->id = id;
        s->handlers = handlers ? *handlers : (channel_handlers){ .on_readable = NULL };
        s->userdata = userdata;
        s->window_due = true;
        s->probe_usec = s->tell_usec = UINT64_MAX;
        r = take_keep(s, buffer, keep);
        if (r == 0)
                r = ring_init(&s->in, buffer);
        if (r < 0) {
                stream_free(s);
                return r;
        }
        s->sent = s->limit = s->keep->acknowledged;
        s->in_ended = keep_end_consumed(s->keep);
        for (end = &c->streams; *end; end = &(*end)->next)
                ;
        *end = s;
        c->n_streams++;
        *ret = s;
        return 0;
}

static void free_closed(channel *c) {
        channel_stream **at = &c->streams;

        while (*at) {
                channel_stream *s = *at;

                if (!s->closed) {
                        at = &s->next;
                        continue;
                }
                *at = s->next;
                if (c->turn == s)
                        c->turn = s->next;
                stream_free(s);
                c->n_streams--;
        }
        c->any_closed = false;
}

void channel_close(channel_stream *s) {
        s->closed = true;
        s->channel->any_closed = true;
        if (!s->channel->dispatching)
                free_closed(s->channel);
}

int channel_set_window(channel_stream *s, size_t window) {
        ring other;
        int r;

        if (window < CHANNEL_BUFFER_MIN || window > CHANNEL_BUFFER_MAX || s->in.n > 0)
                return -EINVAL;
        r = ring_init(&other, window);
        if (r < 0)
                return r;
        ring_done(&s->in);
        s->in = other;
        s->window_due = true;
        return 0;
}

uint32_t channel_stream_id(const channel_stream *s) {
        return s->id;
}

size_t channel_room(const channel_stream *s) {
        return keep_ended(s->keep) ? 0 : (size_t)s->keep->size - keep_pending(s->keep);
}

size_t channel_write(channel_stream *s, const void *data, size_t n) {
        return channel_keep_put(s->keep, data, n);
}

uint8_t *channel_space(channel_stream *s, size_t *ret_n) {
        return channel_keep_space(s->keep, ret_n);
}

void channel_filled(channel_stream *s, size_t n) {
        channel_keep_filled(s->keep, n);
}

void channel_end(channel_stream *s) {
        s->keep->written |= CHANNEL_END;
}

const uint8_t *channel_peek(channel_stream *s, size_t *ret_n, bool *ret_end) {
        const uint8_t *data = ring_at(&s->in, 0, s->in.n, ret_n);

        *ret_end = s->in_ended && *ret_n == s->in.n;
        return data;
}

void channel_consume(channel_stream *s, size_t n) {
        n = n < s->in.n ? n : s->in.n;
        ring_drop(&s->in, n);
        s->keep->consumed += n;
        if (s->in.n == 0 && s->in_ended && !keep_end_consumed(s->keep)) {
                s->keep->consumed |= CHANNEL_END;
                s->window_due = true;
        }
        s->untold |= n > 0;
        if (limit_offset(s) - s->told_limit >= s->in.size / 2)
                s->window_due = true;
}

bool channel_is_drained(const channel_stream *s) {
        return keep_end_acknowledged(s->keep);
}

bool channel_is_done(const channel_stream *s) {
        return keep_end_acknowledged(s->keep) && keep_end_consumed(s->keep);
}

/* ---- what comes ---- */

static void tell_readable(channel_stream *s) {
        if (s->handlers.on_readable && !s->closed)
                s->handlers.on_readable(s, s->userdata);
}

static void tell_writable(channel_stream *s) {
        if (s->handlers.on_writable && !s->closed)
                s->handlers.on_writable(s, s->userdata);
}

static void on_data(channel_stream *s, const channel_frame *frame) {
        uint64_t received = received_offset(s), known;

        if (frame->offset > UINT64_MAX - CHANNEL_FRAME_MAX ||
            frame->offset + frame->n_payload > limit_offset(s)) {
                s->channel->counters.refused_frames++;
                return;
        }
        if (frame->offset > received) {
                s->resync_due |= !s->gap;
                s->gap = true;
                return;
        }
        s->gap = false;
        known = received - frame->offset;
        if (s->in_ended || known > frame->n_payload)
                return; /* all of it came before */
        ring_put(&s->in, frame->payload + known, frame->n_payload - known);
        s->in_ended = frame->flags & CHANNEL_FLAG_END;
        if (received_offset(s) > received)
                tell_readable(s);
}

static void on_answer(channel_stream *s, const channel_window *window) {
        if (window->probe != s->probe_number)
                return; /* to an earlier one */
        s->tries = 0;
        s->probe_usec = UINT64_MAX; /* the next output sets it */
        if (window->received >= s->probed)
                return;
        s->channel->counters.resent_bytes += s->sent - window->received;
        s->sent = window->received;
}

static void on_window(channel_stream *s, const channel_frame *frame) {
        uint64_t acknowledged = s->keep->acknowledged;
        channel_window window;

        if (!channel_window_parse(frame, &window) || frame->offset > window.received ||
            window.received > goal_offset(s)) {
                s->channel->counters.refused_frames++;
                return;
        }
        if (frame->offset >= acknowledged) {
                s->keep->acknowledged = frame->offset;
                if (window.received > s->sent)
                        s->sent = window.received;
                s->limit = window.limit;
                if (frame->flags & CHANNEL_FLAG_ANSWER)
                        on_answer(s, &window);
        }
        s->probe_due |= (frame->flags & CHANNEL_FLAG_RESYNC) != 0;
        if (s->keep->acknowledged > acknowledged)
                tell_writable(s);
}

static void dispatch(channel *c, const channel_frame *frame) {
        channel_stream *s = find(c, frame->stream);

        if (!s && c->on_unknown && frame->type != CHANNEL_FRAME_PAD) {
                c->on_unknown(c, frame->stream, c->userdata);
                s = find(c, frame->stream);
        }
        if (!s)
                return; /* not yet open, or closed: it has no credit */
        s->window_due |= !s->met;
        s->met = true;
        switch (frame->type) {
        case CHANNEL_FRAME_DATA:
                on_data(s, frame);
                break;
        case CHANNEL_FRAME_WINDOW:
                on_window(s, frame);
                break;
        case CHANNEL_FRAME_PROBE:
                s->answer_due = true;
                s->answer_to = frame->offset;
                break;
        case CHANNEL_FRAME_PAD:
                break;
        }
}

/* Takes the frames out of the input; what is left begins one. */
static void parse(channel *c) {
        size_t at = 0;

        while (at < c->n_input) {
                channel_frame frame;
                int r = channel_frame_parse(c->input + at, c->n_input - at, &frame);

                if (r == 0)
                        break;
                if (r > 0)
                        dispatch(c, &frame);
                else {
                        r = (int)channel_frame_skip(c->input + at, c->n_input - at);
                        c->counters.skipped_bytes += (uint64_t)r;
                }
                at += (size_t)r;
        }
        c->n_input -= at;
        memmove(c->input, c->input + at, c->n_input);
}

void channel_feed(channel *c, const void *data, size_t n, uint64_t now) {
        const uint8_t *bytes = data;

        c->dispatching++;
        while (n > 0) {
                size_t room = sizeof(c->input) - c->n_input, taken = n < room ? n : room;

                memcpy(c->input + c->n_input, bytes, taken);
                c->n_input += taken;
                bytes += taken;
                n -= taken;
                parse(c); /* leaves room: the longest frame fits */
        }
        if (--c->dispatching == 0 && c->any_closed)
                free_closed(c);
}

/* ---- what goes ---- */

static void put_frame(channel *c, const channel_frame *frame) {
        c->n_output += channel_frame_format(frame, c->output + c->n_output);
}

static bool has_room(const channel *c, size_t n_payload) {
        return sizeof(c->output) - c->n_output >= CHANNEL_HEADER_SIZE + n_payload;
}

static void put_window(channel_stream *s) {
        uint8_t payload[CHANNEL_WINDOW_SIZE];
        channel_window window = {
                .received = received_offset(s),
                .limit = limit_offset(s),
                .probe = s->answer_due ? s->answer_to : 0,
        };

        channel_window_format(&window, payload);
        put_frame(s->channel, &(channel_frame){
                                      .type = CHANNEL_FRAME_WINDOW,
                                      .flags = (uint8_t)((s->answer_due ? CHANNEL_FLAG_ANSWER : 0) |
                                                         (s->resync_due ? CHANNEL_FLAG_RESYNC : 0)),
                                      .stream = s->id,
                                      .offset = keep_consumed(s->keep),
                                      .payload = payload,
                                      .n_payload = sizeof(payload),
                              });
        s->told_limit = window.limit;
        s->window_due = s->answer_due = s->resync_due = s->untold = false;
        s->tell_usec = UINT64_MAX;
}

static void tell_in_time(channel_stream *s, uint64_t now) {
        if (s->untold && s->tell_usec == UINT64_MAX)
                s->tell_usec = now + CHANNEL_TELL_USEC;
        s->window_due |= s->tell_usec <= now;
}

static void put_pad(channel *c) {
        static const uint8_t zeros[CHANNEL_PAYLOAD_MAX];

        put_frame(c, &(channel_frame){ .type = CHANNEL_FRAME_PAD,
                                       .payload = zeros,
                                       .n_payload = sizeof(zeros) });
}

static void put_probe(channel_stream *s, uint64_t now) {
        uint64_t wait = CHANNEL_PROBE_USEC << (s->tries < 3 ? s->tries : 3);

        s->probe_number = ++s->channel->last_probe_number;
        s->probed = s->sent;
        s->probe_usec = now + wait;
        s->tries++;
        s->probe_due = false;
        s->channel->counters.probes++;
        put_frame(s->channel, &(channel_frame){ .type = CHANNEL_FRAME_PROBE,
                                                .stream = s->id,
                                                .offset = s->probe_number });
}

/* Small frames first: credit and answers must not wait behind data. */
static void put_signals(channel *c, uint64_t now) {
        for (channel_stream *s = c->streams; s && has_room(c, CHANNEL_PAYLOAD_MAX); s = s->next) {
                if (s->closed)
                        continue;
                tell_in_time(s, now);
                if (s->window_due || s->answer_due || s->resync_due)
                        put_window(s);
                if (s->keep->acknowledged == goal_offset(s)) { /* the peer owes nothing */
                        s->probe_usec = UINT64_MAX;
                        s->probe_due = false;
                        s->tries = 0;
                        continue;
                }
                if (s->probe_usec == UINT64_MAX)
                        s->probe_usec = now + CHANNEL_PROBE_USEC;
        }
        for (channel_stream *s = c->streams; s; s = s->next) {
                if (s->closed || (!s->probe_due && s->probe_usec > now))
                        continue;
                if (!has_room(c, CHANNEL_PAYLOAD_MAX + CHANNEL_HEADER_SIZE))
                        return;
                if (s->tries >= TRIES_BEFORE_PADDING)
                        put_pad(c);
                put_probe(s, now);
        }
}

/* One frame at most; false when the stream has nothing to send or may not. */
static bool put_data(channel_stream *s) {
        uint64_t end = keep_written(s->keep), until = s->limit < end ? s->limit : end;
        const uint8_t *data;
        bool ends;
        size_t n;

        if (s->closed || s->limit == 0 || keep_end_acknowledged(s->keep))
                return false;
        n = until > s->sent ? (size_t)(until - s->sent) : 0;
        data = channel_keep_at(s->keep, s->sent, n < CHANNEL_DATA_MAX ? n : CHANNEL_DATA_MAX, &n);
        ends = keep_ended(s->keep) && s->sent + n == end;
        if (n == 0 && !ends)
                return false;
        put_frame(s->channel, &(channel_frame){ .type = CHANNEL_FRAME_DATA,
                                                .flags = ends ? CHANNEL_FLAG_END : 0,
                                                .stream = s->id,
                                                .offset = s->sent,
                                                .payload = data,
                                                .n_payload = n });
        s->sent += n + ends;
        return true;
}

/* A frame from each stream in turn, so that none waits for another's megabytes. */
static void put_all_data(channel *c) {
        size_t idle = 0;

        while (idle < c->n_streams && has_room(c, CHANNEL_DATA_MAX)) {
                channel_stream *s = c->turn ? c->turn : c->streams;

                idle = put_data(s) ? 0 : idle + 1;
                c->turn = s->next;
        }
}

size_t channel_output(channel *c, uint64_t now, const uint8_t **ret) {
        if (c->n_taken == c->n_output) {
                c->n_taken = c->n_output = 0;
                put_signals(c, now);
                put_all_data(c);
        }
        *ret = c->output + c->n_taken;
        return c->n_output - c->n_taken;
}

void channel_sent(channel *c, size_t n) {
        c->n_taken += n < c->n_output - c->n_taken ? n : c->n_output - c->n_taken;
}

void channel_port_reset(channel *c) {
        c->n_input = c->n_output = c->n_taken = 0;
        for (channel_stream *s = c->streams; s; s = s->next) {
                s->window_due = s->resync_due = true;
                s->probe_due = true;
        }
}

uint64_t channel_deadline(const channel *c) {
        uint64_t deadline = UINT64_MAX;

        for (const channel_stream *s = c->streams; s; s = s->next) {
                deadline = s->probe_usec < deadline ? s->probe_usec : deadline;
                deadline = s->tell_usec < deadline ? s->tell_usec : deadline;
        }
        return deadline;
}

const channel_counters *channel_get_counters(const channel *c) {
        return &c->counters;
}

/* ---- moving ---- */

int channel_save_keep(const channel_keep *k, channel_stream_state *ret) {
        size_t n = keep_pending(k);

        if (!channel_keep_is_sound(k))
                return -EINVAL;
        *ret = (channel_stream_state){ .id = k->id,
                                       .consumed = k->consumed,
                                       .written = k->written,
                                       .acknowledged = k->acknowledged };
        ret->pending[0] = channel_keep_at(k, k->acknowledged, n, &ret->n_pending[0]);
        ret->pending[1] =
                channel_keep_at(k, k->acknowledged + ret->n_pending[0], n, &ret->n_pending[1]);
        return 0;
}

void channel_save(const channel_stream *s, channel_stream_state *ret) {
        (void)channel_save_keep(s->keep, ret); /* it was sound when it was opened */
}

int channel_fill_keep(channel_keep *keep, const channel_stream_state *state, size_t buffer) {
        size_t n = state->n_pending[0] + state->n_pending[1];
        uint64_t written = state->written & ~CHANNEL_END;

        if (state->n_pending[0] > buffer || state->n_pending[1] > buffer || n > buffer ||
            n > written)
                return -EINVAL;
        *keep = (channel_keep){ .format = CHANNEL_KEEP_FORMAT,
                                .id = state->id,
                                .size = buffer,
                                .consumed = state->consumed,
                                .written = written - n,
                                .acknowledged = written - n };
        for (size_t i = 0; i < ELEMENTS(state->pending); i++)
                if (state->n_pending[i] > 0)
                        (void)channel_keep_put(keep, state->pending[i], state->n_pending[i]);
        keep->written = state->written;
        keep->acknowledged = state->acknowledged;
        return channel_keep_is_sound(keep) && keep_pending(keep) == n ? 0 : -EINVAL;
}
