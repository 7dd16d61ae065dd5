/* SPDX-License-Identifier: MIT */
#include "services/exec-service.h"

#include <string.h>

#include "base/log.h"
#include "exec.ttrpc.h"
#include "guestlink/processes.h"
#include "migration/session.h"
#include "services/reply.h"

#define WORDS_MAX       4096U
#define GENERATION_SIZE 32

struct exec_service {
        sandbox *sb;
        sd_event *event;
        sd_event_source *look;
        bool carried;              /* it stands, and is on its way to another host */
        bool told;                 /* that it has moved here */
        bool begun;                /* before that, no VM does not mean that its programs are gone */
        guest_processes *programs; /* NULL: none were started, and none are left from before */
};

/* A ttrpc call that waits for the guest. */
typedef struct exec_call {
        exec_service *service;
        ttrpc_call *call;
} exec_call;

/* ---- the guest ---- */

static bool has_guest(const exec_service *s) {
        sandbox_vm_state state = sandbox_get_vm_state(s->sb);
        ferry_vm *v = sandbox_vm(s->sb);

        return v && (state == SANDBOX_VM_RUNNING || state == SANDBOX_VM_PAUSED) &&
               vm_get_config(v)->agent;
}

/* Another VM has none of the programs of the one before. */
static void get_generation(const exec_service *s, char ret[GENERATION_SIZE]) {
        snprintf(ret, GENERATION_SIZE, "%d", (int)vm_get_pid(sandbox_vm(s->sb)));
}

static int open_programs(exec_service *s, ferry_error *reterr) {
        char generation[GENERATION_SIZE];

        if (s->programs)
                return 0;
        get_generation(s, generation);
        return guest_processes_new(s->event, sandbox_state_dir(s->sb), generation, &s->programs,
                                   reterr);
}

static bool has_programs_from_before(const exec_service *s) {
        return !s->programs && faccessat(sandbox_dir_fd(s->sb), GUEST_EXECS_FILE, F_OK, 0) == 0;
}

/* The guest runs here: for the first time since it has moved, or again after all. */
static void greet_guest(exec_service *s) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        bool moved = !s->told && vm_get_mode(sandbox_vm(s->sb)) == VM_MODE_INCOMING;
        bool stayed = s->carried;

        s->told = true;
        s->carried = false;
        if ((moved || has_programs_from_before(s)) && open_programs(s, &error) < 0)
                log_warning("%s", ferry_error_message(&error));
        if (stayed && s->programs)
                guest_processes_stay(s->programs);
        if ((moved || stayed) && s->programs)
                guest_moved(s->programs, moved);
}

/* The VM has come or gone. */
static void look(exec_service *s) {
        sandbox_vm_state state = sandbox_get_vm_state(s->sb);

        if (!s->begun)
                return;
        if (state == SANDBOX_VM_NONE || state == SANDBOX_VM_STOPPED) {
                s->programs = guest_processes_free(s->programs);
                s->carried = s->told = false;
                guest_processes_forget(sandbox_dir_fd(s->sb));
        } else if (state == SANDBOX_VM_RUNNING && has_guest(s))
                greet_guest(s);
}

static int on_look(sd_event_source *source, void *userdata) {
        look(userdata);
        return 0;
}

void exec_service_begin(exec_service *s) {
        s->begun = true;
        look(s);
}

static void on_change(void *userdata) {
        exec_service *s = userdata;

        (void)sd_event_source_set_enabled(s->look, SD_EVENT_ONESHOT);
}

static int carry(void *userdata, uint8_t **ret, size_t *ret_n) {
        exec_service *s = userdata;

        if (!s->programs)
                return 0;
        s->carried = true;
        return guest_processes_carry(s->programs, ret, ret_n);
}

static int arrive(void *userdata, const uint8_t *data, size_t n, ferry_error *reterr) {
        exec_service *s = userdata;
        char generation[GENERATION_SIZE];

        if (!sandbox_vm(s->sb))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENODEV,
                                       "the VM has gone");
        get_generation(s, generation);
        return guest_processes_arrive(sandbox_dir_fd(s->sb), generation, data, n, reterr);
}

static int need_guest(exec_service *s, ferry_error *reterr) {
        ferry_vm *v = sandbox_vm(s->sb);

        if (v && !vm_get_config(v)->agent)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENODEV,
                                       "this VM has no agent's ports: \"agent\": true in its "
                                       "configuration makes them");
        if (!has_guest(s))
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENODEV,
                                       "the VM does not run here");
        return open_programs(s, reterr);
}

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
        else if (session_is_open(sandbox_session(s->sb)))
                r = ferry_error_set(&error, FERRY_FAILED_PRECONDITION, -EBUSY,
                                    "the sandbox is being migrated: nothing is started meanwhile");
        else
                r = need_guest(s, &error);
        if (r == 0)
                r = guest_exec(s->programs, &spec, on_started, c, &error);
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

        if (c->service->programs)
                guest_wait_forget(c->service->programs, c);
        let_go(c);
}

