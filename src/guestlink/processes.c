/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "guestlink/landing.h"
#include "guestlink/processes-internal.h"

#define WAITS_MAX       1024U
#define GUEST_ERROR_MAX 1024U
#define PID_LIMIT       (1U << 22) /* Linux's */
#define STATUS_MAX      255U
#define REWATCH_USEC    (1 * USEC_PER_SEC)

const ttrpc_call_options guest_call_options = { .timeout_usec = GUEST_CALL_USEC };
const ttrpc_call_options guest_first_call_options = { .timeout_usec = GUEST_FIRST_CALL_USEC };

/* ---- the table ---- */

guest_process *guest_process_find(const guest_processes *g, const char *id) {
        for (guest_process *p = g->first; p; p = p->next)
                if (strcmp(p->record->id, id) == 0)
                        return p;
        return NULL;
}

guest_process *guest_process_need(const guest_processes *g, const char *id, ferry_error *reterr) {
        guest_process *p = guest_process_find(g, id);

        if (!p)
                ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT, "no program '%.128s' was started",
                                id);
        return p;
}

static guest_process_info info_of(const guest_process *p) {
        return (guest_process_info){ .id = p->record->id,
                                     .pid = p->pid,
                                     .terminal = p->record->terminal,
                                     .detached = p->record->detached,
                                     .ended = p->ended,
                                     .oom_kills = p->record->oom_kills,
                                     .exit_status = p->exit_status,
                                     .exited_at_usec = p->exited_at_usec };
}

size_t guest_processes_count(const guest_processes *g) {
        return g->n;
}

void guest_processes_list(const guest_processes *g,
                          void (*each)(const guest_process_info *info, void *userdata),
                          void *userdata) {
        for (const guest_process *p = g->first; p; p = p->next) {
                guest_process_info info = info_of(p);

                each(&info, userdata);
        }
}

unsigned guest_processes_agent_drops(const guest_processes *g) {
        return guest_link_drops(g->link);
}

void guest_processes_save(guest_processes *g) {
        int r = exec_records_write(g->dir_fd, GUEST_EXECS_FILE, g->generation, &g->records);

        if (r < 0)
                log_warning("%s: %s", GUEST_EXECS_FILE, strerror(-r));
}

/* Its end is not told to who wants its output whole before all of that is there. */
static bool is_over(const guest_process *p, bool drained) {
        bool has_output = p->io || p->record->detached;

        return p->ended && (!drained || p->drained || !has_output);
}

/* All of them when it failed, else those that have what they wait for. */
static void end_waits(guest_processes *g, const guest_process *p, int r, const ferry_error *error) {
        guest_process_info info = info_of(p);
        guest_waiting **at = &g->waits;

        while (*at) {
                guest_waiting *w = *at;

                if (w->process != p || (r == 0 && !is_over(p, w->drained))) {
                        at = &w->next;
                        continue;
                }
                *at = w->next;
                g->n_waits--;
                w->done(r, error, r < 0 ? NULL : &info, w->userdata);
                free(w);
                at = &g->waits; /* the callback may have changed the list */
        }
}

static void drop(guest_processes *g, guest_process *p) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        ferry_error_set(&error, FERRY_NOT_FOUND, -ENOENT, "the program was deleted");
        end_waits(g, p, -ENOENT, &error);
        for (guest_process **at = &g->first; *at; at = &(*at)->next)
                if (*at == p) {
                        *at = p->next;
                        break;
                }
        for (exec_record **at = &g->records.first; *at; at = &(*at)->next)
                if (*at == p->record) {
                        *at = p->record->next;
                        break;
                }
        guest_stdio_free(p->io);
        for (uint32_t i = 0; i < 2; i++)
                guest_keeps_drop(g->keeps, p->record->stream + i);
        exec_record_free(p->record);
        free(p);
        g->n--;
}

/* ---- the agent's answers ---- */

static bool is_control(const unsigned char *c) {
        return *c < ' ' || *c == 0x7f || (c[0] == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0);
}

