/* SPDX-License-Identifier: MIT */
#include "migration/link.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "migration/encrypt.h"
#include "migration/moved.h"

#define MAGIC        0x46455259U
#define HEADER_SIZE  8U
#define VERSION      1U
#define NONCE_SIZE   16U
#define HELLO_DOMAIN "ferry hello 1"

typedef enum link_phase {
        LINK_SILENT, /* not greeted yet, or QEMU has the socket */
        LINK_HELLO,  /* the peer's hello comes next */
        LINK_PROOF,  /* then its proof */
        LINK_MESSAGES,
        LINK_DEAD,
} link_phase;

struct mig_link {
        int fd;
        int messages;       /* instead of fd; -EBADF: not */
        tls_tunnel *tunnel; /* NULL: fd is the connection itself */
        sd_event_source *io;
        mig_link_handlers handlers;
        void *userdata;
        link_phase phase;
        bool held;      /* by a relay */
        unsigned n_ref; /* held by a dispatch under way */
        bool freed;

        uint8_t header[HEADER_SIZE];
        uint8_t *body;
        size_t n_body, n_read; /* n_read counts header and body */

        uint8_t *out;
        size_t n_out;

        mig_link_identity identity; /* session_id, options: owned copies */
        uint8_t *own_hello, *peer_hello;
        size_t n_own_hello, n_peer_hello;
        uint32_t peer_relay;
};

static void link_unref(mig_link *l) {
        if (--l->n_ref > 0)
                return;
        free(l->body);
        free(l->out);
        free((char *)l->identity.session_id);
        free((uint8_t *)l->identity.options);
        explicit_bzero(l->identity.secret, sizeof(l->identity.secret));
        free(l->own_hello);
        free(l->peer_hello);
        free(l);
}

static int talk_fd(const mig_link *l) {
        return l->messages >= 0 ? l->messages : l->fd;
}

static void update_events(mig_link *l) {
        uint32_t events = 0;

        if (!l->io)
                return;
        if (l->held)
                events = 0;
        else if (l->phase == LINK_HELLO || l->phase == LINK_PROOF || l->phase == LINK_MESSAGES)
                events |= EPOLLIN;
        if (l->n_out > 0 && !l->held)
                events |= EPOLLOUT;
        /* epoll reports EPOLLHUP even for an empty set: switch it off, QEMU notices by itself */
        if (events)
                (void)sd_event_source_set_io_events(l->io, events);
        (void)sd_event_source_set_enabled(l->io, events ? SD_EVENT_ON : SD_EVENT_OFF);
}

char *mig_link_get_problem(mig_link *l) {
        return l->tunnel ? tls_tunnel_get_problem(l->tunnel) : NULL;
}

static void die(mig_link *l, const char *reason) {
        _cleanup_(freep) char *problem = mig_link_get_problem(l);

        if (l->phase == LINK_DEAD)
                return;
        l->phase = LINK_DEAD;
        l->n_out = 0;
        update_events(l);
        if (!l->freed)
                l->handlers.on_broken(problem ? problem : reason, l->userdata);
}

static void die_errno(mig_link *l, const char *what, int r) {
        char text[256];

        snprintf(text, sizeof(text), "%s: %s", what, strerror(-r));
        die(l, text);
}

static int flush(mig_link *l) {
        while (l->n_out > 0 && !l->held) {
                ssize_t k = send(talk_fd(l), l->out, l->n_out, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return errno == EAGAIN ? 0 : -errno;
                }
                memmove(l->out, l->out + k, l->n_out - (size_t)k);
                l->n_out -= (size_t)k;
        }
        return 0;
}

