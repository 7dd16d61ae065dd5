/* SPDX-License-Identifier: MIT */
#include <string.h>

#include <jansson.h>

#include "base/fd.h"
#include "base/log.h"
#include "vm/vm-internal.h"

#define NODE_FORMAT    "mirror-%s" /* the job's name too */
#define NODE_SIZE      (VM_CONFIG_DISK_NAME_SIZE + 8)
#define FD_FORMAT      "ferry-%s"
#define NBD_FD_NAME    "ferry-nbd"
#define READY_EVENT    "BLOCK_JOB_READY"
#define COMPLETE_EVENT "BLOCK_JOB_COMPLETED"
#define CANCEL_EVENT   "BLOCK_JOB_CANCELLED"

typedef enum mirror_state {
        MIRROR_STARTING, /* socket, node, job are being given to QEMU */
        MIRROR_COPYING,
        MIRROR_IN_STEP,
        MIRROR_FINISHING, /* it was told to end as it is */
        MIRROR_FINISHED,  /* its job has ended: both sides are the same */
        MIRROR_FAILED,    /* its job has ended */
        MIRROR_DROPPING,  /* what QEMU has of it is being taken away */
} mirror_state;

struct vm_mirror {
        vm_mirror *next;
        ferry_vm *vm;
        char disk[VM_CONFIG_DISK_NAME_SIZE], node[NODE_SIZE], serial[VM_CONFIG_SERIAL_MAX + 1];
        uint64_t bytes_per_second;
        mirror_state state;
        bool has_node, has_job; /* in QEMU, or perhaps */
        bool asked;             /* a command is under way */
        vm_done done;           /* of its start */
        void *userdata;
};

static void unlink_mirror(vm_mirror *m) {
        for (vm_mirror **at = &m->vm->mirrors; *at; at = &(*at)->next)
                if (*at == m) {
                        *at = m->next;
                        break;
                }
        free(m);
}

static void tell_start(vm_mirror *m, int r, const ferry_error *error) {
        vm_done done = TAKE_PTR(m->done);

        if (done)
                done(m->vm, r, error, m->userdata);
}

static void tell_finish(ferry_vm *vm, int r, const ferry_error *error) {
        vm_done done = TAKE_PTR(vm->mirrors_done);

        if (done)
                done(vm, r, error, vm->mirrors_userdata);
}

/* ---- the end of one, whatever QEMU has of it ---- */

static void drop_next(vm_mirror *m);

static void on_job_dropped(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        vm_mirror *m = userdata;

        m->asked = false;
        if (r == -ENOTCONN || r == -ECANCELED)
                return; /* vm_mirrors_end() has it */
        if (r == 0 && m->has_job)
                return; /* its event tells when it has ended */
        m->has_job = false;
        drop_next(m);
}

static void on_node_dropped(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        vm_mirror *m = userdata;

        m->asked = false;
        if (r == -ENOTCONN || r == -ECANCELED)
                return;
        if (r < 0)
                log_debug("%s", ferry_error_message(error));
        m->has_node = false;
        drop_next(m);
}

static void drop_next(vm_mirror *m) {
        int r = 0;

        m->state = MIRROR_DROPPING;
        if (m->asked)
                return;
        if (m->has_job)
                r = vm_command(m->vm, "block-job-cancel",
                               json_pack("{s:s, s:b}", "device", m->node, "force", 1), -EBADF,
                               on_job_dropped, m);
        else if (m->has_node)
                r = vm_command(m->vm, "blockdev-del", json_pack("{s:s}", "node-name", m->node),
                               -EBADF, on_node_dropped, m);
        else {
                unlink_mirror(m);
                return;
        }
        m->asked = r == 0;
        if (r < 0)
                unlink_mirror(m);
}

/* ---- what QEMU says ---- */

static bool all_are(const ferry_vm *vm, mirror_state state) {
        for (const vm_mirror *m = vm->mirrors; m; m = m->next)
                if (m->state != state)
                        return false;
        return true;
}

static void failed(vm_mirror *m, int r, const ferry_error *error) {
        mirror_state was = m->state;
        ferry_vm *vm = m->vm;

        if (m->state == MIRROR_DROPPING || m->state == MIRROR_FAILED)
                return;
        m->state = MIRROR_FAILED;
        if (m->done)
                tell_start(m, r, error);
        else if (was == MIRROR_FINISHING)
                tell_finish(vm, r, error);
        else if (vm->handlers.on_mirror_failed)
                vm->handlers.on_mirror_failed(vm, ferry_error_message(error), vm->userdata);
}

static void job_ended(vm_mirror *m, bool completed, const char *error_text) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        m->has_job = false;
        if (m->state == MIRROR_DROPPING) {
                drop_next(m);
                return;
        }
        if (m->state == MIRROR_FINISHING && completed && !error_text) {
                m->state = MIRROR_FINISHED;
                if (all_are(m->vm, MIRROR_FINISHED))
                        tell_finish(m->vm, 0, NULL);
                return;
        }
        r = ferry_error_set(&error, FERRY_ABORTED, -ECONNABORTED, "the mirror of disk %s ended: %s",
                            m->serial, error_text ? error_text : "it was cancelled");
        failed(m, r, &error);
}

