/* SPDX-License-Identifier: MIT */
#include "services/sandbox-service.h"

#include <string.h>

#include "base/log.h"
#include "google/protobuf/timestamp.pb-c.h"
#include "migration/journal.h"
#include "migration/session.h"
#include "sandbox.ttrpc.h"
#include "services/sandbox-metrics.h"
#include "services/task-internal.h"

#define ID_MAX      256U
#define WAITERS_MAX 64U
#define CRI_TYPE    "runtime.v1.PodSandboxConfig"
#define KILLED      137U
/* A Go client that sees the end of the connection with the answer may take the one or the other: it
 * gets the answer first. */
#define LINGER_USEC (200 * USEC_PER_MSEC)

typedef enum pod_state {
        POD_NONE,
        POD_CREATED,
        POD_STARTING, /* the VM */
        POD_JOINING,  /* its network */
        POD_READY,
        POD_ENDED,
} pod_state;

struct sandbox_service {
        sandbox *sb;
        task_service *tasks;
        void (*on_boot)(void *userdata);
        void (*on_shutdown)(void *userdata);
        void *userdata;
        pod_state state;
        bool awaits;        /* its VM comes from elsewhere, and is not here yet */
        bool imported;      /* and is on its way */
        char *id, *network; /* the namespace's path */
        uint64_t created_at_usec, exited_at_usec;
        sd_event *event;
        sd_event_source *linger; /* after ShutdownSandbox */
        sd_event_source *look;   /* what the VM's change means is done from the loop */
        ttrpc_call *starting, *stopping;
        ttrpc_call *waiters[WAITERS_MAX];
        size_t n_waiters;
};

/* false: the call is answered. */
static bool is_ours(const sandbox_service *s, ttrpc_call *call, const char *id) {
        if (s->state != POD_NONE && strcmp(s->id, id) == 0)
                return true;
        (void)ttrpc_call_fail(call, TTRPC_NOT_FOUND, "no sandbox '%.80s' here", id);
        return false;
}

/* ---- the beginning ---- */

static const char *find_annotation(Containerd__Runtime__Sandbox__V1__Annotation *const *all,
                                   size_t n) {
        for (size_t i = 0; i < n; i++)
                if (strcmp(all[i]->key, ANNOTATION_SESSION) == 0)
                        return all[i]->value;
        return NULL;
}

/* *ret: the session that its VM is to come with; NULL: it boots. Of the request itself, or of CRI's
 * configuration of the pod. */
static int find_session(const Containerd__Runtime__Sandbox__V1__CreateSandboxRequest *q, char **ret,
                        ferry_error *reterr) {
        Containerd__Runtime__Sandbox__V1__PodSandboxConfig *config = NULL;
        const char *found = find_annotation(q->annotations, q->n_annotations);

        *ret = NULL;
        if (!found && q->options && strcmp(q->options->type_url, CRI_TYPE) == 0) {
                config = containerd__runtime__sandbox__v1__pod_sandbox_config__unpack(
                        NULL, q->options->value.len, q->options->value.data);
                if (!config)
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EBADMSG,
                                               "options: no " CRI_TYPE);
                found = find_annotation(config->annotations, config->n_annotations);
        }
        if (found)
                *ret = strdup(found);
        if (config)
                containerd__runtime__sandbox__v1__pod_sandbox_config__free_unpacked(config, NULL);
        if (!found)
                return 0;
        if (!*ret)
                return ferry_error_set_errno(reterr, -ENOMEM, "sandbox");
        return journal_session_id_is_valid(*ret)
                       ? 0
                       : ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                         "annotation " ANNOTATION_SESSION
                                         ": \"%.60s\" is no session's id",
                                         *ret);
}

static int check_create(const sandbox_service *s,
                        const Containerd__Runtime__Sandbox__V1__CreateSandboxRequest *q,
                        ferry_error *reterr) {
        if (s->state != POD_NONE || s->tasks->n_tasks > 0)
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST,
                                       "this shim has a sandbox");
        if (q->sandbox_id[0] == '\0' || strlen(q->sandbox_id) > ID_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "a sandbox's id has 1 to %u bytes", ID_MAX);
        return 0;
}

/* What it runs in: a VM of its own, that boots from now on, or one that is to come. */
static int provide(sandbox_service *s, const char *session_id, ferry_error *reterr) {
        int r;

        if (!session_id && s->on_boot && sandbox_get_vm_state(s->sb) == SANDBOX_VM_NONE) {
                s->on_boot(s->userdata);
                return 0;
        }
        if (!session_id)
                return 0;
        if (sandbox_get_vm_state(s->sb) != SANDBOX_VM_NONE)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "this shim has a VM of its own, and waits for none");
        r = sandbox_await_session(s->sb, session_id);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "sandbox");
        s->awaits = true;
        return 0;
}

