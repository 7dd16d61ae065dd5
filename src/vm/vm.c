/* SPDX-License-Identifier: MIT */
#include "vm/vm.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "vm/migration-info.h"
#include "vm/vm-internal.h"

/* The life of a VM:
 *
 *   start -> PROBING -> STARTING -> READY -> EXITED
 *                 \         \-> FAILING -> FAILED
 *   attach -----------> STARTING -> READY or FAILED
 *
 * QMP's end and the process's end are two events; QMP's comes first as a rule and is only
 * believed to be the process's end when the pidfd says so. */

#define GREETING_TIMEOUT_USEC (60 * USEC_PER_SEC) /* a loaded host, a large guest */
#define REGREET_TIMEOUT_USEC  (15 * USEC_PER_SEC) /* QEMU is up: it answers or it hangs */
#define LOST_GRACE_USEC       (2 * USEC_PER_SEC)
#define LOG_CHECK_USEC        (5 * USEC_PER_SEC)
#define LOG_MAX               (16ULL * 1024 * 1024)
#define LOG_KEEP              (1024ULL * 1024)
/* QEMU's default is 128 MiB/s; the switchover policy decides, not that. Bytes a second. */
#define BANDWIDTH_UNLIMITED 1000000000000LL

/* --- memory --- */

void vm_pin(ferry_vm *vm) {
        vm->n_ref++;
}

void vm_unpin(ferry_vm *vm) {
        if (--vm->n_ref > 0)
                return;
        vm_config_free(vm->config);
        ferry_error_done(&vm->failure);
        fd_close(vm->dir_fd);
        fd_close(vm->memory_fd);
        fd_close(vm->qmp_fd);
        fd_close(vm->pidfd);
        free(vm->state_dir);
        free(vm->probe_cache);
        sd_event_unref(vm->event);
        free(vm);
}

void vm_unpinp(struct ferry_vm **vm) {
        if (*vm)
                vm_unpin(*vm);
}

static void silence(ferry_vm *vm) {
        vm->probe = vm_probe_free(vm->probe);
        vm->exit_source = sd_event_source_disable_unref(vm->exit_source);
        vm->lost_timer = sd_event_source_disable_unref(vm->lost_timer);
        vm->kill_timer = sd_event_source_disable_unref(vm->kill_timer);
        vm->log_timer = sd_event_source_disable_unref(vm->log_timer);
        vm->defer = sd_event_source_disable_unref(vm->defer);
}

/* Steals one at a time: handlers may add and may close. result < 0 overrides what was kept. */
static void waiters_complete(ferry_vm *vm, vm_waiter **list, int result) {
        while (*list) {
                vm_waiter *waiter = *list;
                int r = result;

                *list = waiter->next;
                if (r < 0)
                        ferry_error_set(&waiter->error, FERRY_CANCELLED, r, "the VM was let go");
                else
                        r = waiter->r;
                if (waiter->done)
                        waiter->done(vm, r, r < 0 ? &waiter->error : NULL, waiter->userdata);
                ferry_error_done(&waiter->error);
                free(waiter);
        }
}

/* Kills our own child and reaps it. Blocks for as long as the kernel needs for that. */
static void end_process(ferry_vm *vm) {
        if (vm->pidfd < 0)
                return;
        (void)vm_kill(vm);
        (void)waitid(P_PIDFD, (id_t)vm->pidfd, &(siginfo_t){ 0 }, WEXITED);
        vm->pidfd = fd_close(vm->pidfd);
        vm_remove_files(vm);
}

ferry_vm *vm_close(ferry_vm *vm) {
        bool orphan;

        if (!vm || vm->phase == VM_PHASE_CLOSED)
                return NULL;
        /* Not ready yet, or known to be no good: nobody would look for it. */
        orphan = (vm->phase == VM_PHASE_STARTING || vm->phase == VM_PHASE_FAILING) && !vm->attached;
        vm->phase = VM_PHASE_CLOSED;
        silence(vm);
        vm_throttle_end(vm);
        if (orphan)
                end_process(vm);
        vm->qmp = qmp_client_close(vm->qmp); /* completes the operations that it carries */
        vm_disks_end(vm);
        vm_mirrors_end(vm);
        waiters_complete(vm, &vm->later, -ECANCELED);
        waiters_complete(vm, &vm->quitting, -ECANCELED);
        vm_unpin(vm);
        return NULL;
}

