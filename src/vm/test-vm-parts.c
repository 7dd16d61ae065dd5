/* SPDX-License-Identifier: MIT */

/* The small parts of the VM layer: what QEMU says about a migration, the record of its process,
 * files, spawning. */

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/fd.h"
#include "vm/files.h"
#include "vm/migration-info.h"
#include "vm/record.h"
#include "vm/spawn.h"

/* --- migration info --- */

static void test_statuses(void **state) {
        for (int i = 0; i < _VM_MIGRATION_STATUS_MAX; i++)
                assert_int_equal(vm_migration_status_from_string(
                                         vm_migration_status_to_string((vm_migration_status)i)),
                                 i);
        assert_int_equal(vm_migration_status_from_string("warp"), VM_MIGRATION_UNKNOWN);
        assert_int_equal(vm_migration_status_from_string(NULL), VM_MIGRATION_UNKNOWN);
}

static void test_info_by_presence(void **state) {
        vm_migration_info_store store;
        json_t *value;

        vm_migration_info_parse(NULL, &store);
        assert_int_equal(store.info.status, VM_MIGRATION_NONE);
        assert_true(store.info.ram_remaining == VM_ABSENT);
        assert_true(store.info.dirty_bytes_per_second == VM_ABSENT);
        assert_int_equal(store.info.n_blocked_reasons, 0);

        value = json_loads("{\"status\":\"active\",\"total-time\":12,\"setup-time\":1,"
                           "\"expected-downtime\":300,\"cpu-throttle-percentage\":20,"
                           "\"blocked-reasons\":[\"one\",7,\"two\"],\"error-desc\":\"e\","
                           "\"ram\":{\"total\":100,\"transferred\":40,\"remaining\":60,"
                           "\"page-size\":4096,\"dirty-pages-rate\":10,\"dirty-sync-count\":3,"
                           "\"normal\":5,\"duplicate\":2,\"mbps\":80.5}}",
                           0, NULL);
        vm_migration_info_parse(value, &store);
        assert_int_equal(store.info.status, VM_MIGRATION_ACTIVE);
        assert_int_equal(store.info.total_msec, 12);
        assert_int_equal(store.info.setup_msec, 1);
        assert_int_equal(store.info.expected_downtime_msec, 300);
        assert_true(store.info.downtime_msec == VM_ABSENT);
        assert_int_equal(store.info.throttle_percentage, 20);
        assert_int_equal(store.info.ram_total, 100);
        assert_int_equal(store.info.ram_transferred, 40);
        assert_int_equal(store.info.ram_remaining, 60);
        assert_int_equal(store.info.ram_processed, 7 * 4096);
        assert_int_equal(store.info.dirty_bytes_per_second, 40960);
        assert_int_equal(store.info.dirty_sync_count, 3);
        assert_int_equal(store.info.bytes_per_second, 10062500);
        assert_string_equal(store.info.error_description, "e");
        assert_int_equal(store.info.n_blocked_reasons, 2);
        assert_string_equal(store.info.blocked_reasons[1], "two");
        json_decref(value);
}

static void test_info_nonsense(void **state) {
        static const char *const texts[] = {
                "{\"status\":7,\"ram\":[]}",
                "{\"ram\":{\"mbps\":-1,\"remaining\":-5,\"page-size\":\"4096\"}}",
                /* the product of these two does not fit */
                "{\"ram\":{\"dirty-pages-rate\":9223372036854775807,\"page-size\":4096}}",
                "{\"ram\":{\"mbps\":1e300}}",
                "{\"blocked-reasons\":{}}",
        };

        for (size_t i = 0; i < ELEMENTS(texts); i++) {
                json_t *value = json_loads(texts[i], 0, NULL);
                vm_migration_info_store store;

                assert_non_null(value);
                vm_migration_info_parse(value, &store);
                assert_true(store.info.ram_remaining == VM_ABSENT);
                assert_true(store.info.bytes_per_second == VM_ABSENT);
                assert_true(store.info.dirty_bytes_per_second == VM_ABSENT);
                json_decref(value);
        }
}

