/* SPDX-License-Identifier: MIT */
/* What is exported, and the QEMU that takes it. */
#include "migration/sandbox-images.h"
#include "migration/session-internal.h"

/* ---- export and prepare ---- */

static void export_failed(session *s, int r, const ferry_error *error) {
        session_complete_all_of(s, MIG_RPC_EXPORT, r, error);
        session_post(s, s->is_reserved ? MIG_EV_EXPORT_UNDONE : MIG_EV_EXPORT_FAILED);
}

static void on_export_facts(ferry_vm *v, int r, const ferry_error *error, const vm_facts *facts,
                            void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        _cleanup_(freep) uint8_t *containers = NULL;
        session *s = userdata;
        size_t n;

        /* without files it is the answer to an export that was cancelled */
        if (r == -ECANCELED || s->state != MIG_S_EXPORTING || !s->files)
                return;
        if (r < 0) {
                export_failed(s, r, error);
                return;
        }
        session_trace_vm(s, facts);
        if (s->options_message) {
                r = session_check_compatibility(facts, s->options_message->compatibility_data,
                                                &own);
                if (r < 0) {
                        export_failed(s, r, &own);
                        return;
                }
        }
        sandbox_mark_disks(s->sb, vm_get_config(v), s->secret);
        r = sandbox_describe_containers(s->sb, &containers, &n, &own);
        if (r == 0)
                r = migration_state_encode(s->id, sandbox_id(s->sb), s->secret, vm_get_config(v),
                                           s->files, facts, s->options_message,
                                           &(ProtobufCBinaryData){ n, containers }, &s->exported,
                                           &s->n_exported, s->state_digest, &own);
        if (r == 0) {
                r = session_begin_journal(s, s->id, true, &s->options, s->secret);
                if (r < 0)
                        ferry_error_set_errno(&own, r, "journal");
        }
        if (r < 0) {
                export_failed(s, r, &own);
                return;
        }
        session_complete_all_of(s, MIG_RPC_EXPORT, 0, NULL);
        session_post(s, MIG_EV_EXPORTED);
}

void session_drop_export(session *s) {
        s->identifying = identify_free(s->identifying);
        s->files = NULL;
}

static void on_export_files(const vm_files *files, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;
        int r = -ENOTCONN;

        s->files = files;
        if (sandbox_vm(s->sb))
                r = vm_query_facts(sandbox_vm(s->sb), on_export_facts, s);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "ask QEMU what it runs");
                export_failed(s, r, &own);
        }
}

static void on_export_migration(ferry_vm *v, int r, const ferry_error *error,
                                const vm_migration_info *info, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        _cleanup_(differences_done) differences d = { .n = 0 };
        session *s = userdata;

        if (r == -ECANCELED || s->state != MIG_S_EXPORTING || s->identifying)
                return;
        if (r < 0) {
                export_failed(s, r, error);
                return;
        }
        for (size_t i = 0; i < info->n_blocked_reasons; i++)
                differ(&d, "%s", info->blocked_reasons[i]);
        r = differences_report(&d, "this VM cannot migrate", &own);
        if (r < 0) {
                export_failed(s, r, &own);
                return;
        }
        r = identify_start(sandbox_event(s->sb), vm_get_config(v), on_export_files, s,
                           &s->identifying);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "look at the VM's files");
                export_failed(s, r, &own);
        }
}

void session_start_export(session *s) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        int r = sandbox_check_export(s->sb, &own);

        if (r < 0) {
                export_failed(s, r, &own);
                return;
        }
        r = random_bytes(s->secret, sizeof(s->secret));
        if (r == 0)
                r = vm_query_migrate(sandbox_vm(s->sb), on_export_migration, s);
        if (r < 0) {
                ferry_error_set_errno(&own, r, "export");
                export_failed(s, r, &own);
        }
}

static void on_prepare_discarded(int r, const ferry_error *error, void *userdata) {
        session *s = userdata;

        /* a Cancel that came meanwhile waits for the same end of QEMU */
        session_post(s, s->state == MIG_D_PREPARING ? MIG_EV_PREPARE_FAILED : MIG_EV_DISCARDED);
}

static void on_prepare_facts(ferry_vm *v, int r, const ferry_error *error, const vm_facts *facts,
                             void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;

        if (r == -ECANCELED || s->state != MIG_D_PREPARING)
                return;
        if (r == 0)
                session_trace_vm(s, facts);
        if (r == 0)
                r = migration_state_check_facts(s->imported, facts, &own);
        else
                ferry_error_set(&own, error->code, r, "%s", ferry_error_message(error));
        if (r == 0) {
                session_complete_all_of(s, MIG_RPC_PREPARE, 0, NULL);
                session_post(s, MIG_EV_PREPARED);
                return;
        }
        session_complete_all_of(s, MIG_RPC_PREPARE, r, &own);
        if (sandbox_discard_vm(s->sb, on_prepare_discarded, s) < 0)
                session_post(s, MIG_EV_PREPARE_FAILED);
}

static void on_postcopy_allowed(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;

        if (r == -EREMOTEIO) {
                ferry_error_set(&own, FERRY_FAILED_PRECONDITION, r,
                                "post-copy cannot be received here (QEMU's log says why): %s",
                                ferry_error_message(error));
                error = &own;
        }
        if (r == 0) {
                r = vm_query_facts(v, on_prepare_facts, s);
                if (r == 0)
                        return;
                ferry_error_set_errno(&own, r, "ask QEMU what it runs");
                error = &own;
        }
        on_prepare_facts(v, r, error, NULL, s);
}

static void on_incoming(int r, const ferry_error *error, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        session *s = userdata;

        if (s->state != MIG_D_PREPARING)
                return;
        if (r == 0) {
                r = session_may_postcopy(s)
                            ? vm_allow_postcopy(sandbox_vm(s->sb), on_postcopy_allowed, s)
                            : vm_query_facts(sandbox_vm(s->sb), on_prepare_facts, s);
                if (r == 0)
                        return;
                ferry_error_set_errno(&own, r, "ask QEMU what it runs");
                error = &own;
        }
        session_complete_all_of(s, MIG_RPC_PREPARE, r, error);
        if (sandbox_vm(s->sb) && sandbox_discard_vm(s->sb, on_prepare_discarded, s) == 0)
                return;
        session_post(s, MIG_EV_PREPARE_FAILED);
}

void session_start_qemu(session *s) {
        _cleanup_(ferry_error_donep) ferry_error own = FERRY_ERROR_INIT;
        int r = sandbox_start_incoming(s->sb, s->imported->config, session_may_postcopy(s),
                                       on_incoming, s, &own);

        if (r < 0) {
                session_complete_all_of(s, MIG_RPC_PREPARE, r, &own);
                session_post(s, MIG_EV_PREPARE_FAILED);
        }
}
