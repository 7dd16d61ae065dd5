/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vm/argv.h"

/* The command line, an option and its value a line. When this has to change, ask whether a guest
 * of the last release can still be migrated to this one. */

static void assert_argv(const vm_argv_input *input, const char *expected) {
        _cleanup_(strv_freep) char **argv = NULL;
        char text[8192];
        size_t n = 0;

        assert_int_equal(vm_argv_build(input, "/usr/bin/qemu", &argv), 0);
        for (size_t i = 0; argv[i]; i++)
                n += (size_t)snprintf(text + n, sizeof(text) - n, "%s%s",
                                      i == 0              ? ""
                                      : argv[i][0] == '-' ? "\n"
                                                          : " ",
                                      argv[i]);
        assert_string_equal(text, expected);
}

static vm_config *parse(const char *text) {
        vm_config *config = NULL;

        assert_int_equal(vm_config_parse(text, strlen(text), &config, NULL), 0);
        return config;
}

static void test_the_least(void **state) {
        _cleanup_(vm_config_freep) vm_config *config =
                parse("{\"accelerator\":\"tcg\",\"cpu\":\"Nehalem-v1\"}");
        vm_argv_input input = { .config = config,
                                .memory_fd = 3,
                                .qmp_fd = 4,
                                .console_fd = 5,
                                .console_log_fd = 6,
                                .tap_fd = -1,
                                .kernel_fd = -1,
                                .initrd_fd = -1 };

        assert_argv(&input,
                    "/usr/bin/qemu\n"
                    "-machine pc-q35-7.2,memory-backend=ram0,hpet=off,usb=off,sata=off,smbus=off,"
                    "vmport=off,i8042=off,dump-guest-core=off\n"
                    "-accel tcg\n"
                    "-cpu Nehalem-v1\n"
                    "-smp cpus=1,maxcpus=1,sockets=1,cores=1,threads=1\n"
                    "-m size=262136k\n"
                    "-object memory-backend-file,id=ram0,size=262136k,mem-path=/proc/self/fd/3,"
                    "share=on\n"
                    "-nodefaults\n"
                    "-no-user-config\n"
                    "-nographic\n"
                    "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
                    "resourcecontrol=deny\n"
                    "-msg timestamp=on\n"
                    "-chardev socket,id=qmp,fd=4,server=on,wait=off\n"
                    "-mon chardev=qmp,mode=control\n"
                    "-add-fd fd=6,set=1\n"
                    "-chardev socket,id=console,fd=5,server=on,wait=off,logfile=/dev/fdset/1,"
                    "logappend=on\n"
                    "-serial chardev:console\n"
                    "-object rng-random,id=rng0,filename=/dev/urandom\n"
                    "-device virtio-rng-pci,id=rng,rng=rng0,bus=pcie.0,addr=0x02\n"
                    "-S");
}

