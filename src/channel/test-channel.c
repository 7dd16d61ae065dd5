/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "channel/channel.h"
#include "channel/frame.h"
#include "channel/keep.h"
#include "channel/ring.h"

/* ---- frames ---- */

static void test_frames_at_every_split(void **state) {
        uint8_t payload[100], bytes[CHANNEL_FRAME_MAX];
        channel_frame frame = { .type = CHANNEL_FRAME_DATA,
                                .flags = CHANNEL_FLAG_END,
                                .stream = 0xfedcba98,
                                .offset = 0x123456789abcdef0,
                                .payload = payload,
                                .n_payload = sizeof(payload) },
                      got;
        size_t n;

        memset(payload, 'F', sizeof(payload));
        n = channel_frame_format(&frame, bytes);
        assert_int_equal(n, CHANNEL_HEADER_SIZE + sizeof(payload));
        for (size_t i = 1; i < n; i++)
                assert_int_equal(channel_frame_parse(bytes, i, &got), 0);
        assert_int_equal(channel_frame_parse(bytes, n, &got), n);
        assert_int_equal(got.type, frame.type);
        assert_int_equal(got.flags, frame.flags);
        assert_int_equal(got.stream, frame.stream);
        assert_true(got.offset == frame.offset);
        assert_int_equal(got.n_payload, sizeof(payload));
        assert_memory_equal(got.payload, payload, sizeof(payload));
}

static void test_no_flipped_bit_is_a_frame(void **state) {
        uint8_t bytes[CHANNEL_FRAME_MAX];
        channel_frame frame = { .type = CHANNEL_FRAME_WINDOW,
                                .payload = (const uint8_t *)"0123456789abcdef01234567",
                                .n_payload = CHANNEL_WINDOW_SIZE },
                      got;
        size_t n = channel_frame_format(&frame, bytes);

        for (size_t bit = 0; bit < n * 8; bit++) {
                bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
                assert_true(channel_frame_parse(bytes, n, &got) < 0);
                bytes[bit / 8] ^= (uint8_t)(1U << bit % 8);
        }
        assert_int_equal(channel_frame_parse(bytes, n, &got), n);
}

static void test_ring_wraps(void **state) {
        ring r;
        size_t n;

        assert_int_equal(ring_init(&r, 5), 0);
        assert_int_equal(ring_put(&r, "abcd", 4), 4);
        ring_drop(&r, 3);
        assert_int_equal(ring_put(&r, "efghij", 6), 4);
        assert_int_equal(ring_room(&r), 0);
        assert_memory_equal(ring_at(&r, 0, 9, &n), "de", 2);
        assert_int_equal(n, 2);
        assert_memory_equal(ring_at(&r, 2, 9, &n), "fgh", 3);
        assert_int_equal(n, 3);
        assert_null(ring_at(&r, 5, 1, &n));
        ring_drop(&r, 9);
        assert_int_equal(r.n, 0);
        ring_done(&r);
}

/* ---- two ends and a port that loses bytes ---- */

#define N_STREAMS 5
#define BUFFER    4096U
#define LENGTH    60000U

/* The byte at `offset` of the stream that `end` writes. */
static uint8_t content(int end, uint32_t stream, uint64_t offset) {
        uint64_t x = (offset + 1) * 0x9e3779b97f4a7c15ULL + stream * 31U + (uint64_t)end * 7919U;

        return (uint8_t)(x >> 40);
}

typedef struct pipe_of_bytes {
        uint8_t data[1 << 20];
        size_t n;
} pipe_of_bytes;

typedef struct one_end {
        int number;
        channel *c;
        channel_stream *s[N_STREAMS];
        uint64_t written[N_STREAMS], read[N_STREAMS];
        bool ended[N_STREAMS];
        pipe_of_bytes outgoing;
        _Alignas(channel_keep) uint8_t keeps[2][N_STREAMS][sizeof(channel_keep) + BUFFER];
        unsigned turn; /* which of the two sets of keeps is in use */
} one_end;

static one_end ends[2];
static uint64_t seed, now, resent;

static uint32_t rnd(uint32_t below) {
        seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
        return (uint32_t)(seed >> 33) % below;
}

