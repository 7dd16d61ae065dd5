/* SPDX-License-Identifier: MIT */
#include "services/migration-service.h"

#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "google/protobuf/any.pb-c.h"
#include "migration.ttrpc.h"
#include "migration/audit.h"
#include "migration/session.h"
#include "migration/state.h"
#include "services/reply.h"

struct migration_service {
        sandbox *sb;
        fd_store *store;
        /* the open session's caller is of the service's first generation, which knows no Cleanup: a
         * Finalize that succeeds is its end */
        char first_generation[JOURNAL_SESSION_ID_MAX + 1];
};

static session *session_of(const migration_service *service) {
        return sandbox_session(service->sb);
}

static void set_timestamp(Google__Protobuf__Timestamp *t, uint64_t usec) {
        t->seconds = (int64_t)(usec / USEC_PER_SEC);
        t->nanos = (int32_t)(usec % USEC_PER_SEC * NSEC_PER_USEC);
}

/* ---- export, import, prepare ---- */

static void on_exported(int r, const ferry_error *error, void *userdata) {
        waiting_call *w = userdata;
        PrepareAndExportSandboxResponse response = PREPARE_AND_EXPORT_SANDBOX_RESPONSE__INIT;
        Google__Protobuf__Any config = GOOGLE__PROTOBUF__ANY__INIT;
        const uint8_t *data;

        if (r < 0)
                call_fail(w->call, r, error);
        else {
                config.type_url = (char *)MIGRATION_STATE_TYPE;
                session_exported(w->session, &data, &config.value.len);
                config.value.data = (uint8_t *)data;
                response.config = &config;
                (void)migration_prepare_and_export_sandbox_reply(w->call, &response);
        }
        waiting_call_free(w);
}

static void prepare_and_export(ttrpc_call *call, const PrepareAndExportSandboxRequest *request,
                               void *userdata) {
        migration_service *service = userdata;
        waiting_call *w = waiting_call_new(call, session_of(service), NULL);

        if (w)
                session_export(session_of(service), request->session_id, request->init_options,
                               on_exported, w);
}

static void fail_argument(ttrpc_call *call, const char *message) {
        log_info("%s: InvalidArgument: %s", ttrpc_call_get_method(call), message);
        (void)ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT, "%s", message);
}

static void import_config(migration_service *service, ttrpc_call *call, const char *id,
                          const char *sandbox_name, const Google__Protobuf__Any *config) {
        waiting_call *w;

        if (strcmp(config->type_url, MIGRATION_STATE_TYPE) != 0) {
                fail_argument(call, "config is not of the type " MIGRATION_STATE_TYPE);
                return;
        }
        w = waiting_call_new(call, session_of(service), NULL);
        if (w)
                session_import(session_of(service), id, sandbox_name, config->value.data,
                               config->value.len, waiting_call_reply_empty, w);
}

/* Field 2 was the config once: then there is no field 3, and the sandbox is the shim's own. */
static bool import_first_generation(migration_service *service, ttrpc_call *call,
                                    const ImportSandboxRequest *request) {
        Google__Protobuf__Any *config = google__protobuf__any__unpack(NULL, request->sandbox_id.len,
                                                                      request->sandbox_id.data);
        bool ours = config && strcmp(config->type_url, MIGRATION_STATE_TYPE) == 0;

        if (ours) {
                import_config(service, call, request->session_id, sandbox_id(service->sb), config);
                if (session_is_open(session_of(service)))
                        snprintf(service->first_generation, sizeof(service->first_generation), "%s",
                                 request->session_id);
        }
        if (config)
                google__protobuf__any__free_unpacked(config, NULL);
        return ours;
}

static void import(ttrpc_call *call, const ImportSandboxRequest *request, void *userdata) {
        migration_service *service = userdata;
        _cleanup_(freep) char *name = NULL;

        if (!request->session_id || !*request->session_id) {
                fail_argument(call, "session_id is empty");
                return;
        }
        if (!request->config && import_first_generation(service, call, request))
                return;
        if (request->sandbox_id.len == 0) {
                fail_argument(call, "sandbox_id is empty");
                return;
        }
        if (request->sandbox_id.len > SANDBOX_ID_MAX ||
            memchr(request->sandbox_id.data, '\0', request->sandbox_id.len)) {
                fail_argument(call, "sandbox_id is not a sandbox's name");
                return;
        }
        if (!request->config) {
                fail_argument(call, "config is absent");
                return;
        }
        name = strndup((const char *)request->sandbox_id.data, request->sandbox_id.len);
        if (!name) {
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
                return;
        }
        import_config(service, call, request->session_id, name, request->config);
}

