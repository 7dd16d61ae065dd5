/* SPDX-License-Identifier: MIT */
/* The service's calls: checked, taken to the table, answered now or when the state has moved on. */
#include "migration/session-internal.h"

#define SOCKET_WAIT_USEC   (600 * USEC_PER_SEC)
#define SOCKET_WAIT_MAX    (86400 * USEC_PER_SEC)
#define FINALIZE_WAIT_USEC (10 * USEC_PER_SEC)

/* ---- waiting calls ---- */

void session_complete(session *s, size_t i, int r, const ferry_error *error) {
        waiter w = s->waiters[i];

        memmove(&s->waiters[i], &s->waiters[i + 1], (s->n_waiters - i - 1) * sizeof(s->waiters[0]));
        s->n_waiters--;
        w.reply(r, error, w.userdata);
}

void session_complete_all_of(session *s, mig_event rpc, int r, const ferry_error *error) {
        for (size_t i = 0; i < s->n_waiters;)
                if (s->waiters[i].rpc == rpc) {
                        session_complete(s, i, r, error);
                        i = 0;
                } else
                        i++;
}

void session_complete_all_with_reason(session *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        ferry_error_set(&error, FERRY_FAILED_PRECONDITION, -EREMOTEIO, "%s",
                        s->reason ? s->reason : "the rollback failed");
        while (s->n_waiters > 0)
                session_complete(s, 0, -EREMOTEIO, &error);
}

static int on_waiter_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        session *s = userdata;
        uint64_t next = USEC_INFINITY, now = now_usec();

        for (size_t i = 0; i < s->n_waiters;) {
                if (s->waiters[i].deadline_usec <= now) {
                        ferry_error_set(&error, FERRY_FAILED_PRECONDITION, -ETIMEDOUT,
                                        "session %s is %s: undecided, see Status", s->id,
                                        mig_state_get(s->state)->wire);
                        session_complete(s, i, -ETIMEDOUT, &error);
                        i = 0;
                        continue;
                }
                if (s->waiters[i].deadline_usec < next)
                        next = s->waiters[i].deadline_usec;
                i++;
        }
        s->waiter_timer = sd_event_source_disable_unref(s->waiter_timer);
        if (next != USEC_INFINITY)
                (void)sd_event_add_time(sandbox_event(s->sb), &s->waiter_timer, CLOCK_MONOTONIC,
                                        next, TIMER_ACCURACY_USEC, on_waiter_timer, s);
        return 0;
}

static int add_waiter(session *s, mig_event rpc, session_reply reply, void *userdata) {
        bool is_finalize =
                rpc == MIG_RPC_STOP || rpc == MIG_RPC_STOP_FORCE || rpc == MIG_RPC_RESUME;
        waiter *w;

        if (s->n_waiters == WAITERS_MAX)
                return -EBUSY;
        w = &s->waiters[s->n_waiters++];
        *w = (waiter){
                .rpc = rpc,
                .reply = reply,
                .userdata = userdata,
                .deadline_usec = is_finalize
                                         ? now_usec() + session_limit_usec(s, FINALIZE_WAIT_USEC)
                                         : USEC_INFINITY,
        };
        if (is_finalize && !s->waiter_timer)
                (void)sd_event_add_time(sandbox_event(s->sb), &s->waiter_timer, CLOCK_MONOTONIC,
                                        w->deadline_usec, TIMER_ACCURACY_USEC, on_waiter_timer, s);
        return 0;
}

void session_forget(session *s, void *userdata) {
        if (s->importing && s->importing->userdata == userdata) {
                session_drop_import(s);
                return;
        }
        session_forget_disk(s, userdata);
        for (size_t i = 0; i < s->n_waiters; i++)
                if (s->waiters[i].userdata == userdata) {
                        memmove(&s->waiters[i], &s->waiters[i + 1],
                                (s->n_waiters - i - 1) * sizeof(s->waiters[0]));
                        s->n_waiters--;
                        return;
                }
}

/* What a verdict that is not a success says. */
static int refuse(const session *s, mig_event rpc, const mig_cell *cell, ferry_error *reterr) {
        const mig_state_info *info = mig_state_get(s->state);

        if (cell->verdict == MIG_NO_SESSION)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "%s: this shim has no session", mig_event_name(rpc));
        if (cell->verdict == MIG_ALREADY)
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST,
                                       "%s: session %s has its socket", mig_event_name(rpc), s->id);
        if (cell->verdict == MIG_STILL_OWNER)
                return ferry_error_set(
                        reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                        "session %s: this side still owns the sandbox: RESUME it, or stop it as a "
                        "task",
                        s->id);
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                               "%s: not while session %s is %s%s%s", mig_event_name(rpc), s->id,
                               info->wire, s->reason ? ": " : "", s->reason ? s->reason : "");
}