/* --- record --- */

typedef struct folder {
        char path[32];
        int fd;
} folder;

static folder folder_new(void) {
        folder f = { .path = "/tmp/ferry-test-XXXXXX" };

        assert_non_null(mkdtemp(f.path));
        f.fd = open(f.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(f.fd >= 0);
        return f;
}

static void folder_remove(folder *f) {
        DIR *dir = opendir(f->path);

        for (struct dirent *e = readdir(dir); e; e = readdir(dir))
                (void)unlinkat(f->fd, e->d_name, 0);
        closedir(dir);
        fd_close(f->fd);
        assert_int_equal(rmdir(f->path), 0);
}

static void test_record_finds_the_process(void **state) {
        vm_record record = { .mode = VM_MODE_INCOMING,
                             .accelerator = VM_ACCELERATOR_TCG,
                             .cpu = "Nehalem-v1",
                             .tap = "ferry0",
                             .memory_fd = 3 };
        folder f = folder_new();
        vm_record read;
        int pidfd;
        pid_t child;

        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
                pause();
                _exit(0);
        }
        record.pid = child;
        assert_int_equal(vm_record_write(f.fd, &record, NULL), 0);
        assert_int_equal(vm_record_read(f.fd, &read, NULL), 0);
        assert_int_equal(read.pid, child);
        assert_int_equal(read.mode, VM_MODE_INCOMING);
        assert_int_equal(read.accelerator, VM_ACCELERATOR_TCG);
        assert_string_equal(read.cpu, "Nehalem-v1");
        assert_string_equal(read.tap, "ferry0");
        assert_int_equal(read.memory_fd, 3);
        assert_int_equal(vm_record_open_process(&read, &pidfd), 0);
        fd_close(pidfd);

        /* the pid of another: started at another time, or before a reboot */
        read.start_time++;
        assert_int_equal(vm_record_open_process(&read, &pidfd), -ESRCH);
        read.start_time--;
        read.boot_id[0] = read.boot_id[0] == 'f' ? 'e' : 'f';
        assert_int_equal(vm_record_open_process(&read, &pidfd), -ESRCH);
        strcpy(read.boot_id, record.boot_id);

        /* dead, then reaped */
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitid(P_PID, (id_t)child, &(siginfo_t){ 0 }, WEXITED | WNOWAIT), 0);
        assert_int_equal(vm_record_open_process(&read, &pidfd), -ESRCH);
        assert_int_equal(waitpid(child, NULL, 0), child);
        assert_int_equal(vm_record_open_process(&read, &pidfd), -ESRCH);
        folder_remove(&f);
}

static void test_record_refuses_rubbish(void **state) {
        static const char *const texts[] = {
                "",
                "{}",
                "[1]",
                "{\"pid\":1,\"start_time\":1,\"boot_id\":\"x\",\"incoming\":false,"
                "\"accelerator\":\"tcg\",\"cpu\":\"c\",\"tap\":\"\",\"memory_fd\":3}",
                "{\"pid\":99999999999,\"start_time\":1,\"boot_id\":\"x\",\"incoming\":false,"
                "\"accelerator\":\"tcg\",\"cpu\":\"c\",\"tap\":\"\",\"memory_fd\":3}",
                "{\"pid\":2,\"start_time\":1,\"boot_id\":\"x\",\"incoming\":false,"
                "\"accelerator\":\"tcg\",\"cpu\":\"c\",\"tap\":\"sixteen-bytes-xx\","
                "\"memory_fd\":3}",
                "{\"pid\":2,\"start_time\":1,\"boot_id\":\"x\",\"incoming\":false,"
                "\"accelerator\":\"tcg\",\"cpu\":\"c\",\"tap\":\"\",\"memory_fd\":-3}",
        };
        folder f = folder_new();
        vm_record record;

        assert_int_equal(vm_record_read(f.fd, &record, NULL), -ENOENT);
        for (size_t i = 0; i < ELEMENTS(texts); i++) {
                assert_int_equal(
                        file_replace(f.fd, VM_RECORD_FILE, texts[i], strlen(texts[i]), 0600, false),
                        0);
                assert_int_equal(vm_record_read(f.fd, &record, NULL), -EBADMSG);
        }
        folder_remove(&f);
}