static void prepare(ttrpc_call *call, const PrepareSandboxRequest *request, void *userdata) {
        migration_service *service = userdata;
        waiting_call *w = waiting_call_new(call, session_of(service), NULL);

        if (w)
                session_prepare(session_of(service), request->session_id, request->init_options,
                                waiting_call_reply_empty, w);
}

/* ---- the socket ---- */

static int fetch_socket(migration_service *service, ttrpc_call *call,
                        const migration_socket_source *source, int *ret_fd, ferry_error *reterr) {
        migration_peer peer = { .pid = 0, .uid = (uid_t)-1 };
        _cleanup_(closep) int fd = -EBADF;
        gid_t gid;
        int r;

        if (source->by_token) {
                r = fd_store_take(service->store, source->token, source->n_token, &fd);
                if (r < 0)
                        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, r,
                                               "no descriptor waits under that token: send it to "
                                               "the fd socket first (it is kept for 60 s)");
        } else {
                (void)ttrpc_call_get_peer(call, &peer.pid, &peer.uid, &gid);
                r = migration_socket_from_process(source, &peer, &fd, reterr);
                if (r < 0)
                        return r;
        }
        r = migration_socket_check(fd, reterr);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

static void create_duplicate_socket(ttrpc_call *call, const CreateDuplicateSocketRequest *request,
                                    void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        migration_service *service = userdata;
        migration_socket_source source;
        waiting_call *w;
        int fd = -EBADF, r;

        r = migration_socket_parse(request->protocol_info.data, request->protocol_info.len, &source,
                                   &error);
        if (r == 0)
                r = source.disk[0]
                            ? session_check_disk_socket(session_of(service), request->session_id,
                                                        source.disk, &error)
                            : session_check_socket(session_of(service), request->session_id,
                                                   &error);
        if (r == 0)
                r = fetch_socket(service, call, &source, &fd, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                return;
        }
        w = waiting_call_new(call, session_of(service), NULL);
        if (!w)
                fd_close(fd);
        else if (source.disk[0])
                session_disk_socket(session_of(service), request->session_id, source.disk, fd,
                                    waiting_call_reply_empty, w);
        else
                session_socket(session_of(service), request->session_id, fd,
                               waiting_call_reply_empty, w);
}

/* ---- notifications ---- */

typedef struct follower {
        ttrpc_call *call;
        session *session;
        subscriber *subscriber;
        bool first_generation;
} follower;

static int send_notification(follower *f, const notification_entry *e, uint64_t start_usec) {
        NotificationsResponse response = NOTIFICATIONS_RESPONSE__INIT;
        Notification notification = NOTIFICATION__INIT;
        BlackoutExitedEventDetails blackout = BLACKOUT_EXITED_EVENT_DETAILS__INIT;
        Google__Protobuf__Timestamp start = GOOGLE__PROTOBUF__TIMESTAMP__INIT, update = start,
                                    stop = start;

        set_timestamp(&start, start_usec);
        set_timestamp(&update, e->update_usec);
        notification.origin = e->origin;
        notification.phase = e->phase;
        notification.state = e->state;
        notification.reason = e->reason ? e->reason : (char *)protobuf_c_empty_string;
        notification.code = e->code;
        if (e->has_progress)
                notification.progress = (Progress *)&e->progress;
        if (e->has_blackout) {
                set_timestamp(&stop, e->blackout_stop_usec);
                /* rounded to the next: a blackout of half a millisecond is not none */
                blackout.blackout_duration_milliseconds = (e->blackout_usec + 999) / 1000;
                blackout.blackout_duration_microseconds = e->blackout_usec;
                blackout.blackout_stop_timestamp = &stop;
                notification.phase_details_case = NOTIFICATION__PHASE_DETAILS_BLACKOUT_EXITED;
                notification.blackout_exited = &blackout;
        }
        response.message_id = e->message_id;
        response.notification = &notification;
        if (start_usec > 0)
                response.start_time = &start;
        response.update_time = &update;
        return migration_notifications_send(f->call, &response);
}