/* libttrpc lets no message pass that is not UTF-8: only the cut may make it that. */
static void set_guest_error(ferry_error *error, const ttrpc_status *status) {
        const unsigned char *from = (const unsigned char *)status->message;
        bool known = status->code > FERRY_OK && status->code <= FERRY_UNAUTHENTICATED;
        unsigned char text[GUEST_ERROR_MAX + 1];
        size_t n = strnlen(status->message, GUEST_ERROR_MAX);

        memcpy(text, from, n);
        while (n > 0 && (from[n] & 0xc0) == 0x80) /* not within a letter */
                n--;
        text[n] = '\0';
        for (size_t i = 0; i < n; i++)
                if (is_control(&text[i])) {
                        if (text[i] == 0xc2)
                                text[i + 1] = ' ';
                        text[i] = ' ';
                }
        (void)ferry_error_set(error, known ? (ferry_code)status->code : FERRY_INTERNAL, -EREMOTEIO,
                              "%s", text);
}

int guest_judge(int r, const ttrpc_status *status, ferry_error *error) {
        if (r == -ETIMEDOUT)
                return ferry_error_set(error, FERRY_DEADLINE_EXCEEDED, r,
                                       "the guest's agent does not answer: is it still booting, "
                                       "and has its image an agent?");
        if (r == -EPROTO || r == -EMSGSIZE)
                return ferry_error_set(error, FERRY_INTERNAL, r,
                                       "the guest's agent gave an answer that makes no sense");
        if (r < 0)
                return ferry_error_set(error, FERRY_UNAVAILABLE, r,
                                       "the connection to the guest's agent was lost");
        if (status->code == TTRPC_OK)
                return 0;
        set_guest_error(error, status);
        return -EREMOTEIO;
}

/* Frees the operation. */
static void finish(guest_operation *o, int r, const ferry_error *error, const guest_process *p) {
        guest_process_info info;

        if (p)
                info = info_of(p);
        if (o->done)
                o->done(r, error, p ? &info : NULL, o->userdata);
        free(o);
}

guest_operation *guest_operation_new(guest_processes *g, const char *id, guest_done done,
                                     void *userdata) {
        guest_operation *o = calloc(1, sizeof(*o));

        if (!o)
                return NULL;
        *o = (guest_operation){ .owner = g, .done = done, .userdata = userdata };
        snprintf(o->id, sizeof(o->id), "%s", id);
        return o;
}

/* The guest's clock is its own: a time before the beginning, or one that is still to come, would be
 * the end of no process. */
static uint64_t plausible_end(const guest_process *p, uint64_t usec) {
        uint64_t now = wall_usec();

        if (usec < p->begun_usec)
                usec = p->begun_usec;
        return usec > 0 && usec < now ? usec : now;
}

void guest_processes_rewatch(guest_processes *g) {
        (void)sd_event_source_set_time_relative(g->rewatch, REWATCH_USEC);
        (void)sd_event_source_set_enabled(g->rewatch, SD_EVENT_ONESHOT);
}

static void on_ended(int r, const ttrpc_status *status,
                     const Ferry__Agent__V1__WaitResponse *response, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) guest_operation *o = userdata;
        guest_processes *g = o->owner;
        guest_process *p = guest_process_find(g, o->id);

        if (!p || g->closing)
                return;
        p->watched = false;
        r = guest_judge(r, status, &error);
        if (r == 0) {
                p->ended = true;
                p->exit_status =
                        response->exit_status < STATUS_MAX ? response->exit_status : STATUS_MAX;
                p->exited_at_usec = plausible_end(p, response->exited_at_usec);
                guest_oom_told(p, response->oom_killed && response->oom_kills == 0
                                          ? 1
                                          : response->oom_kills);
                end_waits(g, p, 0, NULL);
        } else if (error.code == FERRY_NOT_FOUND) {
                /* the shim before this one died before it had started it */
                drop(g, p);
                guest_processes_save(g);
        } else
                guest_processes_rewatch(g); /* it runs on, as far as anybody knows */
}

/* From here on its end is known as soon as it comes. */
static int watch(guest_process *p) {
        Ferry__Agent__V1__WaitRequest request = FERRY__AGENT__V1__WAIT_REQUEST__INIT;
        guest_operation *o = guest_operation_new(p->owner, p->record->id, NULL, NULL);
        int r;

        if (!o)
                return -ENOMEM;
        request.id = p->record->id;
        r = ferry_agent_v1_agent_wait_start(guest_link_client(p->owner->link), &request, NULL,
                                            on_ended, o, NULL);
        p->watched = r == 0;
        if (r < 0)
                free(o);
        return r;
}

static int on_rewatch(sd_event_source *source, uint64_t usec, void *userdata) {
        guest_processes *g = userdata;

        for (guest_process *p = g->first; p; p = p->next)
                if (!p->starting && !p->ended &&
                    ((!p->watched && watch(p) < 0) || guest_oom_watch(p) < 0))
                        guest_processes_rewatch(g);
        return 0;
}