/* --- files --- */

static void test_memory_keeps_its_size(void **state) {
        struct stat st;
        int fd;

        assert_int_equal(memory_create(1 << 20, &fd, NULL), 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, 1 << 20);
        assert_int_equal(ftruncate(fd, 1 << 19), -1);
        assert_int_equal(ftruncate(fd, 1 << 21), -1);
        assert_int_equal(pwrite(fd, "x", 1, 5), 1);
        fd_close(fd);
}

static void test_users_differ_by_sandbox(void **state) {
        vm_user a = vm_user_choose(0, 0, "/run/ferry/a"), b = vm_user_choose(0, 0, "/run/ferry/b");
        vm_user named = vm_user_choose(4000, 4001, "/run/ferry/a");

        assert_int_equal(a.switch_user, geteuid() == 0);
        if (geteuid() != 0)
                return;
        assert_true(a.uid >= VM_UID_FIRST && a.uid < VM_UID_FIRST + VM_UID_COUNT);
        assert_int_equal(a.uid, a.gid);
        assert_int_not_equal(a.uid, b.uid);
        assert_int_equal(named.uid, 4000);
        assert_int_equal(named.gid, 4001);
}

static void test_boot_file_that_the_user_cannot_read(void **state) {
        folder f = folder_new();
        vm_user user = vm_user_choose(0, 0, f.path);
        char path[64], text[8] = "";
        int fd;

        snprintf(path, sizeof(path), "%s/kernel", f.path);
        assert_int_equal(file_replace(f.fd, "kernel", "KERNEL", 6, 0600, false), 0);
        assert_int_equal(boot_file_open(path, "kernel", &user, &fd, NULL), 0);
        if (geteuid() != 0)
                assert_int_equal(fd, -EBADF);
        else {
                /* a copy, which nobody can change and everybody could open again */
                assert_true(fd >= 0);
                assert_int_equal(pread(fd, text, sizeof(text), 0), 6);
                assert_string_equal(text, "KERNEL");
                assert_int_equal(pwrite(fd, "x", 1, 0), -1);
                fd_close(fd);
        }
        assert_int_equal(boot_file_open("/dev/zero", "kernel", &user, &fd, NULL), -EINVAL);
        assert_int_equal(boot_file_open(f.path, "kernel", &user, &fd, NULL), -EINVAL);
        assert_int_equal(boot_file_open("/nonexistent", "kernel", &user, &fd, NULL), -ENOENT);
        /* we are ourselves again */
        assert_int_equal(access(path, R_OK), 0);
        assert_int_equal(unlinkat(f.fd, "kernel", 0), 0);
        folder_remove(&f);
}

static void test_logs_are_cut(void **state) {
        folder f = folder_new();
        char *text = malloc(5000), *tail;
        struct stat st;
        int fd;

        tail = log_tail(f.fd, "absent");
        assert_string_equal(tail, "");
        free(tail);
        assert_int_equal(log_create(f.fd, "l", &fd, NULL), 0);
        memset(text, 'a', 5000);
        assert_int_equal(fd_write_all(fd, text, 5000), 0);
        assert_int_equal(fd_write_all(fd, "\none\ntw\0\nthree\nfour\n\n", 21), 0);
        tail = log_tail(f.fd, "l");
        assert_string_equal(tail, "one tw  three four");
        free(tail);
        log_limit(f.fd, "l", 10000, 100); /* not yet */
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, 5021);
        log_limit(f.fd, "l", 5000, 100);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, 0);
        assert_int_equal(fstatat(f.fd, "l.old", &st, 0), 0);
        assert_int_equal(st.st_size, 100);
        /* who writes on, writes at the new beginning */
        assert_int_equal(fd_write_all(fd, "more", 4), 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_size, 4);
        fd_close(fd);
        free(text);
        folder_remove(&f);
}

