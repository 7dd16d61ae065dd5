/* SPDX-License-Identifier: MIT */
/* Containers go along when their sandbox moves. The source's table goes in the exported state; at
 * the destination each container waits there for containerd to claim it by a Create of its own,
 * with this host's id, bundle and FIFOs. What was started then is taken up once the guest runs
 * here. */
#include <string.h>

#include "base/log.h"
#include "migration/place.h"
#include "migration/sandbox-images.h"
#include "migration/session.h"
#include "services/carried.h"
#include "services/task-internal.h"

#define S(name) CONTAINERD__TASK__V2__STATUS__##name

typedef Ferry__Tasks__V1__Containers containers_message;
typedef Ferry__Tasks__V1__Container container_message;
typedef Ferry__Tasks__V1__Process process_message;

/* ---- out ---- */

static Containerd__Task__V2__Status real_status(const task_process *p) {
        return p->arriving ? p->arrived_status : p->status;
}

/* An exec that was not started is nothing yet: its caller asks again, there. */
static bool goes_along(const task_process *p) {
        return p->arriving || !p->exec_id[0] || p->status != S(CREATED);
}

static Ferry__Tasks__V1__Process__Status status_to_wire(Containerd__Task__V2__Status status) {
        switch ((int)status) {
        case S(CREATED):
                return FERRY__TASKS__V1__PROCESS__STATUS__STATUS_CREATED;
        case S(PAUSED):
                return FERRY__TASKS__V1__PROCESS__STATUS__STATUS_PAUSED;
        case S(STOPPED):
                return FERRY__TASKS__V1__PROCESS__STATUS__STATUS_STOPPED;
        default:
                return FERRY__TASKS__V1__PROCESS__STATUS__STATUS_RUNNING;
        }
}

static int describe_process(const task_process *p, process_message **ret) {
        process_message *m = malloc(sizeof(*m));

        if (!m)
                return -ENOMEM;
        ferry__tasks__v1__process__init(m);
        *ret = m;
        m->exec_id = strdup(p->exec_id);
        m->guest_id = strdup(p->guest_id);
        if (!m->exec_id || !m->guest_id)
                return -ENOMEM;
        m->terminal = p->terminal;
        m->status = status_to_wire(real_status(p));
        return 0;
}

static int describe_task(const task *t, container_message **ret) {
        container_message *m = malloc(sizeof(*m));
        size_t n = 0;
        int r = 0;

        if (!m)
                return -ENOMEM;
        ferry__tasks__v1__container__init(m);
        *ret = m;
        for (const task_process *p = t->processes; p; p = p->next)
                n++;
        m->id = strdup(t->id);
        m->guest_id = strdup(t->guest_id);
        m->disk = strdup(t->root.serial);
        m->layer = strdup(t->layer.serial);
        m->processes = calloc(n, sizeof(*m->processes));
        if (!m->id || !m->guest_id || !m->disk || !m->layer || !m->processes)
                return -ENOMEM;
        m->last_exec = t->last_exec;
        for (const task_process *p = t->processes; r == 0 && p; p = p->next) {
                if (!goes_along(p))
                        continue;
                r = describe_process(p, &m->processes[m->n_processes]);
                if (m->processes[m->n_processes])
                        m->n_processes++;
        }
        return r;
}

static int describe_all(const task_service *s, containers_message *m) {
        int r = 0;

        m->last_number = s->last_number;
        m->containers = calloc(s->n_tasks, sizeof(*m->containers));
        if (!m->containers)
                return -ENOMEM;
        for (const task *t = s->tasks; r == 0 && t; t = t->next) {
                r = describe_task(t, &m->containers[m->n_containers]);
                if (m->containers[m->n_containers])
                        m->n_containers++;
        }
        return r;
}

static int describe(void *userdata, uint8_t **ret, size_t *ret_n, ferry_error *reterr) {
        const task_service *s = userdata;
        containers_message *m;
        int r;

        if (s->n_tasks == 0)
                return 0;
        m = malloc(sizeof(*m));
        if (!m)
                return ferry_error_set_errno(reterr, -ENOMEM, "the containers");
        ferry__tasks__v1__containers__init(m);
        r = describe_all(s, m);
        if (r == 0) {
                *ret_n = ferry__tasks__v1__containers__get_packed_size(m);
                *ret = malloc(*ret_n);
                r = *ret ? 0 : -ENOMEM;
        }
        if (r == 0)
                ferry__tasks__v1__containers__pack(m, *ret);
        ferry__tasks__v1__containers__free_unpacked(m, NULL);
        return r < 0 ? ferry_error_set_errno(reterr, r, "the containers") : 0;
}

