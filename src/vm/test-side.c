/* SPDX-License-Identifier: MIT */
#include "vm/test-side.h"

#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

const char *qemu = VM_CONFIG_QEMU_DEFAULT;

/* QEMUs of the test that runs: one that fails must not leave them behind. */
static pid_t started[16];
static size_t n_started;

int side_on_limit(sd_event_source *source, uint64_t usec, void *userdata) {
        fail_msg("the test hung");
        return 0;
}

static void on_stop(ferry_vm *vm, uint64_t usec, void *userdata) {
        side *s = userdata;

        assert_true(usec > 0 && usec <= now_usec());
        s->n_stop++;
}

static void on_resume(ferry_vm *vm, uint64_t usec, void *userdata) {
        ((side *)userdata)->n_resume++;
}

static void on_migration(ferry_vm *vm, vm_migration_status status, uint64_t usec, void *userdata) {
        ((side *)userdata)->migration = status;
}

static void on_pass(ferry_vm *vm, uint64_t pass, uint64_t usec, void *userdata) {
        ((side *)userdata)->n_pass++;
}

static void on_mirror_failed(ferry_vm *vm, const char *reason, void *userdata) {
        side *s = userdata;

        s->n_mirrors_failed++;
        snprintf(s->text, sizeof(s->text), "%s", reason);
}

static void on_exit_seen(ferry_vm *vm, const char *reason, void *userdata) {
        side *s = userdata;

        s->n_exit++;
        s->exited = true;
        snprintf(s->text, sizeof(s->text), "%s", reason);
}

const vm_handlers side_handlers = {
        .on_stop = on_stop,
        .on_resume = on_resume,
        .on_migration = on_migration,
        .on_migration_pass = on_pass,
        .on_mirror_failed = on_mirror_failed,
        .on_exit = on_exit_seen,
};

void on_ready(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        side *s = userdata;

        assert_false(s->ready);
        s->ready = true;
        s->ready_r = r;
        if (r < 0)
                snprintf(s->text, sizeof(s->text), "%s", ferry_error_message(error));
}

void on_done(ferry_vm *vm, int r, const ferry_error *error, void *userdata) {
        side *s = userdata;

        s->n_done++;
        s->done_r = r;
        if (r < 0 && !s->exited)
                snprintf(s->text, sizeof(s->text), "%s", ferry_error_message(error));
}

void side_init(side *s, sd_event *event) {
        *s = (side){ .event = event };
        strcpy(s->dir, "/tmp/ferry-test-XXXXXX");
        assert_non_null(mkdtemp(s->dir));
}

void side_done(side *s) {
        char path[512];
        DIR *dir = opendir(s->dir);

        if (s->vm && vm_is_alive(s->vm)) {
                assert_int_equal(vm_kill(s->vm), 0);
                WAIT(s->event, !vm_is_alive(s->vm));
        }
        s->vm = vm_close(s->vm);
        assert_non_null(dir);
        for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
                if (e->d_name[0] == '.')
                        continue;
                /* nothing that means "a QEMU lives here" may be left */
                assert_string_not_equal(e->d_name, "qemu.json");
                assert_string_not_equal(e->d_name, "qmp.sock");
                snprintf(path, sizeof(path), "%s/%s", s->dir, e->d_name);
                (void)unlink(path);
        }
        closedir(dir);
        (void)rmdir(s->dir);
}

void make_disk(const char *path) {
        uint8_t sector[512] = {
                0x31, 0xc0,                         /*       xor ax, ax */
                0x8e, 0xd8,                         /*       mov ds, ax */
                0x66, 0xff, 0x06, 0x00, 0x70,       /* next: inc dword [0x7000] */
                0xb8, 0x00, 0x10,                   /*       mov ax, 0x1000 */
                0x8e, 0xc0,                         /* page: mov es, ax */
                0x26, 0x66, 0xff, 0x06, 0x00, 0x00, /*       inc dword es:[0] */
                0x05, 0x00, 0x01,                   /*       add ax, 0x100 */
                0x3d, 0x00, 0x90,                   /*       cmp ax, 0x9000 */
                0x75, 0xf0,                         /*       jne page */
                0xeb, 0xe6,                         /*       jmp next */
        };
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

        sector[510] = 0x55;
        sector[511] = 0xaa;
        assert_true(fd >= 0);
        assert_int_equal(fd_write_all(fd, sector, sizeof(sector)), 0);
        assert_int_equal(ftruncate(fd, 1 << 20), 0);
        fd_close(fd);
}

vm_config *make_config(const char *disk, const char *more) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_config *config = NULL;
        char text[1024];

        snprintf(text, sizeof(text),
                 "{\"memory_mb\":32,\"accelerator\":\"tcg\",\"qemu\":\"%s\","
                 "\"disks\":[{\"path\":\"%s\"}]%s}",
                 qemu, disk, more);
        if (vm_config_parse(text, strlen(text), &config, &error) < 0)
                fail_msg("%s", ferry_error_message(&error));
        return config;
}

