/* SPDX-License-Identifier: MIT */
#pragma once

/* What the server's files share: server.c (listeners, connections, the loop's side), dispatch.c
 * (what a frame does), call.c (what a handler does).
 *
 * A connection is freed only at the end of process() and in free(): whoever finds it dead elsewhere
 * marks it (`broken`), so that no caller of ours works on freed memory.
 *
 * A connection's list does not own its calls: the handlers do, by their references. When the
 * connection ends its calls are cut loose (conn = NULL) and told. */

#include <stdbool.h>
#include <sys/socket.h>

#include "ttrpc/conn.h"
#include "ttrpc/envelope.h"
#include "ttrpc/ttrpc.h"

#define EXPORT __attribute__((visibility("default")))

typedef struct server_conn server_conn;
typedef struct server_listener server_listener;

typedef struct server_entry {
        const ttrpc_service *service;
        const void *methods;
        void *userdata;
} server_entry;

struct server_conn {
        bool is_listener; /* first in both: what epoll's pointer points to */
        bool broken;
        bool half_closed; /* the peer writes no more, but reads */
        bool backlog;     /* frames were left unread because too much waits to be written */
        bool wants_room;  /* one of the calls does */
        bool has_peer;
        struct ucred peer;
        ttrpc_server *server;
        server_conn *next;
        ttrpc_conn io;
        ttrpc_call *calls;
        size_t n_calls;
        uint64_t n_waits; /* how often a stream had to */
        uint32_t last_id;
        uint32_t events;
};

struct server_listener {
        bool is_listener;
        server_listener *next;
        int fd; /* -1: closed, to be freed */
};

struct ttrpc_server {
        int epoll;
        server_listener *listeners;
        server_conn *conns;
        size_t n_conns;
        server_entry *entries; /* newest last; looked at from the end */
        size_t n_entries;
        size_t max_conns, max_calls, max_queued;
        uid_t uid;
        server_conn *in_batch; /* being served; what is written to it goes out together */
        bool closing, any_broken, processing;
        uint64_t next_deadline; /* not later than the first call's */
        uint64_t accept_again;  /* when to go on after accept() failed */
};

struct ttrpc_call {
        unsigned n_ref;
        server_conn *conn;          /* NULL once it has gone, or the call was answered */
        ttrpc_call *next, **linked; /* `linked`: what points to us in the connection's list */
        uint32_t stream_id;
        bool is_stream, answered, gone, wants_room;
        uint64_t waits_since; /* place in the queue of those that want room */
        uint64_t deadline;
        bool has_peer;
        struct ucred peer;
        void (*on_gone)(ttrpc_call *call, void *userdata);
        void (*on_writable)(ttrpc_call *call, void *userdata);
        void *userdata;
        const char *service, *method;
        ttrpc_pair *metadata;
        size_t n_metadata;
        char text[]; /* all strings */
};

/* server.c */
void ttrpc_server_mark_broken(server_conn *conn);
/* After something was put into the connection: sends it, or leaves that to the end of the batch. */
void ttrpc_server_written(server_conn *conn);
/* Closes what has nothing left to do: when shutting down, or half-closed. */
void ttrpc_server_check_idle(server_conn *conn);

/* dispatch.c */
void ttrpc_server_receive(server_conn *conn, const ttrpc_frame_header *header, const uint8_t *data,
                          bool too_long);

/* call.c */
int ttrpc_call_new(server_conn *conn, uint32_t stream_id, const ttrpc_request *q, ttrpc_call **ret);
/* The peer will hear no more of it: tells who works on it. */
void ttrpc_call_cut_loose(ttrpc_call *call);
/* Lets the connection's streams go on that were refused. */
void ttrpc_call_offer_room(server_conn *conn);
void ttrpc_server_put_status(server_conn *conn, uint32_t stream_id, int32_t code,
                             const char *message);
/* Our own texts are UTF-8; what they quote may not be. */
void ttrpc_make_utf8(char *text);