static int check_export(void *userdata, ferry_error *reterr) {
        const task_service *s = userdata;

        for (const task *t = s->tasks; t; t = t->next) {
                bool busy = t->creating;

                for (const task_process *p = t->processes; p; p = p->next)
                        busy |= p->busy;
                if (busy)
                        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                               "container %s is being created, started or deleted",
                                               t->id);
        }
        return 0;
}

/* ---- in ---- */

static Containerd__Task__V2__Status status_from_wire(Ferry__Tasks__V1__Process__Status status) {
        switch ((int)status) {
        case FERRY__TASKS__V1__PROCESS__STATUS__STATUS_CREATED:
                return S(CREATED);
        case FERRY__TASKS__V1__PROCESS__STATUS__STATUS_PAUSED:
                return S(PAUSED);
        case FERRY__TASKS__V1__PROCESS__STATUS__STATUS_STOPPED:
                return S(STOPPED);
        default:
                return S(RUNNING);
        }
}

static int take_process(task *t, const process_message *m) {
        static const char *const none[3] = { NULL };
        task_process *p = task_add_process(t, m->exec_id, none, m->terminal);

        if (!p)
                return -ENOMEM;
        snprintf(p->guest_id, sizeof(p->guest_id), "%s", m->guest_id);
        p->unclaimed = p->arriving = true;
        p->arrived_status = status_from_wire(m->status);
        return 0;
}

/* The file that was adopted for it is ours to remove. */
static int take_disk(task_service *s, task_disk *to, const char *serial, const vm_config *config) {
        ssize_t at = serial[0] ? vm_config_find_disk(config, serial) : -1;

        snprintf(to->serial, sizeof(to->serial), "%s", serial);
        if (at < 0 || !sandbox_owns_image(s->sb, &config->disks[at]))
                return 0;
        to->file = strdup(config->disks[at].path);
        return to->file ? 0 : -ENOMEM;
}

static int take_task(task_service *s, const container_message *m, const vm_config *config,
                     ferry_error *reterr) {
        task *t = task_alloc(s, m->id, "");
        int r;

        if (!t)
                return ferry_error_set_errno(reterr, -ENOMEM, "take");
        t->next = s->unclaimed;
        s->unclaimed = t;
        snprintf(t->guest_id, sizeof(t->guest_id), "%s", m->guest_id);
        r = take_disk(s, &t->root, m->disk, config);
        if (r == 0)
                r = take_disk(s, &t->layer, m->layer, config);
        for (size_t i = 0; r == 0 && i < m->n_processes; i++)
                r = take_process(t, m->processes[i]);
        t->last_exec = m->last_exec;
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "take");
        if (t->layer.serial[0] && !t->layer.file)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EREMOTEIO,
                                       "container %s writes to a disk (%s) that this host does not "
                                       "have, and has no place for: `ferry host set --disk-root`",
                                       m->id,
                                       config->disks[vm_config_find_disk(config, m->layer)].path);
        return 0;
}

static void remove_file(const task_disk *disk) {
        if (disk->file)
                sandbox_remove_disk_file(disk->file);
}

static void let_go(task_service *s, bool remove_files) {
        while (s->unclaimed) {
                task *t = s->unclaimed;

                s->unclaimed = t->next;
                if (remove_files) {
                        remove_file(&t->root);
                        remove_file(&t->layer);
                }
                task_remove(t);
        }
}

void task_drop_unclaimed(task_service *s) {
        let_go(s, false);
}

static int take(void *userdata, const vm_config *config, const uint8_t *data, size_t n,
                ferry_error *reterr) {
        task_service *s = userdata;
        containers_message *m;
        int r;

        task_drop_unclaimed(s);
        if (n == 0)
                return 0;
        if (s->n_tasks > 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "this shim has containers of its own");
        r = carried_decode(data, n, config, &m, reterr);
        if (r < 0)
                return r;
        for (size_t i = 0; r == 0 && i < m->n_containers; i++)
                r = take_task(s, m->containers[i], config, reterr);
        if (r == 0)
                s->last_number = m->last_number;
        else
                task_drop_unclaimed(s);
        ferry__tasks__v1__containers__free_unpacked(m, NULL);
        return r;
}

