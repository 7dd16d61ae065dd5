/* SPDX-License-Identifier: MIT */
/* The programs go with their guest: what the host knows of their streams, packed at the source
 * while the guest stands, set down at the destination in one piece, and once the guest runs there
 * laid out as a shim's restart would find it. */
#include <string.h>
#include <sys/random.h>

#include "channel/channel.h"
#include "guest.pb-c.h"
#include "guestlink/landing.h"
#include "guestlink/processes-internal.h"

#define STREAMS_PER_PROGRAM 2U
#define ENTROPY_SIZE        64U
#define MOVED_USEC          (60 * USEC_PER_SEC)

typedef Ferry__Guest__V1__Programs programs_message;
typedef Ferry__Guest__V1__Program program_message;
typedef Ferry__Guest__V1__Stream stream_message;

/* ---- out ---- */

static int pack_stream(guest_processes *g, uint32_t id, stream_message **ret) {
        const channel_keep *keep = guest_keeps_get(g->keeps, id);
        channel_stream_state state;
        stream_message *m;
        uint8_t *pending;
        size_t n;

        if (!keep || channel_save_keep(keep, &state) < 0)
                return 0; /* was never open */
        n = state.n_pending[0] + state.n_pending[1];
        m = malloc(sizeof(*m));
        pending = malloc(n + 1);
        if (!m || !pending) {
                free(m);
                free(pending);
                return -ENOMEM;
        }
        for (size_t i = 0, at = 0; i < ELEMENTS(state.pending); at += state.n_pending[i++])
                if (state.n_pending[i] > 0)
                        memcpy(pending + at, state.pending[i], state.n_pending[i]);
        ferry__guest__v1__stream__init(m);
        m->id = id;
        m->consumed = state.consumed;
        m->written = state.written;
        m->acknowledged = state.acknowledged;
        m->pending = (ProtobufCBinaryData){ n, pending };
        *ret = m;
        return 1;
}

static int pack_program(guest_process *p, program_message **ret) {
        program_message *m = malloc(sizeof(*m));
        int r = 0;

        if (!m)
                return -ENOMEM;
        ferry__guest__v1__program__init(m);
        *ret = m;
        m->id = strdup(p->record->id);
        m->streams = calloc(STREAMS_PER_PROGRAM, sizeof(stream_message *));
        if (!m->id || !m->streams)
                return -ENOMEM;
        m->stream = p->record->stream;
        m->terminal = p->record->terminal;
        m->oom_kills = p->record->oom_kills;
        for (uint32_t i = 0; r >= 0 && i < STREAMS_PER_PROGRAM; i++) {
                r = pack_stream(p->owner, m->stream + i, &m->streams[m->n_streams]);
                if (r > 0)
                        m->n_streams++;
        }
        return r < 0 ? r : 0;
}

static int pack_all(guest_processes *g, programs_message *m) {
        int r = 0;

        m->next_stream = g->records.next_stream;
        m->programs = calloc(g->n, sizeof(program_message *));
        if (!m->programs)
                return -ENOMEM;
        for (guest_process *p = g->first; r == 0 && p; p = p->next) {
                r = pack_program(p, &m->programs[m->n_programs]);
                if (m->programs[m->n_programs])
                        m->n_programs++;
        }
        return r;
}

int guest_processes_carry(guest_processes *g, uint8_t **ret, size_t *ret_n) {
        programs_message *m;
        int r;

        guest_link_freeze(g->link);
        for (guest_process *p = g->first; p; p = p->next)
                if (p->io)
                        guest_stdio_freeze(p->io);
        *ret = NULL;
        *ret_n = 0;
        if (g->n == 0)
                return 0;
        m = malloc(sizeof(*m));
        if (!m)
                return -ENOMEM;
        ferry__guest__v1__programs__init(m);
        r = pack_all(g, m);
        if (r == 0) {
                *ret_n = ferry__guest__v1__programs__get_packed_size(m);
                *ret = malloc(*ret_n);
                r = *ret ? 0 : -ENOMEM;
        }
        if (r == 0)
                ferry__guest__v1__programs__pack(m, *ret);
        ferry__guest__v1__programs__free_unpacked(m, NULL);
        return r;
}

void guest_processes_stay(guest_processes *g) {
        guest_link_thaw(g->link);
        for (guest_process *p = g->first; p; p = p->next)
                if (p->io)
                        guest_stdio_thaw(p->io);
}

