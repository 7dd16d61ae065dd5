/* SPDX-License-Identifier: MIT */

/* Real QEMUs. Exit 77 without. $FERRY_QEMU is another QEMU to test with: a move from one version to
 * another. */

#include <dirent.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "vm/argv.h"
#include "vm/probe.h"
#include "vm/spawn.h"
#include "vm/tap.h"
#include "vm/test-side.h"

/* --- tests --- */

static void test_start_cont_stop_quit(void **state) {
        sd_event *event = new_event();
        vm_config *config = NULL;
        uint32_t seen;
        char *disk;
        side s;

        disk = boot(&s, event, &config, "");
        assert_int_equal(CALL(&s, vm_query_status(s.vm, on_status, &s)), 0);
        assert_false(s.running); /* not before somebody says so */
        assert_int_equal(CALL(&s, vm_cont(s.vm, on_done, &s)), 0);
        assert_int_equal(CALL(&s, vm_cont(s.vm, on_done, &s)), 0); /* again: no harm */
        wait_counting(&s, 1000);
        assert_int_equal(CALL(&s, vm_stop(s.vm, on_done, &s)), 0);
        seen = counter(s.vm);
        assert_int_equal(CALL(&s, vm_query_status(s.vm, on_status, &s)), 0);
        assert_false(s.running);
        assert_string_equal(s.state, "paused");
        assert_int_equal(counter(s.vm), seen);
        WAIT(event, s.n_stop == 1 && s.n_resume == 1);
        {
                /* the firmware's words are on the console, whoever listened */
                _cleanup_(freep) char *text = NULL;
                char path[128];
                size_t n;

                snprintf(path, sizeof(path), "%s/console.log", s.dir);
                assert_int_equal(file_read(AT_FDCWD, path, 1 << 20, &text, &n), 0);
                assert_non_null(strstr(text, "SeaBIOS"));
        }

        assert_int_equal(CALL(&s, vm_quit(s.vm, 10 * USEC_PER_SEC, on_done, &s)), 0);
        WAIT(event, s.n_exit == 1);
        assert_non_null(strstr(s.text, "QEMU exited with status 0"));
        assert_int_equal(vm_cont(s.vm, on_done, &s), -ENOTCONN);
        assert_int_equal(vm_quit(s.vm, 0, on_done, &s), -ENOTCONN);
        side_done(&s);
        vm_config_free(config);
        free(disk);
        sd_event_unref(event);
}

static void on_facts(ferry_vm *vm, int r, const ferry_error *error, const vm_facts *facts,
                     void *userdata) {
        _cleanup_(strv_freep) char **devices = NULL, **ram = NULL;
        side *s = userdata;

        s->n_done++;
        assert_int_equal(r, 0);
        assert_string_equal(facts->machine, "pc-q35-7.2");
        assert_string_equal(facts->cpu_model, "Nehalem-v1");
        assert_string_equal(facts->accelerator, "tcg");
        assert_int_equal(facts->memory_bytes, (32 << 20) - 8192);
        assert_int_equal(facts->devices.n, 2);
        assert_string_equal(facts->devices.items[0], "disk0 virtio-blk-pci 00:10.0");
        assert_string_equal(facts->devices.items[1], "rng virtio-rng-pci 00:02.0");
        assert_true(facts->qemu_version[0] >= '1' && facts->qemu_version[0] <= '9');
        /* what an import expects before there is a QEMU */
        assert_int_equal(vm_argv_describe(vm_get_config(vm), &devices, &ram), 0);
        for (size_t i = 0; i < facts->devices.n; i++)
                assert_string_equal(devices[i], facts->devices.items[i]);
        assert_null(devices[facts->devices.n]);
        assert_int_equal(facts->ram.n, 1);
        assert_string_equal(ram[0], facts->ram.items[0]);
        assert_true(facts->cpu_words.n > 3 && facts->cpu_features.n > 20);
}