/* The first generation's messages: names for the phases, text for the reason. */
static int send_event(follower *f, const notification_entry *e, uint64_t start_usec) {
        TransferSandboxResponse response = TRANSFER_SANDBOX_RESPONSE__INIT;
        Google__Protobuf__Timestamp start = GOOGLE__PROTOBUF__TIMESTAMP__INIT, update = start;
        bool timeout = e->phase == PHASE__PHASE_FAILED && e->code == FERRY_DEADLINE_EXCEEDED;
        char event[64];

        snprintf(event, sizeof(event), "MIGRATION_EVENT_%s",
                 timeout ? "TIMEOUT" : notification_phase_name(e->phase));
        set_timestamp(&start, start_usec);
        set_timestamp(&update, e->update_usec);
        response.message_id = e->message_id;
        response.event = event;
        if (e->reason && e->code != 0) /* else a notice */
                response.error = e->reason;
        if (start_usec > 0)
                response.start_time = &start;
        response.update_time = &update;
        {
                size_t n = transfer_sandbox_response__get_packed_size(&response);
                _cleanup_(freep) uint8_t *data = malloc(n + 1);

                if (!data)
                        return -ENOMEM;
                transfer_sandbox_response__pack(&response, data);
                return ttrpc_call_send(f->call, data, n);
        }
}

static void follower_free(follower *f) {
        ttrpc_call_set_callbacks(f->call, NULL, NULL, NULL);
        ttrpc_call_unref(f->call);
        free(f);
}

static int on_send(const notification_entry *e, uint64_t start_usec, void *userdata) {
        follower *f = userdata;
        int r = f->first_generation ? send_event(f, e, start_usec)
                                    : send_notification(f, e, start_usec);

        if (r == -EAGAIN)
                return 0;
        if (r < 0) {
                (void)ttrpc_call_fail(f->call, TTRPC_INTERNAL, "a notification could not be sent");
                follower_free(f);
                return r;
        }
        if (f->first_generation && notification_is_terminal(e)) {
                (void)ttrpc_call_finish(f->call);
                follower_free(f);
                return -ESHUTDOWN;
        }
        return 1;
}

static void on_end(void *userdata) {
        follower *f = userdata;

        (void)ttrpc_call_finish(f->call);
        follower_free(f);
}

static void on_follower_gone(ttrpc_call *call, void *userdata) {
        follower *f = userdata;

        f->subscriber = subscriber_free(f->subscriber);
        session_unsubscribed(f->session);
        follower_free(f);
}

static void on_follower_writable(ttrpc_call *call, void *userdata) {
        follower *f = userdata;

        subscriber_feed(f->subscriber);
}

static void follow(migration_service *service, ttrpc_call *call, const char *id,
                   bool first_generation) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        follower *f = malloc(sizeof(*f));
        int r;

        if (!f) {
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
                return;
        }
        *f = (follower){ .call = ttrpc_call_ref(call),
                         .session = session_of(service),
                         .first_generation = first_generation };
        ttrpc_call_set_callbacks(call, on_follower_gone, on_follower_writable, f);
        r = session_subscribe(session_of(service), id, on_send, on_end, f, &f->subscriber, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                follower_free(f);
        }
}

static void notifications_(ttrpc_call *call, const NotificationsRequest *request, void *userdata) {
        follow(userdata, call, request->session_id, false);
}

/* ---- transfer ---- */

static uint64_t timeout_of(const TransferSandboxRequest *request) {
        int64_t seconds = request->timeout ? request->timeout->seconds : 0;
        int32_t nanos = request->timeout ? request->timeout->nanos : 0;

        if (seconds < 0 || nanos < 0 || (seconds == 0 && nanos == 0))
                return 0;
        if (seconds > INT32_MAX)
                seconds = INT32_MAX;
        return (uint64_t)seconds * USEC_PER_SEC + (uint64_t)(uint32_t)nanos / NSEC_PER_USEC + 1;
}

static void on_stream_started(int r, const ferry_error *error, void *userdata) {
        waiting_call *w = userdata;
        migration_service *service = w->userdata;
        _cleanup_(freep) char *id = NULL;
        ttrpc_call *call = ttrpc_call_ref(w->call);
        session_status status;

        waiting_call_free(w);
        session_get_status(session_of(service), &status);
        if (r < 0)
                call_fail(call, r, error);
        else {
                snprintf(service->first_generation, sizeof(service->first_generation), "%s",
                         status.session_id);
                id = strdup(status.session_id);
                follow(service, call, id ? id : "", true);
        }
        ttrpc_call_unref(call);
}