static int on_later(sd_event_source *source, void *userdata) {
        _cleanup_(vm_unpinp) ferry_vm *vm = userdata;

        vm_pin(vm);
        waiters_complete(vm, &vm->later, 0);
        return 0;
}

static vm_waiter *waiter_append(vm_waiter **list, vm_done done, void *userdata) {
        vm_waiter *waiter = malloc(sizeof(*waiter));

        if (!waiter)
                return NULL;
        *waiter = (vm_waiter){ .done = done, .userdata = userdata };
        while (*list)
                list = &(*list)->next;
        *list = waiter;
        return waiter;
}

int vm_report_later(ferry_vm *vm, int r, ferry_error *error, vm_done done, void *userdata) {
        vm_waiter *waiter;
        int k;

        if (!vm->defer)
                k = sd_event_add_defer(vm->event, &vm->defer, on_later, vm);
        else
                k = sd_event_source_set_enabled(vm->defer, SD_EVENT_ONESHOT);
        if (k < 0)
                return k;
        waiter = waiter_append(&vm->later, done, userdata);
        if (!waiter)
                return -ENOMEM;
        waiter->r = r;
        ferry_error_move(&waiter->error, error);
        return 0;
}

/* --- ready, or not --- */

static void report_ready(ferry_vm *vm, int r) {
        vm_done on_ready = vm->on_ready;

        vm->on_ready = NULL;
        vm->phase = r < 0 ? VM_PHASE_FAILED : VM_PHASE_READY;
        if (on_ready)
                on_ready(vm, r, r < 0 ? &vm->failure : NULL, vm->userdata);
}

/* `error` is moved. The process that we started is killed and on_ready waits for its end; one
 * that we only found again is left alone. */
static void fail_start(ferry_vm *vm, int r, ferry_error *error) {
        if (vm->phase != VM_PHASE_STARTING && vm->phase != VM_PHASE_PROBING)
                return;
        ferry_error_move(&vm->failure, error);
        vm->failure_r = r;
        if (vm->pid > 0 && !vm->attached) {
                if (vm->exit_source) {
                        vm->phase = VM_PHASE_FAILING;
                        vm->qmp = qmp_client_close(vm->qmp);
                        (void)vm_kill(vm);
                        return;
                }
                end_process(vm);
        }
        silence(vm);
        vm->qmp = qmp_client_close(vm->qmp);
        report_ready(vm, r);
}

/* --- the process's end --- */

static void describe_exit(ferry_vm *vm, char **ret) {
        _cleanup_(freep) char *tail = log_tail(vm->dir_fd, VM_QEMU_LOG);
        siginfo_t info = { 0 };
        char how[96];

        if (waitid(P_PIDFD, (id_t)vm->pidfd, &info, WEXITED) < 0)
                /* not our child: an earlier shim's */
                snprintf(how, sizeof(how), "QEMU ended");
        else if (info.si_code == CLD_EXITED)
                snprintf(how, sizeof(how), "QEMU exited with status %d", info.si_status);
        else
                snprintf(how, sizeof(how), "QEMU was killed by signal %d (%s)", info.si_status,
                         strsignal(info.si_status));
        if (asprintf(ret, "%s%s%s", how, tail && tail[0] != '\0' ? "; it said: " : "",
                     tail ? tail : "") < 0)
                *ret = NULL;
}

