/* SPDX-License-Identifier: MIT */

/* What a guest may write to its port: garbage, frames that lie, floods. The input is a list of
 * frames, so that the checksums stand in nobody's way: kind, flags, stream, offset and length of a
 * payload, a byte each; kind 255 is that many raw bytes. */

#include <string.h>

#include "channel/channel.h"
#include "channel/frame.h"
#include "fuzz.h"

#define BUFFER CHANNEL_BUFFER_MIN

static void feed_frame(channel *c, const uint8_t *head, const uint8_t *payload, size_t n) {
        uint8_t bytes[CHANNEL_FRAME_MAX], window[CHANNEL_WINDOW_SIZE];
        channel_frame frame = { .type = (channel_frame_type)(1 + head[0] % 5),
                                .flags = head[1],
                                .stream = head[2] % 3,
                                .offset = (head[3] & 0x80) ? UINT64_MAX - head[3] : head[3],
                                .payload = payload,
                                .n_payload = n };

        if (frame.type == CHANNEL_FRAME_WINDOW && n >= 3) {
                channel_window_format(&(channel_window){ .received = payload[0],
                                                         .limit = payload[1] * 8U,
                                                         .probe = payload[2] },
                                      window);
                frame.payload = window;
                frame.n_payload = sizeof(window);
        }
        channel_feed(c, bytes, channel_frame_format(&frame, bytes), head[3]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        _cleanup_(channel_freep) channel *c = NULL;
        channel_stream *s[2];
        uint64_t now = 0;

        if (channel_new(&c) < 0 || channel_open(c, 0, BUFFER, NULL, NULL, NULL, &s[0]) < 0 ||
            channel_open(c, 1, BUFFER, NULL, NULL, NULL, &s[1]) < 0)
                return 0;
        (void)channel_write(s[0], "what goes to the guest", 22);
        channel_end(s[1]);
        while (n >= 5) {
                const uint8_t *head = data, *output;
                size_t n_payload = head[4], n_output, readable;
                bool ended;

                data += 5;
                n -= 5;
                n_payload = n_payload < n ? n_payload : n;
                if (head[0] == 255)
                        channel_feed(c, data, n_payload, now);
                else
                        feed_frame(c, head, data, n_payload);
                data += n_payload;
                n -= n_payload;
                n_output = channel_output(c, now, &output);
                FUZZ_REQUIRE(n_output <= 65536);
                channel_sent(c, n_output);
                now += head[3] * 10000U;
                for (size_t i = 0; i < ELEMENTS(s); i++) {
                        (void)channel_peek(s[i], &readable, &ended);
                        FUZZ_REQUIRE(readable <= BUFFER);
                        if (head[1] & 1)
                                channel_consume(s[i], readable);
                        FUZZ_REQUIRE(channel_room(s[i]) <= BUFFER);
                }
        }
        return 0;
}
