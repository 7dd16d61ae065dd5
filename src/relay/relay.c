/* SPDX-License-Identifier: MIT */
#include "relay/relay.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/thread.h"
#include "relay/pack.h"
#include "relay/stream.h"

/* What waits here is sent in the blackout too: no more than keeps everybody busy. */
#define BLOCKS_LEAST 4U
/* Within a queue, never on a connection: who wrote before has left. */
#define BLOCK_LEFT ((relay_frame_type)0)

typedef enum way_kind { WAY_OUT, WAY_IN, _WAY_MAX } way_kind;

typedef struct way {
        relay *relay;
        relay_blocks blocks;
        unsigned n_workers;
        relay_packer *packers[RELAY_WORKERS_MAX];
        pthread_t threads[RELAY_WORKERS_MAX + 2];
        size_t n_threads;
        bool local_open, all_read; /* of the one who reads: QEMU's stream; everything */
        bool had_end;              /* likewise */
        bool deaf; /* QEMU has closed: it says itself why, and the rest is nobody's */
        atomic_uint next_worker;
        atomic_uint_fast64_t plain, wire, usec;
} way;

struct relay {
        int local, messages, remotes[RELAY_CHANNELS_MAX];
        size_t n_remotes;
        int stop_fd, over_fd, notify_fd;
        int quit_fd; /* stop_fd, but for what goes on after a failure */
        relay_options options;
        way ways[_WAY_MAX];
        relay_level level;
        atomic_bool end_sent;
        atomic_bool tell; /* the peer, that what it sent came broken; the writer does */

        pthread_mutex_t lock;
        relay_state state;
        unsigned n_over;
        char problem[256];
        char end[160]; /* how the other side's last frame was followed; of its reader's */
};

static void signal_fd(int fd) {
        uint64_t one = 1;

        while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
                ;
}

static void close_ways(relay *r) {
        signal_fd(r->stop_fd);
        for (size_t i = 0; i < _WAY_MAX; i++)
                relay_blocks_close(&r->ways[i].blocks);
}

static void shut_remotes(relay *r) {
        for (size_t i = 0; i < r->n_remotes; i++)
                (void)shutdown(r->remotes[i], SHUT_RDWR);
}

static _printf_(2, 3) void fail(relay *r, const char *format, ...) {
        bool first;
        va_list ap;

        pthread_mutex_lock(&r->lock);
        first = r->state == RELAY_RUNS;
        if (first) {
                va_start(ap, format);
                (void)vsnprintf(r->problem, sizeof(r->problem), format, ap);
                va_end(ap);
                r->state = RELAY_FAILED;
        }
        pthread_mutex_unlock(&r->lock);
        if (!first)
                return;
        close_ways(r);
        if (!r->options.hides_failure)
                (void)shutdown(r->local, SHUT_RDWR);
        if (r->options.messages)
                (void)shutdown(r->messages, SHUT_RDWR);
        if (!atomic_load(&r->tell) || atomic_load(&r->end_sent))
                shut_remotes(r);
        signal_fd(r->notify_fd);
}

static void fail_broken(relay *r, const char *what, uint64_t sequence) {
        atomic_store(&r->tell, true);
        fail(r, "the stream from the other shim is broken: %s (frame %llu)", what,
             (unsigned long long)sequence);
}

static void fail_errno(relay *r, const char *what, int error) {
        if (error != -ECANCELED)
                fail(r, "%s: %s", what, strerror(-error));
}

static void way_is_over(way *w) {
        relay *r = w->relay;
        bool both;

        relay_blocks_close(&w->blocks); /* its workers have nothing more to do */
        pthread_mutex_lock(&r->lock);
        both = ++r->n_over == _WAY_MAX && r->state == RELAY_RUNS;
        if (both)
                r->state = RELAY_ENDED;
        pthread_mutex_unlock(&r->lock);
        if (both)
                signal_fd(r->notify_fd);
}

static void count(way *w, const relay_header *h) {
        atomic_fetch_add(&w->plain, h->n_plain);
        atomic_fetch_add(&w->wire, RELAY_HEADER_SIZE + h->n_payload);
        atomic_store(&w->usec, now_usec());
}