/* What the table's cell alone cannot say: an OK would claim that a guest runs, or does not. */
static int check_guest(const session *s, mig_event rpc, ferry_error *reterr) {
        bool resume = rpc == MIG_RPC_RESUME,
             stop = rpc == MIG_RPC_STOP || rpc == MIG_RPC_STOP_FORCE;

        if (s->state == MIG_RESERVED && (resume || stop) && resume != !!sandbox_vm(s->sb))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "session %s has not begun, and there is %s VM here", s->id,
                                       resume ? "no" : "a");
        if (rpc == MIG_RPC_RESUME && session_is_source(s) && !sandbox_vm(s->sb) &&
            mig_state_get(s->state)->owner == MIG_OWNER_HERE)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "session %s: there is no VM to resume: %s", s->id,
                                       sandbox_exit_reason(s->sb) ? sandbox_exit_reason(s->sb)
                                                                  : "it has ended");
        return 0;
}

/* A Cleanup that waits for a post-copy's memory does not wait for somebody to bring it too. */
static int check_peer(const session *s, mig_event rpc, ferry_error *reterr) {
        bool needs_it = s->state == MIG_S_SERVING || s->state == MIG_S_FEEDING ||
                        (s->state == MIG_D_FETCHING && !s->is_whole);

        if (rpc != MIG_RPC_CLEANUP || !needs_it || (s->link && !s->peer_lost))
                return 0;
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOTCONN,
                               "session %s: not all of the guest's memory is there yet, and %s",
                               s->id,
                               s->peer_lost ? "the other side is lost (FinalizeSandbox with force)"
                                            : "there is no connection: bring a new one "
                                              "(CreateDuplicateSocket)");
}

/* The two calls that their own work answers, when it is done. */
static bool is_at_work(const session *s, mig_event rpc) {
        return (rpc == MIG_RPC_EXPORT && s->state == MIG_S_EXPORTING) ||
               (rpc == MIG_RPC_PREPARE && s->state == MIG_D_PREPARING);
}

void session_retry_waiters(session *s) {
        for (size_t i = 0; i < s->n_waiters;) {
                _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
                mig_event rpc = s->waiters[i].rpc;
                const mig_cell *cell = mig_lookup(s->state, rpc);

                if (check_peer(s, rpc, &error) < 0) {
                        session_complete(s, i, -ENOTCONN, &error);
                        i = 0;
                        continue;
                }
                if (cell->verdict == MIG_WAIT || is_at_work(s, rpc)) {
                        i++;
                        continue;
                }
                if (rpc == MIG_RPC_EXPORT || rpc == MIG_RPC_PREPARE) {
                        int r = ferry_error_set(&error, FERRY_CANCELLED, -ECANCELED,
                                                "%s was cut off: %s", mig_event_name(rpc),
                                                s->reason ? s->reason : "cancelled");

                        session_complete(s, i, r, &error);
                        i = 0;
                        continue;
                }
                if (cell->verdict == MIG_OK || cell->verdict == MIG_START) {
                        int r = check_guest(s, rpc, &error);

                        if (r < 0) {
                                session_complete(s, i, r, &error);
                                return;
                        }
                        if (cell->verdict == MIG_OK)
                                session_complete(s, i, 0, NULL);
                        session_post(s, rpc); /* comes back here after the step */
                        return;
                }
                if (cell->verdict == MIG_NOP)
                        session_complete(s, i, 0, NULL);
                else {
                        int r = refuse(s, rpc, cell, &error);

                        session_complete(s, i, r, &error);
                }
                i = 0;
        }
}

