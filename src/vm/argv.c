/* SPDX-License-Identifier: MIT */
#include "vm/argv.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

/* Guest-visible places: changing one breaks migration from an older ferry. */
#define SLOT_RNG   0x02
#define SLOT_NIC   0x03
#define SLOT_PORTS 0x04
#define SLOT_SCSI  0x05
#define SLOT_DISKS 0x10

#define ARGS_MAX (80U + 8U * VM_CONFIG_DISKS_MAX)

/* fdsets: 1 is the console's log, disk i has 16 + i. One of a SCSI disk is found by its name, for
 * QEMU chooses the number when it is added later. */
#define FDSET_CONSOLE_LOG 1
#define FDSET_DISKS       16

char **strv_free(char **strv) {
        if (!strv)
                return NULL;
        for (size_t i = 0; strv[i]; i++)
                free(strv[i]);
        free(strv);
        return NULL;
}

typedef struct builder {
        char **argv; /* ARGS_MAX + 1, zeroed */
        size_t n;
        bool failed;
} builder;

static void add(builder *b, const char *format, ...) _printf_(2, 3);

static void add(builder *b, const char *format, ...) {
        va_list ap;
        int k;

        if (b->failed)
                return;
        if (b->n == ARGS_MAX) {
                b->failed = true;
                return;
        }
        va_start(ap, format);
        k = vasprintf(&b->argv[b->n], format, ap);
        va_end(ap);
        if (k < 0) {
                b->argv[b->n] = NULL;
                b->failed = true;
        } else
                b->n++;
}

static void add_machine(builder *b, const vm_argv_input *in) {
        const vm_config *config = in->config;

        add(b, "-machine");
        /* What nobody needs is off: less for a guest to attack, and a faster boot under TCG. */
        add(b,
            "%s,memory-backend=ram0,hpet=off,usb=off,sata=off,smbus=off,vmport=off,i8042=off,"
            "dump-guest-core=off",
            config->machine);
        add(b, "-accel");
        add(b, "%s", config->accelerator == VM_ACCELERATOR_KVM ? "kvm" : "tcg");
        add(b, "-cpu");
        /* KVM drops what the host lacks and goes on, unless told: then the guest would differ
         * between hosts. TCG always lacks something of a real CPU, the same everywhere. */
        add(b, "%s%s", config->cpu, config->accelerator == VM_ACCELERATOR_KVM ? ",enforce" : "");
        add(b, "-smp");
        add(b, "cpus=%u,maxcpus=%u,sockets=1,cores=%u,threads=1", config->vcpus, config->vcpus,
            config->vcpus);
        add(b, "-m");
        add(b, "size=%" PRIu64 "k", vm_config_memory_bytes(config) >> 10);
        add(b, "-object");
        /* A destination touches every page when it loads, the zero ones too, and would do so behind
         * the source's back: zero pages take no room on the wire, so the source is done while the
         * destination still takes page faults, and the guest waits for them in the blackout. */
        add(b, "memory-backend-file,id=ram0,size=%" PRIu64 "k,mem-path=/proc/self/fd/%d,share=on%s",
            vm_config_memory_bytes(config) >> 10, in->memory_fd,
            in->mode == VM_MODE_INCOMING && !in->memory_is_given ? ",prealloc=on,prealloc-threads=4"
                                                                 : "");
}