/* ---- out: from QEMU to the other shim ---- */

/* A message first: somebody waits for it in the blackout. */
static ssize_t read_next(relay *r, bool local_open, relay_block *block, size_t n_most,
                         bool *ret_is_message) {
        bool is_message = false;
        ssize_t k;

        if (r->options.messages) {
                k = relay_wait_readable(r->messages, local_open ? r->local : -EBADF, r->stop_fd);
                if (k < 0)
                        return k;
                is_message = k == 0;
        }
        *ret_is_message = is_message;
        k = relay_read_some(is_message ? r->messages : r->local, block->plain, n_most, r->stop_fd);
        return k == -ECONNRESET ? 0 : k; /* it closed, and had not read everything */
}

/* Of a QEMU that must not notice yet. */
static void throw_away(relay *r) {
        uint8_t rest[16384];

        while (relay_read_some(r->local, rest, sizeof(rest), r->quit_fd) > 0)
                ;
}

static bool fill_block(way *w, relay_block *block) {
        relay *r = w->relay;
        bool is_message;
        ssize_t k = read_next(r, w->local_open, block,
                              w->n_workers > 0 ? RELAY_PACK_MAX : RELAY_PAYLOAD_MAX, &is_message);

        if (k < 0) {
                fail_errno(r, "QEMU's stream", (int)k);
                return false;
        }
        block->payload = block->plain;
        block->header = (relay_header){
                .type = k == 0       ? is_message ? BLOCK_LEFT : RELAY_FRAME_END
                        : is_message ? RELAY_FRAME_MESSAGE
                                     : RELAY_FRAME_DATA,
                .n_payload = (uint32_t)k,
                .n_plain = (uint32_t)k,
        };
        if (w->n_workers == 0 || block->header.type != RELAY_FRAME_DATA)
                block->header.check = relay_payload_check(block->plain, (size_t)k);
        if (k == 0 && !is_message)
                w->local_open = false;
        w->all_read = k == 0 && (is_message || !r->options.messages);
        return true;
}

static void end_reading(way *w) {
        if (w->local_open && w->relay->options.hides_failure)
                throw_away(w->relay);
}

static void *read_local(void *userdata) {
        way *w = userdata;
        relay_block *block;

        while (!w->all_read && (block = relay_blocks_fill(&w->blocks)) && fill_block(w, block))
                relay_blocks_filled(&w->blocks);
        end_reading(w);
        return NULL;
}

static void *pack_blocks(void *userdata) {
        way *w = userdata;
        relay_packer *packer = w->packers[atomic_fetch_add(&w->next_worker, 1)];
        relay_block *block;

        while ((block = relay_blocks_work(&w->blocks))) {
                if (block->header.type == RELAY_FRAME_DATA) {
                        relay_pack(packer, &w->relay->level, block);
                        block->header.check =
                                relay_payload_check(block->payload, block->header.n_payload);
                }
                relay_blocks_worked(&w->blocks, block);
        }
        return NULL;
}

/* Frame `turn` of this direction goes over the connection whose turn it is. */
static int write_frame(relay *r, relay_header *h, const uint8_t *payload, uint64_t turn) {
        uint8_t header[RELAY_HEADER_SIZE];
        struct iovec iov[] = { { header, sizeof(header) }, { (void *)payload, h->n_payload } };

        h->channel = (uint16_t)(turn % r->n_remotes);
        h->sequence = turn / r->n_remotes;
        relay_header_format(h, r->options.side, header);
        return relay_write_all(r->remotes[h->channel], iov, h->n_payload > 0 ? 2 : 1, r->stop_fd);
}

/* The last of a stream that failed, at the end of a frame. */
static void tell_if_broken(relay *r, uint64_t turn) {
        relay_header h = { .type = RELAY_FRAME_BROKEN };

        if (!atomic_load(&r->tell))
                return;
        (void)write_frame(r, &h, NULL, turn);
        shut_remotes(r);
}

