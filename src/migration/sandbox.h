/* SPDX-License-Identifier: MIT */
#pragma once

/* One sandbox on this host: its VM (if it has one here) and its migration session. */

#include <stdbool.h>
#include <stdint.h>

#include <systemd/sd-event.h>

#include "base/error.h"
#include "migration/incoming.h"
#include "migration/predict.h"
#include "vm/vm.h"

typedef struct sandbox sandbox;
typedef struct session session;
typedef struct sandbox_restore sandbox_restore;

#define SANDBOX_ID_MAX 41U

typedef enum sandbox_vm_state {
        SANDBOX_VM_NONE,
        SANDBOX_VM_STARTING,
        SANDBOX_VM_RUNNING,
        SANDBOX_VM_PAUSED,
        SANDBOX_VM_INCOMING,
        SANDBOX_VM_STOPPED,
} sandbox_vm_state;

typedef struct sandbox_options {
        const char *id;
        const char *state_dir; /* absolute */
        const char *bridge;    /* this host's, for the tap; NULL: the configuration's */
        const char *qemu;      /* this host's binary; NULL: the configuration's */
        const char *disk_root; /* writable disks of an imported sandbox lie below; NULL: none may */
        const char *probe_cache;  /* NULL: none */
        const char *image_folder; /* of disks that were packed for containers; NULL: none */
        bool own_network;         /* QEMU gets a network namespace of its own (vm.h) */
        const char *templates; /* folder of a template to start from (vm/template.h); NULL: none */
} sandbox_options;

/* r: 0 or negative with `error`, borrowed. */
typedef void (*sandbox_done)(int r, const ferry_error *error, void *userdata);

bool sandbox_id_is_valid(const char *id);

/* Opens the state directory's journal. */
int sandbox_new(sd_event *event, const sandbox_options *options, sandbox **ret,
                ferry_error *reterr);
/* Lets go of QEMU, it runs on. NULL is fine. */
sandbox *sandbox_free(sandbox *sb);

/* Called after each change of the VM's or the session's state; from a callback, so look, do not
 * act. */
void sandbox_add_on_change(sandbox *sb, void (*on_change)(void *userdata), void *userdata);
void sandbox_remove_on_change(sandbox *sb, const void *userdata);

/* Who knows what runs in the guest. Each may be NULL. */
typedef struct sandbox_guest {
        /* Asked before a session is opened at the source: negative, with a reason, when something
         * cannot be moved. Nothing has been changed by then. */
        int (*check_export)(void *userdata, ferry_error *reterr);
        /* The containers, for the exported state; caller frees; NULL and 0: none. */
        int (*describe)(void *userdata, uint8_t **ret, size_t *ret_n, ferry_error *reterr);
        /* They are imported; `config` is the VM's. n 0: forget those that were. */
        int (*take)(void *userdata, const vm_config *config, const uint8_t *data, size_t n,
                    ferry_error *reterr);
        /* Asked before the destination's VM is started: whether each has been claimed. */
        int (*check_prepare)(void *userdata, ferry_error *reterr);
        /* The guest stands and may be the other host's next: what that one needs to know of it
         * (caller frees; NULL and 0: nothing). Nothing goes to or from the guest until it is seen
         * to run here again. */
        int (*carry)(void *userdata, uint8_t **ret, size_t *ret_n);
        /* The source's, at the destination, before that one owns the guest. */
        int (*arrive)(void *userdata, const uint8_t *data, size_t n, ferry_error *reterr);
        /* The guest is the copy of a template, and runs, but not for anybody yet: it gets random
         * numbers and a clock of its own. `done` comes once, later. */
        int (*renew)(void *userdata, sandbox_done done, void *done_userdata, ferry_error *reterr);
} sandbox_guest;

/* NULL: nobody. `guest` is copied. */
void sandbox_set_guest(sandbox *sb, const sandbox_guest *guest, void *userdata);
int sandbox_check_export(sandbox *sb, ferry_error *reterr);
int sandbox_describe_containers(sandbox *sb, uint8_t **ret, size_t *ret_n, ferry_error *reterr);
/* All or none of them. -EOPNOTSUPP when there are some and nobody knows what to do with them. */
int sandbox_take_containers(sandbox *sb, const vm_config *config, const uint8_t *data, size_t n,
                            ferry_error *reterr);
