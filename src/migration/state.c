/* SPDX-License-Identifier: MIT */
#include "migration/state.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"

/* Field 15, bytes, 32 of them: always the last field of a serialized state. */
#define DIGEST_TAIL (2 + DIGEST_SIZE)

/* ---- encode ---- */

typedef struct encoder {
        Ferry__State__V1__File files[VM_FILES_MAX];
        Ferry__State__V1__File *file_list[VM_FILES_MAX];
} encoder;

static int encode_files(encoder *e, const vm_files *files, Ferry__State__V1__Vm *ret,
                        ferry_error *reterr) {
        for (size_t i = 0; i < files->n; i++) {
                const vm_file *file = &files->items[i];

                if (file->r < 0)
                        return ferry_error_set_errno(reterr, file->r, "%s %s", file->role,
                                                     file->path);
                ferry__state__v1__file__init(&e->files[i]);
                e->files[i].role = (char *)file->role;
                e->files[i].size = file->size;
                if (!file->writable)
                        e->files[i].sha256 =
                                (ProtobufCBinaryData){ DIGEST_SIZE, (uint8_t *)file->digest };
                e->file_list[i] = &e->files[i];
        }
        ret->files = e->file_list;
        ret->n_files = files->n;
        return 0;
}

/* The configuration as another host may have it: our bridge, tap and QEMU binary are not in it. */
static int portable_config(const vm_config *config, char **ret) {
        _cleanup_(vm_config_freep) vm_config *copy = NULL;
        int r;

        r = vm_config_dup(config, &copy);
        if (r < 0)
                return r;
        copy->bridge[0] = '\0';
        copy->tap[0] = '\0';
        free(copy->qemu);
        copy->qemu = strdup(VM_CONFIG_QEMU_DEFAULT);
        if (!copy->qemu)
                return -ENOMEM;
        return vm_config_format(copy, ret);
}

static int pack_with_digest(Ferry__State__V1__SandboxState *state, uint8_t **ret, size_t *ret_n,
                            uint8_t ret_digest[DIGEST_SIZE], ferry_error *reterr) {
        size_t n = ferry__state__v1__sandbox_state__get_packed_size(state);
        uint8_t *data;

        if (n + DIGEST_TAIL > MIGRATION_STATE_MAX)
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, -EMSGSIZE,
                                       "the sandbox's state is too large to export");
        data = malloc(n + DIGEST_TAIL);
        if (!data)
                return ferry_error_set_errno(reterr, -ENOMEM, "export");
        ferry__state__v1__sandbox_state__pack(state, data);
        digest_sha256(data, n, ret_digest);
        data[n] = 15 << 3 | 2;
        data[n + 1] = DIGEST_SIZE;
        memcpy(data + n + 2, ret_digest, DIGEST_SIZE);
        *ret = data;
        *ret_n = n + DIGEST_TAIL;
        return 0;
}

int migration_state_encode(const char *session_id, const char *sandbox_id,
                           const uint8_t secret[DIGEST_SIZE], const vm_config *config,
                           const vm_files *files, const vm_facts *facts,
                           const InitializeOptions *options, const ProtobufCBinaryData *containers,
                           uint8_t **ret, size_t *ret_n, uint8_t ret_digest[DIGEST_SIZE],
                           ferry_error *reterr) {
        Ferry__State__V1__SandboxState state = FERRY__STATE__V1__SANDBOX_STATE__INIT;
        Ferry__State__V1__Vm machine = FERRY__STATE__V1__VM__INIT;
        Ferry__State__V1__Compatibility compatibility = FERRY__STATE__V1__COMPATIBILITY__INIT;
        _cleanup_(freep) char *json = NULL;
        encoder e;
        int r;

        r = portable_config(config, &json);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "export");
        machine.config = (ProtobufCBinaryData){ strlen(json), (uint8_t *)json };
        r = encode_files(&e, files, &machine, reterr);
        if (r < 0)
                return r;

        compatibility_fill(&compatibility, facts);
        state.schema_version = MIGRATION_STATE_VERSION;
        state.session_id = (char *)session_id;
        state.sandbox_id = (char *)sandbox_id;
        state.session_secret = (ProtobufCBinaryData){ DIGEST_SIZE, (uint8_t *)secret };
        state.vm = &machine;
        state.compatibility = &compatibility;
        state.options = (InitializeOptions *)options;
        if (containers)
                state.containers = *containers;
        return pack_with_digest(&state, ret, ret_n, ret_digest, reterr);
}

/* ---- decode ---- */

static int refuse(ferry_error *reterr, const char *why) {
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "config: %s", why);
}