static void on_create(ttrpc_call *call,
                      const Containerd__Runtime__Sandbox__V1__CreateSandboxRequest *q,
                      void *userdata) {
        _cleanup_(freep) char *id = strdup(q->sandbox_id), *network = strdup(q->netns_path);
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *session_id = NULL;
        sandbox_service *s = userdata;
        int r;

        r = id && network ? check_create(s, q, &error)
                          : ferry_error_set_errno(&error, -ENOMEM, "sandbox");
        if (r == 0)
                r = find_session(q, &session_id, &error);
        if (r == 0)
                r = provide(s, session_id, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                return;
        }
        s->id = TAKE_PTR(id);
        s->tasks->pod_id = s->id;
        s->network = TAKE_PTR(network);
        s->state = POD_CREATED;
        (void)containerd_runtime_sandbox_v1_sandbox_create_sandbox_reply(call, NULL);
}

static void started(sandbox_service *s) {
        Containerd__Runtime__Sandbox__V1__StartSandboxResponse m =
                CONTAINERD__RUNTIME__SANDBOX__V1__START_SANDBOX_RESPONSE__INIT;
        Google__Protobuf__Timestamp at;

        s->state = POD_READY;
        s->created_at_usec = wall_usec();
        timestamp_fill(&at, s->created_at_usec);
        m.pid = task_host_pid(s->tasks);
        m.created_at = &at;
        (void)containerd_runtime_sandbox_v1_sandbox_start_sandbox_reply(s->starting, &m);
        s->starting = ttrpc_call_unref(s->starting);
}

static void start_failed(sandbox_service *s, int r, const ferry_error *error) {
        if (s->state != POD_ENDED)
                s->state = POD_CREATED;
        call_fail(s->starting, r, error);
        s->starting = ttrpc_call_unref(s->starting);
}

static void on_network(int r, const ferry_error *error, void *userdata) {
        sandbox_service *s = userdata;

        if (!s->starting)
                return;
        if (r < 0)
                start_failed(s, r, error);
        else
                started(s);
}

static void go_on_starting(sandbox_service *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        s->state = POD_JOINING;
        r = task_network_join(s->tasks->network, s->network, on_network, s, &error);
        if (r < 0)
                start_failed(s, r, &error);
        else if (r == 1)
                started(s);
}

static void on_start(ttrpc_call *call,
                     const Containerd__Runtime__Sandbox__V1__StartSandboxRequest *q,
                     void *userdata) {
        sandbox_service *s = userdata;

        if (!is_ours(s, call, q->sandbox_id))
                return;
        if (s->state != POD_CREATED) {
                (void)ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION,
                                      "the sandbox was started before");
                return;
        }
        s->starting = ttrpc_call_ref(call);
        if (s->awaits) {
                started(s);
                return;
        }
        s->state = POD_STARTING;
        sandbox_service_look(s);
}

/* ---- what memory knows ---- */

static void on_platform(ttrpc_call *call,
                        const Containerd__Runtime__Sandbox__V1__PlatformRequest *q,
                        void *userdata) {
        Containerd__Runtime__Sandbox__V1__PlatformResponse m =
                CONTAINERD__RUNTIME__SANDBOX__V1__PLATFORM_RESPONSE__INIT;
        Containerd__Runtime__Sandbox__V1__PlatformName name =
                CONTAINERD__RUNTIME__SANDBOX__V1__PLATFORM_NAME__INIT;

        if (!is_ours(userdata, call, q->sandbox_id))
                return;
        name.os = (char *)"linux";
        name.architecture = (char *)"amd64";
        m.platform = &name;
        (void)containerd_runtime_sandbox_v1_sandbox_platform_reply(call, &m);
}

static void on_status(ttrpc_call *call,
                      const Containerd__Runtime__Sandbox__V1__SandboxStatusRequest *q,
                      void *userdata) {
        Containerd__Runtime__Sandbox__V1__SandboxStatusResponse m =
                CONTAINERD__RUNTIME__SANDBOX__V1__SANDBOX_STATUS_RESPONSE__INIT;
        Google__Protobuf__Timestamp created, exited;
        const sandbox_service *s = userdata;

        if (!is_ours(s, call, q->sandbox_id))
                return;
        m.sandbox_id = s->id;
        m.pid = s->state == POD_READY ? task_host_pid(s->tasks) : 0;
        m.state = (char *)(s->state == POD_READY ? "SANDBOX_READY" : "SANDBOX_NOTREADY");
        timestamp_fill(&created, s->created_at_usec);
        timestamp_fill(&exited, s->exited_at_usec);
        m.created_at = &created;
        m.exited_at = s->state == POD_ENDED ? &exited : NULL;
        (void)containerd_runtime_sandbox_v1_sandbox_sandbox_status_reply(call, &m);
}

