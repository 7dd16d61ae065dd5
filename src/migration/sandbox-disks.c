/* SPDX-License-Identifier: MIT */
/* Disks of a sandbox that come and go: what the VM then has is what config.json says, for a later
 * shim, and no session has been told of another. */
#include <string.h>

#include "base/log.h"
#include "migration/sandbox.h"
#include "migration/session.h"

typedef struct disk_request {
        sandbox *sb;
        sandbox_done done;
        void *userdata;
        char serial[VM_CONFIG_SERIAL_MAX + 1];
        int r; /* why it is taken away again */
        ferry_error error;
} disk_request;

static disk_request *request_free(disk_request *q) {
        if (!q)
                return NULL;
        ferry_error_done(&q->error);
        free(q);
        return NULL;
}

DEFINE_CLEANUP(disk_request *, request_free)

static void finish(disk_request *q_consume, int r, const ferry_error *error) {
        _cleanup_(request_freep) disk_request *q = q_consume;

        if (q->done)
                q->done(r, error, q->userdata);
}

static void on_taken_back(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        disk_request *q = userdata;

        if (r < 0)
                log_error("sandbox %s: disk %s, which nothing knows of, stays: %s",
                          sandbox_id(q->sb), q->serial, ferry_error_message(error));
        finish(q, q->r, &q->error);
}

static void on_added(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        disk_request *q = userdata;

        if (r < 0) {
                finish(q, r, error);
                return;
        }
        q->r = sandbox_save_config(q->sb);
        if (q->r == 0) {
                finish(q, 0, NULL);
                return;
        }
        ferry_error_set_errno(&q->error, q->r, "%s/config.json", sandbox_state_dir(q->sb));
        r = vm_disk_remove(vm, q->serial, on_taken_back, q);
        if (r < 0)
                finish(q, q->r, &q->error);
}

static void on_removed(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        disk_request *q = userdata;
        int k = 0;

        /* the guest may have lost it even where QEMU then refused to go on */
        if (vm_takes_orders(vm))
                k = sandbox_save_config(q->sb);
        if (r == 0 && k < 0) {
                r = ferry_error_set_errno(&own, k, "%s/config.json", sandbox_state_dir(q->sb));
                error = &own;
        }
        finish(q, r, error);
}

static int check(sandbox *sb, ferry_error *reterr) {
        sandbox_vm_state state = sandbox_get_vm_state(sb);

        if (session_is_open(sandbox_session(sb)))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "a migration session is open");
        if (!sandbox_vm(sb) || (state != SANDBOX_VM_RUNNING && state != SANDBOX_VM_PAUSED))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "there is no VM to give a disk to, or to take one from");
        return 0;
}

static int request_new(sandbox *sb, const char *serial, sandbox_done done, void *userdata,
                       disk_request **ret, ferry_error *reterr) {
        disk_request *q;
        int r = check(sb, reterr);

        if (r < 0)
                return r;
        if (strlen(serial) > VM_CONFIG_SERIAL_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "a disk's serial has at most %u characters",
                                       VM_CONFIG_SERIAL_MAX);
        q = malloc(sizeof(*q));
        if (!q)
                return ferry_error_set_errno(reterr, -ENOMEM, "disk %s", serial);
        *q = (disk_request){ .sb = sb, .done = done, .userdata = userdata };
        strcpy(q->serial, serial);
        *ret = q;
        return 0;
}

int sandbox_disk_add(sandbox *sb, const vm_disk *disk, sandbox_done done, void *userdata,
                     ferry_error *reterr) {
        _cleanup_(request_freep) disk_request *q = NULL;
        int r;

        r = request_new(sb, disk->serial, done, userdata, &q, reterr);
        if (r < 0)
                return r;
        r = vm_disk_add(sandbox_vm(sb), disk, on_added, q);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "disk %s", disk->serial);
        q = NULL; /* the answer's now */
        return 0;
}

int sandbox_disk_remove(sandbox *sb, const char *serial, sandbox_done done, void *userdata,
                        ferry_error *reterr) {
        _cleanup_(request_freep) disk_request *q = NULL;
        int r;

        r = request_new(sb, serial, done, userdata, &q, reterr);
        if (r < 0)
                return r;
        r = vm_disk_remove(sandbox_vm(sb), serial, on_removed, q);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "disk %s", serial);
        q = NULL; /* the answer's now */
        return 0;
}