static void test_everything(void **state) {
        _cleanup_(vm_config_freep) vm_config *config =
                parse("{\"accelerator\":\"kvm\",\"cpu\":\"Haswell-v2\",\"memory_mb\":1024,"
                      "\"vcpus\":4,\"kernel\":\"/boot/k,1\",\"initrd\":\"/i\","
                      "\"cmdline\":\"console=ttyS0 x=,y\",\"disks\":[{\"path\":\"/a\"},"
                      "{\"path\":\"/dev/b\",\"readonly\":true}],"
                      "\"network\":{\"mac\":\"52:54:00:00:00:01\"},\"agent\":true}");
        vm_argv_input input = { .config = config,
                                .mode = VM_MODE_INCOMING,
                                .name = "web-1",
                                .memory_fd = 3,
                                .qmp_fd = 4,
                                .console_fd = 5,
                                .console_log_fd = 6,
                                .control_fd = 11,
                                .streams_fd = 12,
                                .tap_fd = 8,
                                .kernel_fd = -1,
                                .initrd_fd = 7 };

        input.disks[0].fd = 9;
        input.disks[0].direct = true;
        input.disks[1].fd = 10;
        input.disks[1].block_device = true;
        assert_argv(
                &input,
                "/usr/bin/qemu\n"
                "-name guest=web-1\n"
                "-machine pc-q35-7.2,memory-backend=ram0,hpet=off,usb=off,sata=off,smbus=off,"
                "vmport=off,i8042=off,dump-guest-core=off\n"
                "-accel kvm\n"
                "-cpu Haswell-v2,enforce\n"
                "-smp cpus=4,maxcpus=4,sockets=1,cores=4,threads=1\n"
                "-m size=1048576k\n"
                "-object "
                "memory-backend-file,id=ram0,size=1048576k,mem-path=/proc/self/fd/3,share=on,"
                "prealloc=on,prealloc-threads=4\n"
                "-nodefaults\n"
                "-no-user-config\n"
                "-nographic\n"
                "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny\n"
                "-msg timestamp=on\n"
                "-chardev socket,id=qmp,fd=4,server=on,wait=off\n"
                "-mon chardev=qmp,mode=control\n"
                "-add-fd fd=6,set=1\n"
                "-chardev socket,id=console,fd=5,server=on,wait=off,logfile=/dev/fdset/1,"
                "logappend=on\n"
                "-serial chardev:console\n"
                "-kernel /boot/k,1\n"
                "-initrd /proc/self/fd/7\n"
                "-append console=ttyS0 x=,y\n"
                "-object rng-random,id=rng0,filename=/dev/urandom\n"
                "-device virtio-rng-pci,id=rng,rng=rng0,bus=pcie.0,addr=0x02\n"
                "-netdev tap,id=net0,fd=8,vhost=off\n"
                "-device virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:00:00:01,romfile=,"
                "bus=pcie.0,addr=0x03\n"
                "-add-fd fd=9,set=16,opaque=disk0\n"
                "-blockdev driver=file,node-name=disk0-file,filename=/dev/fdset/16,cache.direct=on,"
                "read-only=off,auto-read-only=off,discard=unmap\n"
                "-blockdev "
                "driver=raw,node-name=disk0-raw,file=disk0-file,read-only=off,discard=unmap\n"
                "-device virtio-blk-pci,id=disk0,drive=disk0-raw,bootindex=1,bus=pcie.0,addr=0x10\n"
                "-add-fd fd=10,set=17,opaque=disk1\n"
                "-blockdev driver=host_device,node-name=disk1-file,filename=/dev/fdset/17,"
                "cache.direct=off,read-only=on,auto-read-only=off,discard=ignore\n"
                "-blockdev "
                "driver=raw,node-name=disk1-raw,file=disk1-file,read-only=on,discard=ignore\n"
                "-device virtio-blk-pci,id=disk1,drive=disk1-raw,bootindex=2,bus=pcie.0,addr=0x11\n"
                "-chardev socket,id=control,fd=11,server=on,wait=off\n"
                "-chardev socket,id=streams,fd=12,server=on,wait=off\n"
                "-device virtio-serial-pci,id=ports,max_ports=4,bus=pcie.0,addr=0x04\n"
                "-device virtserialport,id=port1,bus=ports.0,nr=1,chardev=control,"
                "name=ferry.control\n"
                "-device virtserialport,id=port2,bus=ports.0,nr=2,chardev=streams,"
                "name=ferry.streams\n"
                "-S\n"
                "-incoming defer");
}

