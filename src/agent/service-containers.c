/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "agent/cgroup.h"
#include "agent/machine-id.h"
#include "agent/service-internal.h"

#define CONFIG_MAX  (2U << 20)
#define FOLDER_SIZE 160
#define STAT_LINES  128U

/* A call whose answer waits for crun. */
typedef struct pending {
        ttrpc_call *call;
        void (*reply)(ttrpc_call *call, pid_t pid);
} pending;

static void cgroup_folder(const char *id, char ret[FOLDER_SIZE]) {
        (void)snprintf(ret, FOLDER_SIZE, CONTAINER_CGROUP "/%s", id);
}

/* ---- answers that come later ---- */

static void on_done(int r, const char *text, pid_t pid, void *userdata) {
        pending *p = userdata;

        if (r < 0)
                (void)ttrpc_call_fail(p->call, TTRPC_FAILED_PRECONDITION, "%s", text);
        else
                p->reply(p->call, pid);
        ttrpc_call_unref(p->call);
        free(p);
}

static pending *hold(ttrpc_call *call, void (*reply)(ttrpc_call *call, pid_t pid)) {
        pending *p = malloc(sizeof(*p));

        if (!p)
                service_fail_errno(call, -ENOMEM, "container");
        else
                *p = (pending){ .call = ttrpc_call_ref(call), .reply = reply };
        return p;
}

static void begun(pending *p, int r, const char *id) {
        if (r == 0)
                return;
        if (r == -ENOENT)
                (void)ttrpc_call_fail(p->call, TTRPC_NOT_FOUND, "no container '%.64s' in the guest",
                                      id);
        else
                service_fail_errno(p->call, r, id);
        ttrpc_call_unref(p->call);
        free(p);
}

static void reply_pid(ttrpc_call *call, pid_t pid) {
        Ferry__Agent__V1__StartResponse response = FERRY__AGENT__V1__START_RESPONSE__INIT;

        response.pid = (uint32_t)pid;
        (void)ferry_agent_v1_agent_start_reply(call, &response);
}

static void reply_empty(ttrpc_call *call, pid_t pid) {
        (void)ferry_agent_v1_agent_start_container_reply(call, NULL);
}

/* ---- making and running ---- */

static bool create_is_valid(const Ferry__Agent__V1__CreateContainerRequest *q) {
        return q->config.len > 0 && q->n_files <= CONTAINER_FILES_MAX && q->rows <= UINT16_MAX &&
               q->columns <= UINT16_MAX;
}

/* They borrow what the request has. */
static container_file *files_of(const Ferry__Agent__V1__CreateContainerRequest *q) {
        container_file *files = calloc(q->n_files + 1, sizeof(*files));

        for (size_t i = 0; files && i < q->n_files; i++)
                files[i] = (container_file){ .path = (const char *)q->files[i]->path.data,
                                             .n_path = q->files[i]->path.len,
                                             .mode = (mode_t)q->files[i]->mode,
                                             .uid = q->files[i]->uid,
                                             .gid = q->files[i]->gid,
                                             .shared = q->files[i]->shared,
                                             .data = q->files[i]->data.data,
                                             .n = q->files[i]->data.len };
        return files;
}

void service_create_container(ttrpc_call *call, const Ferry__Agent__V1__CreateContainerRequest *q,
                              void *userdata) {
        static char *const args[] = { (char *)"(container)", NULL };
        _cleanup_(freep) container_file *files = NULL;
        agent_service *s = userdata;
        pending *p;

        if (!create_is_valid(q)) {
                (void)ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT,
                                      "a configuration, and %u files at most", CONTAINER_FILES_MAX);
                return;
        }
        machine_id_make();
        files = files_of(q);
        if (!files) {
                service_fail_errno(call, -ENOMEM, "container");
                return;
        }
        p = hold(call, reply_pid);
        if (p)
                begun(p,
                      container_create(s->containers,
                                       &(container_spec){
                                               .id = q->id,
                                               .config = q->config.data,
                                               .n_config = q->config.len,
                                               .disk = q->disk,
                                               .fstype = q->fstype,
                                               .upper_bytes = q->upper_bytes,
                                               .upper_disk = q->upper_disk,
                                               .files = files,
                                               .n_files = q->n_files,
                                               .process = { .id = q->id,
                                                            .args = args,
                                                            .n_args = 1,
                                                            .terminal = q->terminal,
                                                            .rows = (uint16_t)q->rows,
                                                            .columns = (uint16_t)q->columns,
                                                            .stream = q->stream },
                                       },
                                       on_done, p),
                      q->id);
}

void service_exec_in_container(agent_service *s, ttrpc_call *call,
                               const Ferry__Agent__V1__StartRequest *q) {
        static char *const none[] = { (char *)"(exec)", NULL };
        char **args = q->n_args > 0 ? calloc(q->n_args + 1, sizeof(*args)) : NULL;
        pending *p = NULL;

        if (q->process.len == 0 || q->process.len > CONFIG_MAX)
                (void)ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT, "a process of 1 to %u bytes",
                                      CONFIG_MAX);
        else
                p = hold(call, reply_pid);
        for (size_t i = 0; args && i < q->n_args; i++)
                args[i] = q->args[i];
        if (p)
                begun(p,
                      container_exec(s->containers, q->container,
                                     &(process_spec){ .id = q->id,
                                                      .args = args ? args : none,
                                                      .n_args = args ? q->n_args : 1,
                                                      .terminal = q->terminal,
                                                      .rows = (uint16_t)q->rows,
                                                      .columns = (uint16_t)q->columns,
                                                      .stream = q->stream },
                                     q->process.data, q->process.len, on_done, p),
                      q->container);
        free(args);
}