static void read_status_line(pid_t pid, const char *key, char *ret, size_t size) {
        char path[64], line[256];
        FILE *f;

        snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
        f = fopen(path, "re");
        assert_non_null(f);
        ret[0] = '\0';
        while (fgets(line, sizeof(line), f))
                if (strncmp(line, key, strlen(key)) == 0)
                        snprintf(ret, size, "%s", line + strlen(key));
        fclose(f);
}

static void test_confined_and_known(void **state) {
        sd_event *event = new_event();
        vm_config *config = NULL;
        char *disk, text[256];
        side s;

        disk = boot(&s, event, &config, "");
        read_status_line(vm_get_pid(s.vm), "CapEff:", text, sizeof(text));
        assert_int_equal(strtoull(text, NULL, 16), 0);
        read_status_line(vm_get_pid(s.vm), "CapPrm:", text, sizeof(text));
        assert_int_equal(strtoull(text, NULL, 16), 0);
        read_status_line(vm_get_pid(s.vm), "NoNewPrivs:", text, sizeof(text));
        assert_int_equal(atoi(text), 1);
        read_status_line(vm_get_pid(s.vm), "Seccomp:", text, sizeof(text));
        assert_int_equal(atoi(text), 2);
        read_status_line(vm_get_pid(s.vm), "Uid:", text, sizeof(text));
        if (geteuid() == 0)
                assert_true(strtoul(text, NULL, 10) >= VM_UID_FIRST);
        read_status_line(vm_get_pid(s.vm), "Groups:", text, sizeof(text));
        if (geteuid() == 0)
                assert_int_equal(strtoul(text, NULL, 10), 0);
        assert_int_equal(getsid(vm_get_pid(s.vm)), vm_get_pid(s.vm));

        CALL(&s, vm_query_facts(s.vm, on_facts, &s));
        side_done(&s);
        vm_config_free(config);
        free(disk);
        sd_event_unref(event);
}

static void test_migrate_there(void **state) {
        sd_event *event = new_event();
        vm_config *config = NULL;
        side a, b;
        uint32_t left;
        int pair[2], ours[2];
        char *disk, byte;

        disk = boot(&a, event, &config, "");
        assert_int_equal(CALL(&a, vm_cont(a.vm, on_done, &a)), 0);
        wait_counting(&a, 1000);
        side_init(&b, event);
        start(&b, config, VM_MODE_INCOMING, NULL);
        connected_pair(pair);
        ours[0] = dup(pair[0]);
        ours[1] = dup(pair[1]);
        assert_int_equal(CALL(&b, vm_migrate_in(b.vm, pair[1], on_done, &b)), 0);
        assert_int_equal(
                CALL(&a, vm_migrate_out(a.vm, pair[0],
                                        &(vm_migrate_options){ .downtime_limit_msec = 300 },
                                        on_done, &a)),
                0);
        WAIT(event, a.migration == VM_MIGRATION_COMPLETED && b.migration == VM_MIGRATION_COMPLETED);
        assert_true(a.n_stop == 1 && a.n_pass > 0);
        assert_int_equal(b.n_resume, 0); /* nobody said so yet */
        assert_int_equal(CALL(&a, vm_query_migrate(a.vm, on_info, &a)), 0);
        assert_int_equal(a.info.status, VM_MIGRATION_COMPLETED);
        assert_true(a.info.ram_total >= (32 << 20) - 8192 && a.info.ram_total != VM_ABSENT);
        assert_int_equal(a.info.page_size, 4096);
        left = counter(a.vm);
        assert_true(left > 1000);
        assert_int_equal(counter(b.vm), left);
        assert_same_memory(a.vm, b.vm);

        /* the connection is still there for the handover */
        fd_set_nonblock(ours[0], false);
        fd_set_nonblock(ours[1], false);
        assert_int_equal(write(ours[0], "o", 1), 1);
        assert_int_equal(read(ours[1], &byte, 1), 1);
        assert_int_equal(byte, 'o');

        assert_int_equal(CALL(&b, vm_cont(b.vm, on_done, &b)), 0);
        WAIT(event, b.n_resume == 1);
        wait_counting(&b, left);
        assert_int_equal(counter(a.vm), left); /* and the source stands still */
        assert_int_equal(CALL(&b, vm_announce_self(b.vm, 3, on_done, &b)), 0);
        assert_int_equal(CALL(&a, vm_query_status(a.vm, on_status, &a)), 0);
        assert_string_equal(a.state, "postmigrate");

        fd_close(ours[0]);
        fd_close(ours[1]);
        side_done(&a);
        side_done(&b);
        vm_config_free(config);
        free(disk);
        sd_event_unref(event);
}