static int check_prepare(void *userdata, ferry_error *reterr) {
        const task_service *s = userdata;

        if (!s->unclaimed)
                return 0;
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                               "container %s is not created here yet (Create with the annotation "
                               "%s)",
                               s->unclaimed->id, ANNOTATION_SOURCE);
}

const sandbox_guest task_moving = { .check_export = check_export,
                                    .describe = describe,
                                    .take = take,
                                    .check_prepare = check_prepare };

/* ---- claims ---- */

/* "": the pod's own, which is the first of them all. */
static task **find_unclaimed(task_service *s, const char *id) {
        if (id[0] == '\0')
                return s->unclaimed ? &s->unclaimed : NULL;
        for (task **at = &s->unclaimed; *at; at = &(*at)->next)
                if (strcmp((*at)->id, id) == 0)
                        return at;
        return NULL;
}

/* *ret: where it is linked. */
static int find_claimed(task_service *s, const Containerd__Task__V2__CreateTaskRequest *q,
                        const char *source_id, task ***ret, ferry_error *reterr) {
        session_status status;
        task **at;

        session_get_status(sandbox_session(s->sb), &status);
        if (status.state != MIG_D_IMPORTED)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "%s: only between ImportSandbox and PrepareSandbox (the "
                                       "session is %s)",
                                       ANNOTATION_SOURCE, mig_state_get(status.state)->wire);
        at = find_unclaimed(s, source_id);
        if (!at)
                return ferry_error_set(
                        reterr, FERRY_NOT_FOUND, -ENOENT,
                        "no container %.80s came with the sandbox, or it was claimed "
                        "before",
                        source_id);
        if (task_first(*at)->terminal != (bool)q->terminal)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "container %.80s has %s terminal at the source", source_id,
                                       q->terminal ? "no" : "a");
        *ret = at;
        return 0;
}

static int set_text(char **at, const char *text) {
        char *copy = strdup(text ? text : "");

        if (!copy)
                return -ENOMEM;
        free(*at);
        *at = copy;
        return 0;
}

static int set_stdio(task_process *p, const char *const stdio[3]) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < ELEMENTS(p->stdio); i++)
                r = set_text(&p->stdio[i], stdio[i]);
        return r;
}

/* Containers that are added to its pod later are to find the sandbox, which has the source's name.
 */
static int note_place(const task_service *s, const Containerd__Task__V2__CreateTaskRequest *q,
                      ferry_error *reterr) {
        _cleanup_(freep) char *text = NULL, *pod = NULL;
        char name[PLACE_NAME_SIZE];
        size_t n;
        int r;

        if (!s->address[0])
                return 0;
        r = bundle_read(q->bundle, &text, &n, reterr);
        if (r < 0)
                return r;
        pod = oci_annotation(text, n, ANNOTATION_POD);
        r = place_name(s->address, s->namespace, pod ? pod : q->id, name);
        return r < 0 ? ferry_error_set_errno(reterr, r, "claim")
                     : place_note(sandbox_state_dir(s->sb), name, reterr);
}

void task_claim(task_service *s, ttrpc_call *call, const Containerd__Task__V2__CreateTaskRequest *q,
                const char *source_id) {
        Containerd__Task__V2__CreateTaskResponse m =
                CONTAINERD__TASK__V2__CREATE_TASK_RESPONSE__INIT;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const char *const stdio[3] = { q->stdin, q->stdout, q->stderr };
        task_process *p;
        task **at = NULL, *t;
        int r;

        r = find_claimed(s, q, source_id, &at, &error);
        if (r == 0)
                r = task_network_expect_of(s->network, q->bundle, &error);
        if (r == 0)
                r = note_place(s, q, &error);
        if (r < 0) {
                call_fail(call, r, &error);
                return;
        }
        t = *at;
        p = task_first(t);
        r = set_stdio(p, stdio);
        if (r == 0)
                r = set_text(&t->bundle, q->bundle);
        if (r == 0)
                r = set_text(&t->id, q->id);
        if (r < 0) {
                ferry_error_set_errno(&error, r, "claim");
                call_fail(call, r, &error);
                return;
        }
        *at = t->next;
        task_insert(t);
        p->unclaimed = false;
        p->pid = m.pid = task_host_pid(s);
        (void)containerd_task_v2_task_create_reply(call, &m);
}

