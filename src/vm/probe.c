/* SPDX-License-Identifier: MIT */
#include "vm/probe.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "vm/record.h"
#include "vm/spawn.h"

#define LIMIT_USEC     (2 * USEC_PER_SEC)
#define EXIT_WORKS     33 /* isa-debug-exit: (0x10 << 1) | 1 */
#define ROM_SIZE       65536U
#define ROM_RESET      0xfff0U
#define CACHE_TEXT_MAX 4096U

/* Best first. Each is a model that hosts of many makes can give; newer hosts give it too, so a
 * sandbox can move between them. */
static const char *const cpu_candidates[] = { "Haswell-v2", "Westmere-v1", "Nehalem-v1" };

/* What the guest does, from the reset vector: to protected mode, fill 256 KiB, add it up, cpuid,
 * then 0x10 to port 0xf4. Made with `as --32` and `objcopy -O binary` from:
 *
 *         .code16
 * start:  cli;  lgdtl %cs:(gdt_ptr - start)
 *         movl %cr0, %eax;  orb $1, %al;  movl %eax, %cr0
 *         ljmpl $8, $(0xffff0000 + protected - start)
 *         .code32
 * protected: movw $16, %ax;  movw %ax, %ds;  movw %ax, %es
 *         movl $0x100000, %edi;  movl $0x10000, %ecx;  xorl %eax, %eax
 * fill:   movl %eax, (%edi,%eax,4);  incl %eax;  cmpl %ecx, %eax;  jne fill
 *         xorl %eax, %eax;  xorl %ebx, %ebx
 * sum:    addl (%edi,%eax,4), %ebx;  incl %eax;  cmpl %ecx, %eax;  jne sum
 *         cmpl $0x7fff8000, %ebx;  jne halt
 *         xorl %eax, %eax;  cpuid
 *         movl $0x10, %eax;  movw $0xf4, %dx;  outb %al, %dx
 * halt:   hlt;  jmp halt
 *         .balign 8
 * gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
 * gdt_ptr: .word 23;  .long 0xffff0000 + gdt - start */
static const uint8_t rom_code[] = {
        0xfa, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x78, 0x00, 0x0f, 0x20, 0xc0, 0x0c, 0x01, 0x0f,
        0x22, 0xc0, 0x66, 0xea, 0x18, 0x00, 0xff, 0xff, 0x08, 0x00, 0x66, 0xb8, 0x10, 0x00,
        0x8e, 0xd8, 0x8e, 0xc0, 0xbf, 0x00, 0x00, 0x10, 0x00, 0xb9, 0x00, 0x00, 0x01, 0x00,
        0x31, 0xc0, 0x89, 0x04, 0x87, 0x40, 0x39, 0xc8, 0x75, 0xf8, 0x31, 0xc0, 0x31, 0xdb,
        0x03, 0x1c, 0x87, 0x40, 0x39, 0xc8, 0x75, 0xf8, 0x81, 0xfb, 0x00, 0x80, 0xff, 0x7f,
        0x75, 0x0e, 0x31, 0xc0, 0x0f, 0xa2, 0xb8, 0x10, 0x00, 0x00, 0x00, 0x66, 0xba, 0xf4,
        0x00, 0xee, 0xf4, 0xeb, 0xfd, 0x8d, 0xb4, 0x00, 0x00, 0x8d, 0x74, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9b, 0xcf, 0x00,
        0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00, 0x17, 0x00, 0x60, 0x00, 0xff, 0xff,
};
/* at the reset vector: jmp start */
static const uint8_t rom_reset[] = { 0xe9, 0x0d, 0x00 };

struct vm_probe {
        sd_event *event;
        sd_event_source *exit_source, *timer, *defer;
        char *program, *machine, *cpu, *cache_path, *cache_key, *accelerator;
        vm_user user;
        uint64_t limit_usec;
        size_t candidate; /* in cpu_candidates, when cpu is NULL */
        int rom_fd, log_fd;
        pid_t pid;
        int pidfd;
        bool works;
        char *found_cpu, *reason;
        vm_probe_done done;
        void *userdata;
};

