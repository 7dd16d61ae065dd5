/* SPDX-License-Identifier: MIT */
#include "cli/end.h"

#include <fcntl.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/sandbox.h"
#include "migration/journal.h"
#include "vm/record.h"

#define EXIT_TIMEOUT   (30 * USEC_PER_SEC)
#define EXIT_INTERVAL  (10 * USEC_PER_MSEC)
#define START_TIMEOUT  (15 * USEC_PER_SEC)
#define START_INTERVAL (20 * USEC_PER_MSEC)

bool end_has_living_vm(const char *root, const char *name) {
        _cleanup_(closep) int folder = -EBADF, process = -EBADF;
        _cleanup_(freep) char *path = NULL;
        vm_record record;

        if (sandbox_path(root, name, NULL, &path, NULL) < 0)
                return true; /* we do not know */
        folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (folder < 0 || vm_record_read(folder, &record, NULL) < 0)
                return false;
        return vm_record_open_process(&record, &process) == 0;
}

bool end_has_open_session(const char *root, const char *name) {
        _cleanup_(journal_freep) journal *j = NULL;
        _cleanup_(closep) int folder = -EBADF;
        _cleanup_(freep) char *path = NULL;

        if (sandbox_path(root, name, NULL, &path, NULL) < 0)
                return true;
        folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        /* looked for first: opening one makes it */
        if (folder < 0 || faccessat(folder, "journal", F_OK, 0) < 0)
                return false;
        return journal_open(folder, &j, NULL) < 0 || journal_current(j) != NULL;
}

int end_pause(rpc_group *group, uint64_t usec, ferry_error *reterr) {
        uint64_t until = now_usec() + usec;
        int r = 0;

        while (r == 0 && now_usec() < until)
                r = rpc_group_wait(group, until, reterr);
        return r;
}

int end_status_settled(rpc_group *group, rpc *shim, shim_status **ret, ferry_error *reterr) {
        uint64_t deadline = now_usec() + START_TIMEOUT;

        for (;;) {
                shim_status *status;
                int r = call_status(shim, &status, reterr);

                if (r < 0)
                        return r;
                if (status->vm_state != FERRY__SHIM__V1__VM_STATE__VM_STATE_STARTING ||
                    now_usec() >= deadline) {
                        *ret = status;
                        return 0;
                }
                protobuf_c_message_free_unpacked(&status->base, NULL);
                r = end_pause(group, START_INTERVAL, reterr);
                if (r < 0)
                        return r;
        }
}

int end_wait(const host *h, rpc_group *group, const char *name, ferry_error *reterr) {
        uint64_t deadline = now_usec() + EXIT_TIMEOUT;
        pid_t first = 0;

        for (;;) {
                bool has_shim = true;
                pid_t pid;
                int r;

                r = sandbox_has_shim(h->root, name, &has_shim, &pid);
                if (r < 0)
                        return ferry_error_set_errno(reterr, r, "the shim of %s", name);
                if (!has_shim)
                        return 0;
                if (first == 0)
                        first = pid;
                else if (pid > 0 && pid != first)
                        return ferry_error_set(reterr, FERRY_ABORTED, -EAGAIN,
                                               "another shim of %s was started meanwhile (process "
                                               "%d)",
                                               name, (int)pid);
                if (now_usec() >= deadline)
                        return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, -ETIMEDOUT,
                                               "the shim of %s (process %d) has not ended within "
                                               "30 s",
                                               name, (int)pid);
                r = end_pause(group, EXIT_INTERVAL, reterr);
                if (r < 0)
                        return r;
        }
}

int end_wait_and_remove(const host *h, rpc_group *group, const char *name, ferry_error *reterr) {
        int r;

        r = end_wait(h, group, name, reterr);
        if (r < 0)
                return r;
        if (end_has_living_vm(h->root, name))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "the QEMU of %s in %s still runs, without a shim: `ferry "
                                       "--root %s recover %s`",
                                       name, h->root, h->root, name);
        return sandbox_remove(h->root, name, reterr);
}

/* Its QEMU may still be on its way out: that is waited for, anything else is not. */
static int check_empty(const host *h, rpc_group *group, rpc *shim, const char *name,
                       ferry_error *reterr) {
        uint64_t deadline = now_usec() + EXIT_TIMEOUT;

        for (;;) {
                _cleanup_(message_freep) shim_status *status = NULL;
                int r = call_status(shim, &status, reterr);

                if (r < 0)
                        return r;
                if (!status->session &&
                    (status->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_NONE ||
                     status->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_STOPPED))
                        return 0;
                if (status->session ||
                    status->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING ||
                    now_usec() >= deadline)
                        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                               "the shim of %s in %s still has a %s", name, h->root,
                                               status->session ? "session" : "VM");
                r = end_pause(group, EXIT_INTERVAL, reterr);
                if (r < 0)
                        return r;
        }
}

static int stop_empty(const host *h, rpc_group *group, const char *name, ferry_error *reterr) {
        _cleanup_(rpc_closep) rpc *shim = NULL;
        _cleanup_(freep) char *path = NULL;
        int r;

        r = sandbox_path(h->root, name, "shim.sock", &path, reterr);
        if (r == 0)
                r = rpc_open(group, path, "the shim", &shim, reterr);
        if (r == 0)
                r = check_empty(h, group, shim, name, reterr);
        return r < 0 ? r : call_stop(shim, false, reterr);
}

int end_empty_shim(const host *h, rpc_group *group, const char *name, ferry_error *reterr) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        bool has_shim = true;
        int r;

        r = sandbox_has_shim(h->root, name, &has_shim, NULL);
        if (r == 0 && has_shim) {
                r = stop_empty(h, group, name, &error);
                /* Unavailable: it was on its way out already. */
                if (r < 0 && error.code != FERRY_UNAVAILABLE) {
                        ferry_error_move(reterr, &error);
                        return r;
                }
        }
        return end_wait_and_remove(h, group, name, reterr);
}

int end_explain_no_shim(const char *root, const char *name, ferry_error *reterr) {
        if (end_has_living_vm(root, name))
                return ferry_error_set(
                        reterr, FERRY_FAILED_PRECONDITION, -ESRCH,
                        "the VM of %s is there, but its shim does not; `ferry --root %s "
                        "recover %s` starts one",
                        name, root, name);
        if (end_has_open_session(root, name))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ESRCH,
                                       "neither shim nor VM of %s is left, but a migration of it "
                                       "is not settled: `ferry --root %s recover %s`",
                                       name, root, name);
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ESRCH,
                               "%s has ended: neither shim nor VM is left; `ferry --root %s stop "
                               "%s` removes what remains",
                               name, root, name);
}