static channel_keep *keep_of(one_end *e, uint32_t i) {
        return (channel_keep *)(void *)e->keeps[e->turn][i];
}

static void open_all(one_end *e, int number) {
        memset(e, 0, sizeof(*e));
        e->number = number;
        assert_int_equal(channel_new(&e->c), 0);
        for (uint32_t i = 0; i < N_STREAMS; i++)
                assert_int_equal(channel_open(e->c, i, BUFFER, keep_of(e, i), NULL, NULL, &e->s[i]),
                                 0);
}

static void write_some(one_end *e, uint32_t i) {
        uint8_t bytes[3000];
        uint64_t left = LENGTH - e->written[i];
        size_t n = 1 + rnd(sizeof(bytes));

        if (left == 0) {
                channel_end(e->s[i]);
                return;
        }
        if (n > left)
                n = (size_t)left;
        for (size_t k = 0; k < n; k++)
                bytes[k] = content(e->number, i, e->written[i] + k);
        if (rnd(2) == 0) {
                size_t room;
                uint8_t *space = channel_space(e->s[i], &room);

                n = n < room ? n : room;
                memcpy(space, bytes, n);
                channel_filled(e->s[i], n);
                e->written[i] += n;
        } else
                e->written[i] += channel_write(e->s[i], bytes, n);
}

static void read_some(one_end *e, uint32_t i) {
        bool ended;
        size_t n;
        const uint8_t *data = channel_peek(e->s[i], &n, &ended);

        if (n > 0 && rnd(4) == 0)
                n = 1 + rnd((uint32_t)n);
        for (size_t k = 0; k < n; k++)
                if (data[k] != content(1 - e->number, i, e->read[i] + k))
                        fail_msg("stream %u, byte %llu of end %d is wrong", i,
                                 (unsigned long long)(e->read[i] + k), 1 - e->number);
        e->read[i] += n;
        channel_consume(e->s[i], n);
        (void)channel_peek(e->s[i], &n, &ended);
        if (ended && n == 0) {
                channel_consume(e->s[i], 0);
                e->ended[i] = true;
        }
}

static void send_some(one_end *e) {
        const uint8_t *data;
        size_t n = channel_output(e->c, now, &data);

        if (n > 1 && rnd(3) == 0)
                n = 1 + rnd((uint32_t)n);
        if (e->outgoing.n + n > sizeof(e->outgoing.data))
                return;
        if (n > 0)
                memcpy(e->outgoing.data + e->outgoing.n, data, n);
        e->outgoing.n += n;
        channel_sent(e->c, n);
}

static void lose_some(one_end *e) {
        pipe_of_bytes *p = &e->outgoing;
        size_t from, n;

        if (p->n == 0)
                return;
        from = rnd((uint32_t)p->n);
        n = 1 + rnd((uint32_t)(p->n - from));
        memmove(p->data + from, p->data + from + n, p->n - from - n);
        p->n -= n;
}

static void receive_some(one_end *to, one_end *from) {
        pipe_of_bytes *p = &from->outgoing;
        size_t n = p->n ? 1 + rnd((uint32_t)p->n) : 0;

        channel_feed(to->c, p->data, n, now);
        memmove(p->data, p->data + n, p->n - n);
        p->n -= n;
}

/* The end goes on in another process: with what channel_save() says, or (it died) with what is kept
 * in memory. All in flight is lost. */
static void move_end(one_end *e, one_end *other, bool dies) {
        channel *old = e->c;

        assert_int_equal(channel_new(&e->c), 0);
        for (uint32_t i = 0; i < N_STREAMS; i++) {
                channel_stream_state state;

                if (!dies) {
                        channel_save(e->s[i], &state);
                        e->turn ^= 1;
                        assert_int_equal(channel_fill_keep(keep_of(e, i), &state, BUFFER), 0);
                        e->turn ^= 1;
                }
        }
        e->turn ^= !dies;
        for (uint32_t i = 0; i < N_STREAMS; i++) {
                assert_int_equal(channel_open(e->c, i, BUFFER, keep_of(e, i), NULL, NULL, &e->s[i]),
                                 0);
        }
        channel_free(old);
        channel_port_reset(e->c);
        e->outgoing.n = other->outgoing.n = 0;
}

