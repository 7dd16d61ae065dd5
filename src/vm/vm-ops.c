/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"
#include "vm/facts.h"
#include "vm/migration-info.h"
#include "vm/tap.h"
#include "vm/vm-internal.h"

/* An operation is a row of QMP commands: each is sent when the one before was done, the first
 * refusal ends it. It holds a reference to the VM, and its end is the answer to its last command,
 * which the QMP client gives exactly once. */

#define STEPS_MAX 7U

#define DOWNTIME_LIMIT_MAX  2000000U /* QEMU's, ms */
#define BANDWIDTH_UNLIMITED 1000000000000ULL
#define BANDWIDTH_MAX       ((uint64_t)INT64_MAX)

typedef struct op_step {
        const char *command;
        json_t *arguments; /* owned; NULL = none */
        int fd;            /* owned; -EBADF = none */
} op_step;

typedef struct vm_op {
        ferry_vm *vm;
        op_step steps[STEPS_MAX];
        size_t n_steps, current;
        bool failed_to_build, out_of_band;
        /* Looks at the answer of step `current`; negative ends the operation. May add steps. */
        int (*take)(struct vm_op *op, const json_t *value, ferry_error *reterr);
        /* Exactly once, the last thing; calls the caller's handler. */
        void (*finish)(struct vm_op *op, int r, const ferry_error *error);
        void *userdata;
        union {
                vm_done plain;
                vm_status_done status;
                vm_migration_info_done info;
                vm_threads_done threads;
        } done;
        json_t *value; /* the last answer, when kept by `take` */
} vm_op;

static vm_op *op_free(vm_op *op) {
        if (!op)
                return NULL;
        for (size_t i = 0; i < op->n_steps; i++) {
                json_decref(op->steps[i].arguments);
                fd_close(op->steps[i].fd);
        }
        json_decref(op->value);
        vm_unpin(op->vm);
        free(op);
        return NULL;
}

DEFINE_CLEANUP(vm_op *, op_free)

static void finish_plain(vm_op *op, int r, const ferry_error *error) {
        if (op->done.plain)
                op->done.plain(op->vm, r, error, op->userdata);
}

static vm_op *op_new(ferry_vm *vm, vm_done done, void *userdata) {
        vm_op *op = malloc(sizeof(*op));

        if (!op)
                return NULL;
        *op = (vm_op){ .vm = vm, .finish = finish_plain, .userdata = userdata };
        op->done.plain = done;
        vm_pin(vm);
        return op;
}

/* `arguments_consume` NULL from a failed json_pack() is told by `has_arguments`. Both are taken. */
static void op_add(vm_op *op, const char *command, bool has_arguments, json_t *arguments_consume,
                   int fd_consume) {
        if (op->n_steps == STEPS_MAX || (has_arguments && !arguments_consume)) {
                op->failed_to_build = true;
                json_decref(arguments_consume);
                fd_close(fd_consume);
                return;
        }
        op->steps[op->n_steps++] = (op_step){ command, arguments_consume, fd_consume };
}

static void on_answer(qmp_client *client, int r, const json_t *value, const qmp_error *refused,
                      void *userdata);

static int op_send(vm_op *op) {
        op_step *step = &op->steps[op->current];
        json_t *arguments = TAKE_PTR(step->arguments);
        int fd = TAKE_FD(step->fd);

        if (!op->vm->qmp) {
                json_decref(arguments);
                fd_close(fd);
                return -ENOTCONN;
        }
        if (op->out_of_band)
                return qmp_client_invoke_oob(op->vm->qmp, step->command, arguments,
                                             VM_OP_TIMEOUT_USEC, on_answer, op);
        return qmp_client_invoke_fd(op->vm->qmp, step->command, arguments, fd, VM_OP_TIMEOUT_USEC,
                                    on_answer, op);
}

static int op_begin(vm_op *op_consume) {
        _cleanup_(op_freep) vm_op *op = op_consume;
        int r;

        if (!op || op->failed_to_build)
                return -ENOMEM;
        if (op->vm->phase < VM_PHASE_READY)
                return -EBUSY;
        if (op->vm->phase > VM_PHASE_READY)
                return -ENOTCONN;
        r = op_send(op);
        if (r == 0)
                op = NULL; /* the answer's now */
        return r;
}