static int queue_frame(mig_link *l, const mig_message *message) {
        size_t n = ferry__handover__v1__message__get_packed_size(message);
        uint32_t word;
        uint8_t *more;

        if (l->phase == LINK_DEAD)
                return -ENOTCONN;
        if (n > MIG_LINK_MESSAGE_MAX)
                return -EMSGSIZE;
        more = realloc(l->out, l->n_out + HEADER_SIZE + n);
        if (!more)
                return -ENOMEM;
        l->out = more;
        word = htonl(MAGIC);
        memcpy(l->out + l->n_out, &word, 4);
        word = htonl((uint32_t)n);
        memcpy(l->out + l->n_out + 4, &word, 4);
        ferry__handover__v1__message__pack(message, l->out + l->n_out + HEADER_SIZE);
        l->n_out += HEADER_SIZE + n;
        return 0;
}

int mig_link_send(mig_link *l, const mig_message *message) {
        int r = queue_frame(l, message);

        if (r < 0)
                return r;
        /* a failed send shows at the reader too; the caller has its answer now */
        r = flush(l);
        update_events(l);
        return r;
}

/* With encryption it is good for this one connection: nobody sits between two of them. */
static bool proof_mac(mig_link *l, bool by_source, uint8_t ret[DIGEST_SIZE]) {
        uint8_t binding[TLS_BINDING_SIZE] = { 0 };
        bool own = by_source == l->identity.source;
        digest_part own_part = { l->own_hello, l->n_own_hello };
        digest_part peer_part = { l->peer_hello, l->n_peer_hello };
        digest_part parts[] = {
                { HELLO_DOMAIN, sizeof(HELLO_DOMAIN) },
                { by_source ? "source" : "destination", by_source ? 6 : 11 },
                own ? own_part : peer_part,
                own ? peer_part : own_part,
                { binding, sizeof(binding) },
        };

        if (l->tunnel && !tls_tunnel_get_binding(l->tunnel, binding))
                return false;
        digest_hmac(l->identity.secret, parts, ELEMENTS(parts) - !l->tunnel, ret);
        return true;
}

/* The MAC comes later; here only what makes an honest mistake readable. */
static const char *check_hello(const mig_link *l, const Ferry__Handover__V1__Hello *hello) {
        Ferry__Handover__V1__Role expected = l->identity.source
                                                     ? FERRY__HANDOVER__V1__ROLE__ROLE_DESTINATION
                                                     : FERRY__HANDOVER__V1__ROLE__ROLE_SOURCE;

        if (hello->version_min > VERSION || hello->version_max < VERSION)
                return "the other shim speaks no version of the handover that this one does";
        if (hello->role != expected)
                return "the other shim is not the other side of a migration";
        if (strcmp(hello->session_id, l->identity.session_id) != 0)
                return "the other shim is in another session";
        if (hello->nonce.len != NONCE_SIZE)
                return "malformed hello";
        if (hello->settled_before != l->identity.settled_before)
                return hello->settled_before
                               ? "the other shim is past the transfer, this one has not begun it"
                               : "this shim is past the transfer, the other one has not begun it";
        if (hello->settled_before)
                return NULL;
        if (hello->state_digest.len != DIGEST_SIZE ||
            memcmp(hello->state_digest.data, l->identity.state_digest, DIGEST_SIZE) != 0)
                return "the other shim has another exported state";
        if (hello->options.len != l->identity.n_options ||
            (hello->options.len > 0 &&
             memcmp(hello->options.data, l->identity.options, hello->options.len) != 0))
                return "the other shim has other transfer options";
        if (hello->relay_version != l->identity.relay_version)
                return "the other shim speaks another version of the relay";
        if (hello->channel != l->identity.channel)
                return "the two shims were given their connections in different orders";
        return NULL;
}

static int send_proof(mig_link *l) {
        Ferry__Handover__V1__HelloProof proof = FERRY__HANDOVER__V1__HELLO_PROOF__INIT;
        mig_message message = FERRY__HANDOVER__V1__MESSAGE__INIT;
        uint8_t mac[DIGEST_SIZE];

        if (!proof_mac(l, l->identity.source, mac))
                return -EPROTO;
        proof.mac = (ProtobufCBinaryData){ .len = sizeof(mac), .data = mac };
        message.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_PROOF;
        message.proof = &proof;
        return mig_link_send(l, &message);
}