bool vm_mirrors_on_event(ferry_vm *vm, const char *event, const char *job, const char *error) {
        bool ready = strcmp(event, READY_EVENT) == 0, complete = strcmp(event, COMPLETE_EVENT) == 0;

        if (!ready && !complete && strcmp(event, CANCEL_EVENT) != 0)
                return false;
        for (vm_mirror *m = vm->mirrors; m; m = m->next) {
                if (strcmp(m->node, job) != 0)
                        continue;
                if (!ready)
                        job_ended(m, complete, error);
                else if (m->state == MIRROR_STARTING || m->state == MIRROR_COPYING) {
                        m->state = MIRROR_IN_STEP;
                        tell_start(m, 0, NULL);
                }
                break;
        }
        return true;
}

/* ---- starting ---- */

static void on_step(ferry_vm *vm, int r, const ferry_error *error, void *userdata);

static int add_node(vm_mirror *m) {
        char fd_name[NODE_SIZE];

        (void)snprintf(fd_name, sizeof(fd_name), FD_FORMAT, m->disk);
        return vm_command(m->vm, "blockdev-add",
                          json_pack("{s:s, s:s, s:{s:s, s:s}, s:s}", "driver", "nbd", "node-name",
                                    m->node, "server", "type", "fd", "str", fd_name, "export",
                                    m->serial),
                          -EBADF, on_step, m);
}

static int start_job(vm_mirror *m) {
        return vm_command(m->vm, "blockdev-mirror",
                          json_pack("{s:s, s:s+, s:s, s:s, s:s, s:s, s:s, s:I}", "job-id", m->node,
                                    "device", m->disk, "-raw", "target", m->node, "sync", "full",
                                    "copy-mode", "write-blocking", "on-source-error", "report",
                                    "on-target-error", "report", "speed",
                                    (json_int_t)m->bytes_per_second),
                          -EBADF, on_step, m);
}

static void on_step(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        vm_mirror *m = userdata;

        m->asked = false;
        if (r == -ENOTCONN || r == -ECANCELED)
                return; /* vm_mirrors_end() has it */
        if (m->state == MIRROR_DROPPING) {
                drop_next(m);
                return;
        }
        if (r == 0 && !m->has_node) {
                m->has_node = true;
                r = add_node(m);
        } else if (r == 0 && !m->has_job) {
                m->has_job = true;
                r = start_job(m);
        } else if (r == 0) {
                if (m->state == MIRROR_STARTING) /* else it is in step already */
                        m->state = MIRROR_COPYING;
                return;
        } else {
                failed(m, r, error);
                return;
        }
        m->asked = r == 0;
        if (r < 0) {
                ferry_error_set_errno(&own, r, "the mirror of disk %s", m->serial);
                failed(m, r, &own);
        }
}

static vm_mirror *mirror_new(ferry_vm *vm, size_t index) {
        vm_mirror *m = malloc(sizeof(*m));

        if (!m)
                return NULL;
        *m = (vm_mirror){ .vm = vm, .next = vm->mirrors, .state = MIRROR_STARTING };
        vm_config_disk_name(vm->config, index, m->disk);
        (void)snprintf(m->node, sizeof(m->node), NODE_FORMAT, m->disk);
        (void)snprintf(m->serial, sizeof(m->serial), "%s", vm->config->disks[index].serial);
        vm->mirrors = m;
        return m;
}

static ssize_t find_writable(const ferry_vm *vm, const char *serial) {
        ssize_t at = vm_config_find_disk(vm->config, serial);

        return at >= 0 && !vm->config->disks[at].readonly ? at : -1;
}

int vm_mirror_start(ferry_vm *vm, const char *serial, int fd_consume, uint64_t bytes_per_second,
                    vm_done done, void *userdata) {
        _cleanup_(closep) int fd = fd_consume;
        ssize_t at = find_writable(vm, serial);
        char fd_name[NODE_SIZE];
        vm_mirror *m;
        int r;

        if (at < 0)
                return -ENOENT;
        if (bytes_per_second > (uint64_t)INT64_MAX)
                return -EINVAL;
        for (m = vm->mirrors; m; m = m->next)
                if (strcmp(m->serial, serial) == 0)
                        return -EBUSY;
        m = mirror_new(vm, (size_t)at);
        if (!m)
                return -ENOMEM;
        m->bytes_per_second = bytes_per_second;
        m->done = done;
        m->userdata = userdata;
        (void)snprintf(fd_name, sizeof(fd_name), FD_FORMAT, m->disk);
        r = vm_command(vm, "getfd", json_pack("{s:s}", "fdname", fd_name), TAKE_FD(fd), on_step, m);
        m->asked = r == 0;
        if (r < 0)
                unlink_mirror(m);
        return r;
}

