/* SPDX-License-Identifier: MIT */
#include "tls/tunnel.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/thread.h"
#include "tls/context.h"

#define BUFFER_SIZE (64U << 10)
/* AES-GCM: a key is good for 2^24 records of 16 KiB; long before that comes a new one. */
#define REKEY_BYTES (UINT64_C(64) << 30)
/* For a peer that does not end a connection that we are through with. */
#define LINGER_USEC (5 * USEC_PER_SEC)

typedef struct buffer {
        uint8_t bytes[BUFFER_SIZE];
        size_t begin, end;
} buffer;

/* The thread's and the owner's; who lets go last frees it. */
struct tls_tunnel {
        atomic_int n_ref;
        int plain, wire; /* our end of the pair; the connection */
        int free_fd;     /* eventfd: the owner has let go */
        SSL_CTX *context;
        SSL *ssl;
        tls_keeper *keeper;
        uint64_t deadline_usec; /* 0: its owner still has it */

        buffer out, in; /* to the wire, to the owner */
        bool out_ended, in_ended, out_closed, in_closed;
        bool in_failed; /* what came before is still passed on */
        bool wire_full; /* the last write found no room */
        bool plain_full;
        uint64_t n_written;

        pthread_mutex_t lock;
        bool bound;
        uint8_t binding[TLS_BINDING_SIZE];
        char problem[256];
};

/* Threads, until nothing is left of their tunnels. */
static atomic_uint n_running;

static void unref(tls_tunnel *t) {
        if (atomic_fetch_sub(&t->n_ref, 1) > 1)
                return;
        SSL_free(t->ssl);
        SSL_CTX_free(t->context);
        tls_keeper_free(t->keeper);
        fd_close(t->plain);
        fd_close(t->wire);
        fd_close(t->free_fd);
        pthread_mutex_destroy(&t->lock);
        explicit_bzero(t, sizeof(*t));
        free(t);
}

static void set_problem(tls_tunnel *t, const char *text) {
        pthread_mutex_lock(&t->lock);
        if (t->problem[0] == '\0')
                (void)snprintf(t->problem, sizeof(t->problem), "%s", text);
        pthread_mutex_unlock(&t->lock);
}

/* ---- the thread ---- */

typedef enum progress { STUCK, MOVED, OVER } progress;

static bool is_empty(const buffer *b) {
        return b->begin == b->end;
}

static void note_failure(tls_tunnel *t, int reason) {
        char text[200];

        tls_describe_failure(t->ssl, reason, text, sizeof(text));
        set_problem(t, text);
}

/* Negative: the connection is of no more use. */
static int wants(tls_tunnel *t, int result) {
        int reason = SSL_get_error(t->ssl, result), saved = errno;

        t->wire_full |= reason == SSL_ERROR_WANT_WRITE;
        if (reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE)
                return 0;
        if (reason == SSL_ERROR_ZERO_RETURN)
                return -ENODATA;
        errno = saved;
        note_failure(t, reason);
        return -EIO;
}

static bool wait_for(tls_tunnel *t, short plain_events, short wire_events) {
        struct pollfd p[] = {
                { .fd = t->deadline_usec ? -1 : t->free_fd, .events = POLLIN },
                { .fd = wire_events ? t->wire : -1, .events = wire_events },
                { .fd = plain_events ? t->plain : -1, .events = plain_events },
        };
        uint64_t now = t->deadline_usec ? now_usec() : 0;
        int k;

        if (t->deadline_usec && now >= t->deadline_usec)
                return false;
        k = poll(p, ELEMENTS(p),
                 t->deadline_usec ? (int)((t->deadline_usec - now) / USEC_PER_MSEC) + 1 : -1);
        if (k < 0)
                return errno == EINTR;
        if (p[0].revents) {
                t->deadline_usec = now_usec() + LINGER_USEC;
                (void)shutdown(t->plain, SHUT_RD); /* what was written is still read */
        }
        return k > 0;
}

static bool shake_hands(tls_tunnel *t) {
        for (;;) {
                int k;

                ERR_clear_error();
                t->wire_full = false;
                k = SSL_do_handshake(t->ssl);
                if (k == 1)
                        return true;
                if (wants(t, k) < 0)
                        return false;
                if (!wait_for(t, 0, t->wire_full ? POLLOUT : POLLIN))
                        return false;
        }
}

static void keep_binding(tls_tunnel *t) {
        static const char label[] = "EXPORTER-ferry-hello-1";
        uint8_t binding[TLS_BINDING_SIZE];

        if (SSL_export_keying_material(t->ssl, binding, sizeof(binding), label, sizeof(label) - 1,
                                       NULL, 0, 0) != 1)
                return;
        pthread_mutex_lock(&t->lock);
        memcpy(t->binding, binding, sizeof(binding));
        t->bound = true;
        pthread_mutex_unlock(&t->lock);
}

