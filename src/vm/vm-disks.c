/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "vm/vm-internal.h"

/* SCSI disks come and go while the guest runs, one change after the other. What a change leaves
 * behind is what argv.c starts a destination with: the same nodes, device and address.
 *
 * A change walks through steps, forwards when it adds and back when it removes. One that fails
 * while it adds walks back over what it has done, and over no more: a node of that name that was
 * there before is somebody's disk. */

typedef enum step {
        STEP_OPEN,   /* nothing of ours is in QEMU */
        STEP_FD,     /* add-fd */
        STEP_FILE,   /* blockdev-add, the protocol's node */
        STEP_RAW,    /* blockdev-add, the format's node */
        STEP_DEVICE, /* device_add */
} step;

/* Which of QEMU's answers is awaited. */
typedef enum question {
        ASK_NOTHING,
        ASK_ADD,     /* that `step` be done */
        ASK_REMOVE,  /* that `step` be undone */
        ASK_DELETED, /* the event: QEMU answers device_del before it is done */
        ASK_FDSETS,  /* whose number is known to QEMU only */
} question;

struct vm_disk_change {
        vm_disk_change *next;
        ferry_vm *vm; /* a reference */
        vm_config_disk disk;
        char name[VM_CONFIG_DISK_NAME_SIZE];
        bool adds;
        bool deleted; /* the event has come */
        bool block_device, direct;
        int fd;
        json_int_t fdset; /* -1: not known */
        step step;
        question ask;
        sd_event_source *timer;
        int r; /* the first failure, and why */
        ferry_error error;
        vm_done done;
        void *userdata;
};

static vm_disk_change *change_free(vm_disk_change *c) {
        if (!c)
                return NULL;
        sd_event_source_disable_unref(c->timer);
        vm_config_disk_done(&c->disk);
        ferry_error_done(&c->error);
        fd_close(c->fd);
        vm_unpin(c->vm);
        free(c);
        return NULL;
}

DEFINE_CLEANUP(vm_disk_change *, change_free)

static void start_next(ferry_vm *vm);

/* The last thing that happens to it; the caller's handler may close the VM. */
static void complete(vm_disk_change *c_consume) {
        _cleanup_(change_freep) vm_disk_change *c = c_consume;

        c->vm->disk_changes = c->next;
        c->next = NULL;
        c->ask = ASK_NOTHING;
        if (c->done)
                c->done(c->vm, c->r, c->r < 0 ? &c->error : NULL, c->userdata);
        start_next(c->vm);
}

/* The first failure is the one that is told. */
static void note(vm_disk_change *c, int r, ferry_error *error) {
        if (c->r < 0)
                return;
        c->r = r;
        ferry_error_move(&c->error, error);
}

static int gone(const ferry_vm *vm, ferry_error *reterr) {
        if (vm->phase == VM_PHASE_CLOSED)
                return ferry_error_set(reterr, FERRY_CANCELLED, -ECANCELED, "the VM was let go");
        return ferry_error_set(reterr, FERRY_UNAVAILABLE, -ENOTCONN, "QEMU is gone");
}

/* ---- what QEMU is asked ---- */

/* What the guest frees, and what is zero in a mirror, takes no room on the host. */
static const char *discard(const vm_disk_change *c) {
        return c->disk.readonly ? "ignore" : "unmap";
}

static json_t *file_node(const vm_disk_change *c) {
        return json_pack("{s:s, s:s+, s:o, s:{s:b}, s:b, s:b, s:s}", "driver",
                         c->block_device ? "host_device" : "file", "node-name", c->name, "-file",
                         "filename", json_sprintf("/dev/fdset/%" JSON_INTEGER_FORMAT, c->fdset),
                         "cache", "direct", c->direct, "read-only", c->disk.readonly,
                         "auto-read-only", 0, "discard", discard(c));
}

static json_t *raw_node(const vm_disk_change *c) {
        return json_pack("{s:s, s:s+, s:s+, s:b, s:s}", "driver", "raw", "node-name", c->name,
                         "-raw", "file", c->name, "-file", "read-only", c->disk.readonly, "discard",
                         discard(c));
}

static json_t *device(const vm_disk_change *c) {
        return json_pack("{s:s, s:s, s:s+, s:s, s:s, s:i, s:i, s:i}", "driver", "scsi-hd", "id",
                         c->name, "drive", c->name, "-raw", "serial", c->disk.serial, "bus",
                         "scsi.0", "channel", 0, "scsi-id", (int)c->disk.scsi_id, "lun", 0);
}

static json_t *node_named(const vm_disk_change *c, const char *suffix) {
        return json_pack("{s:s+}", "node-name", c->name, suffix);
}