/* ---- the end of all ---- */

static void on_told_to_end(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        vm_mirror *m = userdata;

        m->asked = false;
        if (r == -ENOTCONN || r == -ECANCELED)
                return;
        if (m->state == MIRROR_DROPPING)
                drop_next(m);
        else if (r < 0)
                failed(m, r, error);
}

int vm_mirrors_finish(ferry_vm *vm, vm_done done, void *userdata) {
        int r = 0;

        if (!vm->mirrors || !all_are(vm, MIRROR_IN_STEP))
                return -EPROTO;
        vm->mirrors_done = done;
        vm->mirrors_userdata = userdata;
        for (vm_mirror *m = vm->mirrors; r == 0 && m; m = m->next) {
                /* of one that is in step this is an end in good order */
                r = vm_command(vm, "block-job-cancel", json_pack("{s:s}", "device", m->node),
                               -EBADF, on_told_to_end, m);
                m->asked = r == 0;
                m->state = MIRROR_FINISHING;
        }
        if (r < 0)
                vm->mirrors_done = NULL;
        return r;
}

/* What a shim before this one may have left. */
static void find_all(ferry_vm *vm) {
        for (size_t i = 0; i < vm->config->n_disks; i++) {
                vm_mirror *m = vm->config->disks[i].serial && !vm->config->disks[i].readonly
                                       ? mirror_new(vm, i)
                                       : NULL;

                if (m)
                        m->has_node = m->has_job = true;
        }
}

void vm_mirrors_drop(ferry_vm *vm) {
        vm_mirror *m, *next;

        vm->mirrors_done = NULL;
        if (!vm->mirrors)
                find_all(vm);
        for (m = vm->mirrors; m; m = next) {
                next = m->next;
                m->done = NULL;
                if (m->state != MIRROR_DROPPING)
                        drop_next(m);
        }
}

bool vm_mirrors_are_there(const ferry_vm *vm) {
        return vm->mirrors;
}

void vm_mirrors_end(ferry_vm *vm) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_mirror *all = TAKE_PTR(vm->mirrors);
        int r = ferry_error_set(&error, FERRY_UNAVAILABLE, -ENOTCONN, "QEMU is gone");

        tell_finish(vm, r, &error);
        while (all) {
                vm_mirror *m = all;

                all = m->next;
                tell_start(m, r, &error);
                free(m);
        }
}

/* ---- the receiving side ---- */

typedef struct serving {
        char serial[VM_CONFIG_SERIAL_MAX + 1], disk[VM_CONFIG_DISK_NAME_SIZE];
        vm_done done;
        void *userdata;
} serving;

static void on_served(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        _cleanup_(freep) serving *s = userdata;

        s->done(vm, r, error, s->userdata);
}

static int export_disk(ferry_vm *vm, serving *s) {
        return vm_command(vm, "block-export-add",
                          json_pack("{s:s, s:s, s:s+, s:s, s:b}", "type", "nbd", "id", s->disk,
                                    "node-name", s->disk, "-raw", "name", s->serial, "writable", 1),
                          -EBADF, on_served, s);
}

static void on_server(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        serving *s = userdata;

        if (r == 0) {
                r = export_disk(vm, s);
                if (r == 0)
                        return;
                ferry_error_set_errno(&own, r, "serve disk %s", s->serial);
                error = &own;
        }
        on_served(vm, r, error, s);
}

static void on_listener(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        serving *s = userdata;

        if (r == 0) {
                r = vm_command(vm, "nbd-server-start",
                               json_pack("{s:{s:s, s:{s:s}}}", "addr", "type", "fd", "data", "str",
                                         NBD_FD_NAME),
                               -EBADF, on_server, s);
                if (r == 0)
                        return;
                ferry_error_set_errno(&own, r, "serve disk %s", s->serial);
                error = &own;
        }
        on_served(vm, r, error, s);
}

int vm_nbd_serve(ferry_vm *vm, const char *serial, int listener_fd_consume, vm_done done,
                 void *userdata) {
        _cleanup_(closep) int fd = listener_fd_consume;
        ssize_t at = find_writable(vm, serial);
        serving *s;
        int r;

        if (at < 0)
                return -ENOENT;
        s = malloc(sizeof(*s));
        if (!s)
                return -ENOMEM;
        *s = (serving){ .done = done, .userdata = userdata };
        (void)snprintf(s->serial, sizeof(s->serial), "%s", serial);
        vm_config_disk_name(vm->config, (size_t)at, s->disk);
        r = fd >= 0 ? vm_command(vm, "getfd", json_pack("{s:s}", "fdname", NBD_FD_NAME),
                                 TAKE_FD(fd), on_listener, s)
                    : export_disk(vm, s);
        if (r < 0)
                free(s);
        return r;
}

int vm_nbd_stop(ferry_vm *vm, vm_done done, void *userdata) {
        return vm_command(vm, "nbd-server-stop", json_object(), -EBADF, done, userdata);
}
