/* SPDX-License-Identifier: MIT */
#pragma once

/* Shared by vm.c (life), launch.c (making the process) and vm-ops.c (operations). */

#include "qmp/qmp-client.h"
#include "vm/files.h"
#include "vm/probe.h"
#include "vm/record.h"
#include "vm/throttle.h"
#include "vm/vm.h"

#define VM_OP_TIMEOUT_USEC (30 * USEC_PER_SEC)

#define VM_QMP_SOCKET     "qmp.sock"
#define VM_CONSOLE_SOCKET "console.sock"
#define VM_CONSOLE_LOG    "console.log"
#define VM_QEMU_LOG       "qemu.log"

typedef enum vm_phase {
        VM_PHASE_PROBING,  /* no process yet */
        VM_PHASE_STARTING, /* the process is there, QMP not yet, or not yet set up */
        VM_PHASE_FAILING,  /* killed because the start failed; on_ready waits for its end */
        VM_PHASE_READY,
        VM_PHASE_FAILED, /* on_ready was called with an error */
        VM_PHASE_EXITED,
        VM_PHASE_CLOSED,
} vm_phase;

/* Work without QMP that may only be reported later, and vm_quit()'s wait for the end. */
/* QEMU's name for the migration socket: it must not begin with a digit. */
#define FD_NAME    "ferry-migration"
#define SPARE_NAME "ferry-spare"

typedef struct vm_waiter {
        struct vm_waiter *next;
        vm_done done;
        void *userdata;
        int r; /* with `error`, for what is reported at the next turn */
        ferry_error error;
} vm_waiter;

typedef struct vm_disk_change vm_disk_change;
typedef struct vm_mirror vm_mirror;

struct ferry_vm {
        unsigned n_ref; /* the owner's, and one for each of our frames that runs handlers */
        vm_phase phase;
        bool attached; /* a failed start leaves QEMU alone */
        sd_event *event;
        vm_config *config;
        char *state_dir;
        int dir_fd;
        vm_mode mode;
        char bridge[TAP_NAME_SIZE];
        bool own_network, ends_with_us;
        bool memory_is_given; /* memory_fd is the caller's memory */
        bool receives_postcopy;
        char *probe_cache;
        vm_user user;

        vm_probe *probe;
        pid_t pid;
        int pidfd, memory_fd;
        char tap[TAP_NAME_SIZE];
        bool tap_attached; /* by us, for sure */
        int qmp_fd;        /* connected, until there is a client to own it */
        qmp_client *qmp;
        sd_event_source *exit_source, *lost_timer, *kill_timer, *log_timer, *defer;
        unsigned n_setup;    /* set-up commands that are not answered yet */
        ferry_error failure; /* why the start fails */
        int failure_r;

        throttle *throttle;
        unsigned throttle_wanted; /* percent; 0: full speed */
        pid_t vcpu_threads[THROTTLE_THREADS];
        size_t n_vcpu_threads; /* 0: not asked for yet */

        vm_disk_change *disk_changes; /* the first is under way */
        bool qmp_lost;                /* vm-disks.c knows before on_qmp_disconnect() does */
        vm_mirror *mirrors;
        vm_done mirrors_done; /* waits for the end of all of them */
        void *mirrors_userdata;
        vm_waiter *quitting, *later;
        vm_handlers handlers;
        vm_done on_ready;
        void *userdata;
};

void vm_pin(ferry_vm *vm);
void vm_unpin(ferry_vm *vm);
void vm_unpinp(struct ferry_vm **vm);

/* Opens, makes and spawns what vm->config says; pid, pidfd, memory_fd, qmp_fd and tap are then set
 * and qemu.json is written. Nothing is left behind on failure. */
int vm_launch(ferry_vm *vm, ferry_error *reterr);
/* The sandbox's files that only mean something while QEMU lives. */
void vm_remove_files(ferry_vm *vm);

/* The threads that run guest code, each once. Borrowed. */
typedef void (*vm_threads_done)(ferry_vm *vm, int r, const ferry_error *error, const pid_t *threads,
                                size_t n, void *userdata);
int vm_query_threads(ferry_vm *vm, vm_threads_done done, void *userdata);

/* DEVICE_DELETED of the device `name`. */
void vm_disks_on_deleted(ferry_vm *vm, const char *name);
/* There is no QMP any more: completes what no answer will complete. */
void vm_disks_end(ferry_vm *vm);

/* A block job's event; `error` NULL: it says none. False: it is none of ours. */
bool vm_mirrors_on_event(ferry_vm *vm, const char *event, const char *job, const char *error);
/* As vm_disks_end(). */
void vm_mirrors_end(ferry_vm *vm);

/* One QMP command without a result. `arguments_consume` NULL, from a failed json_pack(), is
 * -ENOMEM. Both are taken on every path. */
int vm_command(ferry_vm *vm, const char *command, json_t *arguments_consume, int fd_consume,
               vm_done done, void *userdata);

/* Reports (r, error) at the event loop's next turn. `error` is moved. */
int vm_report_later(ferry_vm *vm, int r, ferry_error *error, vm_done done, void *userdata);