static bool all_done(void) {
        for (int e = 0; e < 2; e++)
                for (int i = 0; i < N_STREAMS; i++)
                        if (!ends[e].ended[i] || !channel_is_done(ends[e].s[i]))
                                return false;
        return true;
}

/* One run: `loss` and `moves` are how often in 1000 steps. */
static void run(uint64_t with_seed, uint32_t loss, uint32_t moves) {
        unsigned steps = 0;

        seed = with_seed;
        now = 1000;
        open_all(&ends[0], 0);
        open_all(&ends[1], 1);
        while (!all_done()) {
                int e = (int)rnd(2);
                uint32_t i = rnd(N_STREAMS);

                if (++steps > 2000000)
                        fail_msg("seed %llu: it does not end", (unsigned long long)with_seed);
                now += rnd(20000);
                write_some(&ends[e], i);
                read_some(&ends[1 - e], i);
                send_some(&ends[e]);
                if (steps < 200000 && rnd(1000) < loss) {
                        lose_some(&ends[e]);
                        if (rnd(2) == 0) /* noticed, or not */
                                channel_port_reset(ends[e].c);
                }
                if (steps < 200000 && rnd(1000) < moves)
                        move_end(&ends[0], &ends[1], rnd(2));
                receive_some(&ends[1 - e], &ends[e]);
        }
        for (int e = 0; e < 2; e++) {
                for (int i = 0; i < N_STREAMS; i++)
                        assert_int_equal(ends[e].read[i], LENGTH);
                assert_true(channel_get_counters(ends[e].c)->refused_frames == 0);
                resent += channel_get_counters(ends[e].c)->resent_bytes;
                ends[e].c = channel_free(ends[e].c);
        }
}

static void test_a_good_port_repeats_nothing(void **state) {
        const uint8_t *data;

        run(1, 0, 0);
        open_all(&ends[0], 0);
        open_all(&ends[1], 1);
        for (int round = 0; round < 200; round++)
                for (int e = 0; e < 2; e++) {
                        size_t n;

                        now += 1000;
                        write_some(&ends[e], 0);
                        read_some(&ends[e], 0);
                        n = channel_output(ends[e].c, now, &data);
                        channel_feed(ends[1 - e].c, data, n, now);
                        channel_sent(ends[e].c, n);
                }
        assert_true(ends[0].read[0] > 0);
        for (int e = 0; e < 2; e++) {
                assert_true(channel_get_counters(ends[e].c)->resent_bytes == 0);
                assert_true(channel_get_counters(ends[e].c)->skipped_bytes == 0);
                ends[e].c = channel_free(ends[e].c);
        }
}

static void test_lost_bytes_come_again(void **state) {
        resent = 0;
        for (uint64_t s = 1; s <= 40; s++)
                run(s, 1 + (uint32_t)s % 30, 0);
        assert_true(resent > 0);
}

static void test_moves_lose_and_repeat_nothing(void **state) {
        resent = 0;
        for (uint64_t s = 1; s <= 40; s++)
                run(1000 + s, (uint32_t)s % 10, 1 + (uint32_t)s % 15);
        assert_true(resent > 0);
}

/* ---- one end and a hostile peer ---- */

static channel *c;
static channel_stream *s;

static int setup(void **state) {
        assert_int_equal(channel_new(&c), 0);
        return channel_open(c, 7, BUFFER, NULL, NULL, NULL, &s);
}

static int teardown(void **state) {
        c = channel_free(c);
        return 0;
}

static void feed(channel_frame_type type, uint8_t flags, uint64_t offset, const void *payload,
                 size_t n) {
        uint8_t bytes[CHANNEL_FRAME_MAX];
        channel_frame frame = { .type = type,
                                .flags = flags,
                                .stream = 7,
                                .offset = offset,
                                .payload = payload,
                                .n_payload = n };

        channel_feed(c, bytes, channel_frame_format(&frame, bytes), 0);
}