static void receive_hello(mig_link *l, const mig_message *message) {
        const char *problem;
        int r;

        if (message->kind_case != FERRY__HANDOVER__V1__MESSAGE__KIND_HELLO) {
                die(l, "something that is not a ferry shim answered on the migration socket");
                return;
        }
        problem = check_hello(l, message->hello);
        if (problem) {
                die(l, problem);
                return;
        }
        l->peer_relay = message->hello->relay_version;
        l->peer_hello = l->body;
        l->n_peer_hello = l->n_body;
        l->body = NULL;
        r = send_proof(l);
        if (r < 0) {
                die_errno(l, "migration socket", r);
                return;
        }
        l->phase = LINK_PROOF;
}

static void receive_proof(mig_link *l, const mig_message *message) {
        uint8_t mac[DIGEST_SIZE];

        if (!proof_mac(l, !l->identity.source, mac) ||
            message->kind_case != FERRY__HANDOVER__V1__MESSAGE__KIND_PROOF ||
            message->proof->mac.len != DIGEST_SIZE ||
            !digest_equal(mac, message->proof->mac.data)) {
                die(l, "the other end of the migration socket could not prove that it belongs to "
                       "this session");
                return;
        }
        l->phase = LINK_SILENT;
        update_events(l);
        l->handlers.on_greeted(l->userdata);
}

static void dispatch_frame(mig_link *l) {
        mig_message *message = ferry__handover__v1__message__unpack(NULL, l->n_body, l->body);

        if (!message) {
                die(l, "malformed message on the migration socket");
                return;
        }
        l->n_read = 0;
        if (l->phase == LINK_HELLO)
                receive_hello(l, message);
        else if (l->phase == LINK_PROOF)
                receive_proof(l, message);
        else
                l->handlers.on_message(message, l->userdata);
        ferry__handover__v1__message__free_unpacked(message, NULL);
        free(l->body);
        l->body = NULL;
}

static int parse_header(mig_link *l) {
        uint32_t magic, length;

        memcpy(&magic, l->header, 4);
        memcpy(&length, l->header + 4, 4);
        if (ntohl(magic) != MAGIC || ntohl(length) > MIG_LINK_MESSAGE_MAX)
                return -EBADMSG;
        l->n_body = ntohl(length);
        l->body = malloc(l->n_body + !l->n_body);
        return l->body ? 0 : -ENOMEM;
}

/* 1 a whole frame, 0 not yet, negative: dead. */
static int read_some(mig_link *l) {
        for (;;) {
                bool in_header = l->n_read < HEADER_SIZE;
                size_t want =
                        in_header ? HEADER_SIZE - l->n_read : HEADER_SIZE + l->n_body - l->n_read;
                uint8_t *to =
                        in_header ? l->header + l->n_read : l->body + (l->n_read - HEADER_SIZE);
                ssize_t k;

                if (!in_header && want == 0)
                        return 1;
                k = recv(talk_fd(l), to, want, MSG_DONTWAIT);
                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return errno == EAGAIN ? 0 : -errno;
                }
                if (k == 0)
                        return -ECONNRESET;
                l->n_read += (size_t)k;
                if (in_header && l->n_read == HEADER_SIZE) {
                        int r = parse_header(l);

                        if (r < 0)
                                return r;
                }
        }
}

static bool reads(const mig_link *l) {
        return !l->freed &&
               (l->phase == LINK_HELLO || l->phase == LINK_PROOF || l->phase == LINK_MESSAGES);
}

