/* SPDX-License-Identifier: MIT */
#pragma once

/* One sandbox VM: a confined QEMU process, its QMP connection and its tap.
 *
 * sd-event driven, one thread, nothing here blocks for long. The VM always starts paused (-S);
 * whoever owns the guest calls vm_cont(). QEMU outlives the shim: vm_close() only lets go of it,
 * vm_attach() finds it again.
 *
 * Every operation that returned 0 calls its handler exactly once, later, never from inside the
 * call; one that returned negative never calls it. In the handler:
 *   0            done
 *   -EREMOTEIO   QEMU is alive and refused; `error` says why. The guest is as it was
 *   -ENOTCONN    QEMU, or our connection to it, is gone: whether it was done is unknown
 *   -ETIMEDOUT   no answer in time: unknown too
 *   -ECANCELED   vm_close()
 *   others       we could not even ask (-ENOMEM, tap or file errors)
 * `error` is NULL for 0 and set for all else. Results are borrowed. A handler may call anything
 * here, vm_close() too. */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <systemd/sd-event.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "vm/vm-config.h"

#define VM_ABSENT UINT64_MAX /* QEMU did not tell */

/* In the state directory while a VM with an agent lives: its ports, as unix sockets. */
#define VM_CONTROL_SOCKET "control.sock"
#define VM_STREAMS_SOCKET "streams.sock"

typedef struct ferry_vm ferry_vm;

typedef enum vm_mode {
        VM_MODE_NORMAL,   /* boots when vm_cont() is called */
        VM_MODE_INCOMING, /* waits for vm_migrate_in() */
        _VM_MODE_MAX,
} vm_mode;

/* QAPI MigrationStatus of 7.2 and 10.0. */
typedef enum vm_migration_status {
        VM_MIGRATION_NONE, /* no migration since QEMU started */
        VM_MIGRATION_SETUP,
        VM_MIGRATION_CANCELLING,
        VM_MIGRATION_CANCELLED,
        VM_MIGRATION_ACTIVE,
        VM_MIGRATION_POSTCOPY_ACTIVE,
        VM_MIGRATION_POSTCOPY_PAUSED,
        VM_MIGRATION_POSTCOPY_RECOVER_SETUP,
        VM_MIGRATION_POSTCOPY_RECOVER,
        VM_MIGRATION_COMPLETED,
        VM_MIGRATION_FAILED,
        VM_MIGRATION_COLO,
        VM_MIGRATION_PRE_SWITCHOVER,
        VM_MIGRATION_DEVICE,
        VM_MIGRATION_WAIT_UNPLUG,
        VM_MIGRATION_UNKNOWN, /* a status of a later QEMU */
        _VM_MIGRATION_STATUS_MAX,
} vm_migration_status;

typedef struct vm_status {
        bool running;
        const char *state; /* QAPI RunState: "running", "paused", "prelaunch", "inmigrate",
                            * "postmigrate", "finish-migrate", "shutdown", "internal-error"... */
} vm_status;

/* query-migrate, fields by presence: absent numbers are VM_ABSENT, absent texts NULL. */
typedef struct vm_migration_info {
        vm_migration_status status;
        uint64_t ram_total, ram_transferred, ram_remaining; /* bytes */
        uint64_t ram_processed; /* bytes of guest memory, sent or found to be zero */
        uint64_t page_size;
        uint64_t dirty_bytes_per_second; /* dirty-pages-rate * page_size */
        uint64_t bytes_per_second;       /* from "mbps" */
        uint64_t dirty_sync_count;
        uint64_t downtime_bytes; /* of ram_transferred, while the guest stood */
        uint64_t total_msec, setup_msec, downtime_msec, expected_downtime_msec;
        uint64_t throttle_percentage; /* QEMU's own auto-converge */
        const char *error_description;
        const char *const *blocked_reasons; /* why this VM cannot migrate now */
        size_t n_blocked_reasons;
} vm_migration_info;

