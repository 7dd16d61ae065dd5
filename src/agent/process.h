/* SPDX-License-Identifier: MIT */
#pragma once

/* The processes that the host asked for: started once each, their bytes carried by streams, their
 * end remembered until it is deleted. */

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "channel/channel.h"

#define PROCESSES_MAX  256U
#define PROCESS_ID_MAX 128U
/* Of each stream. Not touched before it is needed. */
#define PROCESS_INPUT_BUFFER  65536U
#define PROCESS_OUTPUT_BUFFER 262144U
#define PROCESS_FDS_MAX       3U

typedef struct process process;

/* One way of bytes between a descriptor and a stream. */
typedef struct process_pipe {
        int fd;        /* -EBADF: closed */
        bool to_guest; /* the stream's bytes go to the descriptor */
        channel_stream *stream;
        size_t polled; /* its place in the last poll, or SIZE_MAX */
} process_pipe;

struct process {
        process *next;
        char id[PROCESS_ID_MAX + 1];
        char **args;  /* owned; for List */
        pid_t pid;    /* 0: it is being started by another program, or has not come to be */
        int terminal; /* the pty's other side, or -EBADF; pipes have duplicates of it */
        uint32_t stream;
        channel_stream *streams[2];
        process_pipe pipes[PROCESS_FDS_MAX];
        bool ended;
        uint32_t exit_status;
        uint64_t exited_at_usec;
        uint64_t oom_kills; /* of a container: in it, for want of memory */
};

/* What the new process has as its standard streams; ours to close. */
typedef struct process_ends {
        int fds[3];
} process_ends;

#define PROCESS_ENDS_INIT ((process_ends){ { -EBADF, -EBADF, -EBADF } })

typedef struct process_spec {
        const char *id;
        char *const *args; /* n_args and a NULL */
        size_t n_args;
        char *const *env;
        const char *cwd;
        uid_t uid;
        gid_t gid;
        const gid_t *groups;
        size_t n_groups;
        bool terminal;
        uint16_t rows, columns;
        uint32_t stream;
} process_spec;

typedef struct process_table {
        process *first;
        size_t n;
        channel *streams; /* the port's */
        void (*on_end)(process *p, void *userdata);
        void *userdata;
} process_table;

process *process_find(const process_table *t, const char *id);

/* -EINVAL for a bad id, -EEXIST (the id, or the stream's number), -ENFILE, and what pipes, fork and
 * exec say: a program that cannot be executed is not started. */
int process_start(process_table *t, const process_spec *spec, process **ret);

/* For a process that somebody else starts: it is in the table from here on, with no pid. With a
 * terminal, which comes by process_take_terminal(), the ends are /dev/null. */
int process_begin(process_table *t, const process_spec *spec, process_ends *ends, process **ret);
void process_begun(process *p, pid_t pid);
/* It has not come to be: out of the table. */
void process_forget(process_table *t, process *p);
/* The terminal's side that is not the process's; taken on every path. */
int process_take_terminal(process *p, int fd);

void process_ends_done(process_ends *ends);

/* -ESRCH when it has ended, -EBUSY before it has begun. */
int process_signal(process *p, int signal);
/* -ENOTTY without a terminal. */
int process_resize(process *p, uint16_t rows, uint16_t columns);
/* -EBUSY while it runs. */
int process_delete(process_table *t, process *p);

/* What waitpid() said of `pid`; false when it is none of ours. */
bool process_reaped(process_table *t, pid_t pid, int status);

/* Adds what to poll for, at most `max`; returns how many. */
size_t process_prepare(process_table *t, struct pollfd *fds, size_t max);
/* With the same `fds`, after poll(). */
void process_pump(process_table *t, const struct pollfd *fds);
