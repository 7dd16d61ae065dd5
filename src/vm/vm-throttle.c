/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "vm/vm-internal.h"

int vm_throttle_check(ferry_vm *vm, ferry_error *reterr) {
        if (vm->throttle)
                return 0;
        if (vm->pid <= 0)
                return ferry_error_set_errno(reterr, -ESRCH, "throttle");
        return throttle_new(vm->pid, vm->dir_fd, &vm->throttle, reterr);
}

static int apply(ferry_vm *vm, ferry_error *reterr) {
        int r;

        if (vm->throttle_wanted == 0 || !vm->throttle)
                return 0; /* lifted meanwhile */
        r = throttle_set(vm->throttle, vm->vcpu_threads, vm->n_vcpu_threads, vm->throttle_wanted,
                         reterr);
        if (r < 0)
                vm_throttle_lift(vm);
        return r;
}

static void on_threads(ferry_vm *vm, int r, const ferry_error *error, const pid_t *threads,
                       size_t n, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;

        if (r == 0) {
                memcpy(vm->vcpu_threads, threads, n * sizeof(*threads));
                vm->n_vcpu_threads = n;
                r = apply(vm, &own);
                error = &own;
        }
        if (r < 0 && r != -ECANCELED)
                log_warning("the guest is not slowed down: %s", ferry_error_message(error));
}

int vm_throttle(ferry_vm *vm, unsigned percentage) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        if (percentage > THROTTLE_MAX)
                return -EINVAL;
        if (!vm->throttle)
                return -EOPNOTSUPP;
        vm->throttle_wanted = percentage;
        if (percentage == 0) {
                throttle_lift(vm->throttle);
                return 0;
        }
        if (vm->n_vcpu_threads == 0)
                return vm_query_threads(vm, on_threads, NULL);
        r = apply(vm, &error);
        if (r < 0)
                log_warning("the guest is not slowed down: %s", ferry_error_message(&error));
        return r;
}

void vm_throttle_lift(ferry_vm *vm) {
        vm->throttle_wanted = 0;
        throttle_lift(vm->throttle);
}

void vm_throttle_end(ferry_vm *vm) {
        vm->throttle_wanted = 0;
        vm->n_vcpu_threads = 0;
        vm->throttle = throttle_free(vm->throttle);
}