/* --- spawn --- */

static int spawn_shell(const char *script, const int *fds, size_t n_fds, char *ret_output,
                       size_t size, int *ret_status) {
        char *const argv[] = { (char *)"sh", (char *)"-c", (char *)script, NULL };
        int log = memfd_create("log", MFD_CLOEXEC), pidfd = -EBADF, status = 0, r;
        ssize_t n;
        pid_t pid;

        r = vm_spawn(&(vm_spawn_spec){ .program = "/bin/sh",
                                       .argv = argv,
                                       .fds = fds,
                                       .n_fds = n_fds,
                                       .log_fd = log,
                                       .extra_gid = (gid_t)-1 },
                     &pid, &pidfd, NULL);
        if (r == 0) {
                assert_int_equal(waitpid(pid, &status, 0), pid);
                n = pread(log, ret_output, size - 1, 0);
                ret_output[n > 0 ? n : 0] = '\0';
                *ret_status = status;
        }
        fd_close(pidfd);
        fd_close(log);
        return r;
}

static void test_spawn_passes_only_what_it_should(void **state) {
        char output[512];
        int pair[2], fds[2], status, extra;

        assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
        /* in the other order, and numbers that collide with where they go */
        fds[0] = pair[1];
        fds[1] = pair[0];
        extra = open("/dev/null", O_RDONLY); /* not even CLOEXEC */
        assert_int_equal(spawn_shell("echo hello >&3; for i in $(seq 0 99); do"
                                     " test -e /proc/$$/fd/$i && echo $i; done; exit 0",
                                     fds, 2, output, sizeof(output), &status),
                         0);
        assert_int_equal(status, 0);
        assert_string_equal(output, "0\n1\n2\n3\n4\n");
        assert_int_equal(read(pair[0], output, 6), 6);
        assert_memory_equal(output, "hello\n", 6);
        fd_close(extra);
        fd_close(pair[0]);
        fd_close(pair[1]);
}

/* A helper of ours spawns a `sleep` and is killed: what is tied to it goes with it. */
static void test_what_is_tied_ends_with_its_parent(void **state) {
        char *const argv[] = { (char *)"sleep", (char *)"1000", NULL };
        struct pollfd end = { .fd = -1, .events = POLLIN };
        pid_t helper, pids[2], pid;
        int pair[2], pidfd;

        for (int tied = 1; tied >= 0; tied--) {
                assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
                helper = fork();
                assert_true(helper >= 0);
                if (helper == 0) {
                        int log = memfd_create("log", MFD_CLOEXEC);

                        if (vm_spawn(&(vm_spawn_spec){ .program = "/bin/sleep",
                                                       .argv = argv,
                                                       .log_fd = log,
                                                       .extra_gid = (gid_t)-1,
                                                       .ends_with_us = tied },
                                     &pid, &pidfd, NULL) < 0 ||
                            write(pair[1], &pid, sizeof(pid)) != sizeof(pid))
                                _exit(1);
                        for (;;)
                                pause();
                }
                assert_int_equal(read(pair[0], &pids[tied], sizeof(pid)), sizeof(pid));
                end.fd = (int)syscall(SYS_pidfd_open, pids[tied], 0);
                assert_true(end.fd >= 0);
                assert_int_equal(kill(helper, SIGKILL), 0);
                assert_int_equal(waitpid(helper, NULL, 0), helper);
                if (tied)
                        assert_int_equal(poll(&end, 1, 60000), 1);
                else {
                        assert_int_equal(poll(&end, 1, 0), 0);
                        assert_int_equal(syscall(SYS_pidfd_send_signal, end.fd, SIGKILL, NULL, 0),
                                         0);
                        assert_int_equal(poll(&end, 1, 60000), 1);
                }
                fd_close(end.fd);
                fd_close(pair[0]);
                fd_close(pair[1]);
        }
}