/* Unary from this generation's callers, a stream from the first one's: the request's flags tell. No
 * .proto can say so, hence by hand. */
static void transfer(ttrpc_call *call, const uint8_t *payload, size_t n, const void *methods,
                     void *userdata) {
        migration_service *service = userdata;
        TransferSandboxRequest *request = transfer_sandbox_request__unpack(NULL, n, payload);
        waiting_call *w;

        if (!request) {
                (void)ttrpc_call_fail(call, TTRPC_INTERNAL, "undecodable TransferSandboxRequest");
                return;
        }
        w = waiting_call_new(call, session_of(service), service);
        if (w)
                session_transfer(session_of(service), request->session_id, timeout_of(request),
                                 ttrpc_call_is_stream(call) ? on_stream_started
                                                            : waiting_call_reply_empty,
                                 w);
        transfer_sandbox_request__free_unpacked(request, NULL);
}

/* ---- finalize, cancel, cleanup ---- */

static void ignore_reply(int r, const ferry_error *error, void *userdata) {
}

static void on_finalized(int r, const ferry_error *error, void *userdata) {
        waiting_call *w = userdata;
        migration_service *service = w->userdata;
        session_status status;
        char id[JOURNAL_SESSION_ID_MAX + 1];

        session_get_status(w->session, &status);
        snprintf(id, sizeof(id), "%s", status.session_id);
        waiting_call_reply_empty(r, error, w);
        if (r == 0 && *id && strcmp(service->first_generation, id) == 0) {
                service->first_generation[0] = '\0';
                session_cleanup(session_of(service), id, ignore_reply, NULL);
        }
}

static void finalize(ttrpc_call *call, const FinalizeSandboxRequest *request, void *userdata) {
        migration_service *service = userdata;
        waiting_call *w = waiting_call_new(call, session_of(service), service);
        const ForceGrounds *given = request->force_grounds;
        audit_grounds grounds = {
                .fenced = given ? given->fenced : "",
                .reason = given ? given->reason : "",
                .may_be_stale = given && given->copy_may_be_stale,
        };

        if (w)
                session_finalize(session_of(service), request->session_id, request->action,
                                 request->handover_record.data, request->handover_record.len,
                                 request->force, &grounds, on_finalized, w);
}

static void cancel(ttrpc_call *call, const CancelRequest *request, void *userdata) {
        migration_service *service = userdata;
        waiting_call *w = waiting_call_new(call, session_of(service), NULL);

        if (w)
                session_cancel(session_of(service), request->session_id, waiting_call_reply_empty,
                               w);
}

static void cleanup(ttrpc_call *call, const CleanupRequest *request, void *userdata) {
        migration_service *service = userdata;
        waiting_call *w = waiting_call_new(call, session_of(service), NULL);

        if (w)
                session_cleanup(session_of(service), request->session_id, waiting_call_reply_empty,
                                w);
}

static const migration_methods methods_ = {
        .prepare_and_export_sandbox = prepare_and_export,
        .import_sandbox = import,
        .prepare_sandbox = prepare,
        .finalize_sandbox = finalize,
        .notifications = notifications_,
        .create_duplicate_socket = create_duplicate_socket,
        .cancel = cancel,
        .cleanup = cleanup,
};

static const ttrpc_method by_hand_methods[] = {
        { .name = "TransferSandbox", .server_streams = 2, .handler = transfer },
};

static const ttrpc_service by_hand = {
        .name = "Migration",
        .methods = by_hand_methods,
        .n_methods = ELEMENTS(by_hand_methods),
};

int migration_service_new(ttrpc_server *server, sandbox *sb, fd_store *store,
                          migration_service **ret) {
        _cleanup_(migration_service_freep) migration_service *service = malloc(sizeof(*service));
        int r;

        if (!service)
                return -ENOMEM;
        *service = (migration_service){ .sb = sb, .store = store };
        r = migration_register(server, &methods_, service);
        if (r == 0)
                r = ttrpc_server_register(server, &by_hand, NULL, service);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(service);
        return 0;
}

migration_service *migration_service_free(migration_service *service) {
        free(service);
        return NULL;
}
