/* SPDX-License-Identifier: MIT */
#include "vm/record.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include <jansson.h>

#include "base/fd.h"

#define RECORD_TEXT_MAX 4096U

int boot_id_read(char ret[BOOT_ID_SIZE]) {
        _cleanup_(freep) char *text = NULL;
        size_t n;
        int r;

        r = file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &text, &n);
        if (r < 0)
                return r;
        if (n < BOOT_ID_SIZE - 1)
                return -EBADMSG;
        memcpy(ret, text, BOOT_ID_SIZE - 1);
        ret[BOOT_ID_SIZE - 1] = '\0';
        return 0;
}

int process_start_time(pid_t pid, uint64_t *ret) {
        _cleanup_(freep) char *text = NULL;
        char path[32], state;
        unsigned long long start;
        const char *after_name;
        size_t n;
        int r;

        snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
        r = file_read(AT_FDCWD, path, 4096, &text, &n);
        if (r == -ENOENT)
                return -ESRCH;
        if (r < 0)
                return r;
        /* "pid (name) state ppid ...": the name may hold anything, ")" too */
        after_name = strrchr(text, ')');
        if (!after_name ||
            sscanf(after_name + 1,
                   " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d "
                   "%llu",
                   &state, &start) != 2)
                return -EBADMSG;
        if (state == 'Z' || state == 'X')
                return -ESRCH;
        *ret = start;
        return 0;
}

int vm_record_write(int dir_fd, vm_record *record, ferry_error *reterr) {
        _cleanup_(json_decrefp) json_t *root = NULL;
        _cleanup_(freep) char *text = NULL;
        int r;

        r = process_start_time(record->pid, &record->start_time);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "QEMU's start time");
        r = boot_id_read(record->boot_id);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "boot id");
        root = json_pack("{s:I, s:I, s:s, s:b, s:s, s:s, s:s, s:i}", "pid", (json_int_t)record->pid,
                         "start_time", (json_int_t)record->start_time, "boot_id", record->boot_id,
                         "incoming", record->mode == VM_MODE_INCOMING, "accelerator",
                         vm_accelerator_to_string(record->accelerator), "cpu", record->cpu, "tap",
                         record->tap, "memory_fd", record->memory_fd);
        if (root)
                text = json_dumps(root, JSON_INDENT(1) | JSON_SORT_KEYS);
        if (!text)
                return ferry_error_set_errno(reterr, -ENOMEM, VM_RECORD_FILE);
        r = file_replace(dir_fd, VM_RECORD_FILE, text, strlen(text), 0600, false);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "write " VM_RECORD_FILE);
        return 0;
}

static int record_parse(const char *text, size_t n, vm_record *ret) {
        _cleanup_(json_decrefp) json_t *root = json_loadb(text, n, 0, NULL);
        const char *boot_id, *accelerator, *cpu, *tap;
        json_int_t pid, start_time;
        int incoming, memory_fd;

        if (json_unpack(root, "{s:I, s:I, s:s, s:b, s:s, s:s, s:s, s:i}", "pid", &pid, "start_time",
                        &start_time, "boot_id", &boot_id, "incoming", &incoming, "accelerator",
                        &accelerator, "cpu", &cpu, "tap", &tap, "memory_fd", &memory_fd) < 0)
                return -EBADMSG;
        if (pid < 2 || pid > INT32_MAX || start_time < 0 || memory_fd < 0 || memory_fd > 4096 ||
            strlen(boot_id) >= sizeof(ret->boot_id) || strlen(cpu) >= sizeof(ret->cpu) ||
            strlen(tap) >= sizeof(ret->tap))
                return -EBADMSG;
        *ret = (vm_record){
                .pid = (pid_t)pid,
                .start_time = (uint64_t)start_time,
                .mode = incoming ? VM_MODE_INCOMING : VM_MODE_NORMAL,
                .accelerator =
                        strcmp(accelerator, "kvm") == 0 ? VM_ACCELERATOR_KVM : VM_ACCELERATOR_TCG,
                .memory_fd = memory_fd,
        };
        strcpy(ret->boot_id, boot_id);
        strcpy(ret->cpu, cpu);
        strcpy(ret->tap, tap);
        return 0;
}

int vm_record_read(int dir_fd, vm_record *ret, ferry_error *reterr) {
        _cleanup_(freep) char *text = NULL;
        size_t n;
        int r;

        r = file_read(dir_fd, VM_RECORD_FILE, RECORD_TEXT_MAX, &text, &n);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, VM_RECORD_FILE);
        r = record_parse(text, n, ret);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, VM_RECORD_FILE);
        return 0;
}

int vm_record_open_process(const vm_record *record, int *ret_pidfd) {
        _cleanup_(closep) int pidfd = -EBADF;
        char boot_id[BOOT_ID_SIZE];
        uint64_t start_time;
        int r;

        r = boot_id_read(boot_id);
        if (r < 0)
                return r;
        if (strcmp(boot_id, record->boot_id) != 0)
                return -ESRCH;
        pidfd = (int)syscall(SYS_pidfd_open, record->pid, 0);
        if (pidfd < 0)
                return errno == EINVAL ? -ESRCH : -errno;
        /* The start time is read after: the pidfd holds on to whoever had the pid before. */
        r = process_start_time(record->pid, &start_time);
        if (r < 0)
                return r;
        if (start_time != record->start_time)
                return -ESRCH;
        *ret_pidfd = TAKE_FD(pidfd);
        return 0;
}

int vm_record_kill_incoming(int dir_fd) {
        _cleanup_(closep) int process = -EBADF;
        struct pollfd end = { .events = POLLIN };
        vm_record record;
        int r;

        r = vm_record_read(dir_fd, &record, NULL);
        if (r == 0)
                r = record.mode == VM_MODE_INCOMING ? vm_record_open_process(&record, &process)
                                                    : -ESRCH;
        if (r < 0)
                return r;
        if (syscall(SYS_pidfd_send_signal, process, SIGKILL, NULL, 0) < 0)
                return -errno;
        end.fd = process;
        return poll(&end, 1, 1000) == 1 ? 0 : -ETIMEDOUT;
}
