/* SPDX-License-Identifier: MIT */
#include "services/shim-service.h"

#include <string.h>

#include "migration/outgoing.h"
#include "migration/session.h"
#include "migration/trace-message.h"
#include "services/reply.h"
#include "shim.ttrpc.h"

#define WATCHERS_MAX   256U
#define TOMBSTONES_MAX JOURNAL_TOMBSTONES_MAX

typedef Ferry__Shim__V1__StatusResponse status_response;

typedef struct watcher {
        shim_service *service;
        struct watcher *next;
        ttrpc_call *call;
        uint64_t told_in; /* the round that told it last */
} watcher;

struct shim_service {
        sandbox *sb;
        sd_event_source *changed; /* tells the watchers, once the loop has nothing better to do */
        watcher *watchers;
        size_t n_watchers;
        uint64_t round;
        struct check_call *checks;
        size_t n_checks;
        const guest_access *guest;
        const task_service *tasks;
        void (*on_stopped)(void *userdata);
        void *userdata;
};

/* Everything that a StatusResponse points to. */
typedef struct status_parts {
        status_response response;
        Ferry__Shim__V1__Session session;
        Ferry__Shim__V1__Report report;
        Ferry__Shim__V1__Tombstone tombstones[TOMBSTONES_MAX];
        Ferry__Shim__V1__Tombstone *tombstone_list[TOMBSTONES_MAX];
        char records[TOMBSTONES_MAX][JOURNAL_RECORD_MAX];
        Ferry__Shim__V1__Prediction prediction;
        task_status tasks;
        session_status status;
        char qemu_version[128];
        const char *disks[SESSION_DISKS_MAX];
} status_parts;

static Ferry__Shim__V1__VmState vm_state_of(const sandbox *sb) {
        switch (sandbox_get_vm_state(sb)) {
        case SANDBOX_VM_NONE:
                return FERRY__SHIM__V1__VM_STATE__VM_STATE_NONE;
        case SANDBOX_VM_STARTING:
                return FERRY__SHIM__V1__VM_STATE__VM_STATE_STARTING;
        case SANDBOX_VM_RUNNING:
                return FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING;
        case SANDBOX_VM_PAUSED:
                return FERRY__SHIM__V1__VM_STATE__VM_STATE_PAUSED;
        case SANDBOX_VM_INCOMING:
                return FERRY__SHIM__V1__VM_STATE__VM_STATE_INCOMING;
        case SANDBOX_VM_STOPPED:
                return FERRY__SHIM__V1__VM_STATE__VM_STATE_STOPPED;
        }
        return FERRY__SHIM__V1__VM_STATE__VM_STATE_NONE;
}

static Ferry__Shim__V1__Owner owner_of(const sandbox *sb, const session_status *status) {
        if (mig_state_get(status->state)->side == MIG_SIDE_NONE)
                return sandbox_get_vm_state(sb) == SANDBOX_VM_NONE
                               ? FERRY__SHIM__V1__OWNER__OWNER_NONE
                               : FERRY__SHIM__V1__OWNER__OWNER_THIS_SIDE;
        switch (status->owner) {
        case MIG_OWNER_HERE:
                return FERRY__SHIM__V1__OWNER__OWNER_THIS_SIDE;
        case MIG_OWNER_THERE:
                return FERRY__SHIM__V1__OWNER__OWNER_OTHER_SIDE;
        case MIG_OWNER_UNKNOWN:
                return FERRY__SHIM__V1__OWNER__OWNER_UNDECIDED;
        case MIG_OWNER_NOBODY:
        case _MIG_OWNER_MAX:
                break;
        }
        return FERRY__SHIM__V1__OWNER__OWNER_NONE;
}

static void fill_session(const session *s, status_parts *p) {
        const mig_state_info *info = mig_state_get(p->status.state);

        ferry__shim__v1__session__init(&p->session);
        p->session.session_id = (char *)p->status.session_id;
        p->session.origin = (char *)(info->side == MIG_SIDE_SOURCE ? "source" : "destination");
        p->session.state = (char *)info->wire;
        p->session.detail = (char *)info->name;
        p->session.reason = (char *)(p->status.reason ? p->status.reason : "");
        p->session.notice = (char *)(p->status.notice ? p->status.notice : "");
        p->session.undecided = p->status.undecided;
        p->session.wants_connection = p->status.wants_connection;
        p->session.handover_record =
                (ProtobufCBinaryData){ strlen(p->status.record), (uint8_t *)p->status.record };
        session_report_to_message(p->status.report, &p->report);
        p->session.report = &p->report;
        p->session.n_disks = session_expected_disks(s, p->disks);
        p->session.disks = (char **)p->disks;
        p->response.session = &p->session;
}

