/* SPDX-License-Identifier: MIT */
#pragma once

/* VM configuration -> QEMU's command line. Pure and deterministic: the same configuration gives
 * the same guest hardware (ids, addresses, RAM layout) on every host, which is what makes the
 * state of one loadable by the other. Host things come in as descriptor numbers. */

#include <stdbool.h>

#include "base/cleanup.h"
#include "vm/vm-config.h"
#include "vm/vm.h"

/* What the process finds at which descriptor; -1 = not there. */
typedef struct vm_argv_input {
        const vm_config *config; /* accelerator and cpu resolved */
        vm_mode mode;
        const char *name; /* for people, NULL or [A-Za-z0-9._-]+ */
        int memory_fd;
        bool memory_is_given;       /* it has its content already */
        int qmp_fd;                 /* listening */
        int console_fd;             /* listening */
        int console_log_fd;         /* opened O_WRONLY | O_APPEND */
        int control_fd, streams_fd; /* the agent's, listening; used when config->agent */
        int tap_fd;
        /* Kernel and initrd by descriptor when QEMU's user could not open the path. */
        int kernel_fd;
        int initrd_fd;
        struct {
                int fd;
                bool block_device, direct;
        } disks[VM_CONFIG_DISKS_MAX];
} vm_argv_input;

/* A NULL-terminated vector, argv[0] = `program`. */
int vm_argv_build(const vm_argv_input *input, const char *program, char ***ret);

/* The devices and the RAM that this gives, in vm_facts' words: what QEMU itself says once it runs.
 */
int vm_argv_describe(const vm_config *config, char ***ret_devices, char ***ret_ram);

char **strv_free(char **strv);

DEFINE_CLEANUP(char **, strv_free)