static void on_ping(ttrpc_call *call, const Containerd__Runtime__Sandbox__V1__PingRequest *q,
                    void *userdata) {
        if (is_ours(userdata, call, q->sandbox_id))
                (void)containerd_runtime_sandbox_v1_sandbox_ping_sandbox_reply(call, NULL);
}

static void on_metrics(ttrpc_call *call,
                       const Containerd__Runtime__Sandbox__V1__SandboxMetricsRequest *q,
                       void *userdata) {
        const sandbox_service *s = userdata;

        if (is_ours(s, call, q->sandbox_id))
                sandbox_metrics_answer(call, s->tasks, s->id);
}

/* ---- the end ---- */

static void say_end(const sandbox_service *s, ttrpc_call *call) {
        Containerd__Runtime__Sandbox__V1__WaitSandboxResponse m =
                CONTAINERD__RUNTIME__SANDBOX__V1__WAIT_SANDBOX_RESPONSE__INIT;
        Google__Protobuf__Timestamp at;

        timestamp_fill(&at, s->exited_at_usec);
        m.exit_status = KILLED;
        m.exited_at = &at;
        (void)containerd_runtime_sandbox_v1_sandbox_wait_sandbox_reply(call, &m);
}

static void on_waiter_gone(ttrpc_call *call, void *userdata) {
        sandbox_service *s = userdata;

        for (size_t i = 0; i < s->n_waiters; i++)
                if (s->waiters[i] == call) {
                        s->waiters[i] = s->waiters[--s->n_waiters];
                        ttrpc_call_unref(call);
                        return;
                }
}

static void on_wait(ttrpc_call *call, const Containerd__Runtime__Sandbox__V1__WaitSandboxRequest *q,
                    void *userdata) {
        sandbox_service *s = userdata;

        if (!is_ours(s, call, q->sandbox_id))
                return;
        if (s->state == POD_ENDED)
                say_end(s, call);
        else if (s->n_waiters == WAITERS_MAX)
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "%u wait already",
                                      WAITERS_MAX);
        else {
                s->waiters[s->n_waiters++] = ttrpc_call_ref(call);
                ttrpc_call_set_callbacks(call, on_waiter_gone, NULL, s);
        }
}

static void ended(sandbox_service *s) {
        if (s->state == POD_ENDED)
                return;
        s->state = POD_ENDED;
        s->exited_at_usec = wall_usec();
        if (s->awaits && sandbox_await_session(s->sb, "") < 0)
                log_warning("out of memory");
        while (s->n_waiters > 0) {
                ttrpc_call *call = s->waiters[--s->n_waiters];

                ttrpc_call_set_callbacks(call, NULL, NULL, NULL);
                say_end(s, call);
                ttrpc_call_unref(call);
        }
        if (s->stopping)
                (void)containerd_runtime_sandbox_v1_sandbox_stop_sandbox_reply(s->stopping, NULL);
        s->stopping = ttrpc_call_unref(s->stopping);
}

static void on_stop(ttrpc_call *call, const Containerd__Runtime__Sandbox__V1__StopSandboxRequest *q,
                    void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        sandbox_service *s = userdata;
        int r;

        if (!is_ours(s, call, q->sandbox_id) || !task_may_change(s->tasks, call))
                return;
        if (s->state == POD_ENDED || s->state == POD_CREATED || s->awaits) {
                ended(s);
                (void)containerd_runtime_sandbox_v1_sandbox_stop_sandbox_reply(call, NULL);
                return;
        }
        if (s->stopping) {
                (void)ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION, "it is being stopped");
                return;
        }
        s->stopping = ttrpc_call_ref(call);
        /* no session is open: forced only means that it may still be starting */
        r = sandbox_stop(s->sb, true, NULL, NULL, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                s->stopping = ttrpc_call_unref(s->stopping);
        }
}

static int on_lingered(sd_event_source *source, uint64_t usec, void *userdata) {
        sandbox_service *s = userdata;

        s->on_shutdown(s->userdata);
        return 0;
}