/* Slow enough for the guest to write again what was sent already, in several passes. */
static const vm_migrate_options gently = { .downtime_limit_msec = 500,
                                           .max_bytes_per_second = 4 << 20 };

static void test_roll_back_after_completed(void **state) {
        sd_event *event = new_event();
        vm_config *config = NULL;
        uint32_t left;
        int pair[2];
        side a, b;
        char *disk;

        disk = boot(&a, event, &config, "");
        assert_int_equal(CALL(&a, vm_cont(a.vm, on_done, &a)), 0);
        wait_counting(&a, 1000);
        for (int round = 0; round < 3; round++) {
                side_init(&b, event);
                a.migration = VM_MIGRATION_NONE;
                start(&b, config, VM_MODE_INCOMING, NULL);
                connected_pair(pair);
                assert_int_equal(CALL(&b, vm_migrate_in(b.vm, pair[1], on_done, &b)), 0);
                assert_int_equal(CALL(&a, vm_migrate_out(a.vm, pair[0], &gently, on_done, &a)), 0);
                WAIT(event, a.migration == VM_MIGRATION_COMPLETED &&
                                    b.migration == VM_MIGRATION_COMPLETED);
                left = counter(a.vm);
                assert_same_memory(a.vm, b.vm);
                side_done(&b); /* the destination is discarded */
                assert_int_equal(CALL(&a, vm_cont(a.vm, on_done, &a)), 0);
                wait_counting(&a, left);
        }
        side_done(&a);
        vm_config_free(config);
        free(disk);
        sd_event_unref(event);
}

static void test_cancel_in_the_copy(void **state) {
        sd_event *event = new_event();
        vm_config *config = NULL;
        uint32_t seen;
        int pair[2];
        side a, b;
        char *disk;

        disk = boot(&a, event, &config, "");
        assert_int_equal(CALL(&a, vm_cont(a.vm, on_done, &a)), 0);
        wait_counting(&a, 1000);
        side_init(&b, event);
        start(&b, config, VM_MODE_INCOMING, NULL);
        connected_pair(pair);
        assert_int_equal(CALL(&b, vm_migrate_in(b.vm, pair[1], on_done, &b)), 0);
        /* slow enough that it can't end by itself while we look */
        assert_int_equal(
                CALL(&a, vm_migrate_out(a.vm, pair[0],
                                        &(vm_migrate_options){ .max_bytes_per_second = 4096 },
                                        on_done, &a)),
                0);
        WAIT(event, a.migration == VM_MIGRATION_ACTIVE && a.n_pass >= 1);
        assert_int_equal(CALL(&a, vm_query_migrate(a.vm, on_info, &a)), 0);
        assert_int_equal(a.info.status, VM_MIGRATION_ACTIVE);
        assert_true(a.info.ram_remaining > 0);
        assert_int_equal(CALL(&a, vm_set_downtime_limit(a.vm, 20, on_done, &a)), 0);
        assert_int_equal(CALL(&a, vm_migrate_cancel(a.vm, on_done, &a)), 0);
        WAIT(event, a.migration == VM_MIGRATION_CANCELLED);
        assert_int_equal(a.n_stop, 0); /* it never stood still */
        seen = counter(a.vm);
        wait_counting(&a, seen);

        /* and once more, for good */
        side_done(&b);
        side_init(&b, event);
        start(&b, config, VM_MODE_INCOMING, NULL);
        connected_pair(pair);
        assert_int_equal(CALL(&b, vm_migrate_in(b.vm, pair[1], on_done, &b)), 0);
        assert_int_equal(
                CALL(&a, vm_migrate_out(a.vm, pair[0],
                                        &(vm_migrate_options){ .downtime_limit_msec = 300 },
                                        on_done, &a)),
                0);
        WAIT(event, b.migration == VM_MIGRATION_COMPLETED && a.migration == VM_MIGRATION_COMPLETED);
        assert_int_equal(CALL(&b, vm_cont(b.vm, on_done, &b)), 0);
        wait_counting(&b, counter(a.vm));
        side_done(&a);
        side_done(&b);
        vm_config_free(config);
        free(disk);
        sd_event_unref(event);
}