/* Sorted. */
typedef struct vm_fact_list {
        const char *const *items;
        size_t n;
} vm_fact_list;

/* What a destination must match. */
typedef struct vm_facts {
        const char *qemu_version; /* "7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)" */
        const char *machine;      /* as QEMU resolved it, "pc-q35-7.2" */
        const char *cpu_model;    /* "Nehalem-v1" */
        const char *accelerator;  /* "tcg" or "kvm" */
        uint64_t memory_bytes;
        uint32_t vcpus;
        uint32_t page_size;
        vm_fact_list devices;      /* "id type address", as QEMU has them now */
        vm_fact_list cpu_features; /* by name, and "min-level=11" */
        vm_fact_list cpu_words;    /* "eax/ecx:register bits" of what the guest's CPUID says */
        vm_fact_list ram;          /* "id bytes" */
        vm_fact_list capabilities; /* of migration, that this QEMU knows */
} vm_facts;

/* All may be NULL. usec: CLOCK_MONOTONIC when the event arrived here. */
typedef struct vm_handlers {
        void (*on_stop)(ferry_vm *vm, uint64_t usec, void *userdata);
        void (*on_resume)(ferry_vm *vm, uint64_t usec, void *userdata);
        /* reason: QAPI ShutdownCause ("guest-shutdown", "host-qmp-quit"...); on_exit follows */
        void (*on_shutdown)(ferry_vm *vm, bool guest, const char *reason, void *userdata);
        void (*on_reset)(ferry_vm *vm, bool guest, void *userdata);
        void (*on_migration)(ferry_vm *vm, vm_migration_status status, uint64_t usec,
                             void *userdata);
        void (*on_migration_pass)(ferry_vm *vm, uint64_t pass, uint64_t usec, void *userdata);
        /* A mirror that was in step (vm_mirror_start()) has failed: the other side has not got what
         * the guest writes from here on. */
        void (*on_mirror_failed)(ferry_vm *vm, const char *reason, void *userdata);
        /* QMP is lost and QEMU still lives two seconds later. Operations fail with -ENOTCONN;
         * vm_kill() works, or vm_close() and vm_attach() anew. */
        void (*on_lost)(ferry_vm *vm, const char *reason, void *userdata);
        /* QEMU ended, once, last of all; pending operations were completed before. `reason` is
         * for people: how it ended and the last lines of its log. Also after vm_quit/vm_kill, but
         * not when on_ready reported a failure: that was the end. */
        void (*on_exit)(ferry_vm *vm, const char *reason, void *userdata);
} vm_handlers;

typedef struct vm_options {
        const vm_config *config; /* copied */
        const char *state_dir;   /* absolute; exists; paths in it must fit a unix socket address */
        vm_mode mode;
        const char *bridge; /* overrides config's; NULL = config's; "" = none */
        bool own_network;   /* QEMU has a network namespace of its own; its tap is made in ours */
        /* vm_allow_postcopy() will be asked for: QEMU gets a userfaultfd. */
        bool receives_postcopy;
        const char *probe_cache; /* file for vm-probe.h's result; NULL = probe each time */
        /* Who QEMU runs as, when we are root. 0 = a uid of ferry's range for this state_dir
         * (docs/vm-config.md). Not root: QEMU runs as we do. */
        uid_t uid;
        gid_t gid;
        /* The guest's memory (memory_create() of vm/files.h, of the size that the configuration
         * gives), borrowed; 0: it is made here. Its content is the caller's affair. */
        int memory_fd;
        bool ends_with_us; /* QEMU is killed when we end, however we end */
} vm_options;

typedef void (*vm_done)(ferry_vm *vm, int r, const ferry_error *error, void *userdata);
typedef void (*vm_status_done)(ferry_vm *vm, int r, const ferry_error *error,
                               const vm_status *status, void *userdata);