static void op_end(vm_op *op_consume, int r, ferry_error *error) {
        _cleanup_(op_freep) vm_op *op = op_consume;

        op->finish(op, r, r < 0 ? error : NULL);
}

static void on_answer(qmp_client *client, int r, const json_t *value, const qmp_error *refused,
                      void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        vm_op *op = userdata;
        const char *command = op->steps[op->current].command;

        /* QEMU's end closes the client too: that is not the caller's doing. */
        if (r == -ECANCELED && op->vm->phase != VM_PHASE_CLOSED)
                r = -ENOTCONN;
        if (r == 0 && refused)
                r = ferry_error_set(&error, FERRY_FAILED_PRECONDITION, -EREMOTEIO,
                                    "QEMU refused %s: %s", command, refused->description);
        else if (r == -ENOTCONN)
                ferry_error_set(&error, FERRY_UNAVAILABLE, r, "QEMU is gone: %s is undecided",
                                command);
        else if (r == -ECANCELED)
                ferry_error_set(&error, FERRY_CANCELLED, r, "the VM was let go");
        else if (r < 0)
                ferry_error_set_errno(&error, r, "QEMU's answer to %s", command);
        else if (op->take)
                r = op->take(op, value, &error);
        if (r == 0 && op->failed_to_build)
                r = ferry_error_set_errno(&error, -ENOMEM, "%s", command);
        if (r == 0 && ++op->current < op->n_steps) {
                r = op_send(op);
                if (r == 0)
                        return;
                ferry_error_set_errno(&error, r, "%s", op->steps[op->current].command);
        }
        op_end(op, r, &error);
}

int vm_command(ferry_vm *vm, const char *command, json_t *arguments_consume, int fd_consume,
               vm_done done, void *userdata) {
        vm_op *op = op_new(vm, done, userdata);

        if (!op) {
                json_decref(arguments_consume);
                fd_close(fd_consume);
                return -ENOMEM;
        }
        op_add(op, command, true, arguments_consume, fd_consume);
        return op_begin(op);
}

/* One command, no result. */
static int simple(ferry_vm *vm, const char *command, bool has_arguments, json_t *arguments_consume,
                  vm_done done, void *userdata) {
        return vm_command(vm, command, has_arguments ? arguments_consume : json_object(), -EBADF,
                          done, userdata);
}

/* --- run and pause --- */

int vm_tap_detach(ferry_vm *vm, ferry_error *reterr) {
        int r;

        if (vm->tap[0] == '\0')
                return 0;
        r = tap_detach(vm->tap, reterr);
        if (r == 0)
                vm->tap_attached = false;
        return r;
}

int vm_tap_attach(ferry_vm *vm, ferry_error *reterr) {
        int r;

        if (vm->tap[0] == '\0' || vm->bridge[0] == '\0' || vm->tap_attached)
                return 0;
        r = tap_attach(vm->tap, vm->bridge, reterr);
        if (r == 0)
                vm->tap_attached = true;
        return r;
}

static void finish_cont(vm_op *op, int r, const ferry_error *error) {
        /* Refused: not our guest to run, so not our place on the network. */
        if (r == -EREMOTEIO)
                (void)vm_tap_detach(op->vm, NULL);
        finish_plain(op, r, error);
}

int vm_cont(ferry_vm *vm, vm_done done, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        if (vm->phase != VM_PHASE_READY)
                return vm->phase < VM_PHASE_READY ? -EBUSY : -ENOTCONN;
        r = vm_tap_attach(vm, &error);
        if (r < 0)
                return vm_report_later(vm, r, &error, done, userdata);
        return vm_cont_as_it_is(vm, done, userdata);
}

int vm_cont_as_it_is(ferry_vm *vm, vm_done done, void *userdata) {
        vm_op *op = op_new(vm, done, userdata);

        if (!op)
                return -ENOMEM;
        op->finish = finish_cont;
        op_add(op, "cont", false, NULL, -EBADF);
        return op_begin(op);
}

int vm_stop(ferry_vm *vm, vm_done done, void *userdata) {
        return simple(vm, "stop", false, NULL, done, userdata);
}

int vm_announce_self(ferry_vm *vm, unsigned rounds, vm_done done, void *userdata) {
        if (rounds < 1 || rounds > 1000)
                return -EINVAL;
        return simple(vm, "announce-self", true,
                      json_pack("{s:i, s:i, s:i, s:i}", "initial", 50, "max", 550, "rounds",
                                (int)rounds, "step", 100),
                      done, userdata);
}