static void read_all(mig_link *l) {
        while (reads(l)) {
                int r = read_some(l);

                if (r == 0)
                        break;
                if (r > 0)
                        dispatch_frame(l);
                else if (r == -ECONNRESET)
                        die(l, "the other side closed the migration connection");
                else if (r == -EBADMSG)
                        die(l, "something that is not a ferry shim answered on the migration "
                               "socket");
                else
                        die_errno(l, "migration socket", r);
        }
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        mig_link *l = userdata;
        int r;

        l->n_ref++;
        if (revents & EPOLLOUT) {
                r = flush(l);
                if (r < 0)
                        die_errno(l, "migration socket", r);
        }
        if (revents & (EPOLLIN | EPOLLHUP | EPOLLERR))
                read_all(l);
        if (!l->freed)
                update_events(l);
        link_unref(l);
        return 0;
}

int mig_link_new(sd_event *event, int fd_consume, const mig_link_handlers *handlers, void *userdata,
                 mig_link **ret) {
        _cleanup_(closep) int fd = fd_consume;
        mig_link *l;
        int r;

        l = malloc(sizeof(*l));
        if (!l)
                return -ENOMEM;
        *l = (mig_link){
                .fd = fd,
                .messages = -EBADF,
                .handlers = *handlers,
                .userdata = userdata,
                .n_ref = 1,
        };
        r = sd_event_add_io(event, &l->io, fd, EPOLLIN, on_io, l);
        if (r >= 0)
                r = sd_event_source_set_enabled(l->io, SD_EVENT_OFF);
        /* the handover is in the blackout: before everything else that is ready */
        if (r >= 0)
                r = sd_event_source_set_priority(l->io, SD_EVENT_PRIORITY_IMPORTANT);
        if (r < 0) {
                sd_event_source_unref(l->io);
                free(l);
                return r;
        }
        TAKE_FD(fd);
        *ret = l;
        return 0;
}

static int copy_identity(mig_link *l, const mig_link_identity *identity) {
        char *session_id = strdup(identity->session_id);
        uint8_t *options = malloc(identity->n_options + !identity->n_options);

        if (!session_id || !options) {
                free(session_id);
                free(options);
                return -ENOMEM;
        }
        if (identity->n_options > 0)
                memcpy(options, identity->options, identity->n_options);
        l->identity = *identity;
        l->identity.session_id = session_id;
        l->identity.options = options;
        return 0;
}

static int go_under_tls(mig_link *l, ferry_error *reterr) {
        encrypt_options options = {
                .kind = l->identity.encryption,
                .source = l->identity.source,
                .session_id = l->identity.session_id,
                .purpose = "",
        };
        int r;

        memcpy(options.secret, l->identity.secret, sizeof(options.secret));
        r = encrypt_start(&l->fd, &options, &l->tunnel, reterr);
        explicit_bzero(&options, sizeof(options));
        if (r < 0)
                return r;
        r = sd_event_source_set_io_fd(l->io, l->fd);
        return r < 0 ? ferry_error_set_errno(reterr, r, "migration socket") : 0;
}

static int say_hello(mig_link *l, const mig_link_identity *identity) {
        Ferry__Handover__V1__Hello hello = FERRY__HANDOVER__V1__HELLO__INIT;
        mig_message message = FERRY__HANDOVER__V1__MESSAGE__INIT;
        uint8_t nonce[NONCE_SIZE];
        int r;

        r = random_bytes(nonce, sizeof(nonce));
        if (r < 0)
                return r;
        hello.version_min = hello.version_max = VERSION;
        hello.role = identity->source ? FERRY__HANDOVER__V1__ROLE__ROLE_SOURCE
                                      : FERRY__HANDOVER__V1__ROLE__ROLE_DESTINATION;
        hello.session_id = (char *)l->identity.session_id;
        hello.state_digest = (ProtobufCBinaryData){ DIGEST_SIZE, l->identity.state_digest };
        hello.nonce = (ProtobufCBinaryData){ sizeof(nonce), nonce };
        hello.settled_before = l->identity.settled_before;
        hello.channel = identity->channel;
        hello.relay_version = l->identity.relay_version;
        hello.options =
                (ProtobufCBinaryData){ l->identity.n_options, (uint8_t *)l->identity.options };
        message.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_HELLO;
        message.hello = &hello;

        l->n_own_hello = ferry__handover__v1__message__get_packed_size(&message);
        l->own_hello = malloc(l->n_own_hello);
        if (!l->own_hello)
                return -ENOMEM;
        ferry__handover__v1__message__pack(&message, l->own_hello);
        l->phase = LINK_HELLO;
        r = mig_link_send(l, &message);
        update_events(l);
        return r;
}