static void on_answer(qmp_client *client, int r, const json_t *value, const qmp_error *refused,
                      void *userdata);

static int invoke(vm_disk_change *c, question ask, const char *command, json_t *arguments_consume,
                  int fd_consume) {
        int r;

        if (!arguments_consume || !c->vm->qmp) {
                r = c->vm->qmp ? -ENOMEM : -ENOTCONN;
                json_decref(arguments_consume);
                fd_close(fd_consume);
                return r;
        }
        r = qmp_client_invoke_fd(c->vm->qmp, command, arguments_consume, fd_consume,
                                 VM_OP_TIMEOUT_USEC, on_answer, c);
        if (r == 0)
                c->ask = ask;
        return r;
}

static int ask_to_add(vm_disk_change *c) {
        switch (c->step) {
        case STEP_FD:
                /* QEMU chooses a number that no other file has had: a set that is still in use
                 * would give us the file that it was made for. */
                return invoke(c, ASK_ADD, "add-fd", json_pack("{s:s}", "opaque", c->name),
                              TAKE_FD(c->fd));
        case STEP_FILE:
                return invoke(c, ASK_ADD, "blockdev-add", file_node(c), -EBADF);
        case STEP_RAW:
                return invoke(c, ASK_ADD, "blockdev-add", raw_node(c), -EBADF);
        case STEP_DEVICE:
                return invoke(c, ASK_ADD, "device_add", device(c), -EBADF);
        case STEP_OPEN:
                break;
        }
        return -EINVAL;
}

static int ask_to_remove(vm_disk_change *c) {
        switch (c->step) {
        case STEP_DEVICE:
                return invoke(c, ASK_REMOVE, "device_del", json_pack("{s:s}", "id", c->name),
                              -EBADF);
        case STEP_RAW:
                return invoke(c, ASK_REMOVE, "blockdev-del", node_named(c, "-raw"), -EBADF);
        case STEP_FILE:
                return invoke(c, ASK_REMOVE, "blockdev-del", node_named(c, "-file"), -EBADF);
        case STEP_FD:
                if (c->fdset < 0)
                        return invoke(c, ASK_FDSETS, "query-fdsets", json_object(), -EBADF);
                return invoke(c, ASK_REMOVE, "remove-fd", json_pack("{s:I}", "fdset-id", c->fdset),
                              -EBADF);
        case STEP_OPEN:
                break;
        }
        return -EINVAL;
}

/* ---- one step after the other ---- */

static void remove_next(vm_disk_change *c) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        if (c->step == STEP_OPEN) {
                complete(c);
                return;
        }
        r = ask_to_remove(c);
        if (r == 0)
                return;
        ferry_error_set_errno(&error, r, "remove disk %s", c->disk.serial);
        note(c, r, &error);
        complete(c);
}

/* Walks back from `c->step`. `error` is moved. */
static void undo(vm_disk_change *c, int r, ferry_error *error) {
        note(c, r, error);
        remove_next(c);
}

static void add_next(vm_disk_change *c) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        if (c->step == STEP_DEVICE) {
                r = vm_config_add_disk(c->vm->config, &c->disk, &error);
                if (r < 0)
                        undo(c, r, &error);
                else
                        complete(c);
                return;
        }
        c->step++;
        r = ask_to_add(c);
        if (r == 0)
                return;
        c->step--;
        ferry_error_set_errno(&error, r, "add disk %s", c->disk.serial);
        undo(c, r, &error);
}

/* Whatever became of the change, the guest has it no more. */
static void forget(ferry_vm *vm, const char *name) {
        char other[VM_CONFIG_DISK_NAME_SIZE];

        for (size_t i = 0; i < vm->config->n_disks; i++) {
                vm_config_disk_name(vm->config, i, other);
                if (vm->config->disks[i].serial && strcmp(other, name) == 0) {
                        vm_config_remove_disk(vm->config, i);
                        return;
                }
        }
}

static void device_deleted(vm_disk_change *c) {
        c->timer = sd_event_source_disable_unref(c->timer);
        c->step--;
        remove_next(c);
}

static int on_no_event(sd_event_source *source, uint64_t usec, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_disk_change *c = userdata;
        int r = ferry_error_set(&error, FERRY_DEADLINE_EXCEEDED, -ETIMEDOUT,
                                "QEMU did not say that disk %s is removed", c->disk.serial);

        note(c, r, &error);
        complete(c);
        return 0;
}