/* ---- starting ---- */

static void on_io_end(guest_stdio *io, void *userdata) {
        guest_process *p = userdata;

        p->drained = true;
        end_waits(p->owner, p, 0, NULL);
}

/* Both ends of a FIFO, so that neither waits for the other side, nor sees it go. */
static int open_fifo(const char *path, int *ret) {
        *ret = -EBADF;
        if (!path || path[0] == '\0')
                return 0;
        *ret = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
        return *ret < 0 ? -errno : 0;
}

int guest_process_open_io(guest_process *p, const char **ret_bad) {
        guest_processes *g = p->owner;
        const exec_record *e = p->record;
        int fds[3] = { -EBADF, -EBADF, -EBADF }, r = 0;
        guest_stdio_spec spec = { .stream = e->stream, .has_err = !e->terminal };

        for (size_t i = 0; r == 0 && i < ELEMENTS(fds); i++) {
                r = open_fifo(e->stdio[i], &fds[i]);
                if (r < 0)
                        *ret_bad = e->stdio[i];
        }
        for (uint32_t i = 0; r == 0 && i < 2; i++) {
                spec.keep[i] = guest_keeps_get(g->keeps, e->stream + i);
                if (!spec.keep[i])
                        r = -ENOSPC;
        }
        if (r < 0) {
                for (size_t i = 0; i < ELEMENTS(fds); i++)
                        fd_close(fds[i]);
                return r;
        }
        spec.in = fds[0];
        spec.out = fds[1];
        spec.err = fds[2];
        return guest_stdio_new(guest_link_streams(g->link), g->event, &spec, on_io_end, p, &p->io);
}

static int add(guest_processes *g, exec_record *record, guest_process **ret) {
        guest_process *p = calloc(1, sizeof(*p));

        if (!p)
                return -ENOMEM;
        *p = (guest_process){ .next = g->first, .owner = g, .record = record };
        g->first = p;
        g->n++;
        *ret = p;
        return 0;
}

static int make_record(guest_processes *g, const guest_process_spec *spec, exec_record **ret) {
        _cleanup_(exec_record_freep) exec_record *e = calloc(1, sizeof(*e));

        if (!e)
                return -ENOMEM;
        e->stream = g->records.next_stream;
        e->terminal = spec->terminal;
        e->id = strdup(spec->id);
        if (!e->id)
                return -ENOMEM;
        for (size_t i = 0; i < ELEMENTS(e->stdio); i++)
                if (spec->stdio[i] && spec->stdio[i][0]) {
                        e->stdio[i] = strdup(spec->stdio[i]);
                        if (!e->stdio[i])
                                return -ENOMEM;
                }
        *ret = TAKE_PTR(e);
        return 0;
}

static void on_started(int r, const ttrpc_status *status,
                       const Ferry__Agent__V1__StartResponse *response, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        guest_operation *o = userdata;
        guest_processes *g = o->owner;
        guest_process *p = guest_process_find(g, o->id);
        bool answered = r == 0;

        r = guest_judge(r, status, &error);
        if (p)
                p->starting = false;
        if (r == 0 && p) {
                p->pid = response->pid <= PID_LIMIT ? response->pid : 0;
                if (watch(p) < 0)
                        guest_processes_rewatch(g);
        } else if (answered && p && !g->closing) {
                /* it does not run: nothing of it stays */
                drop(g, p);
                guest_processes_save(g);
                p = NULL;
        } else if (p && !g->closing && watch(p) < 0) /* it may run */
                guest_processes_rewatch(g);
        finish(o, r, &error, r < 0 ? NULL : p);
}

static void fill_file(Ferry__Agent__V1__File *ret, const guest_file *file) {
        ferry__agent__v1__file__init(ret);
        ret->path = (ProtobufCBinaryData){ strlen(file->path), (uint8_t *)file->path };
        ret->mode = file->mode;
        ret->uid = file->uid;
        ret->gid = file->gid;
        ret->shared = file->shared;
        ret->data = (ProtobufCBinaryData){ file->n, (uint8_t *)file->data };
}

