/* SPDX-License-Identifier: MIT */
#include "migration/outgoing.h"

#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "migration/identify.h"
#include "migration/session.h"
#include "migration/state.h"
#include "vm/dirty.h"

struct outgoing_check {
        sandbox *sb;
        InitializeOptions *message;
        migration_options options;
        predict_input input;
        outgoing_result result;
        identify *identifying;
        const vm_files *files; /* its */
        vm_dirty *dirty;
        sd_event_source *defer;
        bool asking; /* QEMU will answer */
        bool freed;  /* once it has */
        outgoing_done done;
        void *userdata;
};

static void destroy(outgoing_check *c) {
        identify_free(c->identifying);
        vm_dirty_free(c->dirty);
        sd_event_source_disable_unref(c->defer);
        differences_done(&c->result.reasons);
        if (c->message)
                initialize_options__free_unpacked(c->message, NULL);
        free(c->result.state);
        free(c);
}

outgoing_check *outgoing_check_free(outgoing_check *c) {
        if (!c)
                return NULL;
        c->freed = true;
        c->identifying = identify_free(c->identifying);
        if (!c->asking)
                destroy(c);
        return NULL;
}

static void finish(outgoing_check *c) {
        c->done(&c->result, c->userdata); /* may free it */
}

static int on_defer(sd_event_source *source, void *userdata) {
        finish(userdata);
        return 0;
}

static int finish_later(outgoing_check *c, ferry_error *reterr) {
        int r = sd_event_add_defer(sandbox_event(c->sb), &c->defer, on_defer, c);

        return r < 0 ? ferry_error_set_errno(reterr, r, "check") : 0;
}

/* ---- the guest's writing ---- */

static void on_dirty(int r, const vm_dirty_curve *curve, void *userdata) {
        outgoing_check *c = userdata;
        vm_dirty_model model;
        policy_options switchover;

        if (r == 0) {
                vm_dirty_fit(curve, &model);
                c->input.total = curve->total;
                c->input.filled = curve->filled;
                c->input.rate = model.rate;
                c->input.hot = model.hot;
                c->input.max_bandwidth = c->options.max_bandwidth;
                session_policy_options(&c->options, &switchover);
                if (predict(&c->input, &switchover, &c->result.prediction)) {
                        c->result.prediction.made_usec = wall_usec();
                        sandbox_set_prediction(c->sb, &c->result.prediction);
                }
        }
        finish(c);
}

static void measure(outgoing_check *c) {
        ferry_vm *vm = sandbox_vm(c->sb);
        int fd = vm ? vm_get_memory_fd(vm) : -EBADF;

        if (fd < 0 || c->input.bandwidth == 0 ||
            vm_dirty_start(sandbox_event(c->sb), fd, vm_config_memory_bytes(vm_get_config(vm)),
                           on_dirty, c, &c->dirty) < 0)
                finish(c);
}

/* ---- the VM ---- */

/* True: the check was given up meanwhile. */
static bool answered(outgoing_check *c) {
        c->asking = false;
        if (c->freed)
                destroy(c);
        else
                return false;
        return true;
}

static void on_facts(ferry_vm *v, int r, const ferry_error *error, const vm_facts *facts,
                     void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        _cleanup_(freep) uint8_t *containers = NULL;
        uint8_t secret[DIGEST_SIZE], digest[DIGEST_SIZE];
        outgoing_check *c = userdata;
        size_t n = 0;

        if (answered(c))
                return;
        if (r == 0 && getrandom(secret, sizeof(secret), 0) != (ssize_t)sizeof(secret))
                r = ferry_error_set_errno(&own, -EIO, "random numbers");
        else if (r < 0)
                ferry_error_set(&own, error->code, r, "%s", ferry_error_message(error));
        if (r == 0 && c->message) {
                r = session_check_compatibility(facts, c->message->compatibility_data, &own);
                if (r < 0)
                        differ(&c->result.reasons, "%s", ferry_error_message(&own));
                r = 0;
        }
        if (r == 0)
                r = sandbox_describe_containers(c->sb, &containers, &n, &own);
        if (r == 0)
                r = migration_state_encode(OUTGOING_SESSION, sandbox_id(c->sb), secret,
                                           vm_get_config(v), c->files, facts, c->message,
                                           &(ProtobufCBinaryData){ n, containers },
                                           &c->result.state, &c->result.n_state, digest, &own);
        if (r < 0)
                differ(&c->result.reasons, "%s", ferry_error_message(&own));
        measure(c);
}