static void test_pause_before_switchover(void **state) {
        sd_event *event = new_event();
        vm_config *config = NULL;
        int pair[2];
        side a, b;
        char *disk;

        disk = boot(&a, event, &config, "");
        assert_int_equal(CALL(&a, vm_cont(a.vm, on_done, &a)), 0);
        wait_counting(&a, 1000);
        side_init(&b, event);
        start(&b, config, VM_MODE_INCOMING, NULL);
        connected_pair(pair);
        assert_int_equal(CALL(&b, vm_migrate_in(b.vm, pair[1], on_done, &b)), 0);
        assert_int_equal(
                CALL(&a, vm_migrate_out(a.vm, pair[0],
                                        &(vm_migrate_options){ .pause_before_switchover = true,
                                                               .downtime_limit_msec = 300 },
                                        on_done, &a)),
                0);
        WAIT(event, a.migration == VM_MIGRATION_PRE_SWITCHOVER);
        assert_int_equal(a.n_stop, 1);
        assert_int_equal(CALL(&a, vm_migrate_continue(a.vm, on_done, &a)), 0);
        WAIT(event, a.migration == VM_MIGRATION_COMPLETED && b.migration == VM_MIGRATION_COMPLETED);
        assert_int_equal(CALL(&b, vm_cont(b.vm, on_done, &b)), 0);
        side_done(&a);
        side_done(&b);
        vm_config_free(config);
        free(disk);
        sd_event_unref(event);
}

static void test_kill_is_seen(void **state) {
        sd_event *event = new_event();
        vm_config *config = NULL;
        unsigned before;
        char *disk;
        side s;

        disk = boot(&s, event, &config, "");
        assert_int_equal(CALL(&s, vm_cont(s.vm, on_done, &s)), 0);
        /* QEMU can't answer, then it is gone: pending operations end, each once */
        assert_int_equal(kill(vm_get_pid(s.vm), SIGSTOP), 0);
        before = s.n_done;
        assert_int_equal(vm_stop(s.vm, on_done, &s), 0);
        assert_int_equal(vm_query_status(s.vm, on_status, &s), 0);
        assert_int_equal(vm_kill(s.vm), 0);
        WAIT(event, s.exited);
        assert_int_equal(s.n_done - before, 2);
        assert_int_equal(s.done_r, -ENOTCONN);
        assert_non_null(strstr(s.text, "signal 9"));
        assert_false(vm_is_alive(s.vm));
        assert_int_equal(vm_kill(s.vm), 0);
        side_done(&s);
        vm_config_free(config);
        free(disk);
        sd_event_unref(event);
}

