/* SPDX-License-Identifier: MIT */
#include "services/exec-service.h"

#include <string.h>

#include "exec.ttrpc.h"
#include "migration/session.h"
#include "services/reply.h"

#define WORDS_MAX 4096U

struct exec_service {
        guest_access *guest;
        session *session;
};

/* A ttrpc call that waits for the guest. */
typedef struct exec_call {
        exec_service *service;
        ttrpc_call *call;
} exec_call;

/* ---- calls ---- */

static exec_call *hold(exec_service *s, ttrpc_call *call) {
        exec_call *c = malloc(sizeof(*c));

        if (!c)
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
        else
                *c = (exec_call){ .service = s, .call = ttrpc_call_ref(call) };
        return c;
}

static void let_go(exec_call *c) {
        ttrpc_call_set_callbacks(c->call, NULL, NULL, NULL);
        ttrpc_call_unref(c->call);
        free(c);
}

/* Refused at once. */
static void refuse(exec_call *c, int r, const ferry_error *error) {
        call_fail(c->call, r, error);
        let_go(c);
}

static void on_started(int r, const ferry_error *error, const guest_process_info *info,
                       void *userdata) {
        Ferry__Exec__V1__StartResponse response = FERRY__EXEC__V1__START_RESPONSE__INIT;
        exec_call *c = userdata;

        if (r < 0) {
                refuse(c, r, error);
                return;
        }
        response.pid = info ? info->pid : 0;
        (void)ferry_exec_v1_exec_start_reply(c->call, &response);
        let_go(c);
}

static void start(ttrpc_call *call, const Ferry__Exec__V1__StartRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        exec_service *s = userdata;
        guest_processes *programs;
        exec_call *c = hold(s, call);
        guest_process_spec spec = {
                .id = q->id,
                .args = q->args,
                .n_args = q->n_args,
                .env = q->env,
                .n_env = q->n_env,
                .cwd = q->cwd,
                .uid = q->uid,
                .gid = q->gid,
                .terminal = q->terminal,
                .rows = q->rows,
                .columns = q->columns,
                .stdio = { q->in, q->out, q->err },
        };
        int r;

        if (!c)
                return;
        if (q->n_args == 0 || q->n_args > WORDS_MAX || q->n_env > WORDS_MAX)
                r = ferry_error_set(&error, FERRY_INVALID_ARGUMENT, -EINVAL,
                                    "1 to %u arguments and at most %u variables", WORDS_MAX,
                                    WORDS_MAX);
        else if (session_is_open(s->session))
                r = ferry_error_set(&error, FERRY_FAILED_PRECONDITION, -EBUSY,
                                    "the sandbox is being migrated: nothing is started meanwhile");
        else
                r = guest_access_open(s->guest, &programs, &error);
        if (r == 0)
                r = guest_exec(programs, &spec, on_started, c, &error);
        if (r < 0)
                refuse(c, r, &error);
}

static void on_ended(int r, const ferry_error *error, const guest_process_info *info,
                     void *userdata) {
        Ferry__Exec__V1__WaitResponse response = FERRY__EXEC__V1__WAIT_RESPONSE__INIT;
        exec_call *c = userdata;

        if (r < 0) {
                refuse(c, r, error);
                return;
        }
        response.exit_status = info->exit_status;
        response.exited_at_usec = info->exited_at_usec;
        (void)ferry_exec_v1_exec_wait_reply(c->call, &response);
        let_go(c);
}

static void on_waiter_gone(ttrpc_call *call, void *userdata) {
        exec_call *c = userdata;

        guest_processes *programs = guest_access_programs(c->service->guest);

        if (programs)
                guest_wait_forget(programs, c);
        let_go(c);
}

static void wait_for(ttrpc_call *call, const Ferry__Exec__V1__WaitRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        exec_service *s = userdata;
        guest_processes *programs;
        exec_call *c = hold(s, call);
        int r;

        if (!c)
                return;
        ttrpc_call_set_callbacks(call, on_waiter_gone, NULL, c);
        r = guest_access_find(s->guest, q->id, &programs, &error);
        if (r == 0)
                r = guest_wait(programs, q->id, q->drained, on_ended, c, &error);
        if (r < 0)
                refuse(c, r, &error);
}

static void on_done(int r, const ferry_error *error, const guest_process_info *info,
                    void *userdata) {
        exec_call *c = userdata;

        if (r < 0) {
                refuse(c, r, error);
                return;
        }
        (void)ttrpc_call_reply(c->call, NULL, 0);
        let_go(c);
}