static void fill_tombstones(const session *s, status_parts *p) {
        size_t n;
        const journal_session *sessions = session_tombstones(s, &n);
        size_t first = n > TOMBSTONES_MAX ? n - TOMBSTONES_MAX : 0, k = 0;

        for (size_t i = first; i < n; i++) {
                Ferry__Shim__V1__Tombstone *t = &p->tombstones[k];

                if (!sessions[i].closed)
                        continue;
                ferry__shim__v1__tombstone__init(t);
                t->session_id = (char *)sessions[i].session_id;
                t->verdict = (char *)journal_mark_name(sessions[i].mark);
                if (journal_record(&sessions[i], p->records[k]) == 0)
                        t->handover_record = (ProtobufCBinaryData){ strlen(p->records[k]),
                                                                    (uint8_t *)p->records[k] };
                p->tombstone_list[k++] = t;
        }
        p->response.tombstones = p->tombstone_list;
        p->response.n_tombstones = k;
}

static void fill_prediction(const prediction *from, Ferry__Shim__V1__Prediction *to) {
        ferry__shim__v1__prediction__init(to);
        to->passes = from->passes;
        to->copy_usec = from->copy_usec;
        to->blackout_usec = from->blackout_usec;
        to->bytes = from->bytes;
        to->throttle_percentage = from->throttle;
        to->forced = from->forced;
        to->postcopy = from->postcopy;
        to->cancelled = from->cancelled;
        to->dirty_bytes_per_second = from->input.rate;
        to->hot_bytes = from->input.hot;
        to->filled_bytes = from->input.filled;
        to->bytes_per_second = from->input.bandwidth;
        to->round_trip_usec = from->input.round_trip_usec;
        to->made_usec = from->made_usec;
}

static void fill_vm(const shim_service *service, status_parts *p) {
        status_response *r = &p->response;
        ferry_vm *v = sandbox_vm(service->sb);
        const vm_config *config = v ? vm_get_config(v) : NULL;
        const char *reason = sandbox_exit_reason(service->sb);

        r->vm_state = vm_state_of(service->sb);
        r->qemu_pid = v ? (uint32_t)vm_get_pid(v) : 0;
        if (reason && r->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_STOPPED)
                r->exit_reason = (char *)reason;
        r->running_since_usec = sandbox_running_since(service->sb);
        if (config) {
                vm_get_qemu_version(v, p->qemu_version, sizeof(p->qemu_version));
                r->qemu_version = p->qemu_version;
                r->accelerator = (char *)vm_accelerator_to_string(config->accelerator);
                r->memory_bytes = vm_config_memory_bytes(config);
                r->vcpus = config->vcpus;
        }
}

static status_parts *status_parts_new(const shim_service *service) {
        status_parts *p = malloc(sizeof(*p));

        if (!p)
                return NULL;
        ferry__shim__v1__status_response__init(&p->response);
        session_get_status(sandbox_session(service->sb), &p->status);
        p->response.sandbox_id = (char *)sandbox_id(service->sb);
        p->response.shim_version = (char *)FERRY_VERSION;
        p->response.shim_pid = (uint32_t)getpid();
        fill_vm(service, p);
        if (sandbox_awaited_session(service->sb))
                p->response.awaited_session = (char *)sandbox_awaited_session(service->sb);
        p->response.owner = owner_of(service->sb, &p->status);
        if (mig_state_get(p->status.state)->side != MIG_SIDE_NONE)
                fill_session(sandbox_session(service->sb), p);
        fill_tombstones(sandbox_session(service->sb), p);
        if (sandbox_get_prediction(service->sb)->made_usec > 0) {
                fill_prediction(sandbox_get_prediction(service->sb), &p->prediction);
                p->response.prediction = &p->prediction;
        }
        if (service->guest && guest_access_programs(service->guest))
                p->response.agent_drops =
                        guest_processes_agent_drops(guest_access_programs(service->guest));
        if (service->tasks) {
                task_service_get_status(service->tasks, &p->tasks);
                p->response.containerd = &p->tasks.message;
        }
        return p;
}