static void feed_window(uint64_t consumed, uint64_t received, uint64_t limit) {
        uint8_t payload[CHANNEL_WINDOW_SIZE];

        channel_window_format(&(channel_window){ .received = received, .limit = limit }, payload);
        feed(CHANNEL_FRAME_WINDOW, 0, consumed, payload, sizeof(payload));
}

static size_t readable(void) {
        bool ended;
        size_t n;

        (void)channel_peek(s, &n, &ended);
        return n;
}

static void test_credit_is_kept(void **state) {
        static const uint8_t bytes[BUFFER + 1];

        feed(CHANNEL_FRAME_DATA, 0, 0, bytes, BUFFER + 1);
        assert_int_equal(readable(), 0);
        feed(CHANNEL_FRAME_DATA, 0, UINT64_MAX - 10, bytes, 100);
        assert_int_equal(readable(), 0);
        assert_true(channel_get_counters(c)->refused_frames == 2);
        feed(CHANNEL_FRAME_DATA, 0, 0, bytes, BUFFER);
        assert_int_equal(readable(), BUFFER);
        feed(CHANNEL_FRAME_DATA, 0, BUFFER, bytes, 1);
        assert_int_equal(readable(), BUFFER);
}

static void test_windows_that_lie(void **state) {
        assert_int_equal(channel_write(s, "0123456789", 10), 10);
        feed_window(0, 11, 1000);
        feed_window(5, 4, 1000);
        feed_window(UINT64_MAX, UINT64_MAX, UINT64_MAX);
        feed(CHANNEL_FRAME_WINDOW, 0, 0, "short", 5);
        assert_true(channel_get_counters(c)->refused_frames == 4);
        assert_int_equal(channel_room(s), BUFFER - 10);
        feed_window(4, 6, UINT64_MAX);
        assert_int_equal(channel_room(s), BUFFER - 6);
        feed_window(0, 0, 0); /* older */
        assert_int_equal(channel_room(s), BUFFER - 6);
}

/* The first of what is to be sent; the rest stays in data and n. */
static int frame_of_kind(uint8_t type, const uint8_t **data, size_t *n, channel_frame *ret) {
        int r = channel_frame_parse(*data, *n, ret);

        if (r <= 0 || ret->type != type)
                return -1;
        *data += r;
        *n -= (size_t)r;
        channel_sent(c, (size_t)r);
        return 0;
}

static void test_nothing_is_sent_without_credit(void **state) {
        const uint8_t *data;
        channel_frame frame;
        size_t n;

        assert_int_equal(channel_write(s, "0123456789", 10), 10);
        n = channel_output(c, 0, &data);
        while (n > 0) {
                int r = channel_frame_parse(data, n, &frame);

                assert_true(r > 0);
                assert_int_not_equal(frame.type, CHANNEL_FRAME_DATA);
                channel_sent(c, (size_t)r);
                n = channel_output(c, 0, &data);
        }
        feed_window(0, 0, 4);
        n = channel_output(c, 0, &data);
        /* who opens later has not heard our limit: again, with the first of its frames */
        assert_int_equal(frame_of_kind(CHANNEL_FRAME_WINDOW, &data, &n, &frame), 0);
        assert_int_equal(channel_frame_parse(data, n, &frame), n);
        assert_int_equal(frame.type, CHANNEL_FRAME_DATA);
        assert_int_equal(frame.n_payload, 4);
        channel_sent(c, n);
        feed_window(0, 0, 4);
        assert_int_equal(channel_output(c, 0, &data), 0); /* and not again */
}

/* What the next output says of what was consumed; UINT64_MAX: nothing. */
static uint64_t told_consumed(uint64_t at_usec) {
        const uint8_t *data;
        size_t n = channel_output(c, at_usec, &data);
        uint64_t told = UINT64_MAX;
        channel_frame frame;

        for (size_t at = 0; at < n;) {
                int r = channel_frame_parse(data + at, n - at, &frame);

                assert_true(r > 0);
                if (frame.type == CHANNEL_FRAME_WINDOW)
                        told = frame.offset;
                at += (size_t)r;
        }
        channel_sent(c, n);
        return told;
}