static int on_process_exit(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        _cleanup_(vm_unpinp) ferry_vm *vm = userdata;
        _cleanup_(freep) char *reason = NULL;
        vm_phase before = vm->phase;

        vm_pin(vm);
        describe_exit(vm, &reason);
        vm->pidfd = fd_close(vm->pidfd);
        silence(vm);
        vm_throttle_end(vm);
        vm_remove_files(vm);
        /* Operations end before on_exit. Closing gives them -ECANCELED; by the phase vm-ops.c
         * knows that it was QEMU who went. */
        vm->phase = VM_PHASE_EXITED;
        vm->qmp = qmp_client_close(vm->qmp);
        vm_disks_end(vm);
        vm_mirrors_end(vm);
        waiters_complete(vm, &vm->later, 0);
        if (vm->phase == VM_PHASE_CLOSED)
                return 0;
        waiters_complete(vm, &vm->quitting, 0);
        if (vm->phase == VM_PHASE_CLOSED)
                return 0;
        vm->memory_fd = fd_close(vm->memory_fd);
        if (before == VM_PHASE_STARTING) {
                vm->failure_r = -ENOTCONN;
                ferry_error_set(&vm->failure, FERRY_FAILED_PRECONDITION, -ENOTCONN, "%s",
                                reason ? reason : "QEMU ended");
        }
        if (before == VM_PHASE_STARTING || before == VM_PHASE_FAILING) {
                report_ready(vm, vm->failure_r);
                return 0;
        }
        if (before == VM_PHASE_READY && vm->handlers.on_exit)
                vm->handlers.on_exit(vm, reason ? reason : "QEMU ended", vm->userdata);
        return 0;
}

static int on_lost_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        _cleanup_(vm_unpinp) ferry_vm *vm = userdata;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        vm_pin(vm);
        if (vm->phase == VM_PHASE_STARTING) {
                ferry_error_set(&error, FERRY_UNAVAILABLE, -ENOTCONN,
                                "QEMU closed its QMP connection");
                fail_start(vm, -ENOTCONN, &error);
        } else if (vm->handlers.on_lost)
                vm->handlers.on_lost(vm, "QEMU lives but its QMP connection is lost", vm->userdata);
        return 0;
}

static int on_log_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        ferry_vm *vm = userdata;
        int r;

        log_limit(vm->dir_fd, VM_CONSOLE_LOG, LOG_MAX, LOG_KEEP);
        log_limit(vm->dir_fd, VM_QEMU_LOG, LOG_MAX, LOG_KEEP);
        r = sd_event_source_set_time_relative(source, LOG_CHECK_USEC);
        if (r >= 0)
                r = sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        return r < 0 ? r : 0;
}

/* --- QMP --- */

static void on_qmp_event(qmp_client *client, const qmp_event *event, void *userdata) {
        ferry_vm *vm = userdata;
        const vm_handlers *h = &vm->handlers;
        const char *status = json_string_value(json_object_get(event->data, "status"));
        const char *reason = json_string_value(json_object_get(event->data, "reason"));
        const char *device = json_string_value(json_object_get(event->data, "device"));
        bool guest = json_is_true(json_object_get(event->data, "guest"));
        json_int_t pass = json_integer_value(json_object_get(event->data, "pass"));

        if (vm->phase != VM_PHASE_READY)
                return;
        if (strcmp(event->name, "STOP") == 0) {
                if (h->on_stop)
                        h->on_stop(vm, event->arrival_usec, vm->userdata);
        } else if (strcmp(event->name, "RESUME") == 0) {
                if (h->on_resume)
                        h->on_resume(vm, event->arrival_usec, vm->userdata);
        } else if (strcmp(event->name, "MIGRATION") == 0) {
                if (h->on_migration)
                        h->on_migration(vm, vm_migration_status_from_string(status),
                                        event->arrival_usec, vm->userdata);
        } else if (strcmp(event->name, "MIGRATION_PASS") == 0) {
                if (h->on_migration_pass && pass >= 0)
                        h->on_migration_pass(vm, (uint64_t)pass, event->arrival_usec, vm->userdata);
        } else if (strcmp(event->name, "SHUTDOWN") == 0) {
                if (h->on_shutdown)
                        h->on_shutdown(vm, guest, reason ? reason : "", vm->userdata);
        } else if (strcmp(event->name, "RESET") == 0) {
                if (h->on_reset)
                        h->on_reset(vm, guest, vm->userdata);
        } else if (strcmp(event->name, "DEVICE_DELETED") == 0 && device)
                vm_disks_on_deleted(vm, device);
        else if (device)
                (void)vm_mirrors_on_event(vm, event->name, device,
                                          json_string_value(json_object_get(event->data, "error")));
}

