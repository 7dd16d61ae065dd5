/* SPDX-License-Identifier: MIT */
#pragma once

/* The configuration of a VM: JSON in (docs/vm-config.md), checked, defaults filled in, canonical
 * JSON out. Input may come from another host: every number, string and count is capped, an
 * unknown field is refused, and the error names the field. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"

#define VM_CONFIG_TEXT_MAX         (256U * 1024)
#define VM_CONFIG_MEMORY_MIN       16U            /* MiB */
#define VM_CONFIG_MEMORY_MAX       (4096U * 1024) /* MiB: 4 TiB */
#define VM_CONFIG_VCPUS_MAX        255U
#define VM_CONFIG_PATH_MAX         4095U
#define VM_CONFIG_CMDLINE_MAX      2047U /* x86 COMMAND_LINE_SIZE less NUL */
#define VM_CONFIG_NAME_MAX         63U   /* cpu, machine */
#define VM_CONFIG_VIRTIO_DISKS_MAX 8U
#define VM_CONFIG_SCSI_DISKS_MAX   32U /* scsi_id 0 to 31 */
#define VM_CONFIG_DISKS_MAX        (VM_CONFIG_VIRTIO_DISKS_MAX + VM_CONFIG_SCSI_DISKS_MAX)
/* What each of the places that a guest finds it in has room for, wwid being the shortest. */
#define VM_CONFIG_SERIAL_MAX 20U

#define VM_CONFIG_QEMU_DEFAULT    "qemu-system-x86_64"
#define VM_CONFIG_MACHINE_DEFAULT "pc-q35-7.2"
#define VM_CONFIG_CPU_TCG         "Nehalem-v1"

typedef enum vm_accelerator {
        VM_ACCELERATOR_AUTO, /* KVM where a probe guest really ran on it, else TCG */
        VM_ACCELERATOR_KVM,
        VM_ACCELERATOR_TCG,
        _VM_ACCELERATOR_MAX,
} vm_accelerator;

typedef struct vm_config_disk {
        char *path; /* absolute; a raw image or a block device */
        bool readonly;
        char *serial;     /* what the guest knows it by; NULL: a virtio disk */
        uint32_t scsi_id; /* only with a serial: its place on the SCSI controller */
} vm_config_disk;

typedef struct vm_config {
        uint32_t memory_mb;
        uint32_t vcpus;
        char *kernel;          /* absolute path, or NULL: the firmware boots the first disk */
        char *initrd;          /* absolute path or NULL */
        char *cmdline;         /* never NULL */
        vm_config_disk *disks; /* virtio disks, which boot, before SCSI disks */
        size_t n_disks;
        bool scsi; /* a SCSI controller: disks may come and go while the guest runs */

        bool has_network;
        char bridge[16]; /* this host's; "" = none in the configuration */
        char tap[16];    /* "" = the kernel chooses "ferryN" */
        char mac[18];    /* lower case; made at random (52:54:00:...) when not given */

        vm_accelerator accelerator;
        bool agent; /* two ports for the guest's agent */

        char *cpu;     /* an explicit model; NULL = chosen at start (vm.h fills it in) */
        char *machine; /* a versioned machine type, never an alias */
        char *qemu;    /* absolute path, or a bare name looked up in PATH */
} vm_config;

/* `text` need not be NUL-terminated. -EINVAL with an error that names the field, -EFBIG, -ENOMEM.
 * Paths are not looked at: that is vm_start's. */
int vm_config_parse(const char *text, size_t n, vm_config **ret, ferry_error *reterr);

/* parse() of a file. */
int vm_config_read(const char *path, vm_config **ret, ferry_error *reterr);

/* Canonical JSON: all fields, sorted keys, one line and no final newline; parse() of it gives an
 * equal configuration. */
int vm_config_format(const vm_config *config, char **ret);

int vm_config_dup(const vm_config *config, vm_config **ret);
vm_config *vm_config_free(vm_config *config);

void vm_config_disk_done(vm_config_disk *disk);

/* QEMU's name for disk `index`, and the one in messages: "disk0", by the index; "scsi7", by the
 * scsi_id. */
#define VM_CONFIG_DISK_NAME_SIZE 16
void vm_config_disk_name(const vm_config *config, size_t index, char ret[VM_CONFIG_DISK_NAME_SIZE]);

/* Adds a SCSI disk (copied) under the rules that a configuration in JSON has to follow. -EINVAL
 * with an error that names the field; -EEXIST: its path, serial or scsi_id is taken; -ENOMEM. */
int vm_config_add_disk(vm_config *config, const vm_config_disk *disk, ferry_error *reterr);
/* The SCSI disk `serial`; -1: none. */
ssize_t vm_config_find_disk(const vm_config *config, const char *serial);
/* The lowest scsi_id that no disk has; VM_CONFIG_SCSI_DISKS_MAX when all are taken. */
uint32_t vm_config_free_scsi_id(const vm_config *config);
void vm_config_remove_disk(vm_config *config, size_t index);

/* The guest's RAM as it is started; the accelerator must have been resolved. Under TCG 8 KiB less
 * than memory_mb: QEMU before 9.0 loses writes when it migrates a TCG guest whose RAM is a multiple
 * of 256 KiB (tests/vm/tiny/README.md). Always, so that both sides agree whatever their QEMU is. */
uint64_t vm_config_memory_bytes(const vm_config *config);

const char *vm_accelerator_to_string(vm_accelerator accelerator);

DEFINE_CLEANUP(vm_config *, vm_config_free)