/* Takes a call to the table; replies now, or when the table says so. */
void session_call(session *s, mig_event rpc, session_reply reply, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const mig_cell *cell = mig_lookup(s->state, rpc);
        int r = 0;

        switch (cell->verdict) {
        case MIG_NOP:
                r = check_guest(s, rpc, &error);
                break;
        case MIG_OK:
        case MIG_START:
        case MIG_WAIT:
                r = check_guest(s, rpc, &error);
                if (r == 0)
                        r = check_peer(s, rpc, &error);
                if (r < 0)
                        break;
                if (cell->verdict != MIG_OK) {
                        r = add_waiter(s, rpc, reply, userdata);
                        if (r >= 0) {
                                if (cell->verdict == MIG_START)
                                        session_post(s, rpc);
                                return;
                        }
                        ferry_error_set(&error, FERRY_RESOURCE_EXHAUSTED, r,
                                        "too many calls wait for session %s", s->id);
                        break;
                }
                session_post(s, rpc);
                break;
        case MIG_ILLEGAL:
        case MIG_NO_SESSION:
        case MIG_ALREADY:
        case MIG_STILL_OWNER:
                r = refuse(s, rpc, cell, &error);
                break;
        case _MIG_VERDICT_MAX:
        default:
                r = -EINVAL;
        }
        reply(r, r < 0 ? &error : NULL, userdata);
}

/* Every call but Cleanup names the open session, even where the state would refuse it anyway. */
int session_check_id(const session *s, const char *id, ferry_error *reterr) {
        if (!id || !*id)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "session_id is empty");
        if (!journal_session_id_is_valid(id))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "session_id: 1 to %u of letters, digits and ._:@+=-",
                                       JOURNAL_SESSION_ID_MAX);
        if (s->state == MIG_IDLE)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "this shim has no session %s", id);
        if (strcmp(id, s->id) != 0)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "this shim is in another session than %s", id);
        return 0;
}

/* The call's verdict in this state, before anything is looked at. */
static int session_check_state(const session *s, mig_event rpc, ferry_error *reterr) {
        const mig_cell *cell = mig_lookup(s->state, rpc);

        switch (cell->verdict) {
        case MIG_OK:
        case MIG_START:
        case MIG_NOP:
        case MIG_WAIT:
                return 0;
        case MIG_ILLEGAL:
        case MIG_NO_SESSION:
        case MIG_ALREADY:
        case MIG_STILL_OWNER:
        case _MIG_VERDICT_MAX:
        default:
                return refuse(s, rpc, cell, reterr);
        }
}

/* ---- the calls ---- */

void session_reply_error(session_reply reply, void *userdata, int r, ferry_error *error) {
        reply(r, error, userdata);
        ferry_error_done(error);
}

int session_copy_options(const InitializeOptions *from, InitializeOptions **ret) {
        size_t n;
        uint8_t *data;

        *ret = NULL;
        if (!from)
                return 0;
        n = initialize_options__get_packed_size(from);
        data = malloc(n + 1);
        if (!data)
                return -ENOMEM;
        initialize_options__pack(from, data);
        *ret = initialize_options__unpack(NULL, n, data);
        free(data);
        return *ret ? 0 : -ENOMEM;
}

int session_begin_journal(session *s, const char *id, bool is_source,
                          const migration_options *options, const uint8_t *secret) {
        return journal_begin(s->journal,
                             &(journal_opening){
                                     .session_id = id,
                                     .source = is_source,
                                     .direct = options->handover == HANDOVER__HANDOVER_DIRECT,
                                     .postcopy = options->postcopy != POSTCOPY__POSTCOPY_NEVER,
                                     .encryption = options->encryption,
                                     .secret = secret,
                             });
}

void session_begin(session *s, const char *id, bool is_source, const migration_options *options) {
        strcpy(s->id, id);
        s->options = *options;
        session_trace_begin(s, is_source);
}

int session_check_new(const session *s, const char *id, mig_event rpc, ferry_error *reterr) {
        if (!id || !*id)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "session_id is empty");
        if (!journal_session_id_is_valid(id))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "session_id: 1 to %u of letters, digits and ._:@+=-",
                                       JOURNAL_SESSION_ID_MAX);
        if (s->state == MIG_RESERVED && strcmp(id, s->id) != 0)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "this shim is reserved for another session than %s", id);
        return session_check_state(s, rpc, reterr);
}

static int check_export(session *s, const char *id, const InitializeOptions *message,
                        migration_options *ret_options, ferry_error *reterr) {
        sandbox_vm_state vm_state = sandbox_get_vm_state(s->sb);
        int r;

        r = migration_options_parse(message, ret_options, reterr);
        if (r < 0)
                return r;
        r = session_check_new(s, id, MIG_RPC_EXPORT, reterr);
        if (r < 0)
                return r;
        if (vm_state != SANDBOX_VM_RUNNING)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       vm_state == SANDBOX_VM_PAUSED
                                               ? "the VM is paused: resume it first"
                                               : "there is no running VM to migrate");
        return encrypt_check(ret_options->encryption, reterr);
}