static void on_files(const vm_files *files, void *userdata) {
        outgoing_check *c = userdata;
        ferry_vm *vm = sandbox_vm(c->sb);
        int r = -ENOTCONN;

        c->files = files;
        c->asking = true;
        if (vm)
                r = vm_query_facts(vm, on_facts, c);
        if (r < 0) {
                c->asking = false;
                differ(&c->result.reasons, "QEMU cannot be asked: %s", strerror(-r));
                finish(c);
        }
}

static void on_migration(ferry_vm *v, int r, const ferry_error *error,
                         const vm_migration_info *info, void *userdata) {
        outgoing_check *c = userdata;

        if (answered(c))
                return;
        if (r < 0)
                differ(&c->result.reasons, "%s", ferry_error_message(error));
        for (size_t i = 0; r == 0 && i < info->n_blocked_reasons; i++)
                differ(&c->result.reasons, "this VM cannot migrate: %s", info->blocked_reasons[i]);
        r = identify_start(sandbox_event(c->sb), vm_get_config(v), on_files, c, &c->identifying);
        if (r < 0) {
                differ(&c->result.reasons, "its files cannot be looked at: %s", strerror(-r));
                finish(c);
        }
}

/* ---- start ---- */

static int take_options(outgoing_check *c, const InitializeOptions *message) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        migration_options_init(&c->options);
        if (migration_options_parse(message, &c->options, &error) < 0) {
                differ(&c->result.reasons, "%s", ferry_error_message(&error));
                return 0;
        }
        r = session_copy_options(message, &c->message);
        return r;
}

static void check_state(outgoing_check *c) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        session_status status;

        if (sandbox_check_export(c->sb, &error) < 0)
                differ(&c->result.reasons, "%s", ferry_error_message(&error));
        if (session_is_open(sandbox_session(c->sb))) {
                session_get_status(sandbox_session(c->sb), &status);
                differ(&c->result.reasons, "migration session %s is open (%s)", status.session_id,
                       mig_state_get(status.state)->wire);
        }
        switch (sandbox_get_vm_state(c->sb)) {
        case SANDBOX_VM_RUNNING:
                break;
        case SANDBOX_VM_PAUSED:
                differ(&c->result.reasons, "the VM is paused: resume it first");
                break;
        case SANDBOX_VM_NONE:
        case SANDBOX_VM_STARTING:
        case SANDBOX_VM_INCOMING:
        case SANDBOX_VM_STOPPED:
                differ(&c->result.reasons, "there is no running VM to migrate");
                break;
        }
}

int outgoing_check_start(sandbox *sb, const InitializeOptions *options, uint64_t link_bandwidth,
                         uint64_t round_trip_usec, outgoing_done done, void *userdata,
                         outgoing_check **ret, ferry_error *reterr) {
        outgoing_check *c = calloc(1, sizeof(*c));
        int r;

        if (!c)
                return ferry_error_set_errno(reterr, -ENOMEM, "check");
        *c = (outgoing_check){ .sb = sb, .done = done, .userdata = userdata };
        c->input.bandwidth = link_bandwidth;
        c->input.round_trip_usec = round_trip_usec;
        r = take_options(c, options);
        if (r < 0)
                ferry_error_set_errno(reterr, r, "check");
        else {
                check_state(c);
                c->asking = true;
                if (!sandbox_vm(sb) || vm_query_migrate(sandbox_vm(sb), on_migration, c) < 0) {
                        c->asking = false;
                        r = finish_later(c, reterr);
                }
        }
        if (r < 0) {
                c->asking = false;
                destroy(c);
                return r;
        }
        *ret = c;
        return 0;
}