static void await_deleted(vm_disk_change *c) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        if (c->deleted) {
                device_deleted(c);
                return;
        }
        c->ask = ASK_DELETED;
        r = sd_event_add_time_relative(c->vm->event, &c->timer, CLOCK_MONOTONIC, VM_OP_TIMEOUT_USEC,
                                       0, on_no_event, c);
        if (r >= 0)
                return;
        ferry_error_set_errno(&error, r, "remove disk %s", c->disk.serial);
        note(c, r, &error);
        complete(c);
}

void vm_disks_on_deleted(ferry_vm *vm, const char *name) {
        vm_disk_change *c = vm->disk_changes;

        forget(vm, name);
        if (!c || strcmp(c->name, name) != 0)
                return;
        c->deleted = true;
        if (c->ask == ASK_DELETED)
                device_deleted(c);
}

static json_int_t find_fdset(const json_t *sets, const char *name) {
        for (size_t i = 0; i < json_array_size(sets); i++) {
                const json_t *set = json_array_get(sets, i);
                const json_t *first = json_array_get(json_object_get(set, "fds"), 0);
                const char *opaque = json_string_value(json_object_get(first, "opaque"));

                if (opaque && strcmp(opaque, name) == 0)
                        return json_integer_value(json_object_get(set, "fdset-id"));
        }
        return -1;
}

static void on_added(vm_disk_change *c, int r, const json_t *value, ferry_error *error) {
        const json_t *id = json_object_get(value, "fdset-id");

        if (r == 0 && c->step == STEP_FD) {
                if (json_is_integer(id) && json_integer_value(id) >= 0)
                        c->fdset = json_integer_value(id);
                else
                        r = ferry_error_set(error, FERRY_INTERNAL, -EBADMSG,
                                            "QEMU's answer to add-fd is not understood");
        }
        if (r == 0) {
                add_next(c);
                return;
        }
        /* without an answer it may have been done */
        if (r != -ETIMEDOUT || c->step == STEP_FD)
                c->step--;
        undo(c, r, error);
}

static void on_removed(vm_disk_change *c, int r, ferry_error *error) {
        if (r < 0) {
                note(c, r, error);
                /* the guest keeps it, as it was; unless it never was to have it */
                if (c->step == STEP_DEVICE && !c->adds) {
                        complete(c);
                        return;
                }
        } else if (c->step == STEP_DEVICE) {
                await_deleted(c);
                return;
        }
        c->step--;
        remove_next(c);
}

static void on_fdsets(vm_disk_change *c, int r, const json_t *value, ferry_error *error) {
        if (r < 0)
                note(c, r, error);
        else
                c->fdset = find_fdset(value, c->name);
        if (c->fdset < 0)
                c->step--;
        remove_next(c);
}

static void on_answer(qmp_client *client, int r, const json_t *value, const qmp_error *refused,
                      void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_disk_change *c = userdata;
        question ask = c->ask;

        c->ask = ASK_NOTHING;
        if (r == -ENOTCONN || r == -ECANCELED) {
                c->vm->qmp_lost = true; /* what waits must not be judged by what is unknown */
                r = gone(c->vm, &error);
                note(c, r, &error);
                complete(c);
                return;
        }
        if (r == 0 && refused)
                r = ferry_error_set(&error, FERRY_FAILED_PRECONDITION, -EREMOTEIO,
                                    "QEMU refused to %s disk %s: %s", c->adds ? "add" : "remove",
                                    c->disk.serial, refused->description);
        else if (r < 0)
                ferry_error_set_errno(&error, r, "QEMU's answer about disk %s", c->disk.serial);
        if (ask == ASK_ADD)
                on_added(c, r, value, &error);
        else if (ask == ASK_FDSETS)
                on_fdsets(c, r, value, &error);
        else
                on_removed(c, r, &error);
}

/* ---- the queue ---- */

/* QEMU 7.2 may hang for good when device_add fails while a TCG guest computes: its main loop waits
 * for an RCU grace period (drain_call_rcu) that only its main loop could bring about. So what it
 * would refuse there is found out before: an image that somebody else writes to, or wants nobody to
 * write to. These are the bytes that every QEMU locks for that; QEMU's own check still decides. */
#define LOCK_WRITES          101
#define LOCK_SHARES_NO_WRITE 201

static int check_lock(int fd, off_t byte) {
        struct flock lock = {
                .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1
        };

        /* a file system without locks has nobody's */
        if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
                return 0;
        return lock.l_type == F_UNLCK ? 0 : -EBUSY;
}

static int check_unused(const vm_disk_change *c, ferry_error *reterr) {
        int r = check_lock(c->fd, LOCK_WRITES);

        if (r == 0 && !c->disk.readonly)
                r = check_lock(c->fd, LOCK_SHARES_NO_WRITE);
        if (r < 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, r,
                                       "disk %s: %s is locked: another process uses it",
                                       c->disk.serial, c->disk.path);
        return 0;
}