static progress read_plain(tls_tunnel *t) {
        ssize_t k;

        if (t->out_ended || !is_empty(&t->out))
                return STUCK;
        k = recv(t->plain, t->out.bytes, sizeof(t->out.bytes), MSG_DONTWAIT);
        if (k < 0 && (errno == EAGAIN || errno == EINTR))
                return STUCK;
        t->out.begin = 0;
        t->out.end = k > 0 ? (size_t)k : 0;
        t->out_ended = k <= 0;
        return MOVED;
}

static progress write_wire(tls_tunnel *t) {
        progress did = STUCK;

        t->wire_full = false;
        while (!is_empty(&t->out)) {
                size_t n;
                int k;

                ERR_clear_error();
                k = SSL_write_ex(t->ssl, t->out.bytes + t->out.begin, t->out.end - t->out.begin,
                                 &n);
                if (k != 1)
                        return wants(t, k) < 0 ? OVER : did;
                did = MOVED;
                t->out.begin += n;
                t->n_written += n;
                if (t->n_written >= REKEY_BYTES) {
                        t->n_written = 0;
                        (void)SSL_key_update(t->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
                }
        }
        return did;
}

static progress read_wire(tls_tunnel *t) {
        size_t n = 0;
        int k, r;

        if (t->in_ended || !is_empty(&t->in))
                return STUCK;
        if (t->in_failed)
                return OVER;
        t->in.begin = t->in.end = 0;
        while (t->in.end < sizeof(t->in.bytes)) {
                ERR_clear_error();
                k = SSL_read_ex(t->ssl, t->in.bytes + t->in.end, sizeof(t->in.bytes) - t->in.end,
                                &n);
                if (k != 1) {
                        r = wants(t, k);
                        if (r == -ENODATA)
                                t->in_ended = true;
                        t->in_failed = r < 0 && r != -ENODATA;
                        break;
                }
                t->in.end += n;
        }
        return t->in_ended || t->in_failed || !is_empty(&t->in) ? MOVED : STUCK;
}

static progress write_plain(tls_tunnel *t) {
        ssize_t k;

        t->plain_full = false;
        if (is_empty(&t->in))
                return STUCK;
        k = send(t->plain, t->in.bytes + t->in.begin, t->in.end - t->in.begin,
                 MSG_DONTWAIT | MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR)
                return MOVED;
        t->plain_full = k < 0 && errno == EAGAIN;
        if (t->plain_full)
                return STUCK;
        if (k < 0)
                return OVER; /* nobody reads any more */
        t->in.begin += (size_t)k;
        return MOVED;
}

/* The ends pass through, each way for itself. */
static progress pass_ends(tls_tunnel *t) {
        if (t->out_ended && is_empty(&t->out) && !t->out_closed) {
                int k;

                ERR_clear_error();
                k = SSL_shutdown(t->ssl); /* 0: ours is out, the peer's is not here */
                if (k < 0 && SSL_get_error(t->ssl, k) == SSL_ERROR_WANT_WRITE) {
                        t->wire_full = true;
                        return STUCK;
                }
                t->out_closed = true;
                (void)shutdown(t->wire, SHUT_WR);
        }
        if (t->in_ended && is_empty(&t->in) && !t->in_closed) {
                t->in_closed = true;
                (void)shutdown(t->plain, SHUT_WR);
        }
        return t->out_closed && t->in_closed ? OVER : STUCK;
}

static bool wait_for_more(tls_tunnel *t) {
        short plain = 0, wire = 0;

        if (!t->out_ended && is_empty(&t->out))
                plain |= POLLIN;
        if (t->plain_full)
                plain |= POLLOUT;
        if (!t->in_ended && is_empty(&t->in))
                wire |= POLLIN;
        if (t->wire_full)
                wire |= POLLOUT;
        return wait_for(t, plain, wire);
}

static void carry(tls_tunnel *t) {
        progress (*const steps[])(tls_tunnel * t) = { read_plain, write_wire, read_wire,
                                                      write_plain, pass_ends };

        for (;;) {
                progress most = STUCK;

                for (size_t i = 0; i < ELEMENTS(steps); i++) {
                        progress p = steps[i](t);

                        if (p > most)
                                most = p;
                }
                if (most == OVER || (most == STUCK && !wait_for_more(t)))
                        return;
        }
}

static void *run(void *userdata) {
        tls_tunnel *t = userdata;

        if (shake_hands(t)) {
                keep_binding(t);
                carry(t);
        }
        (void)shutdown(t->plain, SHUT_RDWR);
        (void)shutdown(t->wire, SHUT_RDWR);
        unref(t);
        atomic_fetch_sub(&n_running, 1);
        return NULL;
}

static int start_thread(tls_tunnel *t) {
        int r;

        atomic_fetch_add(&t->n_ref, 1);
        atomic_fetch_add(&n_running, 1);
        r = thread_start(NULL, run, t);
        if (r < 0) {
                atomic_fetch_sub(&n_running, 1);
                atomic_fetch_sub(&t->n_ref, 1);
        }
        return r;
}

/* ---- the owner's ---- */

static int set_up(tls_tunnel *t, const tls_options *options, ferry_error *reterr) {
        int r, flags = fcntl(t->wire, F_GETFL);

        if (t->free_fd < 0)
                return ferry_error_set_errno(reterr, -EMFILE, "TLS");
        if (flags < 0 || fcntl(t->wire, F_SETFL, flags | O_NONBLOCK) < 0)
                return ferry_error_set_errno(reterr, -errno, "TLS");
        r = tls_context_new(options, &t->context, &t->keeper, reterr);
        if (r < 0)
                return r;
        t->ssl = SSL_new(t->context);
        if (!t->ssl || SSL_set_fd(t->ssl, t->wire) != 1)
                return ferry_error_set_errno(reterr, -ENOMEM, "TLS");
        if (options->role == TLS_CLIENT)
                SSL_set_connect_state(t->ssl);
        else
                SSL_set_accept_state(t->ssl);
        return tls_prepare(t->ssl, options, reterr);
}

int tls_tunnel_start(int wire_fd_consume, const tls_options *options, int *ret_plain_fd,
                     tls_tunnel **ret, ferry_error *reterr) {
        _cleanup_(closep) int wire = wire_fd_consume, plain = -EBADF;
        tls_tunnel *t = calloc(1, sizeof(*t));
        int r, pair[2];

        if (!t)
                return ferry_error_set_errno(reterr, -ENOMEM, "TLS");
        atomic_init(&t->n_ref, 1);
        pthread_mutex_init(&t->lock, NULL);
        t->plain = -EBADF;
        t->wire = TAKE_FD(wire);
        t->free_fd = eventfd(0, EFD_CLOEXEC);
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
                r = ferry_error_set_errno(reterr, -errno, "TLS");
        else {
                plain = pair[0];
                t->plain = pair[1];
                r = set_up(t, options, reterr);
        }
        if (r == 0) {
                r = start_thread(t);
                if (r < 0)
                        ferry_error_set_errno(reterr, r, "TLS");
        }
        if (r < 0) {
                unref(t);
                return r;
        }
        *ret_plain_fd = TAKE_FD(plain);
        *ret = t;
        return 0;
}

void tls_derive_key(const uint8_t secret[32], const char *purpose, uint8_t ret[TLS_KEY_SIZE]) {
        digest_part part = { purpose, strlen(purpose) + 1 };

        static_assert(TLS_KEY_SIZE == DIGEST_SIZE, "a SHA-256");
        digest_hmac(secret, &part, 1, ret);
}

int tls_tunnel_get_wire(const tls_tunnel *t) {
        return t->wire;
}

bool tls_tunnel_get_binding(tls_tunnel *t, uint8_t ret[TLS_BINDING_SIZE]) {
        bool bound;

        pthread_mutex_lock(&t->lock);
        bound = t->bound;
        if (bound)
                memcpy(ret, t->binding, TLS_BINDING_SIZE);
        pthread_mutex_unlock(&t->lock);
        return bound;
}

char *tls_tunnel_get_problem(tls_tunnel *t) {
        char *problem;

        pthread_mutex_lock(&t->lock);
        problem = t->problem[0] ? strdup(t->problem) : NULL;
        pthread_mutex_unlock(&t->lock);
        return problem;
}

void tls_tunnel_shutdown(tls_tunnel *t) {
        (void)shutdown(t->wire, SHUT_RDWR);
        (void)shutdown(t->plain, SHUT_RDWR);
}

tls_tunnel *tls_tunnel_free(tls_tunnel *t) {
        if (!t)
                return NULL;
        (void)eventfd_write(t->free_fd, 1);
        unref(t);
        return NULL;
}

void tls_tunnel_drain_all(uint64_t timeout_usec) {
        uint64_t deadline = now_usec() + timeout_usec;

        while (atomic_load(&n_running) > 0 && now_usec() < deadline)
                (void)poll(NULL, 0, 1);
}
