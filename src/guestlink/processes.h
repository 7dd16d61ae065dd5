/* SPDX-License-Identifier: MIT */
#pragma once

/* The programs that the host runs in its guest: started, waited for, their bytes carried between
 * the guest and FIFOs here. What outlives the shim (which programs, their FIFOs, how far their
 * streams are) is in the state directory; the next shim goes on. */

#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"

#define GUEST_PROCESSES_MAX   128U
#define GUEST_PROCESS_ID_MAX  128U
#define GUEST_EXECS_FILE      "execs.json"
#define GUEST_EXECS_KEEP_FILE "execs.keep"

typedef struct guest_processes guest_processes;
typedef struct guest_process guest_process;

typedef struct guest_process_spec {
        const char *id;
        char **args;
        size_t n_args;
        char **env;
        size_t n_env;
        const char *cwd;
        uint32_t uid, gid;
        bool terminal;
        uint32_t rows, columns;
        const char *stdio[3]; /* FIFOs; "" or NULL: none */
        /* Not NULL: in this container, and `process` (OCI's, JSON) says what runs there; env to gid
         * are not used, and args are for lists only. */
        const char *container;
        const void *process;
        size_t n_process;
        const struct guest_container_spec *create; /* not NULL: a container, of this id */
} guest_process_spec;

typedef struct guest_process_info {
        const char *id;
        uint32_t pid;
        bool terminal, ended;
        bool detached; /* came from another host, and waits for guest_attach() */
        uint32_t exit_status;
        uint64_t exited_at_usec;
        uint64_t oom_kills; /* of a container: in it, for want of memory */
} guest_process_info;

/* r: 0 or negative with `error`; `info` is borrowed, NULL when there is nothing to tell. Later,
 * never from inside the call. */
typedef void (*guest_done)(int r, const ferry_error *error, const guest_process_info *info,
                           void *userdata);

/* `generation` names the VM (a new one has none of the programs of the one before). */
int guest_processes_new(sd_event *event, const char *state_dir, const char *generation,
                        guest_processes **ret, ferry_error *reterr);
/* Lets go: the programs run on. What waits gets -ECANCELED. */
guest_processes *guest_processes_free(guest_processes *g);
/* Of a guest that does not delete it: for the host there is none such any more. */
void guest_forget(guest_processes *g, const char *id);
/* The VM is gone, and what it ran with it: forgets the files too. */
void guest_processes_forget(int dir_fd);
/* There are files: of a shim before this one, or of another host's. */
bool guest_processes_are_left(int dir_fd);

/* So often the agent has broken the protocol. */
unsigned guest_processes_agent_drops(const guest_processes *g);
/* That run or have not been deleted. */
size_t guest_processes_count(const guest_processes *g);
void guest_processes_list(const guest_processes *g,
                          void (*each)(const guest_process_info *info, void *userdata),
                          void *userdata);

/* Negative: refused, `done` is not called. */
int guest_exec(guest_processes *g, const guest_process_spec *spec, guest_done done, void *userdata,
               ferry_error *reterr);
/* `drained`: not before all of its output was delivered too. */
int guest_wait(guest_processes *g, const char *id, bool drained, guest_done done, void *userdata,
               ferry_error *reterr);
/* `userdata`'s waits end without a word. */
void guest_wait_forget(guest_processes *g, void *userdata);
/* Of a container: `on_oom` is called when the kernel has killed in it for want of memory, once for
 * all that was killed within a second, and before its end is told. What another host has told of is
 * not told again. */
typedef void (*guest_oom_handler)(const char *id, void *userdata);
int guest_watch_oom(guest_processes *g, const char *id, guest_oom_handler on_oom, void *userdata,
                    ferry_error *reterr);
/* `all`: of a container, every process in it. */
int guest_signal(guest_processes *g, const char *id, uint32_t number, bool all, guest_done done,
                 void *userdata, ferry_error *reterr);
int guest_resize(guest_processes *g, const char *id, uint32_t rows, uint32_t columns,
                 guest_done done, void *userdata, ferry_error *reterr);
/* Standard input ends behind what its FIFO holds now. At once. */
int guest_close_in(guest_processes *g, const char *id, ferry_error *reterr);
/* Of a program that has ended. */
int guest_delete(guest_processes *g, const char *id, guest_done done, void *userdata,
                 ferry_error *reterr);

/* ---- moving.c: to another host and back ---- */

#define GUEST_CARRIED_MAX (16U << 20)

/* The guest stands, and may be another host's next: what that host needs to go on with the
 * programs and their streams (guest.proto); caller frees; NULL and 0: there is nothing. From here
 * on no byte goes to or from the guest. Asked again it says the same. */
int guest_processes_carry(guest_processes *g, uint8_t **ret, size_t *ret_n);
/* It runs on here after all. */
void guest_processes_stay(guest_processes *g);
/* From another host, in the blackout: sets it down where guest_processes_new() finds it, once the
 * guest runs here; quickly, where guest_landing_prepare() was called before. -EINVAL, and nothing
 * is written, when it makes no sense. */
int guest_processes_arrive(int dir_fd, const char *generation, const uint8_t *data, size_t n,
                           ferry_error *reterr);
/* Gives a program's streams other FIFOs: where a detached one goes on, without a byte lost. */
int guest_attach(guest_processes *g, const char *id, const char *const stdio[3],
                 ferry_error *reterr);
/* The guest has stood or was moved: its clock, its random numbers, and with `announce` its
 * neighbours learn of it. Tells the log when the agent does not answer. */
void guest_moved(guest_processes *g, bool announce);

DEFINE_CLEANUP(guest_processes *, guest_processes_free)