/* ---- in ---- */

static bool id_is_valid(const char *id) {
        size_t n = strlen(id);

        return n > 0 && n <= GUEST_PROCESS_ID_MAX &&
               strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

static bool stream_is_valid(const program_message *m, const stream_message *s) {
        return s->id - m->stream < STREAMS_PER_PROGRAM && s->pending.len <= GUEST_STDIO_BUFFER;
}

static bool program_is_valid(const programs_message *all, size_t at) {
        const program_message *m = all->programs[at];

        if (!id_is_valid(m->id) || m->stream < 2 || m->stream % 2 != 0 ||
            m->stream >= all->next_stream || m->n_streams > STREAMS_PER_PROGRAM ||
            m->oom_kills > INT64_MAX)
                return false;
        for (size_t i = 0; i < at; i++)
                if (strcmp(all->programs[i]->id, m->id) == 0 ||
                    all->programs[i]->stream == m->stream)
                        return false;
        for (size_t i = 0; i < m->n_streams; i++)
                if (!stream_is_valid(m, m->streams[i]) ||
                    (i > 0 && m->streams[0]->id == m->streams[i]->id))
                        return false;
        return true;
}

static bool is_valid(const programs_message *m) {
        if (m->n_programs > GUEST_PROCESSES_MAX || m->next_stream >= UINT32_MAX / 2)
                return false;
        for (size_t i = 0; i < m->n_programs; i++)
                if (!program_is_valid(m, i))
                        return false;
        return true;
}

static int fill_keep(channel_keep *keep, const stream_message *m) {
        channel_stream_state state = { .id = m->id,
                                       .consumed = m->consumed,
                                       .written = m->written,
                                       .acknowledged = m->acknowledged,
                                       .pending = { m->pending.data },
                                       .n_pending = { m->pending.len } };

        return channel_fill_keep(keep, &state, GUEST_STDIO_BUFFER);
}

/* As laying them out will find it: nothing may be wrong with them then. */
static int check_streams(const programs_message *m) {
        _cleanup_(freep) channel_keep *keep = malloc(channel_keep_size(GUEST_STDIO_BUFFER));
        int r = keep ? 0 : -ENOMEM;

        for (size_t i = 0; r == 0 && i < m->n_programs; i++)
                for (size_t k = 0; r == 0 && k < m->programs[i]->n_streams; k++)
                        r = fill_keep(keep, m->programs[i]->streams[k]);
        return r;
}

static int lay_out_stream(guest_keeps *keeps, const stream_message *m) {
        channel_keep *keep = guest_keeps_get(keeps, m->id);

        return keep ? fill_keep(keep, m) : -ENOSPC;
}

static int lay_out_streams(int dir_fd, const programs_message *m) {
        _cleanup_(guest_keeps_freep) guest_keeps *keeps = NULL;
        int r;

        r = guest_keeps_open(dir_fd, GUEST_EXECS_KEEP_FILE, GUEST_STDIO_BUFFER, &keeps);
        for (size_t i = 0; r == 0 && i < m->n_programs; i++)
                for (size_t k = 0; r == 0 && k < m->programs[i]->n_streams; k++)
                        r = lay_out_stream(keeps, m->programs[i]->streams[k]);
        return r;
}

static int lay_out_records(int dir_fd, const char *generation, const programs_message *m) {
        exec_records records = { .next_stream = m->next_stream };
        exec_record *items = calloc(m->n_programs, sizeof(*items));
        int r;

        if (!items)
                return -ENOMEM;
        for (size_t i = 0; i < m->n_programs; i++) {
                items[i] = (exec_record){ .next = records.first,
                                          .id = m->programs[i]->id,
                                          .stream = m->programs[i]->stream,
                                          .terminal = m->programs[i]->terminal,
                                          .oom_kills = m->programs[i]->oom_kills,
                                          .detached = true };
                records.first = &items[i];
        }
        r = exec_records_write(dir_fd, GUEST_EXECS_FILE, generation, &records);
        free(items);
        return r;
}

static int lay_out(int dir_fd, const char *generation, const programs_message *m) {
        int r;

        guest_processes_forget_files(dir_fd);
        if (m->n_programs == 0)
                return 0;
        r = lay_out_streams(dir_fd, m);
        if (r == 0)
                r = lay_out_records(dir_fd, generation, m);
        if (r < 0)
                guest_processes_forget_files(dir_fd);
        return r;
}

int guest_processes_arrive(int dir_fd, const char *generation, const uint8_t *data, size_t n,
                           ferry_error *reterr) {
        programs_message *m =
                n <= GUEST_CARRIED_MAX ? ferry__guest__v1__programs__unpack(NULL, n, data) : NULL;
        int r = m && is_valid(m) ? check_streams(m) : -EINVAL;

        if (m)
                ferry__guest__v1__programs__free_unpacked(m, NULL);
        if (r == -EINVAL)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, r,
                                       "what the source says of the guest's programs makes no "
                                       "sense");
        if (r == 0)
                r = guest_landing_write(dir_fd, generation, data, n);
        return r < 0 ? ferry_error_set_errno(reterr, r, "the guest's programs") : 0;
}