static void on_qmp_disconnect(qmp_client *client, int r, const char *reason, void *userdata) {
        _cleanup_(vm_unpinp) ferry_vm *vm = userdata;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        vm_pin(vm);
        vm->qmp = qmp_client_close(vm->qmp);
        vm_disks_end(vm);
        vm_mirrors_end(vm);
        if (vm->phase == VM_PHASE_CLOSED || !vm->exit_source)
                return;
        if (vm->phase == VM_PHASE_STARTING && r != -ENOTCONN) {
                ferry_error_set(&error, FERRY_UNAVAILABLE, r, "QEMU's QMP: %s", reason);
                fail_start(vm, r, &error);
                return;
        }
        /* The process is most likely ending, and its end tells more. */
        r = sd_event_add_time_relative(vm->event, &vm->lost_timer, CLOCK_MONOTONIC, LOST_GRACE_USEC,
                                       0, on_lost_timer, vm);
        if (r < 0)
                log_debug("timer: %s", strerror(-r));
}

/* --- set-up: what every QEMU gets before anybody uses it --- */

/* The first three are what the handover stands on; a QEMU without them is refused. */
static const char *const capabilities[] = { "events", "return-path", "late-block-activate" };

static void on_setup_answer(qmp_client *client, int r, const json_t *value,
                            const qmp_error *refused, void *userdata) {
        _cleanup_(vm_unpinp) ferry_vm *vm = userdata;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        vm_pin(vm);
        vm->n_setup--;
        if (vm->phase != VM_PHASE_STARTING)
                return;
        if (r == -ENOTCONN || r == -ECANCELED)
                return; /* on_disconnect follows, or we are closing */
        if (r < 0 || refused) {
                if (r == 0)
                        r = -EREMOTEIO;
                ferry_error_set(&error, FERRY_FAILED_PRECONDITION, r, "setting up QEMU: %s",
                                refused ? refused->description : strerror(-r));
                fail_start(vm, r, &error);
        } else if (vm->n_setup == 0)
                report_ready(vm, 0);
}

static int setup_invoke(ferry_vm *vm, const char *command, json_t *arguments_consume) {
        int r;

        if (!arguments_consume)
                return -ENOMEM;
        r = qmp_client_invoke(vm->qmp, command, arguments_consume, VM_OP_TIMEOUT_USEC,
                              on_setup_answer, vm);
        if (r == 0)
                vm->n_setup++;
        return r;
}

static json_t *find_capability(const json_t *list, const char *name) {
        for (size_t i = 0; i < json_array_size(list); i++) {
                json_t *entry = json_array_get(list, i);
                const char *entry_name = json_string_value(json_object_get(entry, "capability"));

                if (entry_name && strcmp(entry_name, name) == 0)
                        return entry;
        }
        return NULL;
}

static int send_setup(ferry_vm *vm, const json_t *list, ferry_error *reterr) {
        bool all_on = true;
        int r = 0;

        for (size_t i = 0; i < ELEMENTS(capabilities); i++) {
                const json_t *entry = find_capability(list, capabilities[i]);

                if (!entry)
                        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EOPNOTSUPP,
                                               "this QEMU has no migration capability \"%s\"",
                                               capabilities[i]);
                if (json_is_true(json_object_get(entry, "state")))
                        continue;
                all_on = false;
                /* One by one: a list with one unknown name is refused as a whole. */
                r = setup_invoke(vm, "migrate-set-capabilities",
                                 json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability",
                                           capabilities[i], "state", 1));
                if (r < 0)
                        break;
        }
        /* A QEMU found again with all of it on has its parameters too: they may have been tuned
         * since, for a migration that is under way. */
        if (r == 0 && !(vm->attached && all_on))
                r = setup_invoke(vm, "migrate-set-parameters",
                                 json_pack("{s:I, s:I}", "announce-rounds", (json_int_t)0,
                                           "max-bandwidth", (json_int_t)BANDWIDTH_UNLIMITED));
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "setting up QEMU");
        return 0;
}

