/* SPDX-License-Identifier: MIT */
#pragma once

/* What processes.c and moving.c share. */

#include "agent.ttrpc.h"
#include "base/clock.h"
#include "base/log.h"
#include "guestlink/containers.h"
#include "guestlink/execs.h"
#include "guestlink/guest-stdio.h"
#include "guestlink/keeps.h"
#include "guestlink/link.h"

/* On a busy host a guest that is there may take its time. */
#define GUEST_CALL_USEC (60 * USEC_PER_SEC)
/* Of what may be the first that a guest is asked for: it may still be booting. */
#define GUEST_FIRST_CALL_USEC (90 * USEC_PER_SEC)

extern const ttrpc_call_options guest_call_options, guest_first_call_options;

struct guest_process {
        guest_process *next;
        guest_processes *owner;
        exec_record *record; /* in the owner's list */
        guest_stdio *io;
        bool drained;  /* the guest has closed its output, and all of it was delivered */
        bool starting; /* the agent has not said yet that it runs */
        bool watched;  /* the agent was asked for its end */
        bool ended;
        uint32_t pid, exit_status;
        uint64_t begun_usec, exited_at_usec; /* realtime; begun 0: not here */
        guest_oom_handler on_oom;            /* NULL: nobody asked */
        void *oom_userdata;
        bool oom_watched; /* the agent was asked */
};

/* Somebody who waits for a program's end. */
typedef struct guest_waiting {
        struct guest_waiting *next;
        const guest_process *process;
        bool drained; /* and for its output */
        guest_done done;
        void *userdata;
} guest_waiting;

struct guest_processes {
        sd_event *event;
        int dir_fd;
        char *generation;
        guest_link *link;
        guest_keeps *keeps;
        exec_records records;
        guest_process *first;
        size_t n;
        guest_waiting *waits;
        size_t n_waits;
        sd_event_source *rewatch; /* asks again for the ends of those that are not watched */
        bool closing;
};

/* A call under way. */
typedef struct guest_operation {
        guest_processes *owner;
        char id[GUEST_PROCESS_ID_MAX + 1];
        guest_done done; /* NULL: nobody asked */
        void *userdata;
} guest_operation;

guest_process *guest_process_find(const guest_processes *g, const char *id);
/* With an error when there is none. */
guest_process *guest_process_need(const guest_processes *g, const char *id, ferry_error *reterr);
void guest_processes_save(guest_processes *g);

/* Opens its FIFOs and its streams; *ret_bad: the path that cannot be opened. */
int guest_process_open_io(guest_process *p, const char **ret_bad);

/* What landed here for this VM becomes what a restarted shim finds. */
int guest_processes_settle(int dir_fd, const char *generation);
/* But for what has landed and is not laid out yet. */
void guest_processes_forget_files(int dir_fd);

/* ---- oom.c ---- */

/* Asks for the next kill, where somebody wants to know of it. Negative: it could not be asked. */
int guest_oom_watch(guest_process *p);
/* Told by another answer. */
void guest_oom_told(guest_process *p, uint64_t oom_kills);

/* Asks again, in a moment, for the ends and kills that nobody was asked for. */
void guest_processes_rewatch(guest_processes *g);

guest_operation *guest_operation_new(guest_processes *g, const char *id, guest_done done,
                                     void *userdata);

/* An agent's answer, as an error. What it says is made harmless: it goes to logs and terminals. */
int guest_judge(int r, const ttrpc_status *status, ferry_error *error);