void session_export(session *s, const char *id, const InitializeOptions *message,
                    session_reply reply, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        migration_options options;
        InitializeOptions *copy = NULL;
        int r;

        r = check_export(s, id, message, &options, &error);
        if (r == 0) {
                r = session_copy_options(message, &copy);
                if (r < 0)
                        ferry_error_set_errno(&error, r, "export");
        }
        if (r == 0 && !s->notifications) {
                r = notifications_new(ORIGIN__ORIGIN_SOURCE, &s->notifications);
                if (r < 0) {
                        if (copy)
                                initialize_options__free_unpacked(copy, NULL);
                        ferry_error_set_errno(&error, r, "export");
                }
        }
        if (r < 0) {
                session_reply_error(reply, userdata, r, &error);
                return;
        }
        notifications_set_origin(s->notifications, ORIGIN__ORIGIN_SOURCE);
        session_begin(s, id, true, &options);
        s->options_message = copy;
        session_call(s, MIG_RPC_EXPORT, reply, userdata);
}

void session_exported(const session *s, const uint8_t **ret, size_t *ret_n) {
        *ret = s->exported;
        *ret_n = s->n_exported;
}

void session_prepare(session *s, const char *id, const InitializeOptions *message,
                     session_reply reply, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        migration_options ignored;
        int r;

        r = migration_options_parse(message, &ignored, &error);
        if (r == 0)
                r = session_check_id(s, id, &error);
        if (r == 0)
                r = session_check_state(s, MIG_RPC_PREPARE, &error);
        if (r == 0 && message)
                r = migration_options_agree(s->options_message, message, &error);
        if (r == 0 && s->state == MIG_D_IMPORTED)
                r = sandbox_check_prepare(s->sb, &error);
        if (r == 0 && message && message->compatibility_data && s->imported) {
                vm_facts ours;

                compatibility_view(s->imported->message->compatibility, &ours);
                r = session_check_compatibility(&ours, message->compatibility_data, &error);
        }
        if (r < 0) {
                session_reply_error(reply, userdata, r, &error);
                return;
        }
        session_call(s, MIG_RPC_PREPARE, reply, userdata);
}

/* The guest's state goes over the connection that there is, and may be lost with it. One that is
 * dead is noticed (TCP_USER_TIMEOUT). */
static bool must_keep_link(const session *s) {
        return s->link && !s->rejoining &&
               (s->state == MIG_S_SERVING || s->state == MIG_D_TAKEN || s->state == MIG_D_STARTING);
}

/* A session has its socket (or with `channels` so many) until all is transferred; then each new one
 * is taken for the old. */
int session_check_socket(session *s, const char *id, ferry_error *reterr) {
        const mig_cell *cell = mig_lookup(s->state, MIG_RPC_SOCKET);
        int r;

        if (session_find_tombstone(s, id))
                return 0;
        r = session_check_id(s, id, reterr);
        if (r < 0)
                return r;
        if ((cell->action == MIG_ACT_REJOIN && !must_keep_link(s)) || session_wants_channel(s))
                return 0;
        if (s->link || (s->had_socket && cell->verdict == MIG_ILLEGAL))
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST,
                                       "session %s has%s its socket", s->id, s->link ? "" : " had");
        return session_check_state(s, MIG_RPC_SOCKET, reterr);
}

void session_socket(session *s, const char *id, int fd_consume, session_reply reply,
                    void *userdata) {
        _cleanup_(closep) int fd = fd_consume;
        const journal_session *ended = session_find_tombstone(s, id);
        ferry_error error = FERRY_ERROR_INIT;
        mig_link *link = NULL;
        int r;

        r = session_check_socket(s, id, &error);
        if (r == 0 && !ended && session_wants_channel(s)) {
                r = session_add_channel(s, TAKE_FD(fd), &error);
                session_reply_error(reply, userdata, r, &error);
                return;
        }
        if (r == 0) {
                r = ended ? session_answer_for(s, ended, TAKE_FD(fd))
                          : mig_link_new(sandbox_event(s->sb), TAKE_FD(fd), &session_link_handlers,
                                         s, &link);
                if (r < 0)
                        ferry_error_set_errno(&error, r, "migration socket");
        }
        if (r < 0) {
                session_reply_error(reply, userdata, r, &error);
                return;
        }
        if (ended) {
                reply(0, NULL, userdata);
                return;
        }
        session_close_link(s);
        s->link = link;
        s->had_socket = true;
        session_call(s, MIG_RPC_SOCKET, reply, userdata);
}