bool task_claim_exec(task_service *s, ttrpc_call *call,
                     const Containerd__Task__V2__ExecProcessRequest *q) {
        const char *const stdio[3] = { q->stdin, q->stdout, q->stderr };
        task_process *p = task_find(s, q->id)->processes;

        while (p && !(p->unclaimed && strcmp(p->exec_id, q->exec_id) == 0))
                p = p->next;
        if (!p)
                return false;
        if (p->terminal != (bool)q->terminal)
                (void)ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT,
                                      "exec %.80s came with the sandbox, and has %s terminal",
                                      q->exec_id, p->terminal ? "a" : "no");
        else if (set_stdio(p, stdio) < 0)
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "out of memory");
        else {
                p->unclaimed = false;
                task_tell_exec_added(p);
                (void)ttrpc_call_reply(call, NULL, 0);
        }
        return true;
}

/* ---- the guest runs here ---- */

static bool runs_here(const task_service *s) {
        sandbox_vm_state state = sandbox_get_vm_state(s->sb);

        return state == SANDBOX_VM_RUNNING || state == SANDBOX_VM_PAUSED;
}

static void on_started_late(int r, const ferry_error *error, void *userdata) {
        if (r < 0)
                log_warning("start a container that came with the sandbox: %s",
                            ferry_error_message(error));
}

/* Its end is told as any other's; what the guest does not know any more has ended. */
static void take_up(task_process *p) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const char *const stdio[3] = { p->stdio[0], p->stdio[1], p->stdio[2] };
        guest_processes *guest;
        int r;

        r = guest_access_open(p->task->service->guest, &guest, &error);
        if (r == 0)
                r = guest_attach(guest, p->guest_id, stdio, &error);
        if (r < 0)
                log_warning("%s %s: %s", p->task->id, p->exec_id, ferry_error_message(&error));
        p->arriving = false;
        if (!p->exec_id[0])
                task_tell_create(p->task);
        task_tell_start(p);
        if (r == -ENOENT || guest_access_open(p->task->service->guest, &guest, NULL) < 0) {
                task_process_ended(p, EXIT_LOST, 0);
                return;
        }
        if (p->arrived_status == S(CREATED) &&
            guest_container_start(guest, p->guest_id, on_started_late, NULL, &error) < 0)
                log_warning("%s: %s", p->task->id, ferry_error_message(&error));
        if (p->close_in)
                (void)guest_close_in(guest, p->guest_id, NULL);
        ferry_error_done(&error);
        if (task_watch(p, &error) < 0)
                log_warning("%s", ferry_error_message(&error));
}

void task_begin_arrived(task_process *p) {
        p->status = p->arrived_status == S(PAUSED) ? S(PAUSED) : S(RUNNING);
        p->pid = task_host_pid(p->task->service);
        if (runs_here(p->task->service))
                take_up(p);
}

/* Start was asked for, of one that is arriving. */
static bool has_begun(const task_process *p) {
        return p->status == S(RUNNING) || p->status == S(PAUSED);
}

static void take_up_all(task_service *s) {
        for (task *t = s->tasks; t; t = t->next)
                for (task_process *p = t->processes; p; p = p->next)
                        if (p->arriving && has_begun(p))
                                take_up(p);
}

/* ---- what has become of the sandbox ---- */

static void end_all(task_service *s, bool moved) {
        for (task *t = s->tasks; t; t = t->next)
                for (task_process *p = t->processes; p; p = p->next)
                        if (!t->creating && !p->unclaimed && p->status != S(STOPPED)) {
                                p->migrated = moved;
                                task_process_ended(p, p->doomed ? EXIT_KILLED : EXIT_LOST, 0);
                        }
}

static void look_without_vm(task_service *s) {
        session_status status;

        session_get_status(sandbox_session(s->sb), &status);
        if (status.state == MIG_D_IMPORTED || status.state == MIG_D_PREPARING)
                return;
        task_network_leave(s->network);
        end_all(s, status.owner == MIG_OWNER_THERE);
        let_go(s, true);
}

void task_look(task_service *s) {
        task_network_look(s->network, runs_here(s));
        if (runs_here(s))
                take_up_all(s);
        else if (!task_vm_lives(s))
                look_without_vm(s);
        if (s->shutdown_wanted && task_none_is_wanted(s) &&
            !session_is_open(sandbox_session(s->sb)))
                s->on_shutdown(s->userdata);
}
