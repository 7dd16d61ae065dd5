/* SPDX-License-Identifier: MIT */

/* The host's side of the agent's calls and streams, with an agent that lies, floods and breaks the
 * protocol at each point. */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/fd.h"
#include "channel/frame.h"
#include "guestlink/processes-internal.h"
#include "guestlink/test-peer.h"
#include "ttrpc/frame.h"

#define LIMIT_USEC (20 * USEC_PER_SEC)
#define STREAM     2U /* of the first program */

typedef struct result {
        bool over;
        int r;
        ferry_code code;
        char message[2048];
        guest_process_info info;
} result;

typedef struct world {
        peer peer;
        sd_event *event;
        guest_processes *guest;
        char fifo[80];
        int out; /* the reader's end of the program's standard output */
} world;

/* ---- turns ---- */

static void turn(world *w) {
        assert_true(sd_event_run(w->event, USEC_PER_MSEC) >= 0);
        peer_turn(&w->peer);
}

static void turns_for(world *w, uint64_t usec) {
        for (uint64_t until = now_usec() + usec; now_usec() < until;)
                turn(w);
}

#define WAIT_FOR(w, condition)                                                                     \
        do {                                                                                       \
                for (uint64_t until = now_usec() + LIMIT_USEC; !(condition);) {                    \
                        assert_true(now_usec() < until);                                           \
                        turn(w);                                                                   \
                }                                                                                  \
        } while (0)

/* ---- calls ---- */

static void note(result *to, int r, const ferry_error *error) {
        to->over = true;
        to->r = r;
        to->code = r < 0 ? error->code : FERRY_OK;
        snprintf(to->message, sizeof(to->message), "%s", r < 0 ? ferry_error_message(error) : "");
}

static void on_done(int r, const ferry_error *error, const guest_process_info *info,
                    void *userdata) {
        result *to = userdata;

        note(to, r, error);
        if (info)
                to->info = *info;
}

static void on_container_done(int r, const ferry_error *error, void *userdata) {
        note(userdata, r, error);
}

static void on_pids(int r, const ferry_error *error, const uint32_t *pids, size_t n,
                    void *userdata) {
        note(userdata, r, error);
}

static void exec(world *w, result *to) {
        static char *args[] = { (char *)"program" };
        const guest_process_spec spec = {
                .id = "e1", .args = args, .n_args = 1, .stdio = { NULL, w->fifo, NULL }
        };

        *to = (result){ .over = false };
        assert_int_equal(guest_exec(w->guest, &spec, on_done, to, NULL), 0);
        WAIT_FOR(w, peer_find(&w->peer, "Start"));
}

/* Of a message with one number in it: field, and value. */
static size_t put_number(uint8_t *at, unsigned field, uint64_t value) {
        size_t n = 0;

        at[n++] = (uint8_t)(field << 3);
        for (; value >= 0x80; value >>= 7)
                at[n++] = (uint8_t)(value | 0x80);
        at[n++] = (uint8_t)value;
        return n;
}

static void answer_start(world *w, uint64_t pid) {
        uint8_t payload[16];

        peer_answer(&w->peer, peer_find(&w->peer, "Start")->stream, 0, "", payload,
                    put_number(payload, 1, pid));
}

static void answer_wait(world *w, uint64_t status, uint64_t at_usec) {
        uint8_t payload[32];
        size_t n = put_number(payload, 1, status);

        n += put_number(payload + n, 2, at_usec);
        peer_answer(&w->peer, peer_find(&w->peer, "Wait")->stream, 0, "", payload, n);
}

/* A program that runs, and somebody who waits for its end. */
static void run_program(world *w, result *end) {
        result started;

        exec(w, &started);
        answer_start(w, 77);
        WAIT_FOR(w, started.over);
        assert_int_equal(started.r, 0);
        assert_int_equal(started.info.pid, 77);
        *end = (result){ .over = false };
        assert_int_equal(guest_wait(w->guest, "e1", false, on_done, end, NULL), 0);
        WAIT_FOR(w, peer_find(&w->peer, "Wait"));
}