/* --- questions --- */

static int keep_value(vm_op *op, const json_t *value, ferry_error *reterr) {
        op->value = json_incref((json_t *)value);
        return 0;
}

static void finish_status(vm_op *op, int r, const ferry_error *error) {
        const char *state = json_string_value(json_object_get(op->value, "status"));
        vm_status status = {
                .running = json_is_true(json_object_get(op->value, "running")),
                .state = state ? state : "unknown",
        };

        if (op->done.status)
                op->done.status(op->vm, r, error, r == 0 ? &status : NULL, op->userdata);
}

int vm_query_status(ferry_vm *vm, vm_status_done done, void *userdata) {
        vm_op *op = op_new(vm, NULL, userdata);

        if (!op)
                return -ENOMEM;
        op->done.status = done;
        op->take = keep_value;
        op->finish = finish_status;
        op_add(op, "query-status", false, NULL, -EBADF);
        return op_begin(op);
}

static void finish_info(vm_op *op, int r, const ferry_error *error) {
        vm_migration_info_store store;

        vm_migration_info_parse(op->value, &store);
        if (op->done.info)
                op->done.info(op->vm, r, error, r == 0 ? &store.info : NULL, op->userdata);
}

int vm_query_migrate(ferry_vm *vm, vm_migration_info_done done, void *userdata) {
        vm_op *op = op_new(vm, NULL, userdata);

        if (!op)
                return -ENOMEM;
        op->done.info = done;
        op->take = keep_value;
        op->finish = finish_info;
        op_add(op, "query-migrate", false, NULL, -EBADF);
        return op_begin(op);
}

void vm_get_qemu_version(const ferry_vm *vm, char *ret, size_t n) {
        const qmp_version *version = vm->qmp ? qmp_client_get_version(vm->qmp) : NULL;

        ret[0] = '\0';
        if (version)
                snprintf(ret, n, "%u.%u.%u%s%s", version->major, version->minor, version->micro,
                         version->package[0] ? " " : "", version->package);
}

/* What waits for the facts; it holds a reference to the VM. */
typedef struct facts_request {
        ferry_vm *vm;
        vm_facts_done done;
        void *userdata;
} facts_request;

static void on_facts(int r, const ferry_error *error, vm_facts_store *store_consume,
                     void *userdata) {
        _cleanup_(vm_facts_store_freep) vm_facts_store *store = store_consume;
        _cleanup_(ferry_error_donep) ferry_error gone = FERRY_ERROR_INIT;
        facts_request request = *(facts_request *)userdata;
        _cleanup_(vm_unpinp) ferry_vm *vm = request.vm;
        vm_facts *facts = store ? vm_facts_store_get(store) : NULL;

        free(userdata);
        if (facts) {
                facts->memory_bytes = vm_config_memory_bytes(vm->config);
                facts->vcpus = vm->config->vcpus;
        }
        /* QEMU's end closes the client too: that is not the caller's doing. */
        if (r == -ECANCELED && vm->phase != VM_PHASE_CLOSED) {
                r = ferry_error_set(&gone, FERRY_UNAVAILABLE, -ENOTCONN, "QEMU is gone");
                error = &gone;
        }
        if (request.done)
                request.done(vm, r, error, facts, request.userdata);
}

int vm_query_facts(ferry_vm *vm, vm_facts_done done, void *userdata) {
        _cleanup_(freep) facts_request *request = malloc(sizeof(*request));
        int r;

        if (!request)
                return -ENOMEM;
        if (vm->phase != VM_PHASE_READY || !vm->qmp)
                return vm->phase < VM_PHASE_READY ? -EBUSY : -ENOTCONN;
        *request = (facts_request){ .vm = vm, .done = done, .userdata = userdata };
        r = vm_facts_collect(vm->qmp, VM_OP_TIMEOUT_USEC, on_facts, request);
        if (r < 0)
                return r;
        vm_pin(vm);
        request = NULL;
        return 0;
}

static int bad_threads(ferry_error *reterr) {
        return ferry_error_set(reterr, FERRY_INTERNAL, -EBADMSG,
                               "QEMU's answer to query-cpus-fast is not understood");
}

