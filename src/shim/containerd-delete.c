/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "migration/journal.h"
#include "migration/place.h"
#include "migration/sandbox-images.h"
#include "services/reply.h"
#include "shim/containerd-request.h"
#include "task.ttrpc.h"
#include "vm/nic.h"
#include "vm/record.h"

#define END_USEC    (3 * USEC_PER_SEC) /* containerd gives `delete` five seconds */
#define MEMBER_USEC (500 * USEC_PER_MSEC)
#define END_STEP    (10 * USEC_PER_MSEC)
#define KILLED      (128U + SIGKILL)

bool containerd_has_shim(const containerd_request *q, int *ret_lock) {
        _cleanup_(freep) char *path = NULL;
        int fd;

        *ret_lock = -EBADF;
        if (asprintf(&path, "%s/shim.lock", q->state_dir) < 0) {
                path = NULL;
                return true;
        }
        fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return false;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                fd_close(fd);
                return true;
        }
        *ret_lock = fd;
        return false;
}

static bool session_is_open_at(int folder) {
        _cleanup_(journal_freep) journal *j = NULL;

        /* looked for first: opening one makes it */
        if (faccessat(folder, "journal", F_OK, 0) < 0)
                return false;
        return journal_open(folder, &j, NULL) < 0 || journal_current(j) != NULL;
}

static void kill_vm(int folder) {
        _cleanup_(closep) int process = -EBADF;
        struct pollfd end = { .events = POLLIN };
        vm_record record;

        if (vm_record_read(folder, &record, NULL) < 0 ||
            vm_record_open_process(&record, &process) < 0)
                return;
        (void)syscall(SYS_pidfd_send_signal, process, SIGKILL, NULL, 0);
        end.fd = process;
        (void)poll(&end, 1, 2000);
}

/* Where containerd was killed before its own Shutdown nobody else does. A shim that has containers
 * stays for as long as it has. */
static void ask_to_end(const containerd_request *q) {
        Containerd__Task__V2__ShutdownRequest request =
                CONTAINERD__TASK__V2__SHUTDOWN_REQUEST__INIT;
        const ttrpc_call_options options = { .timeout_usec = MEMBER_USEC };
        _cleanup_(freep) char *path = NULL, *message = NULL;
        Google__Protobuf__Empty *response = NULL;
        ttrpc_client *shim;
        int32_t code;

        request.id = (char *)q->id;
        if (asprintf(&path, "%s/shim.sock", q->state_dir) < 0) {
                path = NULL;
                return;
        }
        if (ttrpc_client_connect(path, &shim) < 0)
                return;
        (void)containerd_task_v2_task_shutdown_call(shim, &request, &options, &code, &message,
                                                    &response);
        if (response)
                protobuf_c_message_free_unpacked(&response->base, NULL);
        ttrpc_client_free(shim);
}

static void clear_away(const containerd_request *q) {
        _cleanup_(closep) int folder =
                open(q->state_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        _cleanup_(closep) int lock = -EBADF;
        /* the shim goes with the last of its containers, and a pod's own is that as a rule */
        uint64_t until = now_usec() + (q->pod ? MEMBER_USEC : END_USEC);

        if (folder < 0)
                return;
        ask_to_end(q);
        /* it may be on its way out */
        while (containerd_has_shim(q, &lock)) {
                if (now_usec() >= until) {
                        fprintf(stderr, "the shim of %s still runs: nothing was cleared away\n",
                                q->id);
                        return;
                }
                (void)usleep(END_STEP);
        }
        if (session_is_open_at(folder)) {
                fprintf(stderr,
                        "a migration of %s is not settled, and %s may be needed for that: nothing "
                        "was cleared away; `ferry --root %s recover %s`\n",
                        q->id, q->state_dir, q->config->root, q->sandbox);
                return;
        }
        kill_vm(folder);
        sandbox_remove_images(q->config->cache_dir, q->state_dir);
        if (q->config->disk_root)
                sandbox_remove_images(q->config->disk_root, q->state_dir);
        nic_clear(folder);
        place_forget(q->state_dir);
        folder_empty(folder); /* nobody else has a place of such a name */
        (void)rmdir(q->state_dir);
}

static int say_deleted(ferry_error *reterr) {
        Containerd__Task__V2__DeleteResponse m = CONTAINERD__TASK__V2__DELETE_RESPONSE__INIT;
        Google__Protobuf__Timestamp at;
        uint8_t packed[64];
        size_t n;

        timestamp_fill(&at, wall_usec());
        m.exit_status = KILLED;
        m.exited_at = &at;
        n = containerd__task__v2__delete_response__pack(&m, packed);
        if (fwrite(packed, 1, n, stdout) != n || fflush(stdout) != 0)
                return ferry_error_set_errno(reterr, -EIO, "standard output");
        return 0;
}

int containerd_delete(const containerd_request *q, ferry_error *reterr) {
        if (!q->pod || q->came_with) /* the pod's shim goes with the pod */
                clear_away(q);
        return say_deleted(reterr);
}