/* Each connection has its END; one that goes on with messages needs no more than one. */
static int write_ends(relay *r, relay_header *h, uint64_t turn) {
        int error = 0;

        if (r->options.messages)
                return write_frame(r, h, NULL, turn);

        /* before: the peer may be through with the connections at once */
        atomic_store(&r->end_sent, true);
        for (size_t i = 0; error == 0 && i < r->n_remotes; i++)
                error = write_frame(r, h, NULL, turn + i);
        return error;
}

/* Our side has left, and everything of it is sent. */
static void leave(relay *r) {
        pthread_mutex_lock(&r->lock);
        if (r->state == RELAY_RUNS)
                r->state = RELAY_ENDED;
        pthread_mutex_unlock(&r->lock);
        for (size_t i = 0; i < r->n_remotes; i++)
                (void)shutdown(r->remotes[i], SHUT_WR);
        signal_fd(r->notify_fd);
}

/* False: it was the last, in this way or another. */
static bool send_block(way *w, relay_block *block, relay_wait wait, uint64_t turn) {
        relay *r = w->relay;
        relay_header *h = &block->header;
        bool end = h->type == RELAY_FRAME_END;
        int error;

        if (h->type == BLOCK_LEFT) {
                leave(r);
                return false;
        }
        /* what did not shrink says nothing of the level */
        if (h->flags & RELAY_FLAG_ZSTD || relay_level_get(&r->level) == 0)
                relay_level_note(&r->level, wait);
        error = end ? write_ends(r, h, turn) : write_frame(r, h, block->payload, turn);
        if (error == -ECANCELED) {
                if (atomic_load(&r->tell))
                        shut_remotes(r);
                return false;
        }
        if (error < 0 && end)
                fail_errno(r, "the migration connection broke", error);
        if (error < 0) { /* why, the reader may find in what came before */
                shut_remotes(r);
                return false;
        }
        count(w, h);
        if (!end || r->options.messages)
                return true;
        signal_fd(r->over_fd);
        way_is_over(w);
        return false;
}

static void *write_remote(void *userdata) {
        way *w = userdata;
        relay_block *block;
        relay_wait wait;
        uint64_t turn;

        for (turn = 0; (block = relay_blocks_send(&w->blocks, &wait)); turn++) {
                if (!send_block(w, block, wait, turn))
                        return NULL;
                relay_blocks_sent(&w->blocks);
        }
        tell_if_broken(w->relay, turn);
        return NULL;
}

/* Both by one thread. */
static void *carry_out(void *userdata) {
        way *w = userdata;
        relay_block *block = w->blocks.blocks;

        for (uint64_t turn = 0; !w->all_read; turn++) {
                if (!fill_block(w, block) || relay_blocks_is_closed(&w->blocks)) {
                        tell_if_broken(w->relay, turn);
                        break;
                }
                if (!send_block(w, block, RELAY_WAIT_FILLER, turn))
                        break;
        }
        end_reading(w);
        return NULL;
}

/* ---- in: from the other shim to QEMU ---- */

/* Nothing more may be read, since it would be the handover's; whether the peer is gone shows. */
static void watch_remotes(relay *r) {
        struct pollfd p[2 + RELAY_CHANNELS_MAX] = { { .fd = r->stop_fd, .events = POLLIN },
                                                    { .fd = r->over_fd, .events = POLLIN } };
        bool closed = false;

        for (size_t i = 0; i < r->n_remotes; i++)
                p[2 + i] = (struct pollfd){ .fd = r->remotes[i], .events = POLLRDHUP };
        while (poll(p, 2 + r->n_remotes, -1) < 0 && errno == EINTR)
                ;
        for (size_t i = 0; i < r->n_remotes; i++)
                closed |= p[2 + i].revents != 0;
        if (closed && !p[0].revents && !atomic_load(&r->end_sent))
                fail(r, "the other side closed the migration connection before all was sent");
}

/* What there is to pass on. */
typedef enum taken { TAKEN_NOTHING, TAKEN_ONE, TAKEN_LAST } taken;