static void test_found_again(void **state) {
        sd_event *event = new_event();
        vm_config *config = NULL;
        uint32_t seen;
        pid_t pid;
        char *disk;
        side s;

        disk = boot(&s, event, &config, "");
        assert_int_equal(CALL(&s, vm_cont(s.vm, on_done, &s)), 0);
        wait_counting(&s, 1000);
        seen = counter(s.vm);
        pid = vm_get_pid(s.vm);
        assert_int_equal(vm_stop(s.vm, on_done, &s), 0);
        s.vm = vm_close(s.vm);
        assert_int_equal(s.done_r, -ECANCELED);

        assert_int_equal(attach(&s, config), 0);
        assert_int_equal(vm_get_pid(s.vm), pid);
        assert_string_equal(vm_get_config(s.vm)->cpu, VM_CONFIG_CPU_TCG);
        assert_int_equal(vm_get_mode(s.vm), VM_MODE_NORMAL);
        assert_true(counter(s.vm) >= seen);
        assert_int_equal(CALL(&s, vm_cont(s.vm, on_done, &s)), 0);
        seen = counter(s.vm);
        wait_counting(&s, seen);
        /* one QEMU a state directory */
        {
                ferry_vm *other = NULL;
                vm_options options = { .config = config, .state_dir = s.dir };

                assert_int_equal(vm_start(event, &options, NULL, NULL, NULL, &other, NULL),
                                 -EADDRINUSE);
        }
        assert_int_equal(CALL(&s, vm_query_status(s.vm, on_status, &s)), 0);
        assert_true(s.running);
        assert_int_equal(vm_kill(s.vm), 0);
        WAIT(event, s.exited);
        s.vm = vm_close(s.vm);
        assert_int_equal(attach(&s, config), -ESRCH);
        side_done(&s);
        vm_config_free(config);
        free(disk);
        sd_event_unref(event);
}

static void test_start_failures_are_clear(void **state) {
        sd_event *event = new_event();
        vm_config *config;
        side s;

        side_init(&s, event);
        config = make_config("/nonexistent/disk.img", "");
        assert_int_equal(try_start(&s, config, VM_MODE_NORMAL, NULL), -ENOENT);
        assert_non_null(strstr(s.text, "disk /nonexistent/disk.img"));
        free(config->qemu);
        config->qemu = strdup("ferry-no-such-qemu");
        config->disks[0].path[0] = '/';
        strcpy(config->disks[0].path, "/dev/null");
        assert_int_equal(try_start(&s, config, VM_MODE_NORMAL, NULL), -EINVAL);
        assert_non_null(strstr(s.text, "raw image or a block device"));
        config->n_disks = 0;
        free(config->disks[0].path);
        assert_int_equal(try_start(&s, config, VM_MODE_NORMAL, NULL), -ENOENT);
        assert_non_null(strstr(s.text, "is not in PATH: install it"));

        /* QEMU itself refuses: its own words come up */
        free(config->qemu);
        config->qemu = strdup(qemu);
        free(config->machine);
        config->machine = strdup("pc-q35-0.1");
        assert_int_equal(try_start(&s, config, VM_MODE_NORMAL, NULL), -ENOTCONN);
        assert_non_null(strstr(s.text, "unsupported machine type"));
        assert_int_equal(s.n_exit, 0);
        side_done(&s);
        vm_config_free(config);
        sd_event_unref(event);
}