static void kill_guest(vm_probe *probe) {
        probe->exit_source = sd_event_source_disable_unref(probe->exit_source);
        probe->timer = sd_event_source_disable_unref(probe->timer);
        if (probe->pid > 0) {
                (void)kill(probe->pid, SIGKILL); /* our child, not reaped: the pid is its own */
                while (waitpid(probe->pid, NULL, 0) < 0 && errno == EINTR)
                        ;
        }
        probe->pid = 0;
        probe->pidfd = fd_close(probe->pidfd);
}

int vm_probe_apply(const vm_probe_result *result, vm_config *config, ferry_error *reterr) {
        bool works = result && result->works;

        if (result && !works && config->accelerator == VM_ACCELERATOR_KVM)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EOPNOTSUPP,
                                       "KVM does not run guests here: %s", result->reason);
        if (result && !works)
                log_debug("no KVM: %s", result->reason);
        config->accelerator = works ? VM_ACCELERATOR_KVM : VM_ACCELERATOR_TCG;
        if (config->cpu)
                return 0;
        config->cpu = strdup(works ? result->cpu : VM_CONFIG_CPU_TCG);
        return config->cpu ? 0 : ferry_error_set_errno(reterr, -ENOMEM, "CPU model");
}

vm_probe *vm_probe_free(vm_probe *probe) {
        if (!probe)
                return NULL;
        kill_guest(probe);
        sd_event_source_disable_unref(probe->defer);
        fd_close(probe->rom_fd);
        fd_close(probe->log_fd);
        free(probe->program);
        free(probe->machine);
        free(probe->cpu);
        free(probe->cache_path);
        free(probe->cache_key);
        free(probe->accelerator);
        free(probe->found_cpu);
        free(probe->reason);
        sd_event_unref(probe->event);
        free(probe);
        return NULL;
}

static void report(vm_probe *probe) {
        char *cpu = TAKE_PTR(probe->found_cpu), *reason = TAKE_PTR(probe->reason);
        vm_probe_result result = {
                .works = probe->works,
                .cpu = cpu ? cpu : "",
                .reason = reason ? reason : (probe->works ? "" : "out of memory"),
        };

        probe->done(&result, probe->userdata); /* may free the probe */
        free(cpu);
        free(reason);
}

/* --- cache --- */

/* What the result depends on. The binary's size and time stand for its version, without running
 * it. */
static int make_cache_key(vm_probe *probe) {
        char boot_id[BOOT_ID_SIZE];
        struct stat st, kvm = { 0 };
        int r;

        r = boot_id_read(boot_id);
        if (r < 0)
                return r;
        if (stat(probe->program, &st) < 0)
                return -errno;
        (void)stat("/dev/kvm", &kvm);
        if (asprintf(&probe->cache_key, "%s %s %lld %lld.%09ld %s %s %s %d %o:%u:%u", boot_id,
                     probe->program, (long long)st.st_size, (long long)st.st_mtim.tv_sec,
                     st.st_mtim.tv_nsec, probe->machine, probe->cpu ? probe->cpu : "any",
                     probe->accelerator, probe->user.switch_user, kvm.st_mode, kvm.st_uid,
                     kvm.st_gid) < 0) {
                probe->cache_key = NULL;
                return -ENOMEM;
        }
        return 0;
}

static bool cache_read(vm_probe *probe) {
        _cleanup_(json_decrefp) json_t *root = NULL;
        _cleanup_(freep) char *text = NULL;
        const char *key, *cpu, *reason;
        int works;
        size_t n;

        if (!probe->cache_path ||
            file_read(AT_FDCWD, probe->cache_path, CACHE_TEXT_MAX, &text, &n) < 0)
                return false;
        root = json_loadb(text, n, 0, NULL);
        if (json_unpack(root, "{s:s, s:b, s:s, s:s}", "key", &key, "works", &works, "cpu", &cpu,
                        "reason", &reason) < 0 ||
            strcmp(key, probe->cache_key) != 0)
                return false;
        probe->found_cpu = strdup(cpu);
        probe->reason = strdup(reason);
        probe->works = works;
        return probe->found_cpu && probe->reason;
}