int try_start(side *s, const vm_config *config, vm_mode mode, const char *bridge) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(vm_config_freep) vm_config *own = NULL;
        const char *other = getenv("FERRY_QEMU_INCOMING");
        vm_options options = {
                .state_dir = s->dir, .mode = mode, .bridge = bridge, .memory_fd = s->memory_fd
        };
        int r;

        assert_int_equal(vm_config_dup(config, &own), 0);
        if (mode == VM_MODE_INCOMING && other) {
                free(own->qemu);
                own->qemu = strdup(other);
        }
        options.config = own;
        r = vm_start(s->event, &options, &side_handlers, on_ready, s, &s->vm, &error);
        if (r < 0) {
                snprintf(s->text, sizeof(s->text), "%s", ferry_error_message(&error));
                return r;
        }
        if (n_started < ELEMENTS(started))
                started[n_started++] = vm_get_pid(s->vm);
        WAIT(s->event, s->ready);
        return s->ready_r;
}

void start(side *s, const vm_config *config, vm_mode mode, const char *bridge) {
        if (try_start(s, config, mode, bridge) < 0)
                fail_msg("%s", s->text);
}

uint32_t counter(const ferry_vm *vm) {
        uint32_t value = 0;

        assert_int_equal(pread(vm_get_memory_fd(vm), &value, sizeof(value), COUNTER),
                         sizeof(value));
        return value;
}

/* Both stand still, the one's state loaded by the other. A page that was written and not sent
 * again differs. */
void assert_same_memory(const ferry_vm *a, const ferry_vm *b) {
        size_t n = 1 << 20, n_different = 0;
        char *one = malloc(n), *two = malloc(n);

        assert_true(one && two);
        for (off_t at = 0;; at += (off_t)n) {
                ssize_t k = pread(vm_get_memory_fd(a), one, n, at);

                assert_true(k >= 0);
                assert_int_equal(pread(vm_get_memory_fd(b), two, n, at), k);
                for (ssize_t i = 0; i < k; i += 4096)
                        n_different += memcmp(one + i, two + i, 4096) != 0;
                if (k < (ssize_t)n)
                        break;
        }
        free(one);
        free(two);
        assert_int_equal(n_different, 0);
}

/* The guest has booted and gone on counting after `from`. */
void wait_counting(side *s, uint32_t from) {
        uint64_t end = now_usec() + LIMIT_USEC;

        while (counter(s->vm) <= from) {
                assert_true(now_usec() < end);
                assert_true(sd_event_run(s->event, 1000) >= 0);
        }
}

void connected_pair(int ret[2]) {
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t n = sizeof(address);
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_int_equal(bind(listener, (struct sockaddr *)&address, n), 0);
        assert_int_equal(listen(listener, 1), 0);
        assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &n), 0);
        ret[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(ret[0], (struct sockaddr *)&address, n), 0);
        ret[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        assert_true(ret[1] >= 0);
        fd_close(listener);
}

void on_status(ferry_vm *vm, int r, const ferry_error *error, const vm_status *status,
               void *userdata) {
        side *s = userdata;

        s->done_r = r;
        s->n_done++;
        if (r == 0) {
                snprintf(s->state, sizeof(s->state), "%s", status->state);
                s->running = status->running;
        }
}

void on_info(ferry_vm *vm, int r, const ferry_error *error, const vm_migration_info *info,
             void *userdata) {
        side *s = userdata;

        s->done_r = r;
        s->n_done++;
        if (r == 0) {
                s->info = *info; /* numbers only are looked at */
                s->info.error_description = NULL;
        }
}

sd_event *new_event(void) {
        sd_event *event = NULL;

        assert_true(sd_event_new(&event) >= 0);
        return event;
}

/* A guest that counts, at `s`. Returns the disk's path. */
char *boot(side *s, sd_event *event, vm_config **ret_config, const char *more) {
        char *disk;

        side_init(s, event);
        assert_true(asprintf(&disk, "%s/disk.img", s->dir) > 0);
        make_disk(disk);
        *ret_config = make_config(disk, more);
        start(s, *ret_config, VM_MODE_NORMAL, NULL);
        return disk;
}

int attach(side *s, const vm_config *config) {
        vm_options options = { .config = config, .state_dir = s->dir };
        int r;

        s->ready = false;
        r = vm_attach(s->event, &options, &side_handlers, on_ready, s, &s->vm, NULL);
        if (r < 0)
                return r;
        WAIT(s->event, s->ready);
        return s->ready_r;
}

static unsigned count_fds(void) {
        DIR *dir = opendir("/proc/self/fd");
        unsigned n = 0;

        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}

int remember_fds(void **state) {
        *state = (void *)(uintptr_t)count_fds();
        return 0;
}

int no_fd_leaked(void **state) {
        while (n_started > 0) {
                pid_t pid = started[--n_started];

                /* not our child any more, unless its test failed; 0: the probe came first */
                if (pid > 0 && waitpid(pid, NULL, WNOHANG) == 0 && kill(pid, SIGKILL) == 0)
                        (void)waitpid(pid, NULL, 0);
        }
        return count_fds() == (unsigned)(uintptr_t)*state ? 0 : -1;
}