/* With messages it is told in its turn: what the other side said last counts, although it left. */
static taken connection_ended(way *w, relay_block *block, int error) {
        relay *r = w->relay;

        if (error == -ECANCELED)
                return TAKEN_NOTHING;
        if (error == -ENODATA)
                snprintf(r->end, sizeof(r->end), "%s",
                         r->options.messages && w->had_end
                                 ? "the other side closed the migration connection"
                                 : "the migration connection was cut before the stream's end");
        else
                snprintf(r->end, sizeof(r->end), "the migration connection broke: %s",
                         strerror(-error));
        if (!r->options.messages) {
                fail(r, "%s", r->end);
                return TAKEN_NOTHING;
        }
        block->header = (relay_header){ .type = BLOCK_LEFT };
        block->payload = block->plain;
        block->header.check = relay_payload_check(block->plain, 0);
        return TAKEN_LAST;
}

static taken read_frame(way *w, relay_block *block, uint64_t turn) {
        relay *r = w->relay;
        int remote = r->remotes[turn % r->n_remotes];
        const relay_expected expected = {
                .sender = r->options.side == RELAY_SOURCE ? RELAY_DESTINATION : RELAY_SOURCE,
                .channel = (uint16_t)(turn % r->n_remotes),
                .sequence = turn / r->n_remotes,
                .flags = w->n_workers > 0 ? RELAY_FLAG_ZSTD : 0,
                .messages = r->options.messages,
        };
        uint8_t header[RELAY_HEADER_SIZE], *to;
        const char *problem;
        int error;

        error = relay_read_all(remote, header, sizeof(header), r->stop_fd);
        if (error == 0) {
                problem = relay_header_parse(header, &expected, &block->header);
                if (problem) {
                        fail_broken(r, problem, expected.sequence);
                        return TAKEN_NOTHING;
                }
                if (block->header.type == RELAY_FRAME_BROKEN) {
                        fail(r, "the other shim found that what it was sent was changed on the "
                                "way: its Status says how");
                        return TAKEN_NOTHING;
                }
                to = block->header.flags & RELAY_FLAG_ZSTD ? block->packed : block->plain;
                block->payload = to;
                error = relay_read_all(remote, to, block->header.n_payload, r->stop_fd);
        }
        return error < 0 ? connection_ended(w, block, error) : TAKEN_ONE;
}

/* One was read; the other connections' follow in their turns. */
static bool read_ends(way *w, relay_block *block, uint64_t turn) {
        relay *r = w->relay;

        for (size_t i = 1; i < r->n_remotes; i++) {
                if (read_frame(w, block, turn + i) != TAKEN_ONE)
                        return false;
                if (block->header.type != RELAY_FRAME_END) {
                        fail_broken(r, "more follows its end", block->header.sequence);
                        return false;
                }
        }
        return true;
}

static taken take_block(way *w, relay_block *block, uint64_t turn) {
        taken t = read_frame(w, block, turn);
        bool end = t == TAKEN_ONE && block->header.type == RELAY_FRAME_END;

        w->had_end |= end;
        if (!end || w->relay->options.messages)
                return t;
        return read_ends(w, block, turn) ? TAKEN_LAST : TAKEN_NOTHING;
}

static void *read_remote(void *userdata) {
        way *w = userdata;
        relay_block *block;
        taken t = TAKEN_ONE;

        for (uint64_t turn = 0; t == TAKEN_ONE; turn++) {
                block = relay_blocks_fill(&w->blocks);
                t = block ? take_block(w, block, turn) : TAKEN_NOTHING;
                if (t != TAKEN_NOTHING)
                        relay_blocks_filled(&w->blocks);
        }
        if (t == TAKEN_LAST && !w->relay->options.messages)
                watch_remotes(w->relay);
        return NULL;
}

static bool verify(way *w, const relay_block *block) {
        const relay_header *h = &block->header;

        if (relay_payload_check(block->payload, h->n_payload) == h->check)
                return true;
        fail_broken(w->relay, "a block was changed on the way", h->sequence);
        return false;
}