static int ask_create(guest_process *p, const guest_process_spec *spec, guest_operation *o) {
        Ferry__Agent__V1__CreateContainerRequest q =
                FERRY__AGENT__V1__CREATE_CONTAINER_REQUEST__INIT;
        const guest_container_spec *create = spec->create;
        _cleanup_(freep) Ferry__Agent__V1__File *files = NULL;
        _cleanup_(freep) Ferry__Agent__V1__File **pointers = NULL;

        if (create->n_files > GUEST_CONTAINER_FILES_MAX)
                return -E2BIG;
        files = calloc(create->n_files + 1, sizeof(*files));
        pointers = calloc(create->n_files + 1, sizeof(*pointers));
        if (!files || !pointers)
                return -ENOMEM;
        for (size_t i = 0; i < create->n_files; i++) {
                fill_file(&files[i], &create->files[i]);
                pointers[i] = &files[i];
        }
        q.id = (char *)spec->id;
        q.config = (ProtobufCBinaryData){ create->n_config, (uint8_t *)create->config };
        q.disk = (char *)create->disk;
        q.fstype = (char *)create->fstype;
        q.upper_bytes = create->upper_bytes;
        if (create->upper_disk)
                q.upper_disk = (char *)create->upper_disk;
        q.terminal = spec->terminal;
        q.rows = spec->rows;
        q.columns = spec->columns;
        q.stream = p->record->stream;
        q.files = pointers;
        q.n_files = create->n_files;
        return ferry_agent_v1_agent_create_container_start(guest_link_client(p->owner->link), &q,
                                                           &guest_first_call_options, on_started, o,
                                                           NULL);
}

static int ask_start(guest_process *p, const guest_process_spec *spec, guest_operation *o) {
        Ferry__Agent__V1__StartRequest q = FERRY__AGENT__V1__START_REQUEST__INIT;

        q.id = (char *)spec->id;
        q.args = spec->args;
        q.n_args = spec->n_args;
        q.env = spec->env;
        q.n_env = spec->n_env;
        q.cwd = (char *)(spec->cwd ? spec->cwd : "");
        q.uid = spec->uid;
        q.gid = spec->gid;
        q.terminal = spec->terminal;
        q.rows = spec->rows;
        q.columns = spec->columns;
        q.stream = p->record->stream;
        if (spec->container) {
                q.container = (char *)spec->container;
                q.process = (ProtobufCBinaryData){ spec->n_process, (uint8_t *)spec->process };
        }
        return ferry_agent_v1_agent_start_start(guest_link_client(p->owner->link), &q,
                                                &guest_call_options, on_started, o, NULL);
}

int guest_exec(guest_processes *g, const guest_process_spec *spec, guest_done done, void *userdata,
               ferry_error *reterr) {
        exec_record *record = NULL;
        const char *bad = NULL;
        guest_process *p;
        guest_operation *o;
        int r;

        if (strlen(spec->id) == 0 || strlen(spec->id) > GUEST_PROCESS_ID_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "an id has 1 to %u letters", GUEST_PROCESS_ID_MAX);
        if (guest_process_find(g, spec->id))
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST,
                                       "there is a program '%s' already", spec->id);
        if (g->n == GUEST_PROCESSES_MAX)
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, -ENFILE,
                                       "%u programs are there already", GUEST_PROCESSES_MAX);
        r = make_record(g, spec, &record);
        if (r == 0)
                r = add(g, record, &p);
        if (r < 0) {
                exec_record_free(record);
                return ferry_error_set_errno(reterr, r, "exec");
        }
        record->next = g->records.first;
        g->records.first = record;
        g->records.next_stream += 2;
        p->starting = true;
        p->begun_usec = wall_usec();
        o = guest_operation_new(g, spec->id, done, userdata);
        r = o ? guest_process_open_io(p, &bad) : -ENOMEM;
        if (r == 0) {
                guest_processes_save(g);
                r = spec->create ? ask_create(p, spec, o) : ask_start(p, spec, o);
        }
        if (r < 0) {
                free(o);
                drop(g, p);
                guest_processes_save(g);
                return ferry_error_set_errno(reterr, r, "%s", bad ? bad : "exec");
        }
        return 0;
}

/* ---- the rest ---- */

int guest_wait(guest_processes *g, const char *id, bool drained, guest_done done, void *userdata,
               ferry_error *reterr) {
        guest_process *p = guest_process_need(g, id, reterr);
        guest_waiting *w;

        if (!p)
                return -ENOENT;
        if (is_over(p, drained)) {
                guest_process_info info = info_of(p);

                done(0, NULL, &info, userdata);
                return 0;
        }
        w = g->n_waits < WAITS_MAX ? malloc(sizeof(*w)) : NULL;
        if (!w)
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, -ENOMEM,
                                       "too many wait already");
        *w = (guest_waiting){ .next = g->waits,
                              .process = p,
                              .drained = drained,
                              .done = done,
                              .userdata = userdata };
        g->waits = w;
        g->n_waits++;
        return 0;
}