static void on_shutdown(ttrpc_call *call,
                        const Containerd__Runtime__Sandbox__V1__ShutdownSandboxRequest *q,
                        void *userdata) {
        sandbox_service *s = userdata;

        /* none at all: its creation was refused */
        if ((s->state != POD_NONE && !is_ours(s, call, q->sandbox_id)) ||
            !task_may_change(s->tasks, call))
                return;
        ended(s);
        (void)containerd_runtime_sandbox_v1_sandbox_shutdown_sandbox_reply(call, NULL);
        if (s->linger)
                return;
        if (sd_event_add_time_relative(s->event, &s->linger, CLOCK_MONOTONIC, LINGER_USEC,
                                       TIMER_ACCURACY_USEC, on_lingered, s) < 0)
                s->on_shutdown(s->userdata);
}

/* ---- the service ---- */

static void expect_network(const sandbox_service *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (task_network_expect(s->tasks->network, s->network, &error) < 0)
                log_error("the pod's network: %s", ferry_error_message(&error));
}

/* Its VM is here once it runs. A session that came to nothing is its end. */
static void look_for_arrival(sandbox_service *s, sandbox_vm_state state) {
        session_status status;

        session_get_status(sandbox_session(s->sb), &status);
        if (state == SANDBOX_VM_RUNNING || state == SANDBOX_VM_PAUSED)
                s->awaits = false;
        else if (status.state == MIG_D_IMPORTED && !s->imported) {
                s->imported = true;
                expect_network(s);
        } else if (s->imported && !session_is_open(sandbox_session(s->sb)))
                ended(s);
}

static int on_look(sd_event_source *source, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        sandbox_service *s = userdata;
        sandbox_vm_state state = sandbox_get_vm_state(s->sb);

        if (s->awaits) {
                look_for_arrival(s, state);
                return 0;
        }
        if (state == SANDBOX_VM_STARTING)
                return 0;
        if (state == SANDBOX_VM_RUNNING && s->state == POD_STARTING)
                go_on_starting(s);
        else if (state == SANDBOX_VM_NONE || state == SANDBOX_VM_STOPPED) {
                if (s->starting) {
                        const char *reason = sandbox_exit_reason(s->sb);

                        ferry_error_set(&error, FERRY_UNAVAILABLE, -ESRCH,
                                        "the sandbox's VM has ended%s%s", reason ? ": " : "",
                                        reason ? reason : "");
                        start_failed(s, -ESRCH, &error);
                }
                if (s->state == POD_READY || s->stopping)
                        ended(s);
        }
        return 0;
}

void sandbox_service_look(sandbox_service *s) {
        (void)sd_event_source_set_enabled(s->look, SD_EVENT_ONESHOT);
}

int sandbox_service_new(ttrpc_server *server, sd_event *event, sandbox *sb, task_service *tasks,
                        void (*on_boot)(void *userdata), void (*on_shutdown_)(void *userdata),
                        void *userdata, sandbox_service **ret) {
        static const containerd_runtime_sandbox_v1_sandbox_methods methods = {
                .create_sandbox = on_create,
                .start_sandbox = on_start,
                .platform = on_platform,
                .stop_sandbox = on_stop,
                .wait_sandbox = on_wait,
                .sandbox_status = on_status,
                .ping_sandbox = on_ping,
                .sandbox_metrics = on_metrics,
                .shutdown_sandbox = on_shutdown,
        };
        _cleanup_(sandbox_service_freep) sandbox_service *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        *s = (sandbox_service){ .event = sd_event_ref(event),
                                .sb = sb,
                                .tasks = tasks,
                                .on_boot = on_boot,
                                .on_shutdown = on_shutdown_,
                                .userdata = userdata };
        r = sd_event_add_defer(event, &s->look, on_look, s);
        if (r >= 0)
                r = sd_event_source_set_enabled(s->look, SD_EVENT_OFF);
        if (r >= 0)
                r = containerd_runtime_sandbox_v1_sandbox_register(server, &methods, s);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

sandbox_service *sandbox_service_free(sandbox_service *s) {
        if (!s)
                return NULL;
        sd_event_source_disable_unref(s->look);
        sd_event_source_disable_unref(s->linger);
        sd_event_unref(s->event);
        while (s->n_waiters > 0) {
                ttrpc_call *call = s->waiters[--s->n_waiters];

                ttrpc_call_set_callbacks(call, NULL, NULL, NULL);
                ttrpc_call_unref(call);
        }
        ttrpc_call_unref(s->starting);
        ttrpc_call_unref(s->stopping);
        free(s->id);
        free(s->network);
        free(s);
        return NULL;
}