static int check_add(vm_disk_change *c, ferry_error *reterr) {
        _cleanup_(vm_config_freep) vm_config *after = NULL;
        bool any = c->disk.scsi_id == VM_SCSI_ID_ANY;
        int r;

        r = vm_config_dup(c->vm->config, &after);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "add disk %s", c->disk.serial);
        if (any)
                c->disk.scsi_id = vm_config_free_scsi_id(after);
        if (any && c->disk.scsi_id == VM_CONFIG_SCSI_DISKS_MAX)
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, -ENOSPC,
                                       "this VM has %u SCSI disks: no more fit",
                                       VM_CONFIG_SCSI_DISKS_MAX);
        r = vm_config_add_disk(after, &c->disk, reterr);
        if (r < 0)
                return r;
        vm_config_disk_name(after, after->n_disks - 1, c->name);
        r = disk_open(&c->disk, &c->fd, &c->block_device, &c->direct, reterr);
        return r < 0 ? r : check_unused(c, reterr);
}

static int check_remove(vm_disk_change *c, ferry_error *reterr) {
        ssize_t at = vm_config_find_disk(c->vm->config, c->disk.serial);

        if (at < 0)
                return ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT,
                                       "this VM has no disk with the serial %s", c->disk.serial);
        vm_config_disk_name(c->vm->config, (size_t)at, c->name);
        return 0;
}

static int start(vm_disk_change *c, ferry_error *reterr) {
        int r;

        if (c->vm->phase != VM_PHASE_READY || !c->vm->qmp || c->vm->qmp_lost)
                return gone(c->vm, reterr);
        r = c->adds ? check_add(c, reterr) : check_remove(c, reterr);
        if (r < 0)
                return r;
        c->step = c->adds ? STEP_FD : STEP_DEVICE;
        r = c->adds ? ask_to_add(c) : ask_to_remove(c);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "disk %s", c->disk.serial);
        return 0;
}

/* From a handler, or at the end: may tell who waits. */
static void start_next(ferry_vm *vm) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_disk_change *c = vm->disk_changes;
        int r;

        if (!c || c->ask != ASK_NOTHING)
                return;
        r = start(c, &error);
        if (r < 0) {
                note(c, r, &error);
                complete(c);
        }
}

static int append(ferry_vm *vm, vm_disk_change *c_consume) {
        _cleanup_(change_freep) vm_disk_change *c = c_consume;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_disk_change **end = &vm->disk_changes;
        int r;

        while (*end)
                end = &(*end)->next;
        if (end == &vm->disk_changes) {
                r = start(c, &error);
                if (r < 0)
                        return vm_report_later(vm, r, &error, c->done, c->userdata);
        }
        *end = TAKE_PTR(c);
        return 0;
}

static int change_new(ferry_vm *vm, const char *path, const char *serial, vm_done done,
                      void *userdata, vm_disk_change **ret) {
        _cleanup_(change_freep) vm_disk_change *c = NULL;

        if (vm->phase != VM_PHASE_READY)
                return vm->phase < VM_PHASE_READY ? -EBUSY : -ENOTCONN;
        c = malloc(sizeof(*c));
        if (!c)
                return -ENOMEM;
        *c = (vm_disk_change){
                .vm = vm, .fd = -EBADF, .fdset = -1, .done = done, .userdata = userdata
        };
        vm_pin(vm);
        c->disk.serial = strdup(serial);
        c->disk.path = strdup(path);
        if (!c->disk.serial || !c->disk.path)
                return -ENOMEM;
        *ret = TAKE_PTR(c);
        return 0;
}

int vm_disk_add(ferry_vm *vm, const vm_disk *disk, vm_done done, void *userdata) {
        vm_disk_change *c;
        int r;

        r = change_new(vm, disk->path, disk->serial, done, userdata, &c);
        if (r < 0)
                return r;
        c->adds = true;
        c->disk.readonly = disk->readonly;
        c->disk.scsi_id = disk->scsi_id;
        return append(vm, c);
}

int vm_disk_remove(ferry_vm *vm, const char *serial, vm_done done, void *userdata) {
        vm_disk_change *c;
        int r;

        r = change_new(vm, "", serial, done, userdata, &c);
        return r < 0 ? r : append(vm, c);
}

bool vm_disks_are_changing(const ferry_vm *vm) {
        return vm->disk_changes;
}

void vm_disks_end(ferry_vm *vm) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_disk_change *c = vm->disk_changes;
        int r;

        if (!c || c->ask != ASK_DELETED)
                return;
        r = gone(vm, &error);
        note(c, r, &error);
        complete(c);
}