void guest_wait_forget(guest_processes *g, void *userdata) {
        guest_waiting **at = &g->waits;

        while (*at) {
                guest_waiting *w = *at;

                if (w->userdata != userdata) {
                        at = &w->next;
                        continue;
                }
                *at = w->next;
                g->n_waits--;
                free(w);
        }
}

static void on_signalled(int r, const ttrpc_status *status,
                         const Ferry__Agent__V1__SignalResponse *response, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        r = guest_judge(r, status, &error);
        finish(userdata, r, &error, NULL);
}

static void on_resized(int r, const ttrpc_status *status,
                       const Ferry__Agent__V1__ResizeResponse *response, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        r = guest_judge(r, status, &error);
        finish(userdata, r, &error, NULL);
}

static void on_deleted(int r, const ttrpc_status *status,
                       const Ferry__Agent__V1__DeleteResponse *response, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        guest_operation *o = userdata;
        guest_process *p = guest_process_find(o->owner, o->id);

        r = guest_judge(r, status, &error);
        if (r < 0 && error.code == FERRY_NOT_FOUND) {
                ferry_error_done(&error);
                r = 0;
        }
        if (r == 0 && p && !o->owner->closing) {
                drop(o->owner, p);
                guest_processes_save(o->owner);
        }
        finish(o, r, &error, NULL);
}

static int started(guest_operation *o, int r, ferry_error *reterr) {
        if (r == 0)
                return 0;
        free(o);
        return ferry_error_set_errno(reterr, r, "ask the guest's agent");
}

int guest_signal(guest_processes *g, const char *id, uint32_t number, bool all, guest_done done,
                 void *userdata, ferry_error *reterr) {
        Ferry__Agent__V1__SignalRequest q = FERRY__AGENT__V1__SIGNAL_REQUEST__INIT;
        guest_process *p = guest_process_need(g, id, reterr);
        guest_operation *o;

        if (!p)
                return -ENOENT;
        o = guest_operation_new(g, id, done, userdata);
        q.id = p->record->id;
        q.signal = number;
        q.all = all;
        return started(o,
                       o ? ferry_agent_v1_agent_signal_start(guest_link_client(g->link), &q,
                                                             &guest_call_options, on_signalled, o,
                                                             NULL)
                         : -ENOMEM,
                       reterr);
}

int guest_resize(guest_processes *g, const char *id, uint32_t rows, uint32_t columns,
                 guest_done done, void *userdata, ferry_error *reterr) {
        Ferry__Agent__V1__ResizeRequest q = FERRY__AGENT__V1__RESIZE_REQUEST__INIT;
        guest_process *p = guest_process_need(g, id, reterr);
        guest_operation *o;

        if (!p)
                return -ENOENT;
        o = guest_operation_new(g, id, done, userdata);
        q.id = p->record->id;
        q.rows = rows;
        q.columns = columns;
        return started(o,
                       o ? ferry_agent_v1_agent_resize_start(guest_link_client(g->link), &q,
                                                             &guest_call_options, on_resized, o,
                                                             NULL)
                         : -ENOMEM,
                       reterr);
}

int guest_close_in(guest_processes *g, const char *id, ferry_error *reterr) {
        guest_process *p = guest_process_need(g, id, reterr);

        if (!p)
                return -ENOENT;
        if (!p->io)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -ENOTCONN,
                                       "'%s' is not attached to anything here yet", id);
        guest_stdio_close_in(p->io);
        return 0;
}

int guest_delete(guest_processes *g, const char *id, guest_done done, void *userdata,
                 ferry_error *reterr) {
        Ferry__Agent__V1__DeleteRequest q = FERRY__AGENT__V1__DELETE_REQUEST__INIT;
        guest_process *p = guest_process_need(g, id, reterr);
        guest_operation *o;

        if (!p)
                return -ENOENT;
        if (!p->ended)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "'%s' is still running", id);
        o = guest_operation_new(g, id, done, userdata);
        q.id = p->record->id;
        return started(o,
                       o ? ferry_agent_v1_agent_delete_start(guest_link_client(g->link), &q,
                                                             &guest_call_options, on_deleted, o,
                                                             NULL)
                         : -ENOMEM,
                       reterr);
}

