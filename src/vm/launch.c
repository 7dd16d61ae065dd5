/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "vm/argv.h"
#include "vm/spawn.h"
#include "vm/uffd.h"
#include "vm/vm-internal.h"

#define FDS_MAX (12U + VM_CONFIG_DISKS_MAX)

/* Descriptors for the child, owned here; fds[i] becomes 3 + i there. */
typedef struct launch {
        int fds[FDS_MAX];
        size_t n_fds;
        vm_argv_input input;
        int uffd_library, uffd_device; /* their numbers in the child; 0: none */
        ferry_vm *vm;
} launch;

static void launch_done(launch *l) {
        for (size_t i = 0; i < l->n_fds; i++)
                fd_close(l->fds[i]);
        l->n_fds = 0;
}

/* Returns the number that the child will see. */
static int give(launch *l, int fd_consume) {
        l->fds[l->n_fds] = fd_consume;
        return 3 + (int)l->n_fds++;
}

/* `ret_client` may be NULL. Connected already, a QEMU that ends at once is seen as an end of the
 * connection, not as a socket that nobody listens on. */
static int listen_in(ferry_vm *vm, const char *name, int *ret_fd, int *ret_client,
                     ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        int r;

        if (asprintf(&path, "%s/%s", vm->state_dir, name) < 0) {
                path = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "%s", name);
        }
        r = unix_listen(path, 0600, 4, ret_fd);
        if (r == -EADDRINUSE)
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, r,
                                       "%s is in use: a QEMU of this sandbox is still alive", path);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "listen on %s", path);
        r = ret_client ? unix_connect(path, ret_client) : 0;
        if (r < 0) {
                *ret_fd = fd_close(*ret_fd);
                return ferry_error_set_errno(reterr, r, "connect to %s", path);
        }
        return 0;
}

static int open_memory(launch *l, ferry_error *reterr) {
        ferry_vm *vm = l->vm;
        int fd, r;

        l->input.memory_is_given = vm->memory_is_given;
        r = vm->memory_is_given
                    ? 0
                    : memory_create(vm_config_memory_bytes(vm->config), &vm->memory_fd, reterr);
        if (r < 0)
                return r;
        fd = fcntl(vm->memory_fd, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "guest memory");
        l->input.memory_fd = give(l, fd);
        return 0;
}

static int open_channels(launch *l, ferry_error *reterr) {
        int fd, r;

        r = listen_in(l->vm, VM_QMP_SOCKET, &fd, &l->vm->qmp_fd, reterr);
        if (r < 0)
                return r;
        l->input.qmp_fd = give(l, fd);
        r = listen_in(l->vm, VM_CONSOLE_SOCKET, &fd, NULL, reterr);
        if (r < 0)
                return r;
        l->input.console_fd = give(l, fd);
        r = log_create(l->vm->dir_fd, VM_CONSOLE_LOG, &fd, reterr);
        if (r < 0)
                return r;
        l->input.console_log_fd = give(l, fd);
        if (!l->vm->config->agent)
                return 0;
        r = listen_in(l->vm, VM_CONTROL_SOCKET, &fd, NULL, reterr);
        if (r < 0)
                return r;
        l->input.control_fd = give(l, fd);
        r = listen_in(l->vm, VM_STREAMS_SOCKET, &fd, NULL, reterr);
        if (r < 0)
                return r;
        l->input.streams_fd = give(l, fd);
        return 0;
}

static int open_boot(launch *l, const char *path, const char *what, int *ret, ferry_error *reterr) {
        int fd, r;

        *ret = -1;
        if (!path)
                return 0;
        r = boot_file_open(path, what, &l->vm->user, &fd, reterr);
        if (r < 0)
                return r;
        if (fd >= 0)
                *ret = give(l, fd);
        return 0;
}

static int open_devices(launch *l, ferry_error *reterr) {
        ferry_vm *vm = l->vm;
        int fd, r;

        l->input.tap_fd = -1;
        if (vm->config->has_network) {
                r = tap_create(vm->config->tap, vm->bridge, &fd, vm->tap, reterr);
                if (r < 0)
                        return r;
                l->input.tap_fd = give(l, fd);
        }
        for (size_t i = 0; i < vm->config->n_disks; i++) {
                r = disk_open(&vm->config->disks[i], &fd, &l->input.disks[i].block_device,
                              &l->input.disks[i].direct, reterr);
                if (r < 0)
                        return r;
                l->input.disks[i].fd = give(l, fd);
        }
        return 0;
}