/* The connection is a good one again, and the end that was waited for is told by it. */
static void ends_well(world *w, result *end) {
        WAIT_FOR(w, peer_find(&w->peer, "Wait"));
        assert_false(end->over);
        answer_wait(w, 3, wall_usec());
        WAIT_FOR(w, end->over);
        assert_int_equal(end->r, 0);
        assert_int_equal(end->info.exit_status, 3);
}

static int setup(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        world *w = calloc(1, sizeof(*w));

        assert_true(peer_init(&w->peer));
        assert_true(sd_event_new(&w->event) >= 0);
        snprintf(w->fifo, sizeof(w->fifo), "%s/out", w->peer.folder);
        assert_int_equal(mkfifo(w->fifo, 0600), 0);
        w->out = open(w->fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        assert_int_equal(guest_processes_new(w->event, w->peer.folder, "1", &w->guest, &error), 0);
        *state = w;
        return 0;
}

static int teardown(void **state) {
        world *w = *state;

        guest_processes_free(w->guest);
        sd_event_unref(w->event);
        fd_close(w->out);
        peer_done(&w->peer);
        free(w);
        return 0;
}

/* ---- a connection that is broken ---- */

static void break_connection(world *w, const void *bytes, size_t n) {
        unsigned before = w->peer.n_connections;
        result call = { .over = false }, end;

        run_program(w, &end);
        assert_int_equal(guest_signal(w->guest, "e1", 15, false, on_done, &call, NULL), 0);
        WAIT_FOR(w, peer_find(&w->peer, "Signal"));
        peer_forget(&w->peer);
        if (n > 0)
                peer_say(&w->peer, bytes, n);
        else
                channel_end(w->peer.stream);
        WAIT_FOR(w, call.over); /* at once, not at its deadline */
        assert_int_equal(call.code, FERRY_UNAVAILABLE);
        WAIT_FOR(w, guest_processes_agent_drops(w->guest) == 1);
        WAIT_FOR(w, w->peer.n_connections > before + 1 || peer_find(&w->peer, "Wait"));
        ends_well(w, &end);
}

static void test_a_header_that_is_none(void **state) {
        break_connection(*state, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 10);
}

static void test_text_in_place_of_frames(void **state) {
        break_connection(*state, "HTTP/1.1 400 Bad Request\r\n\r\n", 28);
}

static void test_the_stream_ends(void **state) {
        break_connection(*state, NULL, 0);
}

/* Whatever it does, it is not worth more than a connection now and then, nor a descriptor. */
static void test_one_that_breaks_each_connection(void **state) {
        world *w = *state;
        unsigned broken = 0;
        result end;

        run_program(w, &end);
        for (uint64_t until = now_usec() + 3 * USEC_PER_SEC; now_usec() < until; turn(w))
                if (w->peer.n_connections > broken) {
                        peer_say(&w->peer, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 10);
                        broken = w->peer.n_connections;
                }
        assert_in_range(broken, 2, 6); /* 0, 0.2, 0.6, 1.4, 3 s */
        peer_forget(&w->peer);
        ends_well(w, &end);
}

/* ---- answers ---- */

static void test_answers_that_nobody_asked_for(void **state) {
        static const uint32_t streams[] = { 0, 2, 4, 999, 0x7fffffff, 0xffffffff };
        world *w = *state;
        uint32_t start;
        result end;

        run_program(w, &end);
        start = peer_find(&w->peer, "Start")->stream;
        for (size_t i = 0; i < ELEMENTS(streams); i++)
                peer_answer(&w->peer, streams[i], 0, "", "\x08\x01", 2);
        for (size_t i = 0; i < 100; i++) /* that call is over */
                peer_answer(&w->peer, start, (int32_t)(i % 20), "again", "\x08\x01", 2);
        turns_for(w, 100 * USEC_PER_MSEC);
        ends_well(w, &end);
        answer_wait(w, 9, 1);
        answer_wait(w, 9, 1);
        turns_for(w, 100 * USEC_PER_MSEC);
        assert_int_equal(guest_wait(w->guest, "e1", false, on_done, &end, NULL), 0);
        assert_int_equal(end.info.exit_status, 3);
}

/* Of another kind of message, torn, or of a call that has streams: the call ends with an error. */
static void test_answers_that_make_no_sense(void **state) {
        world *w = *state;
        result call = { .over = false }, end;
        uint8_t frame[TTRPC_HEADER_SIZE + 4] = { 0 };

        run_program(w, &end);
        assert_int_equal(guest_container_pids(w->guest, "c1", on_pids, &call, NULL), 0);
        WAIT_FOR(w, peer_find(&w->peer, "ContainerPids"));
        peer_answer(&w->peer, peer_find(&w->peer, "ContainerPids")->stream, 0, "",
                    "\x0a\xff\xff\xff", 4);
        WAIT_FOR(w, call.over);
        assert_int_equal(call.code, FERRY_INTERNAL);
        for (uint8_t type = 0; type < 5; type++) {
                result other = { .over = false };

                peer_forget(&w->peer);
                assert_int_equal(guest_resize(w->guest, "e1", 1, 1, on_done, &other, NULL), 0);
                WAIT_FOR(w, peer_find(&w->peer, "Resize"));
                ttrpc_frame_format(
                        &(ttrpc_frame_header){ .length = 4,
                                               .stream_id = peer_find(&w->peer, "Resize")->stream,
                                               .type = type,
                                               .flags = (uint8_t)(type * 3) },
                        frame);
                memset(frame + TTRPC_HEADER_SIZE, 0xff, 4);
                peer_say(&w->peer, frame, sizeof(frame));
                WAIT_FOR(w, other.over);
                assert_int_equal(other.code, FERRY_INTERNAL);
        }
        peer_forget(&w->peer);
        result more = { .over = false };

        assert_int_equal(guest_signal(w->guest, "e1", 15, false, on_done, &more, NULL), 0);
        WAIT_FOR(w, peer_find(&w->peer, "Signal"));
        peer_answer(&w->peer, peer_find(&w->peer, "Signal")->stream, 0, "", NULL, 0);
        WAIT_FOR(w, more.over);
        assert_int_equal(more.r, 0);
}

static void test_figures_out_of_range(void **state) {
        static const struct {
                uint64_t status, at;
        } ends[] = {
                { UINT32_MAX, UINT64_MAX }, { UINT64_MAX, 0 }, { 256, 1 }, { 255, 1ULL << 62 }
        };
        world *w = *state;

        for (size_t i = 0; i < ELEMENTS(ends); i++) {
                uint64_t began = wall_usec();
                result started, end = { .over = false }, gone = { .over = false };

                peer_forget(&w->peer);
                exec(w, &started);
                answer_start(w, UINT32_MAX - i);
                WAIT_FOR(w, started.over);
                assert_int_equal(started.info.pid, 0);
                assert_int_equal(guest_wait(w->guest, "e1", false, on_done, &end, NULL), 0);
                WAIT_FOR(w, peer_find(&w->peer, "Wait"));
                answer_wait(w, ends[i].status, ends[i].at);
                WAIT_FOR(w, end.over);
                assert_int_equal(end.info.exit_status, 255);
                assert_in_range(end.info.exited_at_usec, began, wall_usec());
                assert_int_equal(guest_delete(w->guest, "e1", on_done, &gone, NULL), 0);
                WAIT_FOR(w, peer_find(&w->peer, "Delete"));
                peer_answer(&w->peer, peer_find(&w->peer, "Delete")->stream, 0, "", NULL, 0);
                WAIT_FOR(w, gone.over);
                assert_int_equal(gone.r, 0);
        }
}

static void test_an_end_that_it_will_not_tell(void **state) {
        world *w = *state;
        result end;

        run_program(w, &end);
        peer_answer(&w->peer, peer_find(&w->peer, "Wait")->stream, FERRY_INTERNAL, "not now", NULL,
                    0);
        peer_forget(&w->peer);
        ends_well(w, &end); /* asked again */
}

static void test_a_program_that_it_does_not_know_any_more(void **state) {
        world *w = *state;
        result end;

        run_program(w, &end);
        peer_answer(&w->peer, peer_find(&w->peer, "Wait")->stream, FERRY_NOT_FOUND, "none", NULL,
                    0);
        WAIT_FOR(w, end.over);
        assert_int_equal(end.code, FERRY_NOT_FOUND);
        assert_int_equal(guest_processes_count(w->guest), 0);
}

static void test_errors_full_of_controls(void **state) {
        static const char *const words[] = { "\x1b[2J\x1b]0;owned\x07\r\nall is well",
                                             ("\xc2\x9b"
                                              "31m red \xc2\x80"),
                                             "caf\xc3\xa9 \xe2\x82\xac" };
        static const char *const said[] = { " [2J ]0;owned   all is well", "  31m red   ",
                                            "caf\xc3\xa9 \xe2\x82\xac" };
        world *w = *state;
        result end;

        run_program(w, &end);
        for (size_t i = 0; i < ELEMENTS(words); i++) {
                result call = { .over = false };

                peer_forget(&w->peer);
                assert_int_equal(guest_signal(w->guest, "e1", 1, false, on_done, &call, NULL), 0);
                WAIT_FOR(w, peer_find(&w->peer, "Signal"));
                peer_answer(&w->peer, peer_find(&w->peer, "Signal")->stream, FERRY_INTERNAL,
                            words[i], NULL, 0);
                WAIT_FOR(w, call.over);
                assert_string_equal(call.message, said[i]);
        }
}

/* Of 200000 bytes, each letter two of them; after the first `n_odd` plain ones. */
static void fill_with_letters(char *words, size_t n_odd) {
        memset(words, 'x', 200001);
        for (size_t k = n_odd; k + 2 <= 200000; k += 2)
                memcpy(words + k, "\xc3\xa9", 2);
        words[200000] = '\0';
}

static void test_errors_that_are_no_text_or_too_long(void **state) {
        static const size_t lengths[] = { 1024, 1023 }; /* no letter is cut in its middle */
        char *words = malloc(200001);
        world *w = *state;
        result end;

        run_program(w, &end);
        for (size_t i = 0; i < 3; i++) {
                result call = { .over = false };

                fill_with_letters(words, i);
                if (i == 2)
                        memset(words, 0xff, 200000);
                peer_forget(&w->peer);
                assert_int_equal(guest_signal(w->guest, "e1", 1, false, on_done, &call, NULL), 0);
                WAIT_FOR(w, peer_find(&w->peer, "Signal"));
                peer_answer(&w->peer, peer_find(&w->peer, "Signal")->stream, FERRY_INTERNAL, words,
                            NULL, 0);
                WAIT_FOR(w, call.over);
                assert_int_equal(call.code, FERRY_INTERNAL);
                if (i < 2)
                        assert_int_equal(strlen(call.message), lengths[i]);
                else
                        assert_non_null(strstr(call.message, "makes no sense"));
        }
        free(words);
}

/* ---- memory ---- */

static size_t resident_bytes(void) {
        _cleanup_(freep) char *text = NULL;
        unsigned long size, resident;
        size_t n;

        assert_int_equal(file_read(AT_FDCWD, "/proc/self/statm", 4096, &text, &n), 0);
        assert_int_equal(sscanf(text, "%lu %lu", &size, &resident), 2);
        return resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* With the sanitizer's own: what is freed stays for a while. */
#define GROWTH_MAX (96U << 20)

static void on_stats(int r, const ferry_error *error,
                     const Ferry__Agent__V1__ContainerStatsResponse *stats, void *userdata) {
        note(userdata, r, error);
}

/* Empty lines of memory.stat: 2 bytes here, some 60 in memory. */
static void test_an_answer_that_is_large_and_would_be_larger(void **state) {
        const size_t n = (4U << 20) - 64;
        uint8_t *payload = malloc(n), header[TTRPC_HEADER_SIZE];
        world *w = *state;
        size_t before;
        result call = { .over = false }, next = { .over = false };

        for (size_t i = 0; i < n; i += 2) {
                payload[i] = 14 << 3 | 2;
                payload[i + 1] = 0;
        }
        assert_int_equal(guest_container_stats(w->guest, "c1", on_stats, &call, NULL), 0);
        WAIT_FOR(w, peer_find(&w->peer, "ContainerStats"));
        before = resident_bytes();
        ttrpc_frame_format(
                &(ttrpc_frame_header){ .length = (uint32_t)n,
                                       .stream_id = peer_find(&w->peer, "ContainerStats")->stream,
                                       .type = TTRPC_FRAME_RESPONSE },
                header);
        peer_say(&w->peer, header, sizeof(header));
        for (size_t at = 0; at < n; turn(w))
                at += channel_write(w->peer.stream, payload + at, n - at);
        WAIT_FOR(w, call.over);
        assert_int_equal(call.code, FERRY_INTERNAL);
        assert_true(resident_bytes() < before + GROWTH_MAX);
        free(payload);
        peer_forget(&w->peer);
        assert_int_equal(guest_container_pause(w->guest, "c1", on_container_done, &next, NULL), 0);
        WAIT_FOR(w, peer_find(&w->peer, "PauseContainer"));
        peer_answer(&w->peer, peer_find(&w->peer, "PauseContainer")->stream, 0, "", NULL, 0);
        WAIT_FOR(w, next.over);
        assert_int_equal(next.r, 0);
}

/* ---- streams ---- */

static size_t read_out(world *w, uint8_t *to, size_t max) {
        ssize_t k = read(w->out, to, max);

        return k > 0 ? (size_t)k : 0;
}

static void test_streams_that_were_never_opened_and_offsets_that_go_back(void **state) {
        uint8_t seen[64], window[CHANNEL_WINDOW_SIZE];
        world *w = *state;
        size_t n = 0;
        result end;

        run_program(w, &end);
        for (uint32_t id = 4; id < 3000; id += 7, turn(w)) /* but the program's own */
                peer_put_frame(&w->peer.streams, CHANNEL_FRAME_DATA, 0, id, 0, "x", 1);
        peer_put_frame(&w->peer.streams, CHANNEL_FRAME_DATA, 0, STREAM, 0, "one ", 4);
        peer_put_frame(&w->peer.streams, CHANNEL_FRAME_DATA, 0, STREAM, 0, "ONE ", 4);
        peer_put_frame(&w->peer.streams, CHANNEL_FRAME_DATA, 0, STREAM, 2, "E two", 5);
        peer_put_frame(&w->peer.streams, CHANNEL_FRAME_DATA, 0, STREAM, 1 << 20, "far", 3);
        peer_put_frame(&w->peer.streams, CHANNEL_FRAME_DATA, 0, STREAM, UINT64_MAX - 1, "far", 3);
        peer_put_frame(&w->peer.streams, CHANNEL_FRAME_DATA, CHANNEL_FLAG_END, STREAM, INT64_MAX,
                       "", 0);
        channel_window_format(&(channel_window){ UINT64_MAX, UINT64_MAX, UINT64_MAX }, window);
        peer_put_frame(&w->peer.streams, CHANNEL_FRAME_WINDOW, CHANNEL_FLAG_ANSWER, STREAM,
                       UINT64_MAX, window, sizeof(window));
        channel_window_format(&(channel_window){ 0, 0, 0 }, window);
        peer_put_frame(&w->peer.streams, CHANNEL_FRAME_WINDOW, CHANNEL_FLAG_RESYNC, STREAM, 0,
                       window, sizeof(window));
        WAIT_FOR(w, (n += read_out(w, seen + n, sizeof(seen) - n)) >= 7);
        turns_for(w, 100 * USEC_PER_MSEC);
        n += read_out(w, seen + n, sizeof(seen) - n);
        assert_int_equal(n, 7);
        assert_memory_equal(seen, "one two", 7);
        ends_well(w, &end);
}

/* ---- floods ---- */

/* Each turn of the shim's loop stays short, so that it answers others; and what it holds is what
 * its buffers hold. */
static void flood(world *w, void (*fill)(peer_port *port, uint64_t turn)) {
        uint64_t longest = 0, number = 0;
        size_t before;
        result end;

        run_program(w, &end);
        turns_for(w, 200 * USEC_PER_MSEC);
        before = resident_bytes();
        for (uint64_t until = now_usec() + 2 * USEC_PER_SEC, begun; now_usec() < until;) {
                for (size_t i = 0; i < 64; i++, number++) {
                        fill(&w->peer.control, number);
                        fill(&w->peer.streams, number);
                }
                begun = now_usec();
                assert_true(sd_event_run(w->event, 0) >= 0);
                longest = now_usec() - begun > longest ? now_usec() - begun : longest;
                peer_turn(&w->peer);
        }
        assert_true(resident_bytes() < before + GROWTH_MAX);
        assert_true(longest < USEC_PER_SEC);
        turns_for(w, USEC_PER_SEC); /* what is on its way */
        ends_well(w, &end);
}

static void fill_with_garbage(peer_port *port, uint64_t number) {
        static uint8_t garbage[16384];

        for (size_t i = 0; i < sizeof(garbage); i += 61)
                garbage[i] = (uint8_t)(number + i * 7);
        memcpy(garbage + number % 1000, "FCh1", 4);
        (void)peer_put(port, garbage, sizeof(garbage));
}

static void fill_with_frames(peer_port *port, uint64_t number) {
        static uint8_t payload[CHANNEL_PAYLOAD_MAX];

        peer_put_frame(port, CHANNEL_FRAME_DATA, 0, STREAM, number * 16384, payload,
                       sizeof(payload));
}

static void fill_with_probes(peer_port *port, uint64_t number) {
        uint8_t window[CHANNEL_WINDOW_SIZE];

        channel_window_format(&(channel_window){ 0, number % 3 ? UINT64_MAX : 0, number }, window);
        peer_put_frame(port, CHANNEL_FRAME_PROBE, 0, STREAM, number, NULL, 0);
        peer_put_frame(port, CHANNEL_FRAME_WINDOW, CHANNEL_FLAG_RESYNC | CHANNEL_FLAG_ANSWER,
                       STREAM, 0, window, sizeof(window));
}

static void test_a_flood_of_garbage(void **state) {
        flood(*state, fill_with_garbage);
}

static void test_a_flood_of_frames(void **state) {
        flood(*state, fill_with_frames);
}

static void test_a_flood_of_probes(void **state) {
        flood(*state, fill_with_probes);
}

/* On the control stream itself, where each is parsed and finds no call. */
static void test_a_flood_of_answers(void **state) {
        static uint8_t payload[4096];
        world *w = *state;
        size_t before;
        result end;

        run_program(w, &end);
        before = resident_bytes();
        for (uint64_t until = now_usec() + 2 * USEC_PER_SEC; now_usec() < until; turn(w))
                for (uint32_t i = 0; channel_room(w->peer.stream) > 8192; i++)
                        peer_answer(&w->peer, 2 * i + 100001, 0, "", payload, sizeof(payload));
        assert_true(resident_bytes() < before + GROWTH_MAX);
        WAIT_FOR(w, channel_room(w->peer.stream) > 8192);
        ends_well(w, &end);
}

static void test_ports_that_are_closed_again_and_again(void **state) {
        unsigned n_closed = 0;
        world *w = *state;
        result end;

        run_program(w, &end);
        for (uint64_t until = now_usec() + 2 * USEC_PER_SEC; now_usec() < until; turn(w))
                if (w->peer.control.fd >= 0) {
                        w->peer.control.fd = fd_close(w->peer.control.fd);
                        w->peer.streams.fd = fd_close(w->peer.streams.fd);
                        n_closed++;
                }
        assert_in_range(n_closed, 2, 60); /* 50 ms each at the least */
        ends_well(w, &end);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
        const struct CMUnitTest tests[] = {
                TEST(a_header_that_is_none),
                TEST(text_in_place_of_frames),
                TEST(the_stream_ends),
                TEST(one_that_breaks_each_connection),
                TEST(answers_that_nobody_asked_for),
                TEST(answers_that_make_no_sense),
                TEST(figures_out_of_range),
                TEST(an_end_that_it_will_not_tell),
                TEST(a_program_that_it_does_not_know_any_more),
                TEST(errors_full_of_controls),
                TEST(errors_that_are_no_text_or_too_long),
                TEST(an_answer_that_is_large_and_would_be_larger),
                TEST(streams_that_were_never_opened_and_offsets_that_go_back),
                TEST(a_flood_of_garbage),
                TEST(a_flood_of_frames),
                TEST(a_flood_of_probes),
                TEST(a_flood_of_answers),
                TEST(ports_that_are_closed_again_and_again),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