static void *unpack_blocks(void *userdata) {
        way *w = userdata;
        relay_packer *packer = w->packers[atomic_fetch_add(&w->next_worker, 1)];
        relay_block *block;

        while ((block = relay_blocks_work(&w->blocks))) {
                if (!verify(w, block))
                        return NULL;
                if (block->header.flags & RELAY_FLAG_ZSTD && !relay_unpack(packer, block)) {
                        fail_broken(w->relay, "a block that cannot be unpacked",
                                    block->header.sequence);
                        return NULL;
                }
                relay_blocks_worked(&w->blocks, block);
        }
        return NULL;
}

/* Who does not want the messages any more leaves himself. */
static void pass_message(way *w, const relay_block *block) {
        struct iovec iov = { block->plain, block->header.n_plain };

        (void)relay_write_all(w->relay->messages, &iov, 1, w->relay->stop_fd);
}

/* False: it was the last, in this way or another. */
static bool give_block(way *w, relay_block *block) {
        relay *r = w->relay;
        relay_header *h = &block->header;
        struct iovec iov = { block->plain, h->n_plain };
        int error = 0;

        if (w->n_workers == 0 && !verify(w, block))
                return false;
        if (h->type == BLOCK_LEFT) {
                fail(r, "%s", r->end);
                return false;
        }
        if (h->type == RELAY_FRAME_END)
                (void)shutdown(r->local, SHUT_WR);
        if (h->type == RELAY_FRAME_END && !r->options.messages) {
                count(w, h);
                way_is_over(w);
                return false;
        }
        if (h->type == RELAY_FRAME_MESSAGE)
                pass_message(w, block);
        else if (!w->deaf && h->type == RELAY_FRAME_DATA)
                error = relay_write_all(r->local, &iov, 1, r->stop_fd);
        if (error == -EPIPE || error == -ECONNRESET)
                w->deaf = true;
        else if (error < 0) {
                fail_errno(r, "QEMU's stream", error);
                return false;
        }
        count(w, h);
        return true;
}

static void *write_local(void *userdata) {
        way *w = userdata;
        relay_block *block;
        relay_wait wait;

        while ((block = relay_blocks_send(&w->blocks, &wait)) && give_block(w, block))
                relay_blocks_sent(&w->blocks);
        return NULL;
}

/* Both by one thread. */
static void *carry_in(void *userdata) {
        way *w = userdata;
        relay_block *block = w->blocks.blocks;
        taken t = TAKEN_ONE;

        for (uint64_t turn = 0; t == TAKEN_ONE && !relay_blocks_is_closed(&w->blocks); turn++) {
                t = take_block(w, block, turn);
                if (t == TAKEN_NOTHING || (!give_block(w, block) && t == TAKEN_ONE))
                        return NULL;
        }
        if (t == TAKEN_LAST && !w->relay->options.messages)
                watch_remotes(w->relay);
        return NULL;
}

/* ---- the whole ---- */

static int start_thread(way *w, void *(*run)(void *)) {
        int r = thread_start(&w->threads[w->n_threads], run, w);

        if (r == 0)
                w->n_threads++;
        return r;
}

static int init_way(way *w, unsigned n_workers) {
        int error;

        w->n_workers = n_workers;
        w->local_open = true;
        error = relay_blocks_init(&w->blocks, n_workers > 0 ? n_workers * 2 + BLOCKS_LEAST : 1,
                                  n_workers > 0);
        for (unsigned i = 0; error == 0 && i < n_workers; i++)
                error = relay_packer_new(&w->packers[i]);
        return error;
}

typedef void *work(void *);

/* A block goes from one thread to another only where it is worked on in between. */
static int start_way(way *w, work *carry, work *read, work *each, work *write) {
        int error;

        if (w->n_workers == 0)
                return start_thread(w, carry);
        error = start_thread(w, read);
        if (error == 0)
                error = start_thread(w, write);
        for (unsigned i = 0; error == 0 && i < w->n_workers; i++)
                error = start_thread(w, each);
        return error;
}

static int start_threads(relay *r) {
        int error = start_way(&r->ways[WAY_OUT], carry_out, read_local, pack_blocks, write_remote);

        if (error == 0)
                error = start_way(&r->ways[WAY_IN], carry_in, read_remote, unpack_blocks,
                                  write_local);
        return error;
}