/* [{"thread-id": 123, ...}, ...]; TCG may run several vCPUs in one thread. */
static void finish_threads(vm_op *op, int r, const ferry_error *error) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        pid_t threads[THROTTLE_THREADS];
        size_t n = 0;

        for (size_t i = 0; r == 0 && i < json_array_size(op->value); i++) {
                const json_t *id = json_object_get(json_array_get(op->value, i), "thread-id");
                json_int_t thread = json_integer_value(id);
                bool known = false;

                for (size_t k = 0; k < n; k++)
                        known = known || threads[k] == (pid_t)thread;
                if (known)
                        continue;
                if (thread <= 0 || thread > INT32_MAX || n == THROTTLE_THREADS) {
                        r = bad_threads(&own);
                        break;
                }
                threads[n++] = (pid_t)thread;
        }
        if (r == 0 && n == 0)
                r = bad_threads(&own);
        op->done.threads(op->vm, r, error ? error : &own, threads, n, op->userdata);
}

int vm_query_threads(ferry_vm *vm, vm_threads_done done, void *userdata) {
        vm_op *op = op_new(vm, NULL, userdata);

        if (!op)
                return -ENOMEM;
        op->done.threads = done;
        op->take = keep_value;
        op->finish = finish_threads;
        op_add(op, "query-cpus-fast", false, NULL, -EBADF);
        return op_begin(op);
}

/* --- migration --- */

static json_t *capability(const char *name, bool on) {
        return json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", name, "state", (int)on);
}

/* It may always take a step, and the step is as large as the throttle is to be. */
static json_t *auto_converge_parameters(unsigned percentage) {
        return json_pack("{s:i, s:i, s:i, s:i}", "cpu-throttle-initial", 1,
                         "cpu-throttle-increment", (int)percentage, "max-cpu-throttle",
                         (int)percentage, "throttle-trigger-threshold", 1);
}

static json_t *migrate_parameters(const vm_migrate_options *options) {
        uint64_t bandwidth = options->max_bytes_per_second;

        if (bandwidth == 0)
                bandwidth = BANDWIDTH_UNLIMITED;
        return json_pack("{s:I, s:I, s:I}", "downtime-limit",
                         (json_int_t)options->downtime_limit_msec, "max-bandwidth",
                         (json_int_t)bandwidth, "max-postcopy-bandwidth",
                         (json_int_t)options->max_bytes_per_second);
}

static void add_getfd(vm_op *op, int fd_consume) {
        op_add(op, "getfd", true, json_pack("{s:s}", "fdname", FD_NAME), fd_consume);
}

/* When QEMU has the descriptor and refuses to use it, it must let go of it: else the peer would
 * never see the end of the connection. */
static void finish_migrate(vm_op *op, int r, const ferry_error *error) {
        if (r == -EREMOTEIO && op->vm->qmp && op->current == op->n_steps - 1)
                (void)qmp_client_invoke(op->vm->qmp, "closefd",
                                        json_pack("{s:s}", "fdname", FD_NAME), VM_OP_TIMEOUT_USEC,
                                        NULL, NULL);
        finish_plain(op, r, error);
}

int vm_migrate_out(ferry_vm *vm, int fd_consume, const vm_migrate_options *options, vm_done done,
                   void *userdata) {
        _cleanup_(closep) int fd = fd_consume;
        vm_op *op;

        if (options->downtime_limit_msec > DOWNTIME_LIMIT_MAX ||
            options->max_bytes_per_second > BANDWIDTH_MAX)
                return -EINVAL;
        op = op_new(vm, done, userdata);
        if (!op)
                return -ENOMEM;
        op->finish = finish_migrate;
        /* One by one and in order: `migrate` must not run with what was refused before. */
        op_add(op, "migrate-set-capabilities", true,
               capability("pause-before-switchover", options->pause_before_switchover), -EBADF);
        op_add(op, "migrate-set-capabilities", true,
               capability("auto-converge", options->auto_converge), -EBADF);
        op_add(op, "migrate-set-capabilities", true, capability("postcopy-ram", options->postcopy),
               -EBADF);
        if (options->auto_converge)
                op_add(op, "migrate-set-parameters", true, auto_converge_parameters(1), -EBADF);
        op_add(op, "migrate-set-parameters", true, migrate_parameters(options), -EBADF);
        add_getfd(op, TAKE_FD(fd));
        op_add(op, "migrate", true, json_pack("{s:s}", "uri", "fd:" FD_NAME), -EBADF);
        return op_begin(op);
}