static int check_digest(const uint8_t *data, size_t n, uint8_t ret[DIGEST_SIZE],
                        ferry_error *reterr) {
        if (n > MIGRATION_STATE_MAX)
                return refuse(reterr, "larger than an exported state can be");
        if (n < DIGEST_TAIL || data[n - DIGEST_TAIL] != (15 << 3 | 2) ||
            data[n - DIGEST_TAIL + 1] != DIGEST_SIZE)
                return refuse(reterr, "not an exported state (no digest at its end)");
        digest_sha256(data, n - DIGEST_TAIL, ret);
        if (!digest_equal(ret, data + n - DIGEST_SIZE))
                return refuse(reterr, "damaged on its way (the digest does not match)");
        return 0;
}

static int check_message(const Ferry__State__V1__SandboxState *m, const char *session_id,
                         ferry_error *reterr) {
        if (m->schema_version < MIGRATION_STATE_VERSION_OLDEST ||
            m->schema_version > MIGRATION_STATE_VERSION)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "config: schema version %u; this ferry reads %u and %u",
                                       m->schema_version, MIGRATION_STATE_VERSION_OLDEST,
                                       MIGRATION_STATE_VERSION);
        if (strcmp(m->session_id, session_id) != 0)
                return refuse(reterr, "exported for another session");
        if (m->session_secret.len != DIGEST_SIZE)
                return refuse(reterr, "session_secret is not 32 bytes");
        if (!m->vm || m->vm->config.len == 0)
                return refuse(reterr, "no VM in it");
        if (m->vm->n_files > VM_FILES_MAX)
                return refuse(reterr, "too many files");
        for (size_t i = 0; i < m->vm->n_files; i++)
                if (!text_is_plain(m->vm->files[i]->role, 15) ||
                    (m->vm->files[i]->sha256.len != 0 &&
                     m->vm->files[i]->sha256.len != DIGEST_SIZE))
                        return refuse(reterr, "malformed file entry");
        if (!m->compatibility)
                return refuse(reterr, "no compatibility data");
        if (compatibility_check_form(m->compatibility) < 0)
                return refuse(reterr, "malformed compatibility data");
        if (m->compatibility->n_cpu_words == 0)
                return refuse(reterr, "compatibility data without the CPU's features");
        return 0;
}

int migration_state_decode(const uint8_t *data, size_t n, const char *session_id,
                           migration_state **ret, ferry_error *reterr) {
        _cleanup_(migration_state_freep) migration_state *state = NULL;
        int r;

        state = calloc(1, sizeof(*state));
        if (!state)
                return ferry_error_set_errno(reterr, -ENOMEM, "import");
        r = check_digest(data, n, state->digest, reterr);
        if (r < 0)
                return r;
        state->message = ferry__state__v1__sandbox_state__unpack(NULL, n, data);
        if (!state->message)
                return refuse(reterr, "does not decode as ferry.state.v1.SandboxState");
        r = check_message(state->message, session_id, reterr);
        if (r < 0)
                return r;
        r = vm_config_parse((const char *)state->message->vm->config.data,
                            state->message->vm->config.len, &state->config, reterr);
        if (r < 0) {
                if (reterr)
                        reterr->code = FERRY_INVALID_ARGUMENT;
                return ferry_error_prefix(reterr, r, "config: VM configuration");
        }
        *ret = TAKE_PTR(state);
        return 0;
}

/* ---- checks against this host ---- */

static const Ferry__State__V1__File *find_file(const migration_state *state, const char *role) {
        for (size_t i = 0; i < state->message->vm->n_files; i++)
                if (strcmp(state->message->vm->files[i]->role, role) == 0)
                        return state->message->vm->files[i];
        return NULL;
}

void migration_state_check_files(const migration_state *state, const vm_files *files,
                                 differences *d) {
        for (size_t i = 0; i < files->n; i++) {
                const vm_file *file = &files->items[i];
                const Ferry__State__V1__File *expected = find_file(state, file->role);

                if (!expected || (!file->writable && expected->sha256.len != DIGEST_SIZE))
                        differ(d, "the source did not say what %s is", file->role);
                else if (file->r < 0)
                        differ(d, "%s %s: %s", file->role, file->path, strerror(-file->r));
                else if (file->size != expected->size)
                        differ(d, "%s %s has %llu bytes here and %llu at the source", file->role,
                               file->path, (unsigned long long)file->size,
                               (unsigned long long)expected->size);
                else if (!file->writable && !digest_equal(file->digest, expected->sha256.data))
                        differ(d, "%s %s has another content here than at the source", file->role,
                               file->path);
        }
}

int migration_state_check_facts(const migration_state *state, const vm_facts *facts,
                                ferry_error *reterr) {
        _cleanup_(differences_done) differences d = { .n = 0 };

        compatibility_compare(state->message->compatibility, "at the source", facts, &d);
        return differences_report(&d, "the VM would not be the same machine here", reterr);
}

migration_state *migration_state_free(migration_state *state) {
        if (!state)
                return NULL;
        if (state->message) {
                if (state->message->session_secret.data)
                        explicit_bzero(state->message->session_secret.data,
                                       state->message->session_secret.len);
                ferry__state__v1__sandbox_state__free_unpacked(state->message, NULL);
        }
        vm_config_free(state->config);
        free(state);
        return NULL;
}