void shim_service_set_guest(shim_service *service, const guest_access *guest) {
        service->guest = guest;
}

void shim_service_set_tasks(shim_service *service, const task_service *tasks) {
        service->tasks = tasks;
}

static void status(ttrpc_call *call, const Ferry__Shim__V1__StatusRequest *request,
                   void *userdata) {
        _cleanup_(freep) status_parts *p = status_parts_new(userdata);

        if (p)
                (void)ferry_shim_v1_shim_status_reply(call, &p->response);
        else
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
}

/* ---- watch ---- */

static void watcher_free(watcher *w) {
        for (watcher **at = &w->service->watchers; *at; at = &(*at)->next)
                if (*at == w) {
                        *at = w->next;
                        w->service->n_watchers--;
                        break;
                }
        ttrpc_call_set_callbacks(w->call, NULL, NULL, NULL);
        ttrpc_call_unref(w->call);
        free(w);
}

static void on_watcher_gone(ttrpc_call *call, void *userdata) {
        watcher_free(userdata);
}

/* One that has no room gets the newest state when it has. */
static void watcher_send(watcher *w) {
        _cleanup_(freep) status_parts *p = status_parts_new(w->service);

        /* a connection that is lost says so here, and nowhere else */
        if (p && ferry_shim_v1_shim_watch_send(w->call, &p->response) == -ENOTCONN)
                watcher_free(w);
}

static void on_watcher_writable(ttrpc_call *call, void *userdata) {
        watcher_send(userdata);
}

static void watch(ttrpc_call *call, const Ferry__Shim__V1__StatusRequest *request, void *userdata) {
        shim_service *service = userdata;
        watcher *w = service->n_watchers < WATCHERS_MAX ? malloc(sizeof(*w)) : NULL;

        if (!w) {
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "too many watchers");
                return;
        }
        *w = (watcher){
                .service = service,
                .next = service->watchers,
                .call = ttrpc_call_ref(call),
        };
        service->watchers = w;
        service->n_watchers++;
        ttrpc_call_set_callbacks(call, on_watcher_gone, on_watcher_writable, w);
        watcher_send(w);
}

static int on_changed(sd_event_source *source, void *userdata) {
        shim_service *service = userdata;
        watcher *w;

        /* telling one may end others: look anew for one that was not told yet */
        service->round++;
        do {
                for (w = service->watchers; w && w->told_in == service->round; w = w->next)
                        ;
                if (w) {
                        w->told_in = service->round;
                        watcher_send(w);
                }
        } while (w);
        return 0;
}

void shim_service_end_watches(shim_service *service) {
        (void)on_changed(NULL, service);
        while (service->watchers) {
                watcher *w = service->watchers;

                (void)ttrpc_call_finish(w->call);
                watcher_free(w);
        }
}

static void on_sandbox_change(void *userdata) {
        shim_service *service = userdata;

        if (service->watchers)
                (void)sd_event_source_set_enabled(service->changed, SD_EVENT_ONESHOT);
}

/* ---- trace ---- */

static void get_trace(ttrpc_call *call, const Ferry__Shim__V1__TraceRequest *request,
                      void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(trace_message_freep) trace_message *m = NULL;
        shim_service *service = userdata;
        int r;

        r = session_trace(sandbox_session(service->sb), request->session_id, &m, &error);
        if (r < 0)
                call_fail(call, r, &error);
        else
                (void)ferry_shim_v1_shim_trace_reply(call, trace_message_get(m));
}

/* ---- check ---- */

#define CHECKS_MAX 8U

typedef struct check_call {
        struct check_call *next;
        shim_service *service;
        ttrpc_call *call;
        outgoing_check *check;
} check_call;

static void check_call_free(check_call *c) {
        for (check_call **at = &c->service->checks; *at; at = &(*at)->next)
                if (*at == c) {
                        *at = c->next;
                        c->service->n_checks--;
                        break;
                }
        ttrpc_call_set_callbacks(c->call, NULL, NULL, NULL);
        ttrpc_call_unref(c->call);
        outgoing_check_free(c->check);
        free(c);
}