typedef void (*vm_migration_info_done)(ferry_vm *vm, int r, const ferry_error *error,
                                       const vm_migration_info *info, void *userdata);
typedef void (*vm_facts_done)(ferry_vm *vm, int r, const ferry_error *error, const vm_facts *facts,
                              void *userdata);

/* Starts QEMU: probes the accelerator if need be, makes memory, tap and sockets, spawns, connects
 * QMP, sets capabilities (events, return-path, late-block-activate) and parameters
 * (announce-rounds 0, no bandwidth limit). `on_ready` is called with 0 once the VM is paused and
 * takes orders, else with the error, and QEMU is gone. Either way the caller still owns `*ret`
 * until vm_close(). qemu.json is there from before QEMU's first instruction until its end was
 * seen, so no crash of ours loses a QEMU. Operations before on_ready: -EBUSY.
 * vm_close() before on_ready ends a QEMU that was started: nobody uses it yet. `handlers` is
 * copied. Negative: nothing was started, `*ret` untouched. */
int vm_start(sd_event *event, const vm_options *options, const vm_handlers *handlers,
             vm_done on_ready, void *userdata, ferry_vm **ret, ferry_error *reterr);

/* Finds the QEMU of state_dir again (options->mode is ignored: qemu.json has it). -ESRCH: there is
 * none alive (never was, ended, or the host was rebooted). Otherwise as vm_start(); a failure in
 * `on_ready` leaves QEMU alone. */
int vm_attach(sd_event *event, const vm_options *options, const vm_handlers *handlers,
              vm_done on_ready, void *userdata, ferry_vm **ret, ferry_error *reterr);

/* Lets go: QEMU runs on (once it was ready). Pending operations get -ECANCELED; no handler runs
 * after return. Legal from any handler. Returns NULL. */
ferry_vm *vm_close(ferry_vm *vm);

bool vm_is_alive(const ferry_vm *vm);
/* Ready, and neither QMP nor the process has ended, even if that was not handled yet. */
bool vm_takes_orders(const ferry_vm *vm);
pid_t vm_get_pid(const ferry_vm *vm); /* 0 before it is spawned */
/* What runs: accelerator and cpu resolved once on_ready was called with 0. */
const vm_config *vm_get_config(const ferry_vm *vm);
vm_mode vm_get_mode(const ferry_vm *vm);
/* "7.2.22 (Debian 1:7.2+dfsg-7)"; "" before QMP has greeted. */
void vm_get_qemu_version(const ferry_vm *vm, char *ret, size_t n);
/* The guest's memory, to hash it while nobody runs; borrowed, -EBADF when not at hand. */
int vm_get_memory_fd(const ferry_vm *vm);
/* The tap's name, NULL without a network. */
const char *vm_get_tap(const ferry_vm *vm);

/* Puts the tap on the bridge (if both exist) and lets the guest run: one ioctl, one QMP command.
 * When QEMU refuses the tap is taken off again. On an already running guest: a success. */
int vm_cont(ferry_vm *vm, vm_done done, void *userdata);
/* The same, and the tap stays where it is: a guest without its network rather than none. */
int vm_cont_as_it_is(ferry_vm *vm, vm_done done, void *userdata);
/* Pauses the guest; the tap stays where it is. */
int vm_stop(ferry_vm *vm, vm_done done, void *userdata);
/* Puts the tap on its bridge; no QMP. 0 when it is there, or either is missing from the config. */
int vm_tap_attach(ferry_vm *vm, ferry_error *reterr);
/* Takes the tap off its bridge; no QMP. 0 when it is on none, or there is no tap. */
int vm_tap_detach(ferry_vm *vm, ferry_error *reterr);
/* Sends the guest's address to the network (QEMU's RARPs) `rounds` times. */
int vm_announce_self(ferry_vm *vm, unsigned rounds, vm_done done, void *userdata);

/* Asks QEMU to quit, SIGKILL after `grace_usec`, or at once when QMP is dead. `done` gets 0 once
 * the process has ended, just before on_exit. */