/* A disk that has no room for it now may have some when it is tried again: what landed stays until
 * all of it is laid out. */
int guest_processes_settle(int dir_fd, const char *generation) {
        _cleanup_(freep) uint8_t *data = NULL;
        programs_message *m;
        size_t n;
        int r;

        r = guest_landing_read(dir_fd, generation, GUEST_CARRIED_MAX, &data, &n);
        if (r > 0) {
                m = ferry__guest__v1__programs__unpack(NULL, n, data);
                r = m && is_valid(m) ? lay_out(dir_fd, generation, m) : -EINVAL;
                if (m)
                        ferry__guest__v1__programs__free_unpacked(m, NULL);
        }
        if (r == 0)
                guest_landing_remove(dir_fd);
        return r;
}

static int copy_paths(const char *const stdio[3], char *ret[3]) {
        for (size_t i = 0; i < 3; i++)
                if (stdio[i] && stdio[i][0]) {
                        ret[i] = strdup(stdio[i]);
                        if (!ret[i])
                                return -ENOMEM;
                }
        return 0;
}

static void swap_paths(exec_record *e, char *paths[3]) {
        for (size_t i = 0; i < 3; i++) {
                char *other = e->stdio[i];

                e->stdio[i] = paths[i];
                paths[i] = other;
        }
}

int guest_attach(guest_processes *g, const char *id, const char *const stdio[3],
                 ferry_error *reterr) {
        guest_process *p = guest_process_need(g, id, reterr);
        char *paths[3] = { NULL };
        const char *bad = NULL;
        int r;

        if (!p)
                return -ENOENT;
        r = copy_paths(stdio, paths);
        if (r == 0) {
                p->io = guest_stdio_free(p->io);
                swap_paths(p->record, paths);
                r = guest_process_open_io(p, &bad);
                if (r < 0) { /* as it was, if that can be had */
                        ferry_error_set_errno(reterr, r, "%s", bad ? bad : id);
                        swap_paths(p->record, paths);
                        if (!p->record->detached)
                                (void)guest_process_open_io(p, &bad);
                } else
                        p->record->detached = false;
                guest_processes_save(g);
                guest_port_resume(guest_link_streams(g->link));
        } else
                ferry_error_set_errno(reterr, r, "attach");
        for (size_t i = 0; i < ELEMENTS(paths); i++)
                free(paths[i]);
        return r;
}

/* ---- there ---- */

static void on_moved(int r, const ttrpc_status *status,
                     const Ferry__Agent__V1__MovedResponse *response, void *userdata) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (r == -ECANCELED || r == -ENOTCONN)
                return; /* we let go of it */
        if (guest_judge(r, status, &error) < 0)
                log_warning("the guest does not know that it has moved: %s",
                            ferry_error_message(&error));
}

void guest_moved(guest_processes *g, bool announce) {
        Ferry__Agent__V1__MovedRequest q = FERRY__AGENT__V1__MOVED_REQUEST__INIT;
        const ttrpc_call_options options = { .timeout_usec = MOVED_USEC };
        uint8_t entropy[ENTROPY_SIZE];
        int r;

        q.realtime_usec = wall_usec();
        if (getrandom(entropy, sizeof(entropy), 0) == (ssize_t)sizeof(entropy))
                q.entropy = (ProtobufCBinaryData){ sizeof(entropy), entropy };
        q.announce = announce;
        r = ferry_agent_v1_agent_moved_start(guest_link_client(g->link), &q, &options, on_moved, g,
                                             NULL);
        if (r < 0)
                log_warning("the guest cannot be told that it has moved: %s", strerror(-r));
}