static void add_confinement(builder *b) {
        add(b, "-nodefaults");
        add(b, "-no-user-config");
        add(b, "-nographic");
        add(b, "-sandbox");
        add(b, "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
        add(b, "-msg");
        add(b, "timestamp=on");
}

static void add_channels(builder *b, const vm_argv_input *in) {
        add(b, "-chardev");
        add(b, "socket,id=qmp,fd=%d,server=on,wait=off", in->qmp_fd);
        add(b, "-mon");
        add(b, "chardev=qmp,mode=control");
        add(b, "-add-fd");
        add(b, "fd=%d,set=%d", in->console_log_fd, FDSET_CONSOLE_LOG);
        add(b, "-chardev");
        add(b, "socket,id=console,fd=%d,server=on,wait=off,logfile=/dev/fdset/%d,logappend=on",
            in->console_fd, FDSET_CONSOLE_LOG);
        add(b, "-serial");
        add(b, "chardev:console");
}

static void add_boot(builder *b, const vm_argv_input *in) {
        const vm_config *config = in->config;

        if (!config->kernel)
                return;
        add(b, "-kernel");
        if (in->kernel_fd >= 0)
                add(b, "/proc/self/fd/%d", in->kernel_fd);
        else
                add(b, "%s", config->kernel);
        if (config->initrd) {
                add(b, "-initrd");
                if (in->initrd_fd >= 0)
                        add(b, "/proc/self/fd/%d", in->initrd_fd);
                else
                        add(b, "%s", config->initrd);
        }
        if (config->cmdline[0] != '\0') {
                add(b, "-append");
                add(b, "%s", config->cmdline);
        }
}

static void add_disk(builder *b, const vm_argv_input *in, size_t i) {
        const vm_config_disk *disk = &in->config->disks[i];
        const char *readonly = disk->readonly ? "on" : "off";
        const char *discard = disk->readonly ? "ignore" : "unmap";
        char name[VM_CONFIG_DISK_NAME_SIZE];
        int set = FDSET_DISKS + (int)i;

        vm_config_disk_name(in->config, i, name);
        add(b, "-add-fd");
        add(b, "fd=%d,set=%d,opaque=%s", in->disks[i].fd, set, name);
        add(b, "-blockdev");
        add(b,
            "driver=%s,node-name=%s-file,filename=/dev/fdset/%d,cache.direct=%s,"
            "read-only=%s,auto-read-only=off,discard=%s",
            in->disks[i].block_device ? "host_device" : "file", name, set,
            in->disks[i].direct ? "on" : "off", readonly, discard);
        add(b, "-blockdev");
        add(b, "driver=raw,node-name=%s-raw,file=%s-file,read-only=%s,discard=%s", name, name,
            readonly, discard);
        add(b, "-device");
        /* vm-disks.c adds the same while the guest runs */
        if (disk->serial)
                add(b, "scsi-hd,id=%s,drive=%s-raw,serial=%s,bus=scsi.0,channel=0,scsi-id=%u,lun=0",
                    name, name, disk->serial, disk->scsi_id);
        else
                add(b, "virtio-blk-pci,id=%s,drive=%s-raw,bootindex=%zu,bus=pcie.0,addr=0x%02x",
                    name, name, i + 1, SLOT_DISKS + (unsigned)i);
}

static void add_devices(builder *b, const vm_argv_input *in) {
        const vm_config *config = in->config;

        add(b, "-object");
        add(b, "rng-random,id=rng0,filename=/dev/urandom");
        add(b, "-device");
        add(b, "virtio-rng-pci,id=rng,rng=rng0,bus=pcie.0,addr=0x%02x", SLOT_RNG);
        if (config->has_network) {
                add(b, "-netdev");
                add(b, "tap,id=net0,fd=%d,vhost=off", in->tap_fd);
                add(b, "-device");
                add(b, "virtio-net-pci,id=nic0,netdev=net0,mac=%s,romfile=,bus=pcie.0,addr=0x%02x",
                    config->mac, SLOT_NIC);
        }
        if (config->scsi) {
                add(b, "-device");
                /* one queue, for QEMU's own choice follows the number of vCPUs */
                add(b, "virtio-scsi-pci,id=scsi,num_queues=1,bus=pcie.0,addr=0x%02x", SLOT_SCSI);
        }
        for (size_t i = 0; i < config->n_disks; i++)
                add_disk(b, in, i);
}

/* Two ports, so that no flood of output ever stands in the way of control. Port 0 is a console's.
 */
static void add_agent(builder *b, const vm_argv_input *in) {
        if (!in->config->agent)
                return;
        add(b, "-chardev");
        add(b, "socket,id=control,fd=%d,server=on,wait=off", in->control_fd);
        add(b, "-chardev");
        add(b, "socket,id=streams,fd=%d,server=on,wait=off", in->streams_fd);
        add(b, "-device");
        add(b, "virtio-serial-pci,id=ports,max_ports=4,bus=pcie.0,addr=0x%02x", SLOT_PORTS);
        add(b, "-device");
        add(b, "virtserialport,id=port1,bus=ports.0,nr=1,chardev=control,name=ferry.control");
        add(b, "-device");
        add(b, "virtserialport,id=port2,bus=ports.0,nr=2,chardev=streams,name=ferry.streams");
}

int vm_argv_build(const vm_argv_input *in, const char *program, char ***ret) {
        _cleanup_(strv_freep) char **argv = NULL;
        builder b;

        argv = calloc(ARGS_MAX + 1, sizeof(*argv));
        if (!argv)
                return -ENOMEM;
        b = (builder){ .argv = argv };
        add(&b, "%s", program);
        if (in->name) {
                add(&b, "-name");
                add(&b, "guest=%s", in->name);
        }
        add_machine(&b, in);
        add_confinement(&b);
        add_channels(&b, in);
        add_boot(&b, in);
        add_devices(&b, in);
        add_agent(&b, in);
        /* Always paused: who owns the guest says `cont`. */
        add(&b, "-S");
        if (in->mode == VM_MODE_INCOMING) {
                add(&b, "-incoming");
                add(&b, "defer");
        }
        if (b.failed)
                return -ENOMEM;
        *ret = TAKE_PTR(argv);
        return 0;
}

static int compare_strings(const void *a, const void *b) {
        return strcmp(*(char *const *)a, *(char *const *)b);
}

int vm_argv_describe(const vm_config *config, char ***ret_devices, char ***ret_ram) {
        _cleanup_(strv_freep) char **devices = calloc(ARGS_MAX + 1, sizeof(*devices)),
                                   **ram = calloc(2, sizeof(*ram));
        builder d = { .argv = devices }, r = { .argv = ram };

        if (!devices || !ram)
                return -ENOMEM;
        for (size_t i = 0; i < config->n_disks; i++)
                if (config->disks[i].serial)
                        add(&d, "scsi%u scsi-hd", config->disks[i].scsi_id);
                else
                        add(&d, "disk%zu virtio-blk-pci 00:%02x.0", i, SLOT_DISKS + (unsigned)i);
        if (config->scsi)
                add(&d, "scsi virtio-scsi-pci 00:%02x.0", SLOT_SCSI);
        if (config->has_network)
                add(&d, "nic0 virtio-net-pci 00:%02x.0", SLOT_NIC);
        if (config->agent) {
                add(&d, "port1 virtserialport");
                add(&d, "port2 virtserialport");
                add(&d, "ports virtio-serial-pci 00:%02x.0", SLOT_PORTS);
        }
        add(&d, "rng virtio-rng-pci 00:%02x.0", SLOT_RNG);
        add(&r, "ram0 %" PRIu64, vm_config_memory_bytes(config));
        if (d.failed || r.failed)
                return -ENOMEM;
        qsort(devices, d.n, sizeof(devices[0]), compare_strings); /* as vm_facts are */
        *ret_devices = TAKE_PTR(devices);
        *ret_ram = TAKE_PTR(ram);
        return 0;
}