static void on_check_gone(ttrpc_call *call, void *userdata) {
        check_call_free(userdata);
}

static void on_checked(const outgoing_result *result, void *userdata) {
        Ferry__Shim__V1__CheckResponse response = FERRY__SHIM__V1__CHECK_RESPONSE__INIT;
        Ferry__Shim__V1__Prediction predicted;
        check_call *c = userdata;

        response.reasons = (char **)result->reasons.items;
        response.n_reasons = result->reasons.n;
        response.state = (ProtobufCBinaryData){ result->n_state, result->state };
        if (result->prediction.made_usec > 0) {
                fill_prediction(&result->prediction, &predicted);
                response.prediction = &predicted;
        }
        (void)ferry_shim_v1_shim_check_reply(c->call, &response);
        check_call_free(c);
}

static void check(ttrpc_call *call, const Ferry__Shim__V1__CheckRequest *request, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        shim_service *service = userdata;
        InitializeOptions *options = NULL;
        check_call *c;
        int r;

        if (request->init_options.len > 0) {
                options = initialize_options__unpack(NULL, request->init_options.len,
                                                     request->init_options.data);
                if (!options) {
                        (void)ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT,
                                              "init_options does not decode");
                        return;
                }
        }
        c = service->n_checks < CHECKS_MAX ? calloc(1, sizeof(*c)) : NULL;
        if (!c) {
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "too many checks at once");
        } else {
                *c = (check_call){ .next = service->checks,
                                   .service = service,
                                   .call = ttrpc_call_ref(call) };
                service->checks = c;
                service->n_checks++;
                ttrpc_call_set_callbacks(call, on_check_gone, NULL, c);
                r = outgoing_check_start(service->sb, options, request->link_bytes_per_second,
                                         request->link_round_trip_usec, on_checked, c, &c->check,
                                         &error);
                if (r < 0) {
                        call_fail(call, r, &error);
                        check_call_free(c);
                }
        }
        if (options)
                initialize_options__free_unpacked(options, NULL);
}

/* ---- stop ---- */

static void on_stopped(int r, const ferry_error *error, void *userdata) {
        waiting_call *w = userdata;
        shim_service *service = w->userdata;

        waiting_call_reply_empty(r, error, w);
        if (r == 0)
                service->on_stopped(service->userdata);
}

static void stop(ttrpc_call *call, const Ferry__Shim__V1__StopRequest *request, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        shim_service *service = userdata;
        waiting_call *w = waiting_call_new(call, sandbox_session(service->sb), service);
        int r;

        if (!w)
                return;
        /* the VM's end is what counts, whether the caller stays or not */
        ttrpc_call_set_callbacks(call, NULL, NULL, NULL);
        r = sandbox_stop(service->sb, request->force, on_stopped, w, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                waiting_call_free(w);
        }
}

static const ferry_shim_v1_shim_methods methods_ = {
        .check = check,
        .status = status,
        .watch = watch,
        .trace = get_trace,
        .stop = stop,
};

int shim_service_new(ttrpc_server *server, sd_event *event, sandbox *sb,
                     void (*on_stopped_)(void *userdata), void *userdata, shim_service **ret) {
        _cleanup_(shim_service_freep) shim_service *service = malloc(sizeof(*service));
        int r;

        if (!service)
                return -ENOMEM;
        *service = (shim_service){ .sb = sb, .on_stopped = on_stopped_, .userdata = userdata };
        r = sd_event_add_defer(event, &service->changed, on_changed, service);
        if (r >= 0)
                r = sd_event_source_set_enabled(service->changed, SD_EVENT_OFF);
        if (r >= 0)
                r = sd_event_source_set_priority(service->changed, SD_EVENT_PRIORITY_IDLE);
        if (r >= 0)
                r = ferry_shim_v1_shim_register(server, &methods_, service);
        if (r < 0)
                return r;
        sandbox_add_on_change(sb, on_sandbox_change, service);
        *ret = TAKE_PTR(service);
        return 0;
}

shim_service *shim_service_free(shim_service *service) {
        if (!service)
                return NULL;
        while (service->checks)
                check_call_free(service->checks);
        sandbox_remove_on_change(service->sb, service);
        sd_event_source_disable_unref(service->changed);
        free(service);
        return NULL;
}