void session_transfer(session *s, const char *id, uint64_t timeout_usec, session_reply reply,
                      void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        uint64_t wait = timeout_usec ? timeout_usec : SOCKET_WAIT_USEC;
        mig_state was = s->state;
        int r;

        r = session_check_id(s, id, &error);
        if (r == 0)
                r = session_check_channels(s, &error);
        if (r < 0) {
                session_reply_error(reply, userdata, r, &error);
                return;
        }
        session_call(s, MIG_RPC_TRANSFER, reply, userdata);
        if (s->state != was &&
            (s->state == MIG_S_SOCKET_WAITING || s->state == MIG_D_SOCKET_WAITING))
                session_start_timer(s, wait > SOCKET_WAIT_MAX ? SOCKET_WAIT_MAX : wait,
                                    MIG_EV_SOCKET_TIMEOUT);
}

static int apply_record(session *s, FinalizeAction action, const uint8_t *record, size_t n,
                        ferry_error *reterr) {
        const journal_session *js = journal_current(s->journal);
        journal_mark mark;
        int r;

        if (n == 0)
                return 0;
        if (!js)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "handover_record: no session is in the journal");
        r = journal_record_check(js, record, n, &mark);
        if (r < 0)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, r,
                                       r == -EKEYREJECTED
                                               ? "handover_record is not authentic"
                                               : "handover_record is not one of this session's");
        if ((mark == JOURNAL_RUNNING) != (action == FINALIZE_ACTION__FINALIZE_ACTION_STOP))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "handover_record: a record of \"%s\" goes with %s",
                                       journal_mark_name(mark),
                                       mark == JOURNAL_RUNNING ? "STOP" : "RESUME");
        if (js->source && mark == JOURNAL_RUNNING)
                session_post(s, MIG_EV_RECORD_RUNNING);
        else if (js->source && mark == JOURNAL_DECLINED)
                session_post(s, MIG_EV_RECORD_DECLINED);
        else if (!js->source && mark == JOURNAL_HANDED)
                session_post(s, MIG_EV_RECORD_HANDED);
        else
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "handover_record is this side's own: give it the other's");
        return 0;
}

static int check_grounds(const session *s, FinalizeAction action, const audit_grounds *grounds,
                         ferry_error *reterr) {
        const char *missing = NULL;

        if (!audit_text_is_valid(grounds->fenced) || !audit_text_is_valid(grounds->reason))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "force_grounds: printable text without quotation marks, at "
                                       "most %u bytes",
                                       AUDIT_TEXT_MAX);
        if (action != FINALIZE_ACTION__FINALIZE_ACTION_RESUME)
                return 0;
        if (*grounds->fenced == '\0')
                missing = "fenced: the proof that the other host does not run the sandbox";
        else if (*grounds->reason == '\0')
                missing = "reason: a line for the audit log";
        else if (!session_is_source(s) && !grounds->may_be_stale)
                missing = "copy_may_be_stale: a source that rolled back has run on since";
        if (missing)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "RESUME with force needs force_grounds.%s", missing);
        return 0;
}

/* Where the other side is not needed, or can still be asked, force is no shortcut. */
static int apply_force(session *s, FinalizeAction action, const audit_grounds *grounds,
                       ferry_error *reterr) {
        bool resume = action == FINALIZE_ACTION__FINALIZE_ACTION_RESUME;
        const mig_cell *cell = mig_lookup(s->state, resume ? MIG_EV_FENCED : MIG_RPC_STOP_FORCE);
        /* nobody is left who could fetch the memory that is here */
        bool forsaken = !resume && s->state == MIG_S_FEEDING && !s->link && *grounds->fenced;
        int r = check_grounds(s, action, grounds, reterr);

        if (r < 0)
                return r;
        if (cell->verdict != MIG_OK && cell->verdict != MIG_START && !forsaken)
                return 0; /* there is nothing to force: the call itself says why */
        if (resume && s->link && !s->peer_lost)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "session %s: the other side is connected, and decides",
                                       s->id);
        r = audit_append(sandbox_dir_fd(s->sb), s->id,
                         resume ? "FinalizeSandbox(RESUME)" : "FinalizeSandbox(STOP)",
                         mig_state_get(s->state)->name, grounds);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "write " AUDIT_FILE);
        if (resume)
                session_post(s, MIG_EV_FENCED);
        if (forsaken)
                session_post(s, MIG_EV_LOST);
        return 0;
}