int vm_quit(ferry_vm *vm, uint64_t grace_usec, vm_done done, void *userdata);
/* SIGKILL now; on_exit follows. 0 too when it has ended. */
int vm_kill(ferry_vm *vm);

int vm_query_status(ferry_vm *vm, vm_status_done done, void *userdata);
int vm_query_facts(ferry_vm *vm, vm_facts_done done, void *userdata);

#define VM_SCSI_ID_ANY UINT32_MAX /* the lowest that is free */

typedef struct vm_disk {
        const char *path; /* absolute; a raw image or a block device */
        bool readonly;
        const char *serial; /* 1 to 20 of [A-Za-z0-9-._], what the guest knows it by */
        uint32_t scsi_id;   /* 0 to 31, or VM_SCSI_ID_ANY */
} vm_disk;

/* Gives the guest a disk, or takes one away, while it runs or stands still; needs "scsi" in the
 * configuration. One change after the other, in the order of the calls. In `done` vm_get_config()
 * has it, or has it no more: keep that, for vm_attach() wants it and a destination is started
 * from it. The guest is not asked whether it uses a disk that goes.
 * Besides what is said at the top: -EINVAL, -EEXIST (the path, serial or scsi_id is taken; readers
 * may share a path), -EBUSY (another process has locked it), -ENOSPC (VM_SCSI_ID_ANY, and all are
 * taken), -ENOENT (no such disk, or file), what opening the file gives. After any failure to add,
 * the guest has not got it, and QEMU does not hold the file; -ENOTCONN and -ETIMEDOUT are unknown
 * as ever. After one to remove, vm_get_config() says whether the guest has it still. Of a disk that
 * goes while the guest stands still QEMU keeps the descriptor, unused, until the connection of a
 * shim ends. */
int vm_disk_add(ferry_vm *vm, const vm_disk *disk, vm_done done, void *userdata);
int vm_disk_remove(ferry_vm *vm, const char *serial, vm_done done, void *userdata);
/* A change is under way: what vm_get_config() says will not last. */
bool vm_disks_are_changing(const ferry_vm *vm);

/* ---- a disk's content to another QEMU: by NBD, over a connected socket for each disk ---- */

/* At the receiving side, before the guest runs: serves the writable SCSI disk of that serial to
 * whoever connects to `listener_fd_consume` (a stream socket that is bound; QEMU listens on it).
 * The first call has it, later ones -EBADF. `done`: it can be connected to. */
int vm_nbd_serve(ferry_vm *vm, const char *serial, int listener_fd_consume, vm_done done,
                 void *userdata);
/* Before the guest runs here: nobody else writes to its disks from here on. */
int vm_nbd_stop(ferry_vm *vm, vm_done done, void *userdata);

/* At the sending side: copies the writable SCSI disk of that serial to the QEMU behind
 * `fd_consume`, and what the guest writes meanwhile before the guest hears that it is written.
 * `done`: both are in step, and stay so; later failures are told by on_mirror_failed.
 * `bytes_per_second`: of the first copy, 0: as fast as it goes. */
int vm_mirror_start(ferry_vm *vm, const char *serial, int fd_consume, uint64_t bytes_per_second,
                    vm_done done, void *userdata);
/* With the guest stopped: `done` 0 means that each disk is the same on both sides, and that nothing
 * more goes over. */
int vm_mirrors_finish(ferry_vm *vm, vm_done done, void *userdata);
/* Ends all there is of them, in whatever state, also what a shim before this one has left. Nothing
 * of this is waited for or told; a mirror may be started again when vm_mirrors_are_there() has
 * become false. */
void vm_mirrors_drop(ferry_vm *vm);
bool vm_mirrors_are_there(const ferry_vm *vm);