static void close_all(int local, int messages, const int *remotes, size_t n) {
        fd_close(local);
        fd_close(messages);
        for (size_t i = 0; i < n; i++)
                fd_close(remotes[i]);
}

int relay_start(int local_fd_consume, const int *remote_fds_consume, size_t n,
                const relay_options *options, relay **ret) {
        int messages = options->messages ? options->messages_fd_consume : -EBADF;
        bool is_valid = n >= 1 && n <= RELAY_CHANNELS_MAX && options->workers <= RELAY_WORKERS_MAX;
        relay *r = is_valid ? calloc(1, sizeof(*r)) : NULL;
        int error;

        if (!r) {
                close_all(local_fd_consume, messages, remote_fds_consume, n);
                return is_valid ? -ENOMEM : -EINVAL;
        }
        r->options = *options;
        r->local = local_fd_consume;
        r->messages = messages;
        r->n_remotes = n;
        memcpy(r->remotes, remote_fds_consume, n * sizeof(r->remotes[0]));
        r->stop_fd = eventfd(0, EFD_CLOEXEC);
        r->over_fd = eventfd(0, EFD_CLOEXEC);
        r->notify_fd = eventfd(0, EFD_CLOEXEC);
        r->quit_fd = eventfd(0, EFD_CLOEXEC);
        error = r->stop_fd < 0 || r->over_fd < 0 || r->notify_fd < 0 || r->quit_fd < 0 ? -EMFILE
                                                                                       : 0;
        pthread_mutex_init(&r->lock, NULL);
        relay_level_init(&r->level);
        for (way_kind i = 0; i < _WAY_MAX; i++) {
                bool is_bulk = (i == WAY_OUT) == (options->side == RELAY_SOURCE);
                int failed;

                r->ways[i].relay = r;
                failed = init_way(&r->ways[i], is_bulk ? options->workers : 0);
                if (error == 0)
                        error = failed;
        }
        if (error == 0)
                error = start_threads(r);
        if (error < 0) {
                relay_stop(r);
                return error;
        }
        *ret = r;
        return 0;
}

int relay_get_fd(const relay *r) {
        return r->notify_fd;
}

relay_state relay_get_state(relay *r, const char **ret_problem) {
        relay_state state;

        pthread_mutex_lock(&r->lock);
        state = r->state;
        pthread_mutex_unlock(&r->lock);
        if (ret_problem) /* written once, before the state says so */
                *ret_problem = state == RELAY_FAILED ? r->problem : NULL;
        return state;
}

void relay_get_figures(relay *r, relay_figures *ret) {
        way *out = &r->ways[WAY_OUT], *in = &r->ways[WAY_IN];

        *ret = (relay_figures){
                .sent = atomic_load(&out->plain),
                .received = atomic_load(&in->plain),
                .sent_wire = atomic_load(&out->wire),
                .received_wire = atomic_load(&in->wire),
                .sent_usec = atomic_load(&out->usec),
                .received_usec = atomic_load(&in->usec),
                .level = r->options.workers > 0 ? relay_level_get(&r->level) : 0,
        };
}

relay *relay_stop(relay *r) {
        if (!r)
                return NULL;
        close_ways(r);
        signal_fd(r->quit_fd);
        for (size_t i = 0; i < _WAY_MAX; i++)
                for (size_t k = 0; k < r->ways[i].n_threads; k++)
                        (void)pthread_join(r->ways[i].threads[k], NULL);
        for (size_t i = 0; i < _WAY_MAX; i++) {
                for (size_t k = 0; k < RELAY_WORKERS_MAX; k++)
                        relay_packer_free(r->ways[i].packers[k]);
                relay_blocks_done(&r->ways[i].blocks);
        }
        close_all(r->local, r->messages, r->remotes, r->n_remotes);
        fd_close(r->stop_fd);
        fd_close(r->over_fd);
        fd_close(r->notify_fd);
        fd_close(r->quit_fd);
        pthread_mutex_destroy(&r->lock);
        free(r);
        return NULL;
}