int sandbox_check_prepare(sandbox *sb, ferry_error *reterr);
int sandbox_carry_guest(sandbox *sb, uint8_t **ret, size_t *ret_n);
int sandbox_guest_arrives(sandbox *sb, const uint8_t *data, size_t n, ferry_error *reterr);

/* Boots a VM, or starts it from a template. `done` comes when the guest runs. Refused (-EBUSY) when
 * there is one. */
int sandbox_boot(sandbox *sb, const vm_config *config, sandbox_done done, void *userdata,
                 ferry_error *reterr);

/* What to make a template of: the last boot was one because none fitted. NULL: nothing. */
const vm_config *sandbox_wanted_template(const sandbox *sb);

/* After a restart of the shim: finds the VM again and settles or keeps the session that the
 * journal has open. -ESRCH: nothing to find. */
int sandbox_recover(sandbox *sb, sandbox_done done, void *userdata, ferry_error *reterr);

/* Ends the VM. FailedPrecondition while a session is open, unless `force`. */
int sandbox_stop(sandbox *sb, bool force, sandbox_done done, void *userdata, ferry_error *reterr);

/* vm_disk_add() and vm_disk_remove() (vm/vm.h), and the sandbox's configuration on disk says the
 * same. FailedPrecondition while a session is open: the other side has been told what there is. */
int sandbox_disk_add(sandbox *sb, const vm_disk *disk, sandbox_done done, void *userdata,
                     ferry_error *reterr);
int sandbox_disk_remove(sandbox *sb, const char *serial, sandbox_done done, void *userdata,
                        ferry_error *reterr);

/* From here on no other session than this may be imported; "": none at all. */
int sandbox_await_session(sandbox *sb, const char *session_id);
const char *sandbox_awaited_session(const sandbox *sb); /* NULL: any is fine */

/* Before the shim exits by itself: rolls back what it owns, discards what is certainly not its
 * own, leaves the rest to the journal. `done` always comes. */
void sandbox_retire(sandbox *sb, sandbox_done done, void *userdata);

session *sandbox_session(sandbox *sb);
const char *sandbox_id(const sandbox *sb);
const char *sandbox_state_dir(const sandbox *sb);
sandbox_vm_state sandbox_get_vm_state(const sandbox *sb);
const char *sandbox_exit_reason(const sandbox *sb); /* NULL: none */
uint64_t sandbox_running_since(const sandbox *sb);  /* realtime, 0: does not run */
/* NULL while there is none. */
ferry_vm *sandbox_vm(sandbox *sb);

/* The last one that was made (outgoing.h); made_usec 0: none. */
const prediction *sandbox_get_prediction(const sandbox *sb);
void sandbox_set_prediction(sandbox *sb, const prediction *p);

/* ---- for session.c ---- */

sd_event *sandbox_event(sandbox *sb);
int sandbox_dir_fd(const sandbox *sb);
/* Could this host take it? See incoming.h. */
int sandbox_check_incoming(sandbox *sb, const migration_state *state, incoming_done done,
                           void *userdata, incoming_check **ret, ferry_error *reterr);
/* `config` as imported; `may_postcopy`: vm_allow_postcopy() will be asked for; this host's bridge
 * and QEMU are filled in. */
int sandbox_start_incoming(sandbox *sb, const vm_config *config, bool may_postcopy,
                           sandbox_done done, void *userdata, ferry_error *reterr);
/* Kills QEMU, if there is one; `done` comes when it is gone, never from inside the call. */
int sandbox_discard_vm(sandbox *sb, sandbox_done done, void *userdata);
/* The same, but asks QEMU to quit first. */
int sandbox_release_vm(sandbox *sb, sandbox_done done, void *userdata);
/* The guest runs without its bridge: puts its tap there once it can be done. */
void sandbox_await_network(sandbox *sb);
void sandbox_changed(sandbox *sb);

/* ---- for sandbox-restore.c ---- */

sandbox_restore *sandbox_get_restore(const sandbox *sb); /* NULL: none is under way */
/* The answer goes to sandbox_restore_on_renewed(). */
int sandbox_renew_guest(sandbox *sb, ferry_error *reterr);

/* ---- for sandbox-disks.c and sandbox-images.c ---- */

const char *sandbox_image_folder(const sandbox *sb); /* NULL: none */
const char *sandbox_disk_root(const sandbox *sb);    /* the same */

/* What the VM has, into config.json. */
int sandbox_save_config(sandbox *sb);

DEFINE_CLEANUP(sandbox *, sandbox_free)