static void on_capabilities(qmp_client *client, int r, const json_t *value,
                            const qmp_error *refused, void *userdata) {
        _cleanup_(vm_unpinp) ferry_vm *vm = userdata;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        vm_pin(vm);
        if (vm->phase != VM_PHASE_STARTING || r == -ENOTCONN || r == -ECANCELED)
                return;
        if (r < 0 || refused)
                r = ferry_error_set(&error, FERRY_FAILED_PRECONDITION, r < 0 ? r : -EREMOTEIO,
                                    "QEMU's migration capabilities: %s",
                                    refused ? refused->description : strerror(-r));
        else
                r = send_setup(vm, value, &error);
        if (r < 0)
                fail_start(vm, r, &error);
        else if (vm->n_setup == 0)
                report_ready(vm, 0);
}

static void on_qmp_ready(qmp_client *client, const qmp_version *version, void *userdata) {
        _cleanup_(vm_unpinp) ferry_vm *vm = userdata;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        vm_pin(vm);
        /* A shim that died between getfd and migrate left the socket open in QEMU: the other side
         * would wait for ever. That there is none is no error. */
        if (vm->attached)
                (void)qmp_client_invoke(client, "closefd", json_pack("{s:s}", "fdname", FD_NAME),
                                        VM_OP_TIMEOUT_USEC, NULL, NULL);
        r = qmp_client_invoke(client, "query-migrate-capabilities", NULL, VM_OP_TIMEOUT_USEC,
                              on_capabilities, vm);
        if (r < 0) {
                ferry_error_set_errno(&error, r, "QMP");
                fail_start(vm, r, &error);
        }
}

static const qmp_client_handlers qmp_handlers = {
        .on_ready = on_qmp_ready,
        .on_event = on_qmp_event,
        .on_disconnect = on_qmp_disconnect,
};

/* pid, pidfd and qmp_fd are set: watch them. */
static int watch(ferry_vm *vm, ferry_error *reterr) {
        int r;

        r = sd_event_add_io(vm->event, &vm->exit_source, vm->pidfd, EPOLLIN, on_process_exit, vm);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "watch QEMU");
        r = sd_event_add_time_relative(vm->event, &vm->log_timer, CLOCK_MONOTONIC, LOG_CHECK_USEC,
                                       0, on_log_timer, vm);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "watch the logs");
        r = qmp_client_new(vm->event, TAKE_FD(vm->qmp_fd),
                           vm->attached ? REGREET_TIMEOUT_USEC : GREETING_TIMEOUT_USEC,
                           &qmp_handlers, vm, &vm->qmp);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "QMP");
        return 0;
}

/* --- start --- */

static int vm_new(sd_event *event, const vm_options *options, const vm_handlers *handlers,
                  vm_done on_ready, void *userdata, ferry_vm **ret, ferry_error *reterr) {
        const char *bridge = options->bridge ? options->bridge : options->config->bridge;
        _cleanup_(vm_unpinp) ferry_vm *vm = NULL;
        int r;

        if (options->state_dir[0] != '/')
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "%s: the state directory must be an absolute path",
                                       options->state_dir);
        if (strlen(bridge) >= TAP_NAME_SIZE)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "%s is not a bridge's name", bridge);
        vm = malloc(sizeof(*vm));
        if (!vm)
                return ferry_error_set_errno(reterr, -ENOMEM, "VM");
        *vm = (struct ferry_vm){
                .n_ref = 1,
                .event = sd_event_ref(event),
                .mode = options->mode,
                .own_network = options->own_network,
                .receives_postcopy = options->receives_postcopy,
                .ends_with_us = options->ends_with_us,
                .dir_fd = -EBADF,
                .pidfd = -EBADF,
                .memory_fd = -EBADF,
                .qmp_fd = -EBADF,
                .on_ready = on_ready,
                .userdata = userdata,
                .user = vm_user_choose(options->uid, options->gid, options->state_dir),
        };
        strcpy(vm->bridge, bridge);
        if (handlers)
                vm->handlers = *handlers;
        vm->state_dir = strdup(options->state_dir);
        if (options->probe_cache)
                vm->probe_cache = strdup(options->probe_cache);
        r = vm_config_dup(options->config, &vm->config);
        if (r < 0 || !vm->state_dir || (options->probe_cache && !vm->probe_cache))
                return ferry_error_set_errno(reterr, r < 0 ? r : -ENOMEM, "VM");
        if (options->memory_fd > 0) {
                vm->memory_fd = fcntl(options->memory_fd, F_DUPFD_CLOEXEC, 3);
                if (vm->memory_fd < 0)
                        return ferry_error_set_errno(reterr, -errno, "guest memory");
                vm->memory_is_given = true;
        }
        vm->dir_fd = open(vm->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (vm->dir_fd < 0)
                return ferry_error_set_errno(reterr, -errno, "state directory %s", vm->state_dir);
        *ret = TAKE_PTR(vm);
        return 0;
}