/* Best effort: without it the next start asks again. */
static void cache_write(vm_probe *probe) {
        _cleanup_(json_decrefp) json_t *root = NULL;
        _cleanup_(freep) char *text = NULL;

        if (!probe->cache_path)
                return;
        root = json_pack("{s:s, s:b, s:s, s:s}", "key", probe->cache_key, "works",
                         (int)probe->works, "cpu", probe->found_cpu ? probe->found_cpu : "",
                         "reason", probe->reason ? probe->reason : "");
        if (root)
                text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
        if (text)
                (void)file_replace(AT_FDCWD, probe->cache_path, text, strlen(text), 0600, false);
}

/* --- the guest --- */

static int make_rom(int *ret_fd) {
        _cleanup_(closep) int fd = memfd_create("ferry-probe", MFD_CLOEXEC);

        if (fd < 0 || ftruncate(fd, ROM_SIZE) < 0 ||
            pwrite(fd, rom_code, sizeof(rom_code), 0) != (ssize_t)sizeof(rom_code) ||
            pwrite(fd, rom_reset, sizeof(rom_reset), ROM_RESET) != (ssize_t)sizeof(rom_reset))
                return errno ? -errno : -EIO;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static const char *current_cpu(const vm_probe *probe) {
        if (probe->cpu)
                return probe->cpu;
        return probe->candidate < ELEMENTS(cpu_candidates) ? cpu_candidates[probe->candidate]
                                                           : NULL;
}

static void finish(vm_probe *probe, bool works, const char *reason) {
        const char *cpu = current_cpu(probe);

        probe->works = works;
        free(probe->reason);
        probe->reason = strdup(reason);
        if (works)
                probe->found_cpu = strdup(cpu);
        cache_write(probe);
        report(probe);
}

static int run_guest(vm_probe *probe, ferry_error *reterr);

/* The last thing it said, without the name that it begins with. */
static void read_log(const vm_probe *probe, char *ret, size_t size) {
        ssize_t n = pread(probe->log_fd, ret, size - 1, 0);
        char *line;

        ret[n > 0 ? n : 0] = '\0';
        while (n > 0 && ret[n - 1] == '\n')
                ret[--n] = '\0';
        line = strrchr(ret, '\n');
        if (line)
                memmove(ret, line + 1, strlen(line + 1) + 1);
}

static void next_candidate(vm_probe *probe, const char *reason) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        probe->candidate++;
        if (probe->cpu || !current_cpu(probe))
                finish(probe, false, reason);
        else if (run_guest(probe, &error) < 0)
                finish(probe, false, ferry_error_message(&error));
}

static int on_exit_guest(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        vm_probe *probe = userdata;
        siginfo_t info = { 0 };
        char log[1024], reason[1200];

        if (waitid(P_PIDFD, (id_t)probe->pidfd, &info, WEXITED) == 0)
                probe->pid = 0; /* reaped */
        kill_guest(probe);
        if (info.si_code == CLD_EXITED && info.si_status == EXIT_WORKS) {
                finish(probe, true, "");
                return 0;
        }
        read_log(probe, log, sizeof(log));
        snprintf(reason, sizeof(reason), "the probe guest did not run: %s",
                 log[0] != '\0' ? log : "QEMU said nothing");
        next_candidate(probe, reason);
        return 0;
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        vm_probe *probe = userdata;

        kill_guest(probe);
        /* Another CPU model will not cure that. */
        finish(probe, false, "the probe guest hung");
        return 0;
}