typedef struct vm_migrate_options {
        bool pause_before_switchover;
        bool postcopy;                 /* vm_start_postcopy() may follow */
        bool auto_converge;            /* see vm_set_auto_converge() */
        uint64_t downtime_limit_msec;  /* 0..2000000 */
        uint64_t max_bytes_per_second; /* 0 = as fast as it goes */
} vm_migrate_options;

/* Gives QEMU the connected socket and starts. `done`: QEMU has accepted; how it goes comes by
 * on_migration. `fd_consume` is taken on every path: keep a dup for the handover. */
int vm_migrate_out(ferry_vm *vm, int fd_consume, const vm_migrate_options *options, vm_done done,
                   void *userdata);
int vm_migrate_in(ferry_vm *vm, int fd_consume, vm_done done, void *userdata);
/* At the receiving side, before vm_migrate_in(): -EREMOTEIO where QEMU cannot (qemu.log says why).
 */
int vm_allow_postcopy(ferry_vm *vm, vm_done done, void *userdata);
/* At the sending side: the guest stops, its state goes, and it can run at the other side before its
 * memory is there. With pause_before_switchover there is a way back until vm_migrate_continue(). */
int vm_start_postcopy(ferry_vm *vm, vm_done done, void *userdata);
/* After POSTCOPY_PAUSED, on a new connection. The receiving side's QEMU has to be given it
 * beforehand, while its main loop runs: that may wait for a missing page later on, and then
 * vm_recover_in() works all the same. Given again, the one before is dropped. */
int vm_give_spare(ferry_vm *vm, int fd_consume, vm_done done, void *userdata);
int vm_recover_in(ferry_vm *vm, vm_done done, void *userdata);
int vm_recover_out(ferry_vm *vm, int fd_consume, vm_done done, void *userdata);
/* For the next migration, either way: the guest's memory is not in the stream, for it is the same
 * descriptor on both sides (vm_options.memory_fd), or a copy; and the stream goes one way, to or
 * from something that is no QEMU. Off again before the guest runs: nothing else is carried whole
 * like this. */
int vm_set_memory_apart(ferry_vm *vm, bool apart, vm_done done, void *userdata);
/* Out of pre-switchover (pause_before_switchover). */
int vm_migrate_continue(ferry_vm *vm, vm_done done, void *userdata);
/* `done`: the order was taken. on_migration(CANCELLED) says that it is over. A source that was
 * already stopped runs again by itself: QEMU does that, with a RESUME event. */
int vm_migrate_cancel(ferry_vm *vm, vm_done done, void *userdata);
int vm_set_downtime_limit(ferry_vm *vm, uint64_t msec, vm_done done, void *userdata);
/* QEMU's own throttle, where vm_throttle() cannot be had: it goes to `percentage` (1 to 99) the
 * next time it finds that the guest dirties memory, within seconds. Before that it takes 1 %. */
int vm_set_auto_converge(ferry_vm *vm, unsigned percentage, vm_done done, void *userdata);
int vm_set_max_bandwidth(ferry_vm *vm, uint64_t bytes_per_second, vm_done done, void *userdata);
int vm_query_migrate(ferry_vm *vm, vm_migration_info_done done, void *userdata);

/* Slowing the guest's vCPUs down by the kernel's cpu controller (vm/throttle.h). First ask whether
 * that can be done here (it is tried out): -EOPNOTSUPP with the reason. */
int vm_throttle_check(ferry_vm *vm, ferry_error *reterr);
/* Takes `percentage` (0 to 98) of their time from them. What QEMU or the kernel refuses later is
 * logged, and the guest runs at full speed. */
int vm_throttle(ferry_vm *vm, unsigned percentage);
/* Full speed, at once. */
void vm_throttle_lift(ferry_vm *vm);
/* And nothing is left of it; vm_close() and QEMU's end do that too, vm_attach() for what a shim
 * before us has left. */
void vm_throttle_end(ferry_vm *vm);

const char *vm_migration_status_to_string(vm_migration_status status);

DEFINE_CLEANUP(ferry_vm *, vm_close)