static void test_little_is_told_late_and_much_at_once(void **state) {
        static const uint8_t bytes[BUFFER];

        assert_int_equal(told_consumed(1000), 0);
        feed(CHANNEL_FRAME_DATA, 0, 0, bytes, 10);
        assert_int_equal(told_consumed(1000), 0); /* the peer shows that it knows the stream */
        channel_consume(s, 10);
        assert_true(told_consumed(2000) == UINT64_MAX);
        assert_int_equal(channel_deadline(c), 2000 + CHANNEL_TELL_USEC);
        assert_true(told_consumed(1999 + CHANNEL_TELL_USEC) == UINT64_MAX);
        assert_int_equal(told_consumed(2000 + CHANNEL_TELL_USEC), 10);
        assert_true(channel_deadline(c) == UINT64_MAX);
        feed(CHANNEL_FRAME_DATA, 0, 10, bytes, BUFFER / 2);
        channel_consume(s, BUFFER / 2);
        assert_int_equal(told_consumed(3000 + CHANNEL_TELL_USEC), 10 + BUFFER / 2);
        feed(CHANNEL_FRAME_DATA, CHANNEL_FLAG_END, 10 + BUFFER / 2, bytes, 1);
        channel_consume(s, 1);
        assert_int_equal(told_consumed(4000 + CHANNEL_TELL_USEC), 12 + BUFFER / 2);
}

static void test_the_window_may_be_another_than_the_buffer(void **state) {
        static const uint8_t bytes[BUFFER];
        size_t room;

        assert_int_equal(channel_set_window(s, CHANNEL_BUFFER_MAX + 1), -EINVAL);
        assert_int_equal(channel_set_window(s, CHANNEL_BUFFER_MIN - 1), -EINVAL);
        assert_int_equal(channel_set_window(s, 2 * BUFFER), 0);
        feed(CHANNEL_FRAME_DATA, 0, 0, bytes, BUFFER);
        feed(CHANNEL_FRAME_DATA, 0, BUFFER, bytes, BUFFER);
        assert_int_equal(readable(), 2 * BUFFER);
        feed(CHANNEL_FRAME_DATA, 0, 2ULL * BUFFER, bytes, 1);
        assert_int_equal(channel_get_counters(c)->refused_frames, 1);
        assert_int_equal(channel_set_window(s, BUFFER), -EINVAL); /* too late */
        (void)channel_space(s, &room);
        assert_int_equal(room, BUFFER);
        channel_end(s);
        (void)channel_space(s, &room);
        assert_int_equal(room, 0);
}

static void test_what_cannot_be_opened(void **state) {
        channel_stream *other;

        assert_int_equal(channel_open(c, 7, BUFFER, NULL, NULL, NULL, &other), -EEXIST);
        assert_int_equal(channel_open(c, 8, 1, NULL, NULL, NULL, &other), -EINVAL);
        assert_int_equal(channel_open(c, 8, SIZE_MAX, NULL, NULL, NULL, &other), -EINVAL);
        for (uint32_t i = 8; i < 7 + CHANNEL_STREAMS_MAX; i++)
                assert_int_equal(channel_open(c, i, CHANNEL_BUFFER_MIN, NULL, NULL, NULL, &other),
                                 0);
        assert_int_equal(channel_open(c, 1, CHANNEL_BUFFER_MIN, NULL, NULL, NULL, &other), -ENFILE);
        channel_close(other);
        assert_int_equal(channel_open(c, 1, CHANNEL_BUFFER_MIN, NULL, NULL, NULL, &other), 0);
}