void guest_forget(guest_processes *g, const char *id) {
        guest_process *p = guest_process_find(g, id);

        if (!p)
                return;
        drop(g, p);
        guest_processes_save(g);
}

/* ---- beginning and end ---- */

/* What the shim before this one left, or another host. A FIFO that is not there any more has no
 * reader either: the program's bytes are thrown away, as its reader would have had it. */
static void take_over(guest_processes *g) {
        exec_record *e = g->records.first;

        while (e) {
                exec_record *next = e->next;
                const char *bad = NULL;
                guest_process *p;
                int r;

                r = add(g, e, &p);
                if (r == 0 && !e->detached)
                        r = guest_process_open_io(p, &bad);
                if (r < 0 && bad) {
                        for (size_t i = 0; i < ELEMENTS(e->stdio); i++) {
                                free(e->stdio[i]);
                                e->stdio[i] = NULL;
                        }
                        r = guest_process_open_io(p, &bad);
                }
                if (r == 0 && watch(p) < 0)
                        guest_processes_rewatch(g);
                if (r < 0)
                        log_warning("program %s in the guest: %s", e->id, strerror(-r));
                e = next;
        }
        if (g->n > 0)
                guest_port_resume(guest_link_streams(g->link));
}

void guest_processes_forget_files(int dir_fd) {
        (void)unlinkat(dir_fd, GUEST_EXECS_FILE, 0);
        (void)unlinkat(dir_fd, GUEST_EXECS_KEEP_FILE, 0);
}

void guest_processes_forget(int dir_fd) {
        guest_processes_forget_files(dir_fd);
        guest_landing_remove(dir_fd);
}

bool guest_processes_are_left(int dir_fd) {
        return faccessat(dir_fd, GUEST_EXECS_FILE, F_OK, 0) == 0 ||
               faccessat(dir_fd, GUEST_LANDING_FILE, F_OK, 0) == 0;
}

int guest_processes_new(sd_event *event, const char *state_dir, const char *generation,
                        guest_processes **ret, ferry_error *reterr) {
        _cleanup_(guest_processes_freep) guest_processes *g = calloc(1, sizeof(*g));
        int r;

        if (!g)
                return ferry_error_set_errno(reterr, -ENOMEM, "the guest's programs");
        g->dir_fd = -EBADF;
        g->event = sd_event_ref(event);
        r = sd_event_add_time(event, &g->rewatch, CLOCK_MONOTONIC, 0, TIMER_ACCURACY_USEC,
                              on_rewatch, g);
        if (r >= 0)
                r = sd_event_source_set_enabled(g->rewatch, SD_EVENT_OFF);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "the guest's programs");
        g->generation = strdup(generation);
        g->dir_fd = open(state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
        r = !g->generation ? -ENOMEM : g->dir_fd < 0 ? -errno : 0;
        if (r == 0)
                r = guest_processes_settle(g->dir_fd, generation);
        if (r == 0)
                r = exec_records_read(g->dir_fd, GUEST_EXECS_FILE, generation, &g->records);
        if (r == 0 && !g->records.first)
                guest_processes_forget(g->dir_fd);
        if (r == 0)
                r = guest_keeps_open(g->dir_fd, GUEST_EXECS_KEEP_FILE, GUEST_STDIO_BUFFER,
                                     &g->keeps);
        if (r == 0)
                r = guest_link_new(event, state_dir, &g->link);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "the guest's programs");
        take_over(g);
        *ret = TAKE_PTR(g);
        return 0;
}

guest_processes *guest_processes_free(guest_processes *g) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (!g)
                return NULL;
        g->closing = true;
        ferry_error_set(&error, FERRY_UNAVAILABLE, -ECANCELED, "the shim lets go of the guest");
        while (g->first) {
                guest_process *p = g->first;

                end_waits(g, p, -ECANCELED, &error);
                g->first = p->next;
                guest_stdio_free(p->io);
                free(p);
        }
        while (g->records.first) {
                exec_record *e = g->records.first;

                g->records.first = e->next;
                exec_record_free(e);
        }
        guest_link_free(g->link); /* ends the calls under way */
        guest_keeps_free(g->keeps);
        sd_event_source_disable_unref(g->rewatch);
        sd_event_unref(g->event);
        fd_close(g->dir_fd);
        free(g->generation);
        free(g);
        return NULL;
}
