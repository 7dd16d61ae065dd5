/* SPDX-License-Identifier: MIT */

/* What a guest's agent says to the host's calls and on its streams. The input is steps, each of an
 * operation, an argument, a length and as many bytes. Each call ends exactly once, and what it
 * tells is in its range. */

#include <fcntl.h>
#include <string.h>

#include "base/bytes.h"
#include "base/log.h"
#include "channel/frame.h"
#include "fuzz.h"
#include "guestlink/network.h"
#include "guestlink/processes-internal.h"
#include "guestlink/test-peer.h"

#define CALLS_MAX   24U
#define QUIET_TURNS 3U
#define STREAM      2U
#define PID_LIMIT   (1U << 22)

enum {
        ANSWER,      /* the call that the argument chooses */
        FAIL,        /* the same, with the argument as code too */
        SAY,         /* anything, among the answers */
        PUT_CONTROL, /* on the port itself */
        PUT_STREAMS,
        FRAME, /* of the program's streams: type and flags are the argument's, then 8 of offset */
        CALL,
        _STEP_MAX,
};

typedef struct call {
        bool begun, over;
} call;

static struct {
        peer peer;
        sd_event *event;
        guest_processes *guest;
        call calls[CALLS_MAX];
        size_t n_calls;
} now;

static void turns(void) {
        for (unsigned i = 0; i < QUIET_TURNS; i++) {
                while (sd_event_run(now.event, 0) > 0)
                        ;
                peer_turn(&now.peer);
        }
}

static void end(call *c, int r, const ferry_error *error) {
        FUZZ_REQUIRE(c->begun && !c->over && r <= 0);
        c->over = true;
        if (r == 0)
                return;
        FUZZ_REQUIRE(error && error->code > FERRY_OK && error->code <= FERRY_UNAUTHENTICATED);
        for (const char *at = ferry_error_message(error); *at; at++)
                FUZZ_REQUIRE((unsigned char)*at >= ' ' && *at != 0x7f);
}

static void on_done(int r, const ferry_error *error, const guest_process_info *info,
                    void *userdata) {
        end(userdata, r, error);
        FUZZ_REQUIRE(!info || (info->exit_status <= 255 && info->pid <= PID_LIMIT &&
                               info->exited_at_usec <= wall_usec()));
}

static void on_container(int r, const ferry_error *error, void *userdata) {
        end(userdata, r, error);
}

static void on_pids(int r, const ferry_error *error, const uint32_t *pids, size_t n,
                    void *userdata) {
        uint32_t sum = 0;

        end(userdata, r, error);
        for (size_t i = 0; i < n; i++)
                sum += pids[i];
        FUZZ_REQUIRE(n > 0 || sum == 0);
}

static void on_oom(const char *id, void *userdata) {
        FUZZ_REQUIRE(strcmp(id, "e1") == 0);
}

static void on_stats(int r, const ferry_error *error,
                     const Ferry__Agent__V1__ContainerStatsResponse *stats, void *userdata) {
        end(userdata, r, error);
        FUZZ_REQUIRE((r == 0) == (stats != NULL));
        for (size_t i = 0; stats && i < stats->n_memory; i++)
                FUZZ_REQUIRE(stats->memory[i]->name);
}

static int begin(uint8_t which, call *c) {
        static char *args[] = { (char *)"program" };
        const guest_process_spec spec = { .id = "e1", .args = args, .n_args = 1 };
        const Ferry__Agent__V1__ConfigureNetworkRequest network =
                FERRY__AGENT__V1__CONFIGURE_NETWORK_REQUEST__INIT;

        switch (which % 9) {
        case 0:
                return guest_exec(now.guest, &spec, on_done, c, NULL);
        case 1:
                return guest_wait(now.guest, "e1", which > 8, on_done, c, NULL);
        case 2:
                return guest_signal(now.guest, "e1", 9, which > 8, on_done, c, NULL);
        case 3:
                return guest_delete(now.guest, "e1", on_done, c, NULL);
        case 4:
                return guest_container_pids(now.guest, "c1", on_pids, c, NULL);
        case 5:
                return guest_container_stats(now.guest, "c1", on_stats, c, NULL);
        case 6:
                return guest_container_delete(now.guest, "c1", on_container, c, NULL);
        case 7:
                return guest_network_configure(now.guest, &network, on_container, c, NULL);
        default:
                c->over = true; /* it is told as often as there is something to tell */
                return guest_watch_oom(now.guest, "e1", on_oom, NULL, NULL);
        }
}

static void call_it(uint8_t which) {
        call *c = &now.calls[now.n_calls];

        if (now.n_calls == CALLS_MAX)
                return;
        now.n_calls++;
        c->begun = true;
        if (begin(which, c) < 0) {
                FUZZ_REQUIRE(!c->over || which % 9 == 8);
                c->over = true;
        }
        turns(); /* its number is known then */
}

static uint32_t stream_of(uint8_t argument) {
        return now.peer.n_requests > 0 ? now.peer.requests[argument % now.peer.n_requests].stream
                                       : argument;
}

static void step(uint8_t operation, uint8_t argument, const uint8_t *data, size_t n) {
        char text[256] = "";

        switch (operation % _STEP_MAX) {
        case ANSWER:
                peer_answer(&now.peer, stream_of(argument), 0, "", data, n);
                break;
        case FAIL:
                memcpy(text, data, n);
                peer_answer(&now.peer, stream_of(argument), argument, text, NULL, 0);
                break;
        case SAY:
                peer_say(&now.peer, data, n);
                break;
        case PUT_CONTROL:
                (void)peer_put(&now.peer.control, data, n);
                break;
        case PUT_STREAMS:
                (void)peer_put(&now.peer.streams, data, n);
                break;
        case FRAME:
                if (n >= 8)
                        peer_put_frame(&now.peer.streams, 1 + argument % 4, argument >> 4,
                                       STREAM + (argument >> 3 & 1), be_read(data, 8), data + 8,
                                       n - 8);
                break;
        default:
                call_it(argument);
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
        static const uint8_t calls[] = { 0, 1, 10, 2, 4, 5, 6, 7, 8 };

        ferry_log_init(STDERR_FILENO, FERRY_LOG_ERROR);
        memset(now.calls, 0, sizeof(now.calls));
        now.n_calls = 0;
        FUZZ_REQUIRE(peer_init(&now.peer) && sd_event_new(&now.event) >= 0);
        FUZZ_REQUIRE(guest_processes_new(now.event, now.peer.folder, "1", &now.guest, NULL) == 0);
        for (size_t i = 0; i < sizeof(calls); i++)
                call_it(calls[i]);
        for (size_t at = 0; at + 3 <= n;) {
                size_t length = n - at - 3 < data[at + 2] ? n - at - 3 : data[at + 2];

                step(data[at], data[at + 1], data + at + 3, length);
                at += 3 + length;
                turns();
        }
        now.guest = guest_processes_free(now.guest);
        now.event = sd_event_unref(now.event);
        peer_done(&now.peer);
        for (size_t i = 0; i < now.n_calls; i++)
                FUZZ_REQUIRE(now.calls[i].over);
        return 0;
}
