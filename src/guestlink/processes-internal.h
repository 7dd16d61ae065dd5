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

/* a guest that is still booting answers when it is there: on a busy host not at once */
#define GUEST_CALL_USEC (60 * USEC_PER_SEC)

extern const ttrpc_call_options guest_call_options;

struct guest_process {
        guest_process *next;
        guest_processes *owner;
        exec_record *record; /* in the owner's list */
        guest_stdio *io;
        bool drained; /* the guest has closed its output, and all of it was delivered */
        bool ended, oom_killed;
        uint32_t pid, exit_status;
        uint64_t exited_at_usec;
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

/* An agent's answer, as an error. */
int guest_judge(int r, const ttrpc_status *status, ferry_error *error);