static int open_uffd(launch *l, ferry_error *reterr) {
        int device, library, r;

        if (!l->vm->receives_postcopy)
                return 0;
        r = uffd_open(&device, &library, reterr);
        if (r < 0)
                return r;
        l->uffd_device = give(l, device);
        l->uffd_library = give(l, library);
        return 0;
}

static int open_all(launch *l, ferry_error *reterr) {
        const vm_config *config = l->vm->config;
        int r;

        r = open_memory(l, reterr);
        if (r < 0)
                return r;
        r = open_uffd(l, reterr);
        if (r < 0)
                return r;
        r = open_channels(l, reterr);
        if (r < 0)
                return r;
        r = open_boot(l, config->kernel, "kernel", &l->input.kernel_fd, reterr);
        if (r < 0)
                return r;
        r = open_boot(l, config->initrd, "initrd", &l->input.initrd_fd, reterr);
        if (r < 0)
                return r;
        return open_devices(l, reterr);
}

/* The record is on disk before QEMU exists: a shim that dies here leaves no QEMU that nobody
 * knows of. */
static int write_record(pid_t pid, void *userdata, ferry_error *reterr) {
        const launch *l = userdata;
        const ferry_vm *vm = l->vm;
        vm_record record = {
                .pid = pid,
                .mode = vm->mode,
                .accelerator = vm->config->accelerator,
                .memory_fd = l->input.memory_fd,
        };

        memcpy(record.tap, vm->tap, sizeof(record.tap));
        snprintf(record.cpu, sizeof(record.cpu), "%s", vm->config->cpu);
        return vm_record_write(vm->dir_fd, &record, reterr);
}

/* For `ps`; only if QEMU's option parser can't trip over it. */
static const char *short_name(const char *state_dir) {
        const char *name = strrchr(state_dir, '/') + 1;

        if (name[0] == '\0' || strlen(name) > 64)
                return NULL;
        for (const char *c = name; *c; c++)
                if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-",
                            *c))
                        return NULL;
        return name;
}

static int spawn(launch *l, ferry_error *reterr) {
        _cleanup_(strv_freep) char **argv = NULL;
        _cleanup_(freep) char *program = NULL;
        _cleanup_(closep) int log_fd = -EBADF;
        ferry_vm *vm = l->vm;
        int r;

        r = vm_find_program(vm->config->qemu, &program, reterr);
        if (r < 0)
                return r;
        r = log_create(vm->dir_fd, VM_QEMU_LOG, &log_fd, reterr);
        if (r < 0)
                return r;
        r = vm_argv_build(&l->input, program, &argv);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "QEMU's command line");
        return vm_spawn(&(vm_spawn_spec){ .program = program,
                                          .argv = argv,
                                          .fds = l->fds,
                                          .n_fds = l->n_fds,
                                          .log_fd = log_fd,
                                          .switch_user = vm->user.switch_user,
                                          .uid = vm->user.uid,
                                          .gid = vm->user.gid,
                                          .extra_gid = vm->user.kvm_gid,
                                          .uffd_library = l->uffd_library,
                                          .uffd_device = l->uffd_device,
                                          .own_network = vm->own_network,
                                          .ends_with_us = vm->ends_with_us,
                                          .before_exec = write_record,
                                          .userdata = l },
                        &vm->pid, &vm->pidfd, reterr);
}

void vm_remove_files(ferry_vm *vm) {
        (void)unlinkat(vm->dir_fd, VM_RECORD_FILE, 0);
        (void)unlinkat(vm->dir_fd, VM_QMP_SOCKET, 0);
        (void)unlinkat(vm->dir_fd, VM_CONSOLE_SOCKET, 0);
        (void)unlinkat(vm->dir_fd, VM_CONTROL_SOCKET, 0);
        (void)unlinkat(vm->dir_fd, VM_STREAMS_SOCKET, 0);
}

int vm_launch(ferry_vm *vm, ferry_error *reterr) {
        _cleanup_(launch_done) launch l = {
                .vm = vm,
                .input = { .config = vm->config,
                           .mode = vm->mode,
                           .name = short_name(vm->state_dir) },
        };
        bool ours;
        int r;

        r = open_all(&l, reterr);
        /* Sockets in use belong to somebody else's QEMU: its files stay. */
        ours = r != -EADDRINUSE;
        if (r == 0)
                r = spawn(&l, reterr);
        if (r == 0)
                return 0;
        if (ours)
                vm_remove_files(vm);
        vm->memory_fd = fd_close(vm->memory_fd);
        vm->qmp_fd = fd_close(vm->qmp_fd);
        vm->tap[0] = '\0';
        return r;
}