void session_finalize(session *s, const char *id, FinalizeAction action, const uint8_t *record,
                      size_t n_record, bool force, const audit_grounds *grounds,
                      session_reply reply, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        mig_event rpc = action == FINALIZE_ACTION__FINALIZE_ACTION_RESUME ? MIG_RPC_RESUME
                        : force                                           ? MIG_RPC_STOP_FORCE
                                                                          : MIG_RPC_STOP;
        int r = 0;

        if (action == FINALIZE_ACTION__FINALIZE_ACTION_UNSPECIFIED)
                r = ferry_error_set(&error, FERRY_INVALID_ARGUMENT, -EINVAL,
                                    "action must be STOP (1) or RESUME (2)");
        if (r == 0)
                r = session_check_id(s, id, &error);
        if (r == 0 && action != FINALIZE_ACTION__FINALIZE_ACTION_STOP &&
            action != FINALIZE_ACTION__FINALIZE_ACTION_RESUME)
                r = ferry_error_set(&error, FERRY_INVALID_ARGUMENT, -EINVAL,
                                    "action %d: must be STOP (1) or RESUME (2)", (int)action);
        if (r == 0)
                r = apply_record(s, action, record, n_record, &error);
        if (r == 0 && force)
                r = apply_force(s, action, grounds, &error);
        if (r < 0) {
                session_reply_error(reply, userdata, r, &error);
                return;
        }
        session_call(s, rpc, reply, userdata);
}

void session_cancel(session *s, const char *id, session_reply reply, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        int r = session_check_id(s, id, &error);

        if (r < 0) {
                session_reply_error(reply, userdata, r, &error);
                return;
        }
        session_call(s, MIG_RPC_CANCEL, reply, userdata);
}

void session_cleanup(session *s, const char *id, session_reply reply, void *userdata) {
        ferry_error error = FERRY_ERROR_INIT;
        int r = 0;

        if (!id || !*id)
                r = ferry_error_set(&error, FERRY_INVALID_ARGUMENT, -EINVAL, "session_id is empty");
        else if (s->state != MIG_IDLE)
                r = session_check_id(s, id, &error);
        if (r < 0) {
                session_reply_error(reply, userdata, r, &error);
                return;
        }
        session_call(s, MIG_RPC_CLEANUP, reply, userdata);
}

/* hcsshim's clients of v0.15.0 subscribe before anything else: that takes the session id. */
static int reserve(session *s, const char *id, ferry_error *reterr) {
        const journal_session *old;
        int r;

        r = session_check_new(s, id, MIG_RPC_NOTIFICATIONS, reterr);
        if (r < 0)
                return r;
        old = journal_find(s->journal, id);
        if (old) /* who comes too late is told, and does not wait for ever */
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "this shim has no session %s: it has ended here (%s)", id,
                                       journal_mark_name(old->mark));
        r = notifications_new(ORIGIN__ORIGIN_UNSPECIFIED, &s->notifications);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "subscribe");
        strcpy(s->id, id);
        s->is_reserved = true;
        session_post(s, MIG_RPC_NOTIFICATIONS);
        return 0;
}

/* A reservation is its subscribers': one that nobody holds any more is nobody's. */
void session_unsubscribed(session *s) {
        if (s->state == MIG_RESERVED && notifications_n_subscribers(s->notifications) == 0)
                session_post(s, MIG_EV_DESERTED);
}

int session_subscribe(session *s, const char *id, subscriber_send send, subscriber_end end,
                      void *userdata, subscriber **ret, ferry_error *reterr) {
        int r = s->state == MIG_IDLE ? reserve(s, id, reterr) : session_check_id(s, id, reterr);

        if (r == 0)
                r = session_check_state(s, MIG_RPC_NOTIFICATIONS, reterr);
        if (r < 0)
                return r;
        r = notifications_subscribe(s->notifications, send, end, userdata, ret);
        if (r < 0) {
                session_unsubscribed(s);
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, r, "too many subscribers");
        }
        return 0;
}
