/* SPDX-License-Identifier: MIT */
#include "vm/ability.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "vm/facts.h"
#include "vm/record.h"
#include "vm/spawn.h"

/* First as the guest would run. If QEMU refuses that, once more without a machine: it then says
 * which machine types and CPU models it has, so that both can be named. */

#define LIMIT_USEC     (10 * USEC_PER_SEC)
#define CACHE_TEXT_MAX 131072U
#define LOG_TEXT_MAX   1024U

struct vm_ability {
        sd_event *event;
        sd_event_source *timer, *defer;
        char *program, *machine, *cpu, *accelerator, *cache_path, *cache_key;
        vm_user user;
        uint64_t limit_usec;
        bool asks_lists;
        int log_fd;
        pid_t pid;
        int pidfd;
        qmp_client *qmp;
        vm_facts_store *facts;
        char version[256], *reason;
        bool knows_machine, knows_cpu;
        vm_ability_done done;
        void *userdata;
};

static void end_qemu(vm_ability *a) {
        a->timer = sd_event_source_disable_unref(a->timer);
        if (a->pid > 0) {
                (void)kill(a->pid, SIGKILL); /* our child, not reaped: the pid is its own */
                while (waitpid(a->pid, NULL, 0) < 0 && errno == EINTR)
                        ;
        }
        a->pid = 0;
        a->pidfd = fd_close(a->pidfd);
}

vm_ability *vm_ability_free(vm_ability *a) {
        if (!a)
                return NULL;
        a->done = NULL;
        qmp_client_close(TAKE_PTR(a->qmp));
        end_qemu(a);
        sd_event_source_disable_unref(a->defer);
        fd_close(a->log_fd);
        vm_facts_store_free(a->facts);
        free(a->program);
        free(a->machine);
        free(a->cpu);
        free(a->accelerator);
        free(a->cache_path);
        free(a->cache_key);
        free(a->reason);
        sd_event_unref(a->event);
        free(a);
        return NULL;
}

/* --- cache --- */

static int make_cache_key(vm_ability *a) {
        char boot_id[BOOT_ID_SIZE];
        struct stat st;
        int r;

        r = boot_id_read(boot_id);
        if (r < 0)
                return r;
        if (stat(a->program, &st) < 0)
                return -errno;
        if (asprintf(&a->cache_key, "%s %s %lld %lld.%09ld %s %s %s", boot_id, a->program,
                     (long long)st.st_size, (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                     a->machine, a->cpu, a->accelerator) < 0) {
                a->cache_key = NULL;
                return -ENOMEM;
        }
        return 0;
}

static bool cache_read(vm_ability *a) {
        _cleanup_(json_decrefp) json_t *root = NULL;
        _cleanup_(freep) char *text = NULL;
        const char *key;
        size_t n;

        if (!a->cache_path || file_read(AT_FDCWD, a->cache_path, CACHE_TEXT_MAX, &text, &n) < 0)
                return false;
        root = json_loadb(text, n, 0, NULL);
        key = json_string_value(json_object_get(root, "key"));
        return key && strcmp(key, a->cache_key) == 0 &&
               vm_facts_from_json(json_object_get(root, "facts"), &a->facts) == 0;
}

/* Best effort: without it the next one asks again. */
static void cache_write(const vm_ability *a) {
        _cleanup_(json_decrefp) json_t *root = NULL;
        _cleanup_(freep) char *text = NULL;

        if (!a->cache_path)
                return;
        root = json_pack("{s:s, s:o}", "key", a->cache_key, "facts",
                         vm_facts_to_json(vm_facts_store_get(a->facts)));
        if (root)
                text = json_dumps(root, JSON_COMPACT | JSON_SORT_KEYS);
        if (text)
                (void)file_replace(AT_FDCWD, a->cache_path, text, strlen(text), 0600, false);
}

/* --- the end --- */

static int on_report(sd_event_source *source, void *userdata) {
        vm_ability *a = userdata;
        vm_ability_result result = {
                .facts = a->facts ? vm_facts_store_get(a->facts) : NULL,
                .reason = a->reason ? a->reason : "",
                .knows_machine = a->facts || a->knows_machine,
                .knows_cpu = a->facts || a->knows_cpu,
        };

        a->defer = sd_event_source_disable_unref(a->defer);
        result.qemu_version = result.facts ? result.facts->qemu_version : a->version;
        a->done(&result, a->userdata); /* may free it */
        return 0;
}

/* From handlers of the QMP client and of its end too: nothing of it is needed any more. */
static int report(vm_ability *a) {
        qmp_client_close(TAKE_PTR(a->qmp));
        end_qemu(a);
        return a->defer ? 0 : sd_event_add_defer(a->event, &a->defer, on_report, a);
}

/* The last thing it said, without its name before it. */
static char *last_words(const vm_ability *a) {
        char log[LOG_TEXT_MAX], *text = log, *colon;
        ssize_t n = pread(a->log_fd, log, sizeof(log) - 1, 0);

        log[n > 0 ? n : 0] = '\0';
        log[strcspn(log, "\n")] = '\0';
        colon = strstr(log, ": ");
        if (colon)
                text = colon + 2;
        return strdup(*text ? text : "QEMU said nothing");
}

/* --- QEMU --- */

static int run_qemu(vm_ability *a, ferry_error *reterr);

static void failed(vm_ability *a, const char *reason) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        qmp_client_close(TAKE_PTR(a->qmp));
        end_qemu(a);
        if (!a->reason)
                a->reason = reason ? strdup(reason) : last_words(a);
        if (!a->asks_lists) {
                a->asks_lists = true;
                if (run_qemu(a, &error) == 0)
                        return;
        }
        (void)report(a);
}