int mig_link_greet(mig_link *l, const mig_link_identity *identity, ferry_error *reterr) {
        int r = copy_identity(l, identity);

        if (r == 0 && identity->encryption != TLS_NONE) {
                r = go_under_tls(l, reterr);
                if (r < 0)
                        return r;
        }
        if (r == 0)
                r = say_hello(l, identity);
        if (r < 0) {
                _cleanup_(freep) char *problem = mig_link_get_problem(l);

                return problem ? ferry_error_set(reterr, FERRY_UNAVAILABLE, r, "%s", problem)
                               : ferry_error_set_errno(reterr, r, "migration socket");
        }
        return 0;
}

void mig_link_pause(mig_link *l) {
        if (l->phase != LINK_DEAD)
                l->phase = LINK_SILENT;
        update_events(l);
}

void mig_link_listen(mig_link *l) {
        if (l->phase != LINK_DEAD)
                l->phase = LINK_MESSAGES;
        update_events(l);
}

int mig_link_divert(mig_link *l, int fd_consume) {
        _cleanup_(closep) int fd = fd_consume;
        int r;

        if (l->n_out > 0)
                return -EBUSY;
        r = sd_event_source_set_io_fd(l->io, fd);
        if (r < 0)
                return r;
        l->messages = TAKE_FD(fd);
        return 0;
}

uint32_t mig_link_get_peer_relay(const mig_link *l) {
        return l->peer_relay;
}

void mig_link_hold(mig_link *l) {
        l->held = true;
        update_events(l);
}

void mig_link_release(mig_link *l) {
        int r;

        l->held = false;
        r = flush(l);
        if (r < 0)
                die_errno(l, "migration socket", r);
        else
                update_events(l);
}

int mig_link_dup(const mig_link *l, int *ret_fd) {
        int fd = fcntl(l->fd, F_DUPFD_CLOEXEC, 3);

        if (fd < 0)
                return -errno;
        *ret_fd = fd;
        return 0;
}

static int wire_of(const mig_link *l) {
        return l->tunnel ? tls_tunnel_get_wire(l->tunnel) : l->fd;
}

uint64_t mig_link_moved(const mig_link *l) {
        return socket_moved(wire_of(l));
}

bool mig_link_waits(const mig_link *l) {
        return socket_waits(wire_of(l)) || (l->tunnel && socket_waits(l->fd));
}

uint64_t mig_link_round_trip_usec(const mig_link *l) {
        struct tcp_info info = { 0 };
        socklen_t n = sizeof(info);

        if (getsockopt(wire_of(l), IPPROTO_TCP, TCP_INFO, &info, &n) < 0)
                return 0;
        return info.tcpi_rtt;
}

void mig_link_shutdown(mig_link *l) {
        if (l->tunnel)
                tls_tunnel_shutdown(l->tunnel);
        else
                (void)shutdown(l->fd, SHUT_RDWR);
}

mig_link *mig_link_free(mig_link *l) {
        if (!l)
                return NULL;
        l->freed = true;
        l->io = sd_event_source_disable_unref(l->io);
        l->fd = fd_close(l->fd);
        l->messages = fd_close(l->messages);
        l->tunnel = tls_tunnel_free(l->tunnel);
        link_unref(l);
        return NULL;
}
