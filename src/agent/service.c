/* SPDX-License-Identifier: MIT */
#include <linux/random.h>
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <time.h>

#include <fcntl.h>

#include "agent/announce.h"
#include "agent/clear-free.h"
#include "agent/interface.h"
#include "agent/machine-id.h"
#include "agent/modules.h"
#include "agent/service-internal.h"
#include "base/clock.h"

#define GROUPS_MAX  64U
#define ENTROPY_MAX 4096U
#define WAITERS_MAX 1024U

struct waiter {
        struct waiter *next;
        ttrpc_call *call;
        const process *process;
};

/* ---- answers ---- */

void service_fail_errno(ttrpc_call *call, int r, const char *what) {
        static const struct {
                int r;
                int32_t code;
        } codes[] = {
                { -EEXIST, TTRPC_ALREADY_EXISTS },     { -ENOENT, TTRPC_NOT_FOUND },
                { -ESRCH, TTRPC_NOT_FOUND },           { -EINVAL, TTRPC_INVALID_ARGUMENT },
                { -EBUSY, TTRPC_FAILED_PRECONDITION }, { -ENOTTY, TTRPC_FAILED_PRECONDITION },
                { -ENFILE, TTRPC_RESOURCE_EXHAUSTED }, { -ENOMEM, TTRPC_RESOURCE_EXHAUSTED },
                { -EAGAIN, TTRPC_RESOURCE_EXHAUSTED }, { -EACCES, TTRPC_PERMISSION_DENIED },
        };
        int32_t code = TTRPC_UNKNOWN;

        for (size_t i = 0; i < ELEMENTS(codes); i++)
                if (codes[i].r == r)
                        code = codes[i].code;
        (void)ttrpc_call_fail(call, code == TTRPC_UNKNOWN ? TTRPC_INTERNAL : code, "%s: %s", what,
                              strerror(-r));
}

/* NULL: the call is answered. */
static process *named(agent_service *s, ttrpc_call *call, const char *id) {
        process *p = process_find(s->processes, id);

        if (!p)
                (void)ttrpc_call_fail(call, TTRPC_NOT_FOUND, "no process '%.128s' in the guest",
                                      id);
        return p;
}

/* ---- calls ---- */

static void on_info(ttrpc_call *call, const Ferry__Agent__V1__InfoRequest *request,
                    void *userdata) {
        Ferry__Agent__V1__InfoResponse response = FERRY__AGENT__V1__INFO_RESPONSE__INIT;
        agent_service *s = userdata;
        _cleanup_(fclosep) FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
        char boot_id[64] = "";

        if (f && fgets(boot_id, sizeof(boot_id), f))
                boot_id[strcspn(boot_id, "\n")] = '\0';
        response.version = (char *)FERRY_VERSION;
        response.boot_id = boot_id;
        response.processes = (uint32_t)s->processes->n;
        (void)ferry_agent_v1_agent_info_reply(call, &response);
}

/* A NULL-terminated copy of the list; the strings are borrowed. */
static char **vector(char **strings, size_t n) {
        char **copy = calloc(n + 1, sizeof(*copy));

        for (size_t i = 0; copy && i < n; i++)
                copy[i] = strings[i];
        return copy;
}

static void on_start(ttrpc_call *call, const Ferry__Agent__V1__StartRequest *q, void *userdata) {
        _cleanup_(freep) char **args = vector(q->args, q->n_args), **env = vector(q->env, q->n_env);
        Ferry__Agent__V1__StartResponse response = FERRY__AGENT__V1__START_RESPONSE__INIT;
        agent_service *s = userdata;
        gid_t groups[GROUPS_MAX];
        process *p;
        int r;

        if ((q->n_args == 0 && !q->container[0]) || q->n_args > ARGS_MAX || q->n_env > ARGS_MAX ||
            q->n_groups > GROUPS_MAX || q->rows > UINT16_MAX || q->columns > UINT16_MAX) {
                (void)ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT,
                                      "1 to %u arguments, %u variables and %u groups at most, a "
                                      "terminal of at most 65535 by 65535",
                                      ARGS_MAX, ARGS_MAX, GROUPS_MAX);
                return;
        }
        machine_id_make();
        if (q->container[0]) {
                service_exec_in_container(s, call, q);
                return;
        }
        for (size_t i = 0; i < q->n_groups; i++)
                groups[i] = q->groups[i];
        r = args && env ? process_start(s->processes,
                                        &(process_spec){
                                                .id = q->id,
                                                .args = args,
                                                .n_args = q->n_args,
                                                .env = env,
                                                .cwd = q->cwd[0] ? q->cwd : "/",
                                                .uid = q->uid,
                                                .gid = q->gid,
                                                .groups = groups,
                                                .n_groups = q->n_groups,
                                                .terminal = q->terminal,
                                                .rows = (uint16_t)q->rows,
                                                .columns = (uint16_t)q->columns,
                                                .stream = q->stream,
                                        },
                                        &p)
                        : -ENOMEM;
        if (r < 0) {
                service_fail_errno(call, r, q->args[0]);
                return;
        }
        response.pid = (uint32_t)p->pid;
        (void)ferry_agent_v1_agent_start_reply(call, &response);
}