static void on_collected(int r, const ferry_error *error, vm_facts_store *store_consume,
                         void *userdata) {
        vm_ability *a = userdata;

        if (r == -ECANCELED)
                return;
        if (r < 0) {
                failed(a, ferry_error_message(error));
                return;
        }
        a->facts = store_consume;
        cache_write(a);
        (void)report(a);
}

static bool names(const json_t *list, const char *name) {
        for (size_t i = 0; i < json_array_size(list); i++) {
                const char *entry =
                        json_string_value(json_object_get(json_array_get(list, i), "name"));

                if (entry && strcmp(entry, name) == 0)
                        return true;
        }
        return false;
}

static void on_machines(qmp_client *client, int r, const json_t *value, const qmp_error *refused,
                        void *userdata) {
        vm_ability *a = userdata;

        if (r == 0 && !refused)
                a->knows_machine = names(value, a->machine);
}

static void on_cpus(qmp_client *client, int r, const json_t *value, const qmp_error *refused,
                    void *userdata) {
        vm_ability *a = userdata;

        if (r == -ECANCELED)
                return;
        if (r == 0 && !refused)
                a->knows_cpu = names(value, a->cpu);
        (void)report(a);
}

static void on_ready(qmp_client *client, const qmp_version *v, void *userdata) {
        vm_ability *a = userdata;
        int r;

        snprintf(a->version, sizeof(a->version), "%u.%u.%u%s%s", v->major, v->minor, v->micro,
                 v->package[0] ? " " : "", v->package);
        if (!a->asks_lists)
                r = vm_facts_collect(client, a->limit_usec, on_collected, a);
        else {
                r = qmp_client_invoke(client, "query-machines", NULL, a->limit_usec, on_machines,
                                      a);
                if (r == 0)
                        r = qmp_client_invoke(client, "query-cpu-definitions", NULL, a->limit_usec,
                                              on_cpus, a);
        }
        if (r < 0)
                failed(a, strerror(-r));
}

static void on_disconnect(qmp_client *client, int r, const char *reason, void *userdata) {
        vm_ability *a = userdata;

        if (client == a->qmp)
                failed(a, NULL);
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata) {
        vm_ability *a = userdata;

        a->asks_lists = true; /* it would hang again */
        failed(a, "QEMU did not answer");
        return 0;
}

static const qmp_client_handlers handlers = {
        .on_ready = on_ready,
        .on_disconnect = on_disconnect,
};