/* What asks for a program by its id, without a guest: there is none, unless that is on its way. */
static int need_programs(exec_service *s, const char *id, ferry_error *reterr) {
        if (s->carried || (!s->programs && session_is_open(sandbox_session(s->sb))))
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -EAGAIN,
                                       "the sandbox is being moved: ask again, here or there");
        if (s->programs)
                return 0;
        return ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT, "no program '%.128s' was started",
                               id);
}

static void wait_for(ttrpc_call *call, const Ferry__Exec__V1__WaitRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        exec_service *s = userdata;
        exec_call *c = hold(s, call);
        int r;

        if (!c)
                return;
        ttrpc_call_set_callbacks(call, on_waiter_gone, NULL, c);
        r = need_programs(s, q->id, &error);
        if (r == 0)
                r = guest_wait(s->programs, q->id, q->drained, on_ended, c, &error);
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
        exec_call *c = hold(s, call);
        int r;

        if (!c)
                return;
        r = need_programs(s, q->id, &error);
        if (r == 0)
                r = guest_signal(s->programs, q->id, q->signal, false, on_done, c, &error);
        if (r < 0)
                refuse(c, r, &error);
}

static void resize(ttrpc_call *call, const Ferry__Exec__V1__ResizeRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        exec_service *s = userdata;
        exec_call *c = hold(s, call);
        int r;

        if (!c)
                return;
        r = need_programs(s, q->id, &error);
        if (r == 0)
                r = guest_resize(s->programs, q->id, q->rows, q->columns, on_done, c, &error);
        if (r < 0)
                refuse(c, r, &error);
}

static void delete (ttrpc_call *call, const Ferry__Exec__V1__DeleteRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        exec_service *s = userdata;
        exec_call *c = hold(s, call);
        int r;

        if (!c)
                return;
        r = need_programs(s, q->id, &error);
        if (r == 0)
                r = guest_delete(s->programs, q->id, on_done, c, &error);
        if (r < 0)
                refuse(c, r, &error);
}

static void attach(ttrpc_call *call, const Ferry__Exec__V1__AttachRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const char *const stdio[3] = { q->in, q->out, q->err };
        exec_service *s = userdata;
        int r;

        r = need_programs(s, q->id, &error);
        if (r == 0)
                r = guest_attach(s->programs, q->id, stdio, &error);
        if (r < 0)
                call_fail(call, r, &error);
        else
                (void)ttrpc_call_reply(call, NULL, 0);
}

static void close_in(ttrpc_call *call, const Ferry__Exec__V1__CloseInRequest *q, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        exec_service *s = userdata;
        int r;

        r = need_programs(s, q->id, &error);
        if (r == 0)
                r = guest_close_in(s->programs, q->id, &error);
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
        listing l = { .n = 0 };

        if (s->programs)
                guest_processes_list(s->programs, add_to, &l);
        response.programs = l.pointers;
        response.n_programs = l.n;
        (void)ferry_exec_v1_exec_list_reply(call, &response);
}

int exec_service_new(ttrpc_server *server, sd_event *event, sandbox *sb, exec_service **ret) {
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
        static const sandbox_guest guest = { .carry = carry, .arrive = arrive };
        _cleanup_(exec_service_freep) exec_service *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        *s = (exec_service){ .sb = sb, .event = sd_event_ref(event) };
        r = sd_event_add_defer(event, &s->look, on_look, s);
        if (r >= 0)
                r = sd_event_source_set_enabled(s->look, SD_EVENT_OFF);
        if (r >= 0)
                r = ferry_exec_v1_exec_register(server, &methods, s);
        if (r < 0)
                return r;
        sandbox_add_on_change(sb, on_change, s);
        sandbox_set_guest(sb, &guest, s);
        *ret = TAKE_PTR(s);
        return 0;
}

void exec_service_end(exec_service *s) {
        s->begun = false;
        s->programs = guest_processes_free(s->programs);
}

exec_service *exec_service_free(exec_service *s) {
        if (!s)
                return NULL;
        sandbox_remove_on_change(s->sb, s);
        sandbox_set_guest(s->sb, NULL, NULL);
        guest_processes_free(s->programs);
        sd_event_source_disable_unref(s->look);
        sd_event_unref(s->event);
        free(s);
        return NULL;
}