static void say_end(ttrpc_call *call, const process *p) {
        Ferry__Agent__V1__WaitResponse response = FERRY__AGENT__V1__WAIT_RESPONSE__INIT;

        response.exit_status = p->exit_status;
        response.exited_at_usec = p->exited_at_usec;
        response.oom_killed = p->oom_kills > 0;
        response.oom_kills = p->oom_kills;
        (void)ferry_agent_v1_agent_wait_reply(call, &response);
}

/* The waiters that `is` chooses are taken out; answered when their process is given. */
static void drop_waiters(agent_service *s, const process *p, const ttrpc_call *call) {
        waiter **at = &s->waiters;

        while (*at) {
                waiter *w = *at;

                if (w->process != p && w->call != call) {
                        at = &w->next;
                        continue;
                }
                *at = w->next;
                s->n_waiters--;
                if (p)
                        say_end(w->call, p);
                ttrpc_call_unref(w->call);
                free(w);
        }
}

static void on_end(process *p, void *userdata) {
        agent_service *s = userdata;

        if (container_find(s->containers, p->id)) {
                p->oom_kills = service_oom_kills(p->id);
                service_oom_ended(s, p->id);
        }
        drop_waiters(userdata, p, NULL);
}

static void on_caller_gone(ttrpc_call *call, void *userdata) {
        drop_waiters(userdata, NULL, call);
}

static void on_wait(ttrpc_call *call, const Ferry__Agent__V1__WaitRequest *q, void *userdata) {
        agent_service *s = userdata;
        process *p = named(s, call, q->id);
        waiter *w;

        if (!p)
                return;
        if (p->ended) {
                say_end(call, p);
                return;
        }
        w = s->n_waiters < WAITERS_MAX ? malloc(sizeof(*w)) : NULL;
        if (!w) {
                (void)ttrpc_call_fail(call, TTRPC_RESOURCE_EXHAUSTED, "too many wait already");
                return;
        }
        *w = (waiter){ .next = s->waiters, .call = ttrpc_call_ref(call), .process = p };
        s->waiters = w;
        s->n_waiters++;
        ttrpc_call_set_callbacks(call, on_caller_gone, NULL, s);
}

static void on_signal(ttrpc_call *call, const Ferry__Agent__V1__SignalRequest *q, void *userdata) {
        process *p;
        int r;

        if (q->all && q->signal > 0 && q->signal <= (uint32_t)SIGRTMAX) {
                service_signal_all(userdata, call, q);
                return;
        }
        p = named(userdata, call, q->id);
        if (!p)
                return;
        r = q->signal > 0 && q->signal <= (uint32_t)SIGRTMAX ? process_signal(p, (int)q->signal)
                                                             : -EINVAL;
        if (r < 0)
                service_fail_errno(call, r, "signal");
        else
                (void)ferry_agent_v1_agent_signal_reply(call, NULL);
}

static void on_resize(ttrpc_call *call, const Ferry__Agent__V1__ResizeRequest *q, void *userdata) {
        process *p = named(userdata, call, q->id);
        int r;

        if (!p)
                return;
        r = q->rows <= UINT16_MAX && q->columns <= UINT16_MAX
                    ? process_resize(p, (uint16_t)q->rows, (uint16_t)q->columns)
                    : -EINVAL;
        if (r < 0)
                service_fail_errno(call, r, "resize");
        else
                (void)ferry_agent_v1_agent_resize_reply(call, NULL);
}

static void on_list(ttrpc_call *call, const Ferry__Agent__V1__ListRequest *q, void *userdata) {
        Ferry__Agent__V1__ListResponse response = FERRY__AGENT__V1__LIST_RESPONSE__INIT;
        Ferry__Agent__V1__Process items[PROCESSES_MAX], *pointers[PROCESSES_MAX];
        agent_service *s = userdata;
        size_t n = 0;

        for (process *p = s->processes->first; p; p = p->next, n++) {
                Ferry__Agent__V1__Process *m = pointers[n] = &items[n];

                ferry__agent__v1__process__init(m);
                m->id = p->id;
                m->pid = (uint32_t)p->pid;
                m->ended = p->ended;
                m->exit_status = p->exit_status;
                m->exited_at_usec = p->exited_at_usec;
                m->stream = p->stream;
                m->terminal = p->terminal >= 0;
                m->args = p->args;
                while (p->args[m->n_args])
                        m->n_args++;
        }
        response.processes = pointers;
        response.n_processes = n;
        (void)ferry_agent_v1_agent_list_reply(call, &response);
}