static void test_tap_and_bridge(void **state) {
        char current[TAP_NAME_SIZE], tap[TAP_NAME_SIZE];
        sd_event *event = new_event();
        vm_config *config;
        int control, r;
        char *disk;
        side s;

        if (geteuid() != 0) {
                sd_event_unref(event);
                return; /* the rest needs a network namespace */
        }
        assert_int_equal(unshare(CLONE_NEWNET), 0);
        control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        assert_int_equal(ioctl(control, SIOCBRADDBR, "ferrybr0"), 0);
        side_init(&s, event);
        assert_true(asprintf(&disk, "%s/disk.img", s.dir) > 0);
        make_disk(disk);
        config = make_config(disk, ",\"network\":{\"mac\":\"52:54:00:00:00:01\"}");
        start(&s, config, VM_MODE_NORMAL, "ferrybr0");
        assert_non_null(vm_get_tap(s.vm));
        strcpy(tap, vm_get_tap(s.vm));
        assert_int_equal(tap_get_bridge(tap, current), 0);
        assert_string_equal(current, ""); /* not before the guest is ours */
        assert_int_equal(CALL(&s, vm_cont(s.vm, on_done, &s)), 0);
        assert_int_equal(tap_get_bridge(tap, current), 0);
        assert_string_equal(current, "ferrybr0");

        /* a new shim does not disturb it */
        s.vm = vm_close(s.vm);
        {
                vm_options options = { .config = config, .state_dir = s.dir, .bridge = "ferrybr0" };

                s.ready = false;
                assert_int_equal(
                        vm_attach(event, &options, &side_handlers, on_ready, &s, &s.vm, NULL), 0);
                WAIT(event, s.ready);
                assert_int_equal(s.ready_r, 0);
        }
        assert_string_equal(vm_get_tap(s.vm), tap);
        assert_int_equal(CALL(&s, vm_cont(s.vm, on_done, &s)), 0);
        assert_int_equal(tap_get_bridge(tap, current), 0);
        assert_string_equal(current, "ferrybr0");
        assert_int_equal(vm_tap_detach(s.vm, NULL), 0);
        assert_int_equal(vm_tap_detach(s.vm, NULL), 0);
        assert_int_equal(tap_get_bridge(tap, current), 0);
        assert_string_equal(current, "");

        /* its bridge has gone: it runs without, and has it back once there is one */
        assert_int_equal(CALL(&s, vm_stop(s.vm, on_done, &s)), 0);
        assert_int_equal(ioctl(control, SIOCBRDELBR, "ferrybr0"), 0);
        assert_int_equal(CALL(&s, vm_cont(s.vm, on_done, &s)), -ENODEV);
        assert_int_equal(CALL(&s, vm_cont_as_it_is(s.vm, on_done, &s)), 0);
        assert_int_equal(vm_tap_attach(s.vm, NULL), -ENODEV);
        assert_int_equal(ioctl(control, SIOCBRADDBR, "ferrybr0"), 0);
        assert_int_equal(vm_tap_attach(s.vm, NULL), 0);
        assert_int_equal(tap_get_bridge(tap, current), 0);
        assert_string_equal(current, "ferrybr0");
        side_done(&s);
        assert_true(tap_get_bridge(tap, current) < 0); /* gone with QEMU */

        /* a bridge that is not there is told before anything runs */
        side_init(&s, event);
        r = try_start(&s, config, VM_MODE_NORMAL, "nobridge");
        assert_int_equal(r, -ENODEV);
        assert_non_null(strstr(s.text, "bridge nobridge"));
        side_done(&s);
        vm_config_free(config);
        free(disk);
        fd_close(control);
        sd_event_unref(event);
}

typedef struct probed {
        bool done, works;
        char cpu[64], reason[512];
} probed;

static void on_probed(const vm_probe_result *result, void *userdata) {
        probed *p = userdata;

        assert_false(p->done);
        p->done = true;
        p->works = result->works;
        snprintf(p->cpu, sizeof(p->cpu), "%s", result->cpu);
        snprintf(p->reason, sizeof(p->reason), "%s", result->reason);
}

static void test_probe(void **state) {
        char dir[] = "/tmp/ferry-test-XXXXXX", cache[64];
        sd_event *event = new_event();
        vm_probe_options options = { .qemu = qemu,
                                     .machine = VM_CONFIG_MACHINE_DEFAULT,
                                     .accelerator = "tcg",
                                     .limit_usec = 60 * USEC_PER_SEC };
        struct stat first, second;
        vm_probe *probe;
        probed p = { 0 };

        assert_non_null(mkdtemp(dir));
        snprintf(cache, sizeof(cache), "%s/kvm.json", dir);
        options.cache_path = cache;
        options.user = vm_user_choose(0, 0, dir);
        /* the guest's code is right: it runs to its end where guests do run */
        assert_int_equal(vm_probe_start(event, &options, on_probed, &p, &probe, NULL), 0);
        WAIT(event, p.done);
        vm_probe_free(probe);
        assert_string_equal(p.reason, "");
        assert_true(p.works);
        assert_string_equal(p.cpu, "Haswell-v2");
        assert_int_equal(stat(cache, &first), 0);
        /* from the cache: the file is not written again */
        p = (probed){ 0 };
        assert_int_equal(vm_probe_start(event, &options, on_probed, &p, &probe, NULL), 0);
        WAIT(event, p.done);
        vm_probe_free(probe);
        assert_true(p.works);
        assert_string_equal(p.cpu, "Haswell-v2");
        assert_int_equal(stat(cache, &second), 0);
        assert_int_equal(first.st_ino, second.st_ino);

        /* KVM: whatever the answer here, there is one, and it says why not */
        p = (probed){ 0 };
        options.accelerator = NULL;
        options.limit_usec = 0;
        assert_int_equal(vm_probe_start(event, &options, on_probed, &p, &probe, NULL), 0);
        WAIT(event, p.done);
        vm_probe_free(probe);
        assert_true(p.works ? p.cpu[0] != '\0' : p.reason[0] != '\0');
        print_message("# KVM: %s %s\n", p.works ? "works with" : "no:", p.works ? p.cpu : p.reason);

        /* given up while it runs: nothing is called, nothing is left */
        p = (probed){ 0 };
        options.accelerator = "tcg";
        options.cache_path = NULL;
        assert_int_equal(vm_probe_start(event, &options, on_probed, &p, &probe, NULL), 0);
        vm_probe_free(probe);
        assert_true(sd_event_run(event, 0) >= 0);
        assert_false(p.done);
        (void)unlink(cache);
        (void)rmdir(dir);
        sd_event_unref(event);
}