static void do_verb(agent_service *s, ttrpc_call *call, const char *id, const char *verb) {
        pending *p = hold(call, reply_empty);

        if (p)
                begun(p, container_do(s->containers, id, verb, on_done, p), id);
}

void service_start_container(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                             void *userdata) {
        do_verb(userdata, call, q->id, "start");
}

void service_pause_container(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                             void *userdata) {
        do_verb(userdata, call, q->id, "pause");
}

void service_resume_container(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                              void *userdata) {
        do_verb(userdata, call, q->id, "resume");
}

void service_update_container(ttrpc_call *call, const Ferry__Agent__V1__UpdateContainerRequest *q,
                              void *userdata) {
        agent_service *s = userdata;
        pending *p;

        if (q->resources.len == 0 || q->resources.len > CONFIG_MAX) {
                (void)ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT, "resources of 1 to %u bytes",
                                      CONFIG_MAX);
                return;
        }
        p = hold(call, reply_empty);
        if (p)
                begun(p,
                      container_update(s->containers, q->id, q->resources.data, q->resources.len,
                                       on_done, p),
                      q->id);
}

void service_delete_container(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                              void *userdata) {
        agent_service *s = userdata;
        pending *p = hold(call, reply_empty);

        if (p)
                begun(p, container_delete(s->containers, q->id, on_done, p), q->id);
}

/* ---- what the kernel says ---- */

static bool need(agent_service *s, ttrpc_call *call, const char *id, char ret[FOLDER_SIZE]) {
        container *c = container_find(s->containers, id);

        if (!c)
                (void)ttrpc_call_fail(call, TTRPC_NOT_FOUND, "no container '%.64s' in the guest",
                                      id);
        else
                cgroup_folder(c->id, ret);
        return c != NULL;
}

void service_signal_all(agent_service *s, ttrpc_call *call,
                        const Ferry__Agent__V1__SignalRequest *q) {
        _cleanup_(freep) pid_t *pids = NULL;
        char folder[FOLDER_SIZE];
        size_t n = 0;
        int r;

        if (!need(s, call, q->id, folder))
                return;
        r = cgroup_pids(folder, &pids, &n);
        for (size_t i = 0; i < n; i++)
                (void)kill(pids[i], (int)q->signal);
        if (r < 0 && r != -ENOENT)
                service_fail_errno(call, r, "the container's processes");
        else
                (void)ferry_agent_v1_agent_signal_reply(call, NULL);
}

void service_container_pids(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                            void *userdata) {
        Ferry__Agent__V1__ContainerPidsResponse response =
                FERRY__AGENT__V1__CONTAINER_PIDS_RESPONSE__INIT;
        _cleanup_(freep) pid_t *pids = NULL;
        char folder[FOLDER_SIZE];
        size_t n = 0;

        if (!need(userdata, call, q->id, folder))
                return;
        (void)cgroup_pids(folder, &pids, &n);
        _Static_assert(sizeof(pid_t) == sizeof(uint32_t), "one can be given as the other");
        response.pids = (uint32_t *)pids;
        response.n_pids = n;
        (void)ferry_agent_v1_agent_container_pids_reply(call, &response);
}

typedef struct memory_lines {
        Ferry__Agent__V1__NamedNumber items[STAT_LINES], *pointers[STAT_LINES];
        char names[STAT_LINES][64];
        size_t n;
} memory_lines;

static void add_line(const char *name, uint64_t value, void *userdata) {
        memory_lines *m = userdata;

        if (m->n == STAT_LINES)
                return;
        (void)snprintf(m->names[m->n], sizeof(m->names[m->n]), "%.63s", name);
        ferry__agent__v1__named_number__init(&m->items[m->n]);
        m->items[m->n].name = m->names[m->n];
        m->items[m->n].value = value;
        m->pointers[m->n] = &m->items[m->n];
        m->n++;
}

void service_container_stats(ttrpc_call *call, const Ferry__Agent__V1__ContainerRequest *q,
                             void *userdata) {
        Ferry__Agent__V1__ContainerStatsResponse m =
                FERRY__AGENT__V1__CONTAINER_STATS_RESPONSE__INIT;
        memory_lines lines = { .n = 0 };
        char folder[FOLDER_SIZE];

        if (q->id[0] == '\0')
                (void)snprintf(folder, sizeof(folder), CONTAINER_CGROUP);
        else if (!need(userdata, call, q->id, folder))
                return;
        m.cpu_usec = cgroup_number(folder, "cpu.stat", "usage_usec");
        m.cpu_user_usec = cgroup_number(folder, "cpu.stat", "user_usec");
        m.cpu_system_usec = cgroup_number(folder, "cpu.stat", "system_usec");
        m.cpu_periods = cgroup_number(folder, "cpu.stat", "nr_periods");
        m.cpu_throttled_periods = cgroup_number(folder, "cpu.stat", "nr_throttled");
        m.cpu_throttled_usec = cgroup_number(folder, "cpu.stat", "throttled_usec");
        m.memory_bytes = cgroup_number(folder, "memory.current", NULL);
        m.memory_limit_bytes = cgroup_number(folder, "memory.max", NULL);
        m.swap_bytes = cgroup_number(folder, "memory.swap.current", NULL);
        m.swap_limit_bytes = cgroup_number(folder, "memory.swap.max", NULL);
        m.pids = cgroup_number(folder, "pids.current", NULL);
        m.pids_limit = cgroup_number(folder, "pids.max", NULL);
        m.oom_kills = cgroup_number(folder, "memory.events", "oom_kill");
        cgroup_lines(folder, "memory.stat", add_line, &lines);
        m.memory = lines.pointers;
        m.n_memory = lines.n;
        (void)ferry_agent_v1_agent_container_stats_reply(call, &m);
}