static void send_signal(ttrpc_call *call, const Ferry__Exec__V1__SignalRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        exec_service *s = userdata;
        guest_processes *programs;
        exec_call *c = hold(s, call);
        int r;

        if (!c)
                return;
        r = guest_access_find(s->guest, q->id, &programs, &error);
        if (r == 0)
                r = guest_signal(programs, q->id, q->signal, false, on_done, c, &error);
        if (r < 0)
                refuse(c, r, &error);
}

static void resize(ttrpc_call *call, const Ferry__Exec__V1__ResizeRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        exec_service *s = userdata;
        guest_processes *programs;
        exec_call *c = hold(s, call);
        int r;

        if (!c)
                return;
        r = guest_access_find(s->guest, q->id, &programs, &error);
        if (r == 0)
                r = guest_resize(programs, q->id, q->rows, q->columns, on_done, c, &error);
        if (r < 0)
                refuse(c, r, &error);
}

static void delete (ttrpc_call *call, const Ferry__Exec__V1__DeleteRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        exec_service *s = userdata;
        guest_processes *programs;
        exec_call *c = hold(s, call);
        int r;

        if (!c)
                return;
        r = guest_access_find(s->guest, q->id, &programs, &error);
        if (r == 0)
                r = guest_delete(programs, q->id, on_done, c, &error);
        if (r < 0)
                refuse(c, r, &error);
}

static void attach(ttrpc_call *call, const Ferry__Exec__V1__AttachRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const char *const stdio[3] = { q->in, q->out, q->err };
        exec_service *s = userdata;
        guest_processes *programs;
        int r;

        r = guest_access_find(s->guest, q->id, &programs, &error);
        if (r == 0)
                r = guest_attach(programs, q->id, stdio, &error);
        if (r < 0)
                call_fail(call, r, &error);
        else
                (void)ttrpc_call_reply(call, NULL, 0);
}

static void close_in(ttrpc_call *call, const Ferry__Exec__V1__CloseInRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        exec_service *s = userdata;
        guest_processes *programs;
        int r;

        r = guest_access_find(s->guest, q->id, &programs, &error);
        if (r == 0)
                r = guest_close_in(programs, q->id, &error);
        if (r < 0)
                call_fail(call, r, &error);
        else
                (void)ttrpc_call_reply(call, NULL, 0);
}

typedef struct listing {
        Ferry__Exec__V1__Program items[GUEST_PROCESSES_MAX], *pointers[GUEST_PROCESSES_MAX];
        size_t n;
} listing;

static void add_to(const guest_process_info *info, void *userdata) {
        listing *l = userdata;
        Ferry__Exec__V1__Program *m = &l->items[l->n];

        ferry__exec__v1__program__init(m);
        m->id = (char *)info->id;
        m->pid = info->pid;
        m->terminal = info->terminal;
        m->detached = info->detached;
        m->ended = info->ended;
        m->exit_status = info->exit_status;
        m->exited_at_usec = info->exited_at_usec;
        l->pointers[l->n++] = m;
}

static void list(ttrpc_call *call, const Ferry__Exec__V1__ListRequest *q, void *userdata) {
        Ferry__Exec__V1__ListResponse response = FERRY__EXEC__V1__LIST_RESPONSE__INIT;
        exec_service *s = userdata;
        guest_processes *programs = guest_access_programs(s->guest);
        listing l = { .n = 0 };

        if (programs)
                guest_processes_list(programs, add_to, &l);
        response.programs = l.pointers;
        response.n_programs = l.n;
        (void)ferry_exec_v1_exec_list_reply(call, &response);
}

int exec_service_new(ttrpc_server *server, sandbox *sb, guest_access *guest, exec_service **ret) {
        static const ferry_exec_v1_exec_methods methods = {
                .start = start,
                .attach = attach,
                .wait = wait_for,
                .signal = send_signal,
                .resize = resize,
                .delete = delete,
                .close_in = close_in,
                .list = list,
        };
        exec_service *s = malloc(sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        *s = (exec_service){ .guest = guest, .session = sandbox_session(sb) };
        r = ferry_exec_v1_exec_register(server, &methods, s);
        if (r < 0) {
                free(s);
                return r;
        }
        *ret = s;
        return 0;
}

exec_service *exec_service_free(exec_service *s) {
        free(s);
        return NULL;
}