static void test_auto_accelerator(void **state) {
        sd_event *event = new_event();
        vm_config *config;
        side s;

        side_init(&s, event);
        assert_int_equal(vm_config_parse("{\"memory_mb\":32}", 16, &config, NULL), 0);
        free(config->qemu);
        config->qemu = strdup(qemu);
        start(&s, config, VM_MODE_NORMAL, NULL);
        assert_int_not_equal(vm_get_config(s.vm)->accelerator, VM_ACCELERATOR_AUTO);
        assert_non_null(vm_get_config(s.vm)->cpu);
        /* closed without ever being used: QEMU was ready, so it lives on and is found again */
        s.vm = vm_close(s.vm);
        assert_int_equal(attach(&s, config), 0);
        assert_int_not_equal(vm_get_config(s.vm)->accelerator, VM_ACCELERATOR_AUTO);
        side_done(&s);
        vm_config_free(config);
        sd_event_unref(event);
}

static void test_close_while_starting(void **state) {
        vm_options options = { 0 };
        sd_event *event = new_event();
        vm_config *config;
        side s;

        side_init(&s, event);
        assert_int_equal(
                vm_config_parse("{\"memory_mb\":32,\"accelerator\":\"tcg\"}", 36, &config, NULL),
                0);
        free(config->qemu);
        config->qemu = strdup(qemu);
        options.config = config;
        options.state_dir = s.dir;
        assert_int_equal(vm_start(event, &options, &side_handlers, on_ready, &s, &s.vm, NULL), 0);
        assert_int_equal(vm_cont(s.vm, on_done, &s), -EBUSY);
        s.vm = vm_close(s.vm);
        assert_false(s.ready);
        assert_int_equal(attach(&s, config), -ESRCH);
        side_done(&s);
        vm_config_free(config);
        sd_event_unref(event);
}

int main(void) {
        _cleanup_(freep) char *program = NULL;
        const struct CMUnitTest tests[] = {
                SIDE_TEST(test_start_cont_stop_quit),
                SIDE_TEST(test_confined_and_known),
                SIDE_TEST(test_migrate_there),
                SIDE_TEST(test_roll_back_after_completed),
                SIDE_TEST(test_cancel_in_the_copy),
                SIDE_TEST(test_pause_before_switchover),
                SIDE_TEST(test_kill_is_seen),
                SIDE_TEST(test_found_again),
                SIDE_TEST(test_start_failures_are_clear),
                SIDE_TEST(test_probe),
                SIDE_TEST(test_auto_accelerator),
                SIDE_TEST(test_close_while_starting),
                SIDE_TEST(test_tap_and_bridge), /* last: moves to another network namespace */
        };

        if (getenv("FERRY_QEMU"))
                qemu = getenv("FERRY_QEMU");
        if (vm_find_program(qemu, &program, NULL) < 0)
                return 77;
        return cmocka_run_group_tests_name("vm-real", tests, NULL, NULL);
}