static void test_spawn_starts_clean(void **state) {
        char output[512];
        sigset_t block, old;
        int status;

        sigfillset(&block);
        assert_int_equal(sigprocmask(SIG_SETMASK, &block, &old), 0);
        signal(SIGPIPE, SIG_IGN);
        /* builtins only: a shell blocks signals while it starts a program */
        assert_int_equal(spawn_shell("while read key value; do case $key in"
                                     " SigBlk:|SigIgn:|NoNewPrivs:) echo $key $value;; esac;"
                                     " done </proc/$$/status; pwd; ulimit -c; umask",
                                     NULL, 0, output, sizeof(output), &status),
                         0);
        signal(SIGPIPE, SIG_DFL);
        assert_int_equal(sigprocmask(SIG_SETMASK, &old, NULL), 0);
        assert_string_equal(output, "SigBlk: 0000000000000000\nSigIgn: 0000000000000000\n"
                                    "NoNewPrivs: 1\n/\n0\n0077\n");
}

static void test_spawn_failures(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *path = NULL;
        char *const argv[] = { (char *)"x", NULL };
        int pidfd;
        pid_t pid;

        assert_int_equal(vm_spawn(&(vm_spawn_spec){ .program = "/nonexistent/x",
                                                    .argv = argv,
                                                    .log_fd = STDERR_FILENO,
                                                    .extra_gid = (gid_t)-1 },
                                  &pid, &pidfd, &error),
                         -ENOENT);
        assert_string_equal(ferry_error_message(&error),
                            "executing /nonexistent/x: No such file or directory");
        assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nobody left to reap */
        assert_int_equal(vm_find_program("ferry-no-such-program", &path, &error), -ENOENT);
        assert_int_equal(vm_find_program("/etc/passwd", &path, &error), -ENOENT);
        assert_int_equal(vm_find_program("sh", &path, &error), 0);
        assert_non_null(strstr(path, "/sh"));
}

static int refuse_exec(pid_t pid, void *userdata, ferry_error *reterr) {
        *(pid_t *)userdata = pid;
        return -EDQUOT;
}

static void test_spawn_can_be_called_off(void **state) {
        char *const argv[] = { (char *)"sh", (char *)"-c", (char *)"exit 0", NULL };
        pid_t pid, seen = 0;
        int pidfd;

        assert_int_equal(vm_spawn(&(vm_spawn_spec){ .program = "/bin/sh",
                                                    .argv = argv,
                                                    .log_fd = STDERR_FILENO,
                                                    .extra_gid = (gid_t)-1,
                                                    .before_exec = refuse_exec,
                                                    .userdata = &seen },
                                  &pid, &pidfd, NULL),
                         -EDQUOT);
        assert_true(seen > 0);
        assert_int_equal(kill(seen, 0), -1);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_statuses),
                cmocka_unit_test(test_info_by_presence),
                cmocka_unit_test(test_info_nonsense),
                cmocka_unit_test(test_record_finds_the_process),
                cmocka_unit_test(test_record_refuses_rubbish),
                cmocka_unit_test(test_memory_keeps_its_size),
                cmocka_unit_test(test_users_differ_by_sandbox),
                cmocka_unit_test(test_boot_file_that_the_user_cannot_read),
                cmocka_unit_test(test_logs_are_cut),
                cmocka_unit_test(test_spawn_passes_only_what_it_should),
                cmocka_unit_test(test_what_is_tied_ends_with_its_parent),
                cmocka_unit_test(test_spawn_starts_clean),
                cmocka_unit_test(test_spawn_failures),
                cmocka_unit_test(test_spawn_can_be_called_off),
        };

        return cmocka_run_group_tests_name("vm-parts", tests, NULL, NULL);
}
