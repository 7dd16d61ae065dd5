/* SPDX-License-Identifier: MIT */
#pragma once

/* What the files of the task service share. */

#include "base/clock.h"
#include "guestlink/containers.h"
#include "oci/oci.h"
#include "rootfs/rootfs.h"
#include "services/annotations.h"
#include "services/bundle.h"
#include "services/reply.h"
#include "services/task-events.h"
#include "services/task-network.h"
#include "services/task-service.h"
#include "task.ttrpc.h"

#define TASK_EXECS_MAX CARRIED_EXECS_MAX
#define GUEST_ID_SIZE  CARRIED_GUEST_ID_SIZE
#define EXIT_LOST      255U
#define EXIT_KILLED    137U

typedef struct task task;
typedef struct task_process task_process;

/* A container's first process, or one that was added (exec_id). */
struct task_process {
        task_process *next;
        task *task;
        char *exec_id;                /* "": the first */
        char guest_id[GUEST_ID_SIZE]; /* in the guest: "c1", "c1.e2" */
        char *stdio[3];
        bool terminal;
        char *spec; /* of an exec that was not started: OCI's process */
        Containerd__Task__V2__Status status;
        sd_event_source *late;       /* it has ended, and its output is still on its way */
        sd_event_source *kill_limit; /* SIGKILL was asked for, and it has not ended yet */
        bool doomed;                 /* nor has it in time */
        bool migrated;               /* it has ended here only */
        bool busy;                   /* being started or deleted */
        bool unclaimed; /* came with the sandbox; nobody here has asked for it by its id yet */
        bool arriving;  /* came with the sandbox; the guest's streams are not ours yet */
        Containerd__Task__V2__Status arrived_status; /* what it was at the source */
        bool close_in;                               /* asked for before it could be done */
        uint32_t pid, exit_status;
        uint64_t exited_at_usec;
        struct task_waiter *waiters;
};

typedef struct task_waiter {
        struct task_waiter *next;
        ttrpc_call *call;
        task_process *process;
} task_waiter;

/* A disk of the VM that was added for a container, and goes with it. */
typedef struct task_disk {
        char serial[VM_CONFIG_SERIAL_MAX + 1]; /* "": none was added */
        char *file;                            /* its own, to be removed too; NULL: shared */
        int use_fd; /* so that nobody throws the image away; -EBADF: none */
} task_disk;

struct task {
        task *next;
        task_service *service;
        char *id, *bundle;
        char guest_id[GUEST_ID_SIZE];
        task_disk root, layer;
        bool wants_network; /* it was to have a network namespace, by a name or of its own */
        bool creating;
        uint32_t last_exec;
        task_process *processes; /* the first one last */
};

struct task_service {
        sd_event *event;
        sandbox *sb;
        guest_access *guest;
        task_network *network;
        task_events *events; /* NULL: nobody listens */
        char *cache_dir, *namespace, *address;
        uint32_t cache_max_mb;
        uint32_t layer_mb;  /* of the disks that containers write to; 0: they write to memory */
        const char *pod_id; /* NULL: none was created; the sandbox service's */
        void (*on_shutdown)(void *userdata);
        void *userdata;
        task *tasks;
        size_t n_tasks;
        uint32_t last_number;
        struct creation *creations;
        task *unclaimed; /* came with the sandbox, and wait for their Create */
        sd_event_source *look;
        bool shutdown_wanted;
};

/* ---- the table ---- */

task *task_find(const task_service *s, const char *id);
/* NotFound with an error. `exec_id` "": the first. */
task_process *task_process_find(const task_service *s, const char *id, const char *exec_id,
                                ferry_error *reterr);
task_process *task_first(const task *t);
task *task_new(task_service *s, const char *id, const char *bundle);
/* Neither in the table nor named by the guest yet. */
task *task_alloc(task_service *s, const char *id, const char *bundle);
void task_insert(task *t);
void task_remove(task *t);
task_process *task_add_process(task *t, const char *exec_id, const char *const stdio[3],
                               bool terminal);
void task_remove_process(task_process *p);

/* Its end: told to who waits and to containerd, once. */
void task_process_ended(task_process *p, uint32_t exit_status, uint64_t exited_at_usec);
/* From here on its end is known when it comes. */
int task_watch(task_process *p, ferry_error *reterr);

uint32_t task_host_pid(const task_service *s);
bool task_vm_lives(const task_service *s);
/* Who would have asked for Shutdown has gone. */
void task_service_leave(task_service *s);
/* False: a migration is under way, and the call is answered. */
bool task_may_change(task_service *s, ttrpc_call *call);