static void test_scsi(void **state) {
        static const char *const expected[] = { "disk0 virtio-blk-pci 00:10.0",
                                                "rng virtio-rng-pci "
                                                "00:02.0",
                                                "scsi virtio-scsi-pci 00:05.0",
                                                "scsi10 scsi-hd",
                                                "scsi2 scsi-hd",
                                                NULL };
        _cleanup_(vm_config_freep) vm_config *config =
                parse("{\"accelerator\":\"tcg\",\"cpu\":\"Nehalem-v1\",\"scsi\":true,\"disks\":["
                      "{\"path\":\"/a\"},"
                      "{\"path\":\"/r\",\"readonly\":true,\"serial\":\"web\",\"scsi_id\":10},"
                      "{\"path\":\"/w\",\"serial\":\"db.1\",\"scsi_id\":2}]}");
        _cleanup_(strv_freep) char **devices = NULL, **ram = NULL, **argv = NULL;
        vm_argv_input input = { .config = config };
        _cleanup_(freep) char *text = NULL;
        size_t n = 0;
        FILE *f;

        input.disks[1].fd = 9;
        input.disks[1].direct = true;
        input.disks[2].fd = 10;
        input.disks[2].block_device = true;
        assert_int_equal(vm_argv_build(&input, "q", &argv), 0);
        f = open_memstream(&text, &n);
        assert_non_null(f);
        for (size_t i = 0; argv[i]; i++)
                fprintf(f, "%s%s", argv[i][0] == '-' ? "\n" : " ", argv[i]);
        fclose(f);
        assert_non_null(strstr(
                text, "\n-device virtio-scsi-pci,id=scsi,num_queues=1,bus=pcie.0,addr=0x05\n"));
        assert_non_null(strstr(
                text,
                "\n-add-fd fd=9,set=17,opaque=scsi10\n"
                "-blockdev driver=file,node-name=scsi10-file,filename=/dev/fdset/17,"
                "cache.direct=on,read-only=on,auto-read-only=off,discard=ignore\n"
                "-blockdev "
                "driver=raw,node-name=scsi10-raw,file=scsi10-file,read-only=on,discard=ignore\n"
                "-device scsi-hd,id=scsi10,drive=scsi10-raw,serial=web,bus=scsi.0,channel=0,"
                "scsi-id=10,lun=0\n"
                "-add-fd fd=10,set=18,opaque=scsi2\n"
                "-blockdev driver=host_device,node-name=scsi2-file,filename=/dev/fdset/18,"
                "cache.direct=off,read-only=off,auto-read-only=off,discard=unmap\n"
                "-blockdev "
                "driver=raw,node-name=scsi2-raw,file=scsi2-file,read-only=off,discard=unmap\n"
                "-device scsi-hd,id=scsi2,drive=scsi2-raw,serial=db.1,bus=scsi.0,channel=0,"
                "scsi-id=2,lun=0\n"));
        assert_int_equal(vm_argv_describe(config, &devices, &ram), 0);
        for (size_t i = 0; expected[i] || devices[i]; i++)
                assert_string_equal(devices[i], expected[i]);
}

static void test_the_most_disks_fit(void **state) {
        _cleanup_(vm_config_freep) vm_config *config = parse(
                "{\"cpu\":\"Nehalem-v1\",\"kernel\":\"/k\",\"initrd\":\"/i\",\"cmdline\":\"c\","
                "\"network\":{},\"agent\":true,\"scsi\":true,\"disks\":[{\"path\":\"/0\"},"
                "{\"path\":\"/1\"},{\"path\":\"/2\"},{\"path\":\"/3\"},{\"path\":\"/4\"},"
                "{\"path\":\"/5\"},{\"path\":\"/6\"},{\"path\":\"/7\"}]}");
        vm_argv_input input = { .config = config, .mode = VM_MODE_INCOMING, .name = "n" };
        _cleanup_(strv_freep) char **argv = NULL;
        char serial[16];

        for (uint32_t i = 0; i < VM_CONFIG_SCSI_DISKS_MAX; i++) {
                snprintf(serial, sizeof(serial), "s%u", i);
                assert_int_equal(vm_config_add_disk(config,
                                                    &(vm_config_disk){ .path = (char *)"/image",
                                                                       .readonly = true,
                                                                       .serial = serial,
                                                                       .scsi_id = i },
                                                    NULL),
                                 0);
        }
        assert_int_equal(vm_argv_build(&input, "q", &argv), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_the_least),
                cmocka_unit_test(test_everything),
                cmocka_unit_test(test_scsi),
                cmocka_unit_test(test_the_most_disks_fit),
        };

        return cmocka_run_group_tests_name("argv", tests, NULL, NULL);
}