static void on_delete(ttrpc_call *call, const Ferry__Agent__V1__DeleteRequest *q, void *userdata) {
        agent_service *s = userdata;
        process *p = named(s, call, q->id);
        int r;

        if (!p)
                return;
        r = process_delete(s->processes, p);
        if (r < 0)
                (void)ttrpc_call_fail(call, TTRPC_FAILED_PRECONDITION,
                                      "process '%.128s' is still running", q->id);
        else
                (void)ferry_agent_v1_agent_delete_reply(call, NULL);
}

static int mix_in(const ProtobufCBinaryData *entropy) {
        _cleanup_(closep) int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
        _cleanup_(freep) struct rand_pool_info *pool = malloc(sizeof(*pool) + entropy->len);

        if (fd < 0)
                return -errno;
        if (!pool)
                return -ENOMEM;
        pool->entropy_count = (int)entropy->len * 8;
        pool->buf_size = (int)entropy->len;
        memcpy(pool->buf, entropy->data, entropy->len);
        return ioctl(fd, RNDADDENTROPY, pool) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0 ? -errno : 0;
}

static int set_clock(uint64_t usec) {
        struct timespec t = { .tv_sec = (time_t)(usec / USEC_PER_SEC),
                              .tv_nsec = (long)(usec % USEC_PER_SEC * NSEC_PER_USEC) };

        return clock_settime(CLOCK_REALTIME, &t) < 0 ? -errno : 0;
}

static void on_configure_network(ttrpc_call *call,
                                 const Ferry__Agent__V1__ConfigureNetworkRequest *q,
                                 void *userdata) {
        char text[64];
        const char *what;
        int r;

        modules_load(MODULES_NETWORK); /* init.c has left them out */
        r = interface_configure(q, &what);
        if (r == 0) {
                (void)announce_addresses();
                (void)ferry_agent_v1_agent_configure_network_reply(call, NULL);
                return;
        }
        (void)snprintf(text, sizeof(text), "the guest's network: %s", what);
        service_fail_errno(call, r, text);
}

/* All of it is tried; the first failure is told. */
static void on_moved(ttrpc_call *call, const Ferry__Agent__V1__MovedRequest *q, void *userdata) {
        int clock = 0, random = 0, announce = 0;

        if (q->entropy.len > ENTROPY_MAX) {
                (void)ttrpc_call_fail(call, TTRPC_INVALID_ARGUMENT, "at most %u bytes of entropy",
                                      ENTROPY_MAX);
                return;
        }
        if (q->realtime_usec > 0)
                clock = set_clock(q->realtime_usec);
        if (q->entropy.len > 0)
                random = mix_in(&q->entropy);
        if (q->announce)
                announce = announce_addresses();
        if (clock < 0)
                service_fail_errno(call, clock, "set the clock");
        else if (random < 0)
                service_fail_errno(call, random, "seed the random numbers");
        else if (announce < 0)
                service_fail_errno(call, announce, "announce the addresses");
        else
                (void)ferry_agent_v1_agent_moved_reply(call, NULL);
}

static void on_clear_free(ttrpc_call *call, const Ferry__Agent__V1__ClearFreeRequest *q,
                          void *userdata) {
        Ferry__Agent__V1__ClearFreeResponse response = FERRY__AGENT__V1__CLEAR_FREE_RESPONSE__INIT;
        const agent_service *s = userdata;
        int64_t n = s->processes->n > 0 ? -EBUSY : clear_free(q->at_most);

        if (n < 0) {
                service_fail_errno(call, (int)n, "clear memory");
                return;
        }
        response.bytes = (uint64_t)n;
        (void)ferry_agent_v1_agent_clear_free_reply(call, &response);
}

int agent_service_new(ttrpc_server *server, container_table *containers, agent_service **ret) {
        static const ferry_agent_v1_agent_methods methods = {
                .info = on_info,
                .start = on_start,
                .wait = on_wait,
                .wait_oom = service_wait_oom,
                .signal = on_signal,
                .resize = on_resize,
                .list = on_list,
                .delete = on_delete,
                .configure_network = on_configure_network,
                .moved = on_moved,
                .clear_free = on_clear_free,
                .create_container = service_create_container,
                .start_container = service_start_container,
                .pause_container = service_pause_container,
                .resume_container = service_resume_container,
                .update_container = service_update_container,
                .container_pids = service_container_pids,
                .container_stats = service_container_stats,
                .delete_container = service_delete_container,
        };
        _cleanup_(freep) agent_service *s = calloc(1, sizeof(*s));
        int r;

        if (!s)
                return -ENOMEM;
        s->containers = containers;
        s->processes = containers->processes;
        s->oom_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        if (s->oom_fd < 0)
                return -errno;
        r = ferry_agent_v1_agent_register(server, &methods, s);
        if (r < 0)
                return r;
        s->processes->on_end = on_end;
        s->processes->userdata = s;
        *ret = TAKE_PTR(s);
        return 0;
}