/* Gives QEMU the connection, and has it used. */
static int use_fd(ferry_vm *vm, int fd_consume, const char *command, json_t *arguments_consume,
                  vm_done done, void *userdata) {
        _cleanup_(closep) int fd = fd_consume;
        vm_op *op = op_new(vm, done, userdata);

        if (!op) {
                json_decref(arguments_consume);
                return -ENOMEM;
        }
        op->finish = finish_migrate;
        add_getfd(op, TAKE_FD(fd));
        op_add(op, command, true, arguments_consume, -EBADF);
        return op_begin(op);
}

int vm_migrate_in(ferry_vm *vm, int fd_consume, vm_done done, void *userdata) {
        return use_fd(vm, fd_consume, "migrate-incoming", json_pack("{s:s}", "uri", "fd:" FD_NAME),
                      done, userdata);
}

int vm_allow_postcopy(ferry_vm *vm, vm_done done, void *userdata) {
        return simple(vm, "migrate-set-capabilities", true, capability("postcopy-ram", true), done,
                      userdata);
}

int vm_start_postcopy(ferry_vm *vm, vm_done done, void *userdata) {
        return simple(vm, "migrate-start-postcopy", false, NULL, done, userdata);
}

int vm_give_spare(ferry_vm *vm, int fd_consume, vm_done done, void *userdata) {
        return vm_command(vm, "getfd", json_pack("{s:s}", "fdname", SPARE_NAME), fd_consume, done,
                          userdata);
}

int vm_recover_in(ferry_vm *vm, vm_done done, void *userdata) {
        json_t *arguments = json_pack("{s:s}", "uri", "fd:" SPARE_NAME);
        vm_op *op = op_new(vm, done, userdata);

        if (!op) {
                json_decref(arguments);
                return -ENOMEM;
        }
        op->out_of_band = true;
        op_add(op, "migrate-recover", true, arguments, -EBADF);
        return op_begin(op);
}

int vm_recover_out(ferry_vm *vm, int fd_consume, vm_done done, void *userdata) {
        return use_fd(vm, fd_consume, "migrate",
                      json_pack("{s:s, s:b}", "uri", "fd:" FD_NAME, "resume", 1), done, userdata);
}

int vm_set_memory_apart(ferry_vm *vm, bool apart, vm_done done, void *userdata) {
        vm_op *op = op_new(vm, done, userdata);

        if (!op)
                return -ENOMEM;
        op_add(op, "migrate-set-capabilities", true, capability("x-ignore-shared", apart), -EBADF);
        op_add(op, "migrate-set-capabilities", true, capability("return-path", !apart), -EBADF);
        return op_begin(op);
}

int vm_migrate_continue(ferry_vm *vm, vm_done done, void *userdata) {
        return simple(vm, "migrate-continue", true, json_pack("{s:s}", "state", "pre-switchover"),
                      done, userdata);
}

int vm_migrate_cancel(ferry_vm *vm, vm_done done, void *userdata) {
        return simple(vm, "migrate_cancel", false, NULL, done, userdata);
}

int vm_set_downtime_limit(ferry_vm *vm, uint64_t msec, vm_done done, void *userdata) {
        if (msec > DOWNTIME_LIMIT_MAX)
                return -EINVAL;
        return simple(vm, "migrate-set-parameters", true,
                      json_pack("{s:I}", "downtime-limit", (json_int_t)msec), done, userdata);
}

int vm_set_auto_converge(ferry_vm *vm, unsigned percentage, vm_done done, void *userdata) {
        if (percentage < 1 || percentage > 99)
                return -EINVAL;
        return simple(vm, "migrate-set-parameters", true, auto_converge_parameters(percentage),
                      done, userdata);
}

int vm_set_max_bandwidth(ferry_vm *vm, uint64_t bytes_per_second, vm_done done, void *userdata) {
        if (bytes_per_second > BANDWIDTH_MAX)
                return -EINVAL;
        if (bytes_per_second == 0)
                bytes_per_second = BANDWIDTH_UNLIMITED;
        return simple(vm, "migrate-set-parameters", true,
                      json_pack("{s:I}", "max-bandwidth", (json_int_t)bytes_per_second), done,
                      userdata);
}