static void test_states_that_contradict_themselves(void **state) {
        static const uint8_t bytes[BUFFER];
        const channel_stream_state bad[] = {
                { .consumed = UINT64_MAX },
                { .acknowledged = 1 },
                { .written = CHANNEL_END, .acknowledged = 2 },
                { .written = 10, .acknowledged = 9 }, /* and where is the byte? */
                { .written = 10, .acknowledged = 10, .pending = { bytes }, .n_pending = { 1 } },
                { .written = 5, .pending = { bytes }, .n_pending = { 6 } },
                { .written = BUFFER + 9,
                  .acknowledged = 8,
                  .pending = { bytes, bytes },
                  .n_pending = { BUFFER, 1 } },
                { .written = 1ULL << 62, .acknowledged = 1ULL << 62 },
        };
        _Alignas(channel_keep) uint8_t memory[sizeof(channel_keep) + BUFFER];
        channel_keep *keep = (channel_keep *)(void *)memory;
        channel_stream *other;

        for (size_t i = 0; i < ELEMENTS(bad); i++)
                assert_int_equal(channel_fill_keep(keep, &bad[i], BUFFER), -EINVAL);
        memset(memory, 0, sizeof(memory));
        assert_int_equal(channel_open(c, 8, BUFFER, keep, NULL, NULL, &other), 0);
        channel_close(other);
        assert_int_equal(channel_open(c, 9, BUFFER, keep, NULL, NULL, &other), -EINVAL);
        assert_int_equal(channel_open(c, 8, BUFFER - 1, keep, NULL, NULL, &other), -EINVAL);
        memset(memory, 0xff, sizeof(memory));
        assert_int_equal(channel_open(c, 8, BUFFER, keep, NULL, NULL, &other), -EINVAL);
}

static void close_it(channel_stream *stream, void *userdata) {
        (*(unsigned *)userdata)++;
        channel_close(stream);
}

static void test_closed_by_its_own_handler(void **state) {
        channel_handlers handlers = { .on_readable = close_it };
        uint8_t bytes[2 * CHANNEL_FRAME_MAX];
        channel_stream *other;
        unsigned calls = 0;
        size_t n = 0;

        assert_int_equal(channel_open(c, 9, BUFFER, NULL, &handlers, &calls, &other), 0);
        for (int i = 0; i < 2; i++)
                n += channel_frame_format(&(channel_frame){ .type = CHANNEL_FRAME_DATA,
                                                            .stream = 9,
                                                            .offset = (uint64_t)i,
                                                            .payload = (const uint8_t *)"x",
                                                            .n_payload = 1 },
                                          bytes + n);
        channel_feed(c, bytes, n, 0);
        assert_int_equal(calls, 1);
        assert_int_equal(channel_open(c, 9, BUFFER, NULL, NULL, NULL, &other), 0);
}

static void open_it(channel *with, uint32_t id, void *userdata) {
        assert_int_equal(channel_open(with, id, BUFFER, NULL, NULL, NULL, userdata), 0);
}

static void test_opened_when_the_peer_shows_it(void **state) {
        uint8_t bytes[CHANNEL_FRAME_MAX];
        channel_frame frame = { .type = CHANNEL_FRAME_PAD };
        channel_stream *shown = NULL;

        channel_set_on_unknown(c, open_it, &shown);
        channel_feed(c, bytes, channel_frame_format(&frame, bytes), 0);
        assert_null(shown);
        frame = (channel_frame){ .type = CHANNEL_FRAME_PROBE, .stream = 99 };
        for (int i = 0; i < 2; i++)
                channel_feed(c, bytes, channel_frame_format(&frame, bytes), 0);
        assert_int_equal(channel_stream_id(shown), 99);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_frames_at_every_split),
                cmocka_unit_test(test_no_flipped_bit_is_a_frame),
                cmocka_unit_test(test_ring_wraps),
                cmocka_unit_test(test_a_good_port_repeats_nothing),
                cmocka_unit_test(test_lost_bytes_come_again),
                cmocka_unit_test(test_moves_lose_and_repeat_nothing),
                cmocka_unit_test_setup_teardown(test_credit_is_kept, setup, teardown),
                cmocka_unit_test_setup_teardown(test_windows_that_lie, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nothing_is_sent_without_credit, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(test_little_is_told_late_and_much_at_once, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(test_the_window_may_be_another_than_the_buffer,
                                                setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_cannot_be_opened, setup, teardown),
                cmocka_unit_test_setup_teardown(test_states_that_contradict_themselves, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(test_closed_by_its_own_handler, setup, teardown),
                cmocka_unit_test_setup_teardown(test_opened_when_the_peer_shows_it, setup,
                                                teardown),
        };

        return cmocka_run_group_tests_name("channel", tests, NULL, NULL);
}
