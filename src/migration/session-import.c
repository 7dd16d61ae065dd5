/* SPDX-License-Identifier: MIT */
/* Import: the state is checked against itself and against this host, then all of it is taken, or
 * nothing. What this host's QEMU can do is asked for meanwhile; until that is known no session is
 * open. */
#include "migration/sandbox-images.h"
#include "migration/session-internal.h"

static int check_place(const session *s, ferry_error *reterr) {
        if (sandbox_vm(s->sb) || sandbox_get_vm_state(s->sb) == SANDBOX_VM_STOPPED)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "this shim has a VM of its own: import into a new one");
        return 0;
}

static int check_awaited(const session *s, const char *id, ferry_error *reterr) {
        const char *awaited = sandbox_awaited_session(s->sb);

        if (!awaited || strcmp(awaited, id) == 0)
                return 0;
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                               awaited[0] ? "this shim's pod waits for the session %s"
                                          : "this shim's pod has ended%s",
                               awaited);
}

static int check_import(session *s, const char *id, const char *sandbox_name, const uint8_t *data,
                        size_t n, migration_state **ret, migration_options *ret_options,
                        ferry_error *reterr) {
        _cleanup_(migration_state_freep) migration_state *state = NULL;
        const journal_session *old;
        int r;

        r = session_check_new(s, id, MIG_RPC_IMPORT, reterr);
        if (r < 0)
                return r;
        if (strcmp(sandbox_name, sandbox_id(s->sb)) != 0)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "sandbox_id: this shim is for sandbox %s, not for \"%.60s\"",
                                       sandbox_id(s->sb), sandbox_name);
        r = check_awaited(s, id, reterr);
        if (r < 0)
                return r;
        if (s->importing)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "another import is under way");
        r = check_place(s, reterr);
        if (r < 0)
                return r;
        old = journal_find(s->journal, id);
        if (old)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "session %s has ended here (%s): export anew, with another "
                                       "session id",
                                       id, journal_mark_name(old->mark));
        r = migration_state_decode(data, n, id, &state, reterr);
        if (r < 0)
                return r;
        r = migration_options_parse(state->message->options, ret_options, reterr);
        if (r < 0)
                return ferry_error_prefix(reterr, r, "config");
        r = encrypt_check(ret_options->encryption, reterr);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(state);
        return 0;
}

void session_drop_import(session *s) {
        importing *i = TAKE_PTR(s->importing);

        if (!i)
                return;
        incoming_check_free(i->check);
        if (i->state) /* nobody took it */
                sandbox_drop_images(s->sb, i->state->config);
        migration_state_free(i->state);
        free(i);
}

/* From here on there is a session. */
static int commit(session *s, const char *id, const migration_options *options,
                  migration_state **state, ferry_error *reterr) {
        const Ferry__State__V1__SandboxState *m = (*state)->message;
        InitializeOptions *copy = NULL;
        notifications *history = NULL;
        int r;

        r = session_copy_options(m->options, &copy);
        if (r == 0 && !s->notifications)
                r = notifications_new(ORIGIN__ORIGIN_DESTINATION, &history);
        if (r == 0)
                r = session_begin_journal(s, id, false, options, m->session_secret.data);
        if (r < 0) {
                if (copy)
                        initialize_options__free_unpacked(copy, NULL);
                notifications_close(history);
                return ferry_error_set_errno(reterr, r, "import");
        }
        session_begin(s, id, false, options);
        s->options_message = copy;
        if (history)
                s->notifications = history;
        notifications_set_origin(s->notifications, ORIGIN__ORIGIN_DESTINATION);
        s->imported = TAKE_PTR(*state);
        memcpy(s->secret, m->session_secret.data, DIGEST_SIZE);
        memcpy(s->state_digest, s->imported->digest, DIGEST_SIZE);
        session_expect_disks(s);
        return 0;
}

static int take_containers(session *s, const migration_state *state, ferry_error *reterr) {
        const ProtobufCBinaryData *data = &state->message->containers;
        int r;

        r = sandbox_take_containers(s->sb, state->config, data->data, data->len, reterr);
        return r < 0 ? ferry_error_prefix(reterr, r, "config: containers") : 0;
}

static void on_checked(const differences *reasons, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        session *s = userdata;
        importing *i = s->importing;
        session_reply reply = i->reply;
        void *reply_userdata = i->userdata;
        int r;

        r = incoming_report(reasons, &error);
        /* time has passed */
        if (r == 0)
                r = session_check_new(s, i->state->message->session_id, MIG_RPC_IMPORT, &error);
        if (r == 0)
                r = check_place(s, &error);
        if (r == 0)
                r = take_containers(s, i->state, &error);
        if (r == 0) {
                r = commit(s, i->state->message->session_id, &i->options, &i->state, &error);
                if (r < 0)
                        (void)sandbox_take_containers(s->sb, NULL, NULL, 0, NULL);
        }
        session_drop_import(s);
        if (r < 0)
                session_reply_error(reply, reply_userdata, r, &error);
        else
                session_call(s, MIG_RPC_IMPORT, reply, reply_userdata);
}

void session_import(session *s, const char *id, const char *sandbox_name, const uint8_t *data,
                    size_t n, session_reply reply, void *userdata) {
        _cleanup_(migration_state_freep) migration_state *state = NULL;
        ferry_error error = FERRY_ERROR_INIT;
        migration_options options;
        importing *i;
        int r;

        r = check_import(s, id, sandbox_name, data, n, &state, &options, &error);
        if (r < 0) {
                session_reply_error(reply, userdata, r, &error);
                return;
        }
        i = malloc(sizeof(*i));
        if (!i) {
                ferry_error_set_errno(&error, -ENOMEM, "import");
                session_reply_error(reply, userdata, -ENOMEM, &error);
                return;
        }
        *i = (importing){ .options = options, .reply = reply, .userdata = userdata };
        i->state = TAKE_PTR(state);
        s->importing = i;
        r = sandbox_adopt_images(s->sb, i->state, &error);
        if (r < 0)
                i->state = migration_state_free(i->state); /* what it names is not ours to drop */
        else
                r = sandbox_check_incoming(s->sb, i->state, on_checked, s, &i->check, &error);
        if (r < 0) {
                session_drop_import(s);
                session_reply_error(reply, userdata, r, &error);
        }
}

int session_check_compatibility(const vm_facts *ours, const CompatibilityInfo *info,
                                ferry_error *reterr) {
        _cleanup_(differences_done) differences d = { .n = 0 };
        Ferry__State__V1__Compatibility *given;

        if (!info || compatibility_unpack(info->data.data, info->data.len, &given))
                return 0; /* its form was checked with the options */
        compatibility_compare(given, "in compatibility_data", ours, &d);
        ferry__state__v1__compatibility__free_unpacked(given, NULL);
        return differences_report(&d, "the sandbox is not what compatibility_data asks for",
                                  reterr);
}
