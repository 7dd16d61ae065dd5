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
        bool had_end; /* of the reader's */
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
static ssize_t read_next(relay *r, bool local_open, bool messages_open, relay_block *block,
                         size_t n_most, bool *ret_is_message) {
        bool is_message = false;
        ssize_t k;

        if (messages_open) {
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

static void *read_local(void *userdata) {
        way *w = userdata;
        relay *r = w->relay;
        size_t n_most = w->n_workers > 0 ? RELAY_PACK_MAX : RELAY_PAYLOAD_MAX;
        bool local_open = true, messages_open = r->options.messages;

        while (local_open || messages_open) {
                relay_block *block = relay_blocks_fill(&w->blocks);
                bool is_message;
                ssize_t k;

                if (!block)
                        break;
                k = read_next(r, local_open, messages_open, block, n_most, &is_message);
                if (k < 0) {
                        fail_errno(r, "QEMU's stream", (int)k);
                        break;
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
                relay_blocks_filled(&w->blocks);
                if (k == 0 && is_message)
                        break;
                if (k == 0)
                        local_open = false;
        }
        if (local_open && r->options.hides_failure)
                throw_away(r);
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

/* The last of a stream that failed, if it has come to the end of a frame. */
static void tell_broken(relay *r, uint64_t turn) {
        relay_header h = { .type = RELAY_FRAME_BROKEN };

        (void)write_frame(r, &h, NULL, turn);
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

static void *write_remote(void *userdata) {
        way *w = userdata;
        relay *r = w->relay;
        relay_block *block;
        relay_wait wait;
        uint64_t turn;

        for (turn = 0; (block = relay_blocks_send(&w->blocks, &wait)); turn++) {
                relay_header *h = &block->header;
                bool end = h->type == RELAY_FRAME_END;
                int error;

                if (h->type == BLOCK_LEFT) {
                        leave(r);
                        return NULL;
                }
                /* what did not shrink says nothing of the level */
                if (h->flags & RELAY_FLAG_ZSTD || relay_level_get(&r->level) == 0)
                        relay_level_note(&r->level, wait);
                error = end ? write_ends(r, h, turn) : write_frame(r, h, block->payload, turn);
                if (error == -ECANCELED)
                        break;
                if (error < 0 && end)
                        fail_errno(r, "the migration connection broke", error);
                if (error < 0) { /* why, the reader may find in what came before */
                        shut_remotes(r);
                        return NULL;
                }
                count(w, h);
                relay_blocks_sent(&w->blocks);
                if (end && !r->options.messages) {
                        signal_fd(r->over_fd);
                        way_is_over(w);
                        return NULL;
                }
        }
        if (atomic_load(&r->tell)) {
                if (!block)
                        tell_broken(r, turn);
                shut_remotes(r);
        }
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

/* With messages it is told in its turn: what the other side said last counts, although it left. */
static void connection_ended(way *w, relay_block *block, int error) {
        relay *r = w->relay;

        if (error == -ECANCELED)
                return;
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
                return;
        }
        block->header = (relay_header){ .type = BLOCK_LEFT };
        block->payload = block->plain;
        block->header.check = relay_payload_check(block->plain, 0);
        relay_blocks_filled(&w->blocks);
}

static bool read_frame(way *w, relay_block *block, uint64_t turn) {
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
                        return false;
                }
                if (block->header.type == RELAY_FRAME_BROKEN) {
                        fail(r, "the other shim found that what it was sent was changed on the "
                                "way: its Status says how");
                        return false;
                }
                to = block->header.flags & RELAY_FLAG_ZSTD ? block->packed : block->plain;
                block->payload = to;
                error = relay_read_all(remote, to, block->header.n_payload, r->stop_fd);
        }
        if (error < 0)
                connection_ended(w, block, error);
        return error == 0;
}

/* One was read; the other connections' follow in their turns. */
static bool read_ends(way *w, relay_block *block, uint64_t turn) {
        relay *r = w->relay;

        for (size_t i = 1; i < r->n_remotes; i++) {
                if (!read_frame(w, block, turn + i))
                        return false;
                if (block->header.type != RELAY_FRAME_END) {
                        fail_broken(r, "more follows its end", block->header.sequence);
                        return false;
                }
        }
        return true;
}

static void *read_remote(void *userdata) {
        way *w = userdata;
        relay_block *block;

        for (uint64_t turn = 0; (block = relay_blocks_fill(&w->blocks)); turn++) {
                bool end;

                if (!read_frame(w, block, turn))
                        return NULL;
                end = block->header.type == RELAY_FRAME_END;
                w->had_end |= end;
                if (w->relay->options.messages) {
                        relay_blocks_filled(&w->blocks);
                        continue;
                }
                if (end && !read_ends(w, block, turn))
                        return NULL;
                relay_blocks_filled(&w->blocks);
                if (end) {
                        watch_remotes(w->relay);
                        return NULL;
                }
        }
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

static void *write_local(void *userdata) {
        way *w = userdata;
        relay *r = w->relay;
        bool deaf = false; /* QEMU has closed: it says itself why, and the rest is nobody's */
        relay_block *block;
        relay_wait wait;

        while ((block = relay_blocks_send(&w->blocks, &wait))) {
                relay_header *h = &block->header;
                struct iovec iov = { block->plain, h->n_plain };
                int error = 0;

                if (w->n_workers == 0 && !verify(w, block))
                        return NULL;
                if (h->type == BLOCK_LEFT) {
                        fail(r, "%s", r->end);
                        return NULL;
                }
                if (h->type == RELAY_FRAME_END)
                        (void)shutdown(r->local, SHUT_WR);
                if (h->type == RELAY_FRAME_END && !r->options.messages) {
                        count(w, h);
                        way_is_over(w);
                        return NULL;
                }
                if (h->type == RELAY_FRAME_MESSAGE)
                        pass_message(w, block);
                else if (!deaf && h->type == RELAY_FRAME_DATA)
                        error = relay_write_all(r->local, &iov, 1, r->stop_fd);
                if (error == -EPIPE || error == -ECONNRESET)
                        deaf = true;
                else if (error < 0) {
                        fail_errno(r, "QEMU's stream", error);
                        return NULL;
                }
                count(w, h);
                relay_blocks_sent(&w->blocks);
        }
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
        error = relay_blocks_init(&w->blocks, n_workers * 2 + BLOCKS_LEAST, n_workers > 0,
                                  n_workers > 0);
        for (unsigned i = 0; error == 0 && i < n_workers; i++)
                error = relay_packer_new(&w->packers[i]);
        return error;
}

static int start_threads(relay *r) {
        way *out = &r->ways[WAY_OUT], *in = &r->ways[WAY_IN];
        int error = start_thread(out, read_local);

        if (error == 0)
                error = start_thread(out, write_remote);
        if (error == 0)
                error = start_thread(in, read_remote);
        if (error == 0)
                error = start_thread(in, write_local);
        for (unsigned i = 0; error == 0 && i < out->n_workers; i++)
                error = start_thread(out, pack_blocks);
        for (unsigned i = 0; error == 0 && i < in->n_workers; i++)
                error = start_thread(in, unpack_blocks);
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