/* Accelerator and CPU are known. */
static int launch_and_watch(ferry_vm *vm, ferry_error *reterr) {
        int r;

        r = vm_launch(vm, reterr);
        if (r < 0)
                return r;
        vm->phase = VM_PHASE_STARTING;
        return watch(vm, reterr);
}

static void on_probed(const vm_probe_result *result, void *userdata) {
        _cleanup_(vm_unpinp) ferry_vm *vm = userdata;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        vm_pin(vm);
        r = vm_probe_apply(result, vm->config, &error);
        vm->probe = vm_probe_free(vm->probe);
        if (r == 0)
                r = launch_and_watch(vm, &error);
        if (r < 0)
                fail_start(vm, r, &error);
}

static int start_probe(ferry_vm *vm, ferry_error *reterr) {
        return vm_probe_start(vm->event,
                              &(vm_probe_options){ .qemu = vm->config->qemu,
                                                   .machine = vm->config->machine,
                                                   .cpu = vm->config->cpu,
                                                   .cache_path = vm->probe_cache,
                                                   .user = vm->user },
                              on_probed, vm, &vm->probe, reterr);
}

int vm_start(sd_event *event, const vm_options *options, const vm_handlers *handlers,
             vm_done on_ready, void *userdata, ferry_vm **ret, ferry_error *reterr) {
        ferry_vm *vm = NULL;
        int r;

        r = vm_new(event, options, handlers, on_ready, userdata, &vm, reterr);
        if (r < 0)
                return r;
        if (vm->config->accelerator == VM_ACCELERATOR_TCG) {
                r = vm_probe_apply(NULL, vm->config, reterr);
                if (r == 0)
                        r = launch_and_watch(vm, reterr);
        } else
                r = start_probe(vm, reterr);
        if (r < 0) {
                vm_close(vm); /* ends what was started */
                return r;
        }
        *ret = vm;
        return 0;
}

/* --- attach --- */

static void reopen_memory(ferry_vm *vm, const vm_record *record) {
        /* Yama or a user namespace may refuse; hashing the memory is then not offered. */
        vm->memory_fd = (int)syscall(SYS_pidfd_getfd, vm->pidfd, record->memory_fd, 0);
}

static int apply_record(ferry_vm *vm, const vm_record *record) {
        vm->attached = true;
        vm->pid = record->pid;
        vm->mode = record->mode;
        vm->config->accelerator = record->accelerator;
        memcpy(vm->tap, record->tap, sizeof(vm->tap));
        free(vm->config->cpu);
        vm->config->cpu = strdup(record->cpu);
        return vm->config->cpu ? 0 : -ENOMEM;
}

static int reconnect(ferry_vm *vm, ferry_error *reterr) {
        struct pollfd end = { .fd = vm->pidfd, .events = POLLIN };
        _cleanup_(freep) char *path = NULL;
        int r;

        if (asprintf(&path, "%s/%s", vm->state_dir, VM_QMP_SOCKET) < 0) {
                path = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "QMP");
        }
        r = unix_connect(path, &vm->qmp_fd);
        /* Its sockets close a moment before it is gone. */
        if (r == -ECONNREFUSED && poll(&end, 1, 1000) == 1)
                return ferry_error_set(reterr, FERRY_NOT_FOUND, -ESRCH, "QEMU has just ended");
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "connect to %s", path);
        return 0;
}