static int spawn(vm_ability *a, int fd, ferry_error *reterr) {
        _cleanup_(freep) char *cpu = NULL;
        char *argv[32];
        size_t n = 0;

        if (asprintf(&cpu, "%s%s", a->cpu, strcmp(a->accelerator, "kvm") == 0 ? ",enforce" : "") <
            0) {
                cpu = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "probe QEMU");
        }
        argv[n++] = a->program;
        argv[n++] = (char *)"-machine";
        argv[n++] = a->asks_lists ? (char *)"none" : a->machine;
        argv[n++] = (char *)"-accel";
        argv[n++] = a->accelerator;
        if (!a->asks_lists) {
                argv[n++] = (char *)"-cpu";
                argv[n++] = cpu;
                argv[n++] = (char *)"-m";
                argv[n++] = (char *)"16";
        }
        argv[n++] = (char *)"-S";
        argv[n++] = (char *)"-nodefaults";
        argv[n++] = (char *)"-no-user-config";
        argv[n++] = (char *)"-nographic";
        argv[n++] = (char *)"-sandbox";
        argv[n++] =
                (char *)"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
        argv[n++] = (char *)"-chardev";
        argv[n++] = (char *)"socket,id=qmp,fd=3";
        argv[n++] = (char *)"-mon";
        argv[n++] = (char *)"chardev=qmp,mode=control";
        argv[n] = NULL;
        return vm_spawn(&(vm_spawn_spec){ .program = a->program,
                                          .argv = argv,
                                          .fds = &fd,
                                          .n_fds = 1,
                                          .log_fd = a->log_fd,
                                          .switch_user = a->user.switch_user,
                                          .uid = a->user.uid,
                                          .gid = a->user.gid,
                                          .extra_gid = a->user.kvm_gid,
                                          .ends_with_us = true },
                        &a->pid, &a->pidfd, reterr);
}

static int run_qemu(vm_ability *a, ferry_error *reterr) {
        _cleanup_(closep) int ours = -EBADF, theirs = -EBADF;
        int fds[2], r;

        if (ftruncate(a->log_fd, 0) < 0 || lseek(a->log_fd, 0, SEEK_SET) < 0)
                return ferry_error_set_errno(reterr, -errno, "probe log");
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
                return ferry_error_set_errno(reterr, -errno, "probe QEMU");
        ours = fds[0];
        theirs = fds[1];
        r = fd_set_nonblock(ours, true);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "probe QEMU");
        r = spawn(a, theirs, reterr);
        if (r < 0)
                return r;
        r = qmp_client_new(a->event, TAKE_FD(ours), a->limit_usec, &handlers, a, &a->qmp);
        if (r >= 0)
                r = sd_event_add_time_relative(a->event, &a->timer, CLOCK_MONOTONIC, a->limit_usec,
                                               10 * USEC_PER_MSEC, on_timeout, a);
        return r < 0 ? ferry_error_set_errno(reterr, r, "probe QEMU") : 0;
}

/* --- start --- */

static int copy(const char *text, char **ret) {
        if (!text)
                return 0;
        *ret = strdup(text);
        return *ret ? 0 : -ENOMEM;
}

int vm_ability_start(sd_event *event, const vm_ability_options *options, vm_ability_done done,
                     void *userdata, vm_ability **ret, ferry_error *reterr) {
        _cleanup_(vm_ability_freep) vm_ability *a = malloc(sizeof(*a));
        int r;

        if (!a)
                return ferry_error_set_errno(reterr, -ENOMEM, "probe QEMU");
        *a = (vm_ability){
                .event = sd_event_ref(event),
                .user = options->user,
                .limit_usec = options->limit_usec != 0 ? options->limit_usec : LIMIT_USEC,
                .log_fd = -EBADF,
                .pidfd = -EBADF,
                .done = done,
                .userdata = userdata,
        };
        if (copy(options->machine, &a->machine) < 0 || copy(options->cpu, &a->cpu) < 0 ||
            copy(options->accelerator, &a->accelerator) < 0 ||
            copy(options->cache_path, &a->cache_path) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "probe QEMU");
        r = vm_find_program(options->qemu, &a->program, reterr);
        if (r < 0)
                return r;
        r = make_cache_key(a);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "probe QEMU");
        if (cache_read(a))
                r = report(a);
        else {
                a->log_fd = memfd_create("ferry-probe-log", MFD_CLOEXEC);
                if (a->log_fd < 0)
                        return ferry_error_set_errno(reterr, -errno, "probe log");
                r = run_qemu(a, reterr);
        }
        if (r < 0)
                return r;
        *ret = TAKE_PTR(a);
        return 0;
}