/* ---- task-call.c ---- */

/* What waits for the guest. */
typedef struct task_call {
        task_service *service;
        ttrpc_call *call;   /* NULL: nobody's */
        char *id, *exec_id; /* its process, which may have gone meanwhile */
        bool flag;
        sd_event_source *limit;
} task_call;

/* NULL: out of memory. */
task_call *task_call_new(task_service *s, const char *id, const char *exec_id);
/* NULL: the same, and the call was answered so. */
task_call *task_call_hold(task_service *s, ttrpc_call *call, const char *id, const char *exec_id);
void task_call_release(task_call *c);
/* The same for a call that the guest has to be asked for; *ret: whom to ask. NULL: it is answered.
 */
task_call *task_call_to_guest(ttrpc_call *call, const task_process *p, guest_processes **ret);
/* The guest was asked: a negative `r` is the end of the call. */
void task_call_asked(task_call *c, int r, const ferry_error *error);
/* NULL: it was deleted meanwhile. */
task_process *task_call_process(const task_call *c);
/* The process that a call names; NULL: the call is answered. */
task_process *task_named(task_service *s, ttrpc_call *call, const char *id, const char *exec_id);
void call_refuse(ttrpc_call *call, ferry_code code, const char *what);
void call_reply_empty(ttrpc_call *call);

/* ---- the calls, where they are not of one file with the service ---- */

void task_on_create(ttrpc_call *call, const Containerd__Task__V2__CreateTaskRequest *q,
                    void *userdata);
void task_on_start(ttrpc_call *call, const Containerd__Task__V2__StartRequest *q, void *userdata);
void task_on_exec(ttrpc_call *call, const Containerd__Task__V2__ExecProcessRequest *q,
                  void *userdata);
void task_on_wait(ttrpc_call *call, const Containerd__Task__V2__WaitRequest *q, void *userdata);
void task_on_kill(ttrpc_call *call, const Containerd__Task__V2__KillRequest *q, void *userdata);
void task_on_resize(ttrpc_call *call, const Containerd__Task__V2__ResizePtyRequest *q,
                    void *userdata);
void task_on_close_io(ttrpc_call *call, const Containerd__Task__V2__CloseIORequest *q,
                      void *userdata);
void task_on_pause(ttrpc_call *call, const Containerd__Task__V2__PauseRequest *q, void *userdata);
void task_on_resume(ttrpc_call *call, const Containerd__Task__V2__ResumeRequest *q, void *userdata);
void task_on_update(ttrpc_call *call, const Containerd__Task__V2__UpdateTaskRequest *q,
                    void *userdata);
void task_on_stats(ttrpc_call *call, const Containerd__Task__V2__StatsRequest *q, void *userdata);
void task_on_delete(ttrpc_call *call, const Containerd__Task__V2__DeleteRequest *q, void *userdata);

/* ---- task-stats.c ---- */

/* Three dozen numbers of at most ten bytes, and their keys. */
#define METRICS_SIZE 1024U

/* The guest's figures as containerd reads them; *ret points to `packed`. */
void metrics_pack(const Ferry__Agent__V1__ContainerStatsResponse *s,
                  uint8_t packed[static METRICS_SIZE], Google__Protobuf__Any *ret);

/* ---- task-delete.c ---- */

/* One that nobody was told of: as if there had been none. */
void task_discard(task *t);

/* ---- task-create.c ---- */

/* There is nothing here but what nobody waits for any more. */
bool task_none_is_wanted(const task_service *s);
/* The service ends: what is under way ends without it. */
void task_abandon_creations(task_service *s);
/* What a container had besides its guest: its disk, its image. */
void task_release(task *t);

/* ---- task-moving.c ---- */

extern const sandbox_guest task_moving;

/* Create of a container that came with the sandbox. */
void task_claim(task_service *s, ttrpc_call *call, const Containerd__Task__V2__CreateTaskRequest *q,
                const char *source_id);
/* The same of an exec; false: none of that id came along. */
bool task_claim_exec(task_service *s, ttrpc_call *call,
                     const Containerd__Task__V2__ExecProcessRequest *q);
/* Start of what is arriving. */
void task_begin_arrived(task_process *p);
/* The VM's or the session's state has changed. */
void task_look(task_service *s);
void task_drop_unclaimed(task_service *s);

/* ---- events ---- */

void task_tell_create(const task *t);
void task_tell_start(const task_process *p);
void task_tell_exit(const task_process *p);
void task_tell_oom(const task *t);
void task_tell_delete(const task_process *p);
void task_tell_exec_added(const task_process *p);
void task_tell_paused(const task *t, bool paused);