static int run_guest(vm_probe *probe, ferry_error *reterr) {
        _cleanup_(freep) char *cpu = NULL;
        int r;

        if (ftruncate(probe->log_fd, 0) < 0 || lseek(probe->log_fd, 0, SEEK_SET) < 0)
                return ferry_error_set_errno(reterr, -errno, "probe log");
        if (asprintf(&cpu, "%s%s", current_cpu(probe),
                     strcmp(probe->accelerator, "kvm") == 0 ? ",enforce" : "") < 0) {
                cpu = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "probe");
        }
        char *const argv[] = {
                probe->program,
                (char *)"-machine",
                probe->machine,
                (char *)"-accel",
                probe->accelerator,
                (char *)"-cpu",
                cpu,
                (char *)"-m",
                (char *)"16",
                (char *)"-nodefaults",
                (char *)"-no-user-config",
                (char *)"-nographic",
                (char *)"-sandbox",
                (char *)"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
                (char *)"-bios",
                (char *)"/proc/self/fd/3",
                (char *)"-device",
                (char *)"isa-debug-exit,iobase=0xf4,iosize=1",
                NULL,
        };
        r = vm_spawn(&(vm_spawn_spec){ .program = probe->program,
                                       .argv = argv,
                                       .fds = &probe->rom_fd,
                                       .n_fds = 1,
                                       .log_fd = probe->log_fd,
                                       .switch_user = probe->user.switch_user,
                                       .uid = probe->user.uid,
                                       .gid = probe->user.gid,
                                       .extra_gid = probe->user.kvm_gid,
                                       .ends_with_us = true },
                     &probe->pid, &probe->pidfd, reterr);
        if (r < 0)
                return r;
        r = sd_event_add_io(probe->event, &probe->exit_source, probe->pidfd, EPOLLIN, on_exit_guest,
                            probe);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "probe");
        r = sd_event_add_time_relative(probe->event, &probe->timer, CLOCK_MONOTONIC,
                                       probe->limit_usec, 10 * USEC_PER_MSEC, on_timeout, probe);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "probe");
        return 0;
}

/* --- start --- */

static int on_defer(sd_event_source *source, void *userdata) {
        report(userdata);
        return 0;
}

static int report_later(vm_probe *probe, ferry_error *reterr) {
        int r = sd_event_add_defer(probe->event, &probe->defer, on_defer, probe);

        return r < 0 ? ferry_error_set_errno(reterr, r, "probe") : 0;
}

static char *copy_or_null(const char *text, bool *failed) {
        char *copy = text ? strdup(text) : NULL;

        *failed = *failed || (text && !copy);
        return copy;
}

int vm_probe_start(sd_event *event, const vm_probe_options *options, vm_probe_done done,
                   void *userdata, vm_probe **ret, ferry_error *reterr) {
        _cleanup_(vm_probe_freep) vm_probe *probe = NULL;
        bool failed = false;
        int r;

        probe = malloc(sizeof(*probe));
        if (!probe)
                return ferry_error_set_errno(reterr, -ENOMEM, "probe");
        *probe = (vm_probe){
                .event = sd_event_ref(event),
                .user = options->user,
                .limit_usec = options->limit_usec != 0 ? options->limit_usec : LIMIT_USEC,
                .rom_fd = -EBADF,
                .log_fd = -EBADF,
                .pidfd = -EBADF,
                .done = done,
                .userdata = userdata,
        };
        probe->machine = copy_or_null(options->machine, &failed);
        probe->cpu = copy_or_null(options->cpu, &failed);
        probe->cache_path = copy_or_null(options->cache_path, &failed);
        probe->accelerator =
                copy_or_null(options->accelerator ? options->accelerator : "kvm", &failed);
        if (failed)
                return ferry_error_set_errno(reterr, -ENOMEM, "probe");
        r = vm_find_program(options->qemu, &probe->program, reterr);
        if (r < 0)
                return r;
        r = make_cache_key(probe);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "probe");
        if (cache_read(probe)) {
                r = report_later(probe, reterr);
        } else if (strcmp(probe->accelerator, "kvm") == 0 && access("/dev/kvm", F_OK) < 0) {
                probe->reason = strdup("there is no /dev/kvm");
                r = report_later(probe, reterr);
        } else {
                r = make_rom(&probe->rom_fd);
                if (r < 0)
                        return ferry_error_set_errno(reterr, r, "probe guest");
                probe->log_fd = memfd_create("ferry-probe-log", MFD_CLOEXEC);
                if (probe->log_fd < 0)
                        return ferry_error_set_errno(reterr, -errno, "probe log");
                r = run_guest(probe, reterr);
        }
        if (r < 0)
                return r;
        *ret = TAKE_PTR(probe);
        return 0;
}