int vm_attach(sd_event *event, const vm_options *options, const vm_handlers *handlers,
              vm_done on_ready, void *userdata, ferry_vm **ret, ferry_error *reterr) {
        ferry_vm *vm = NULL;
        vm_record record;
        int r;

        r = vm_new(event, options, handlers, on_ready, userdata, &vm, reterr);
        if (r < 0)
                return r;
        throttle_recover(vm->dir_fd);
        r = vm_record_read(vm->dir_fd, &record, reterr);
        if (r == -ENOENT)
                r = ferry_error_set(reterr, FERRY_NOT_FOUND, -ESRCH, "%s has no QEMU",
                                    vm->state_dir);
        if (r == 0) {
                r = vm_record_open_process(&record, &vm->pidfd);
                if (r == -ESRCH)
                        ferry_error_set(reterr, FERRY_NOT_FOUND, r,
                                        "the QEMU of %s (pid %d) has ended", vm->state_dir,
                                        (int)record.pid);
                else if (r < 0)
                        ferry_error_set_errno(reterr, r, "QEMU, pid %d", (int)record.pid);
        }
        if (r == 0) {
                r = apply_record(vm, &record);
                if (r < 0)
                        ferry_error_set_errno(reterr, r, "VM");
        }
        if (r == 0)
                r = reconnect(vm, reterr);
        if (r == 0) {
                reopen_memory(vm, &record);
                vm->phase = VM_PHASE_STARTING;
                r = watch(vm, reterr);
        }
        if (r == -ESRCH) /* it ended while nobody was there to see to that */
                vm_remove_files(vm);
        if (r < 0) {
                vm_close(vm);
                return r;
        }
        *ret = vm;
        return 0;
}

/* --- the end, on purpose --- */

int vm_kill(ferry_vm *vm) {
        if (vm->pidfd < 0)
                return 0;
        if (syscall(SYS_pidfd_send_signal, vm->pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
                return -errno;
        return 0;
}

static int on_kill_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        (void)vm_kill(userdata);
        return 0;
}

int vm_quit(ferry_vm *vm, uint64_t grace_usec, vm_done done, void *userdata) {
        int r;

        if (vm->pidfd < 0)
                return -ENOTCONN;
        if (!waiter_append(&vm->quitting, done, userdata))
                return -ENOMEM;
        /* From here on it returns 0: whatever fails below, killing works. */
        r = vm->qmp ? qmp_client_invoke(vm->qmp, "quit", NULL, grace_usec, NULL, NULL) : -ENOTCONN;
        if (r == 0 && !vm->kill_timer)
                r = sd_event_add_time_relative(vm->event, &vm->kill_timer, CLOCK_MONOTONIC,
                                               grace_usec, USEC_PER_MSEC, on_kill_timer, vm);
        if (r < 0)
                (void)vm_kill(vm);
        return 0;
}

/* --- looking --- */

bool vm_is_alive(const ferry_vm *vm) {
        return vm->pidfd >= 0;
}

bool vm_takes_orders(const ferry_vm *vm) {
        struct pollfd end = { .fd = vm->pidfd, .events = POLLIN };

        return vm->phase == VM_PHASE_READY && vm->qmp && poll(&end, 1, 0) == 0;
}

pid_t vm_get_pid(const ferry_vm *vm) {
        return vm->pid;
}

const vm_config *vm_get_config(const ferry_vm *vm) {
        return vm->config;
}

vm_mode vm_get_mode(const ferry_vm *vm) {
        return vm->mode;
}

int vm_get_memory_fd(const ferry_vm *vm) {
        return vm->memory_fd < 0 ? -EBADF : vm->memory_fd;
}

const char *vm_get_tap(const ferry_vm *vm) {
        return vm->tap[0] != '\0' ? vm->tap : NULL;
}
