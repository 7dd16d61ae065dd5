/* SPDX-License-Identifier: MIT */
#include "cli/mover.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/mover-await.h"
#include "cli/mover-containers.h"

#define TICK       (100 * USEC_PER_MSEC)
#define LOOK_AGAIN (1 * USEC_PER_SEC)

static int make_session_id(char ret[static SESSION_ID_SIZE], ferry_error *reterr) {
        uint8_t b[16];

        if (getrandom(b, sizeof(b), 0) != (ssize_t)sizeof(b))
                return ferry_error_set(reterr, FERRY_INTERNAL, -EIO, "no random numbers");
        b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* a version 4 UUID */
        b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
        snprintf(ret, SESSION_ID_SIZE,
                 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
                 b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
                 b[15]);
        return 0;
}

int mover_init(mover *m, rpc_group *group, peer *from, peer *to, const char *name,
               ferry_error *reterr) {
        *m = (mover){ .group = group,
                      .from = from,
                      .to = to,
                      .name = name,
                      .start_usec = now_usec(),
                      .deadline_usec = UINT64_MAX };
        return make_session_id(m->session_id, reterr);
}

static void free_report(Ferry__Shim__V1__Report *report) {
        if (report)
                protobuf_c_message_free_unpacked(&report->base, NULL);
}

void mover_done(mover *m) {
        if (m->figures.predicted)
                protobuf_c_message_free_unpacked(&m->figures.predicted->base, NULL);
        free_report(m->figures.source);
        free_report(m->figures.destination);
        traces_done(&m->traces);
        mover_drop_images(m);
        mover_forget_containers(m);
        m->source = m->source ? rpc_close(m->source) : NULL;
        m->destination = m->destination ? rpc_close(m->destination) : NULL;
}

/* ---- the two streams ---- */

static void take(mover *m, progress_side side, const ProtobufCMessage *message) {
        if (progress_update(&m->progress, side, (const NotificationsResponse *)message))
                m->milestone = true;
        if (m->on_change)
                m->on_change(m, m->milestone, m->userdata);
        m->milestone = false;
}

static void on_source(const ProtobufCMessage *message, void *userdata) {
        take(userdata, PROGRESS_SOURCE, message);
}

static void on_destination(const ProtobufCMessage *message, void *userdata) {
        take(userdata, PROGRESS_DESTINATION, message);
}

/* ---- the steps ---- */

static int check_source(mover *m, ferry_error *reterr) {
        _cleanup_(message_freep) shim_status *status = NULL;
        int r;

        r = m->from->operations->open(m->from, m->group, m->name, false, "the source's shim",
                                      &m->source, reterr);
        if (r == 0)
                r = call_status(m->source, &status, reterr);
        if (r < 0)
                return r;
        if (status->session)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "%s has a migration session already (%s); `ferry --root %s "
                                       "recover %s` finishes one that was left behind",
                                       m->name, status->session->session_id, m->from->root,
                                       m->name);
        if (status->vm_state != FERRY__SHIM__V1__VM_STATE__VM_STATE_RUNNING)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ESRCH,
                                       "%s does not run%s%s", m->name,
                                       status->exit_reason[0] ? ": " : "", status->exit_reason);
        m->figures.predicted = TAKE_PTR(status->prediction);
        m->has_pod = status->containerd && status->containerd->pod_id[0];
        if (m->awaits && !m->has_pod && !(status->containerd && status->containerd->n_containers))
                return ferry_error_set(
                        reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                        "%s has no containers of a containerd's: without --await-pod", m->name);
        if (m->has_pod && !m->awaits)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EPROTO,
                                       "%s is the pod %s of CRI's, which alone can make it at the "
                                       "other host: with --await-pod",
                                       m->name, status->containerd->pod_id);
        mover_take_containers(m, status);
        return mover_check_containers(m, reterr);
}

/* First of all the source says whether the sandbox, and the options, can be moved at all. */
static int export_it(mover *m, InitializeOptions *options, PrepareAndExportSandboxResponse **ret,
                     ferry_error *reterr) {
        int r;

        m->begun = true;
        r = call_export(m->source, m->session_id, options, ret, reterr);
        if (r == 0)
                return 0;
        m->begun = !rpc_was_refused(reterr);
        return ferry_error_prefix(reterr, r, "the source cannot export it");
}

static int prepare(mover *m, InitializeOptions *options, ferry_error *reterr) {
        _cleanup_(message_freep) PrepareAndExportSandboxResponse *exported = NULL;
        int r;

        r = m->awaits ? mover_await_pod(m, reterr) : 0;
        if (r < 0)
                return r;
        /* First: from the export on the session is open, and may have to be found again. */
        m->from->operations->remember(m->from, m->name, m->session_id, m->to);
        r = export_it(m, options, &exported, reterr);
        if (r < 0 && !m->begun)
                m->from->operations->remember(m->from, m->name, NULL, NULL);
        if (r < 0)
                return r;
        if (!m->has_pod)
                r = m->to->operations->start_destination(
                        m->to, m->name, m->containers ? m->containers->namespace_ : NULL, reterr);
        if (r < 0)
                return ferry_error_prefix(reterr, r, "host %s", m->to->name);
        m->made_destination = true;
        m->to->operations->remember(m->to, m->name, m->session_id, m->from);
        r = m->to->operations->open(m->to, m->group, m->name, false, "the destination's shim",
                                    &m->destination, reterr);
        if (r < 0)
                return r;
        r = mover_bring_images(m, exported->config, reterr);
        if (r < 0)
                return r;
        r = call_import(m->destination, m->session_id, peer_sandbox(m->to, m->name),
                        exported->config, reterr);
        mover_drop_images(m);
        if (r < 0)
                return ferry_error_prefix(reterr, r, "the destination cannot take it");
        r = m->awaits ? mover_await_containers(m, reterr) : mover_create_containers(m, reterr);
        if (r < 0)
                return r;
        r = call_prepare(m->destination, m->session_id, reterr);
        return r < 0 ? ferry_error_prefix(reterr, r, "the destination cannot prepare it") : 0;
}

static int connect_one(mover *m, const char *disk, ferry_error *reterr) {
        _cleanup_(closep) int fd = -EBADF;
        int r;

        r = m->to->operations->connect(m->to, m->from, m->destination, m->name, m->session_id, disk,
                                       &fd, reterr);
        if (r == 0)
                r = m->from->operations->give_socket(m->from, m->source, m->name, m->session_id,
                                                     disk, fd, reterr);
        return r < 0 ? ferry_error_prefix(reterr, r, "the migration connection%s%s",
                                          disk[0] ? " of disk " : "", disk)
                     : 0;
}

/* A post-copy whose connection broke: its guest runs at the destination, or would, and waits for
 * memory that the source has. */
bool mover_wants_connection(const shim_status *source, const shim_status *destination) {
        return source && destination && source->session && destination->session &&
               (source->session->wants_connection || destination->session->wants_connection);
}

int mover_connect_again(mover *m, ferry_error *reterr) {
        return connect_one(m, "", reterr);
}

/* What fails is tried again at the next look; both sides wait for it as long as it takes. */
static void look_at_connection(mover *m) {
        _cleanup_(message_freep) shim_status *source = NULL, *destination = NULL;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (rpc_is_silent(m->source) || rpc_is_silent(m->destination) ||
            call_status(m->source, &source, NULL) < 0 ||
            call_status(m->destination, &destination, NULL) < 0)
                return;
        if (!mover_wants_connection(source, destination))
                return;
        if (mover_connect_again(m, &error) < 0)
                fprintf(stderr, "ferry: a new connection: %s; again\n",
                        ferry_error_message(&error));
}

/* One for the guest, or so many (`channels`), and one for each disk that the hosts do not share. */
static int connect_both(mover *m, const InitializeOptions *options, ferry_error *reterr) {
        _cleanup_(message_freep) shim_status *status = NULL;
        int r;

        r = call_status(m->destination, &status, reterr);
        if (r < 0)
                return r;
        for (size_t i = 0; r == 0 && status->session && i < status->session->n_disks; i++)
                r = connect_one(m, status->session->disks[i], reterr);
        for (uint32_t i = 0; r == 0 && (i == 0 || i < options->channels); i++)
                r = connect_one(m, "", reterr);
        return r;
}

static int transfer(mover *m, ferry_error *reterr) {
        int r;

        r = call_notifications(m->source, m->session_id, on_source, NULL, m, reterr);
        if (r == 0)
                r = call_notifications(m->destination, m->session_id, on_destination, NULL, m,
                                       reterr);
        if (r == 0)
                r = call_transfer(m->destination, m->session_id, reterr);
        if (r == 0)
                r = call_transfer(m->source, m->session_id, reterr);
        return r < 0 ? ferry_error_prefix(reterr, r, "the transfer was not started") : 0;
}

static int check_side(const mover *m, progress_side side, const rpc *shim, ferry_error *reterr) {
        static const char *const names[] = { "source", "destination" };

        switch (m->progress.sides[side].outcome) {
        case PROGRESS_FAILED:
        case PROGRESS_CANCELLED: {
                const char *reason = m->progress.sides[side].reason;
                bool failed = m->progress.sides[side].outcome == PROGRESS_FAILED;

                return ferry_error_set(reterr, FERRY_ABORTED, -ECONNABORTED,
                                       "the %s says that it %s%s%s", names[side],
                                       failed ? "failed" : "was cancelled", reason[0] ? ": " : "",
                                       reason);
        }
        case PROGRESS_OPEN:
        case PROGRESS_DONE:
                break;
        }
        if (!rpc_is_open(shim))
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -ENOTCONN,
                                       "lost the connection to %s", rpc_get_label(shim));
        return 0;
}

/* The source's failure first: the destination's is often only its echo. */
static int check_both(const mover *m, ferry_error *reterr) {
        int r;

        r = check_side(m, PROGRESS_SOURCE, m->source, reterr);
        return r < 0 ? r : check_side(m, PROGRESS_DESTINATION, m->destination, reterr);
}

/* What moves while a migration does, as one number. */
static uint64_t sum_of(const progress *p) {
        uint64_t sum = p->sent + p->pass;

        for (size_t i = 0; i < ELEMENTS(p->sides); i++)
                sum = 31 * sum + (uint64_t)p->sides[i].phase;
        return sum;
}

static int wait_done(mover *m, ferry_error *reterr) {
        uint64_t sum = 0, moved_usec = now_usec(), looked_usec = moved_usec;

        for (;;) {
                uint64_t now = now_usec();
                int r;

                if (sum_of(&m->progress) != sum) {
                        sum = sum_of(&m->progress);
                        moved_usec = now;
                }
                if (now - moved_usec > LOOK_AGAIN && now - looked_usec > LOOK_AGAIN) {
                        look_at_connection(m);
                        looked_usec = now_usec();
                }
                rpc_explain_silence(m->source, NULL, now - moved_usec);
                rpc_explain_silence(m->destination, NULL, now - moved_usec);
                r = check_both(m, reterr);
                if (r < 0)
                        return r;
                if (m->progress.sides[PROGRESS_SOURCE].outcome == PROGRESS_DONE &&
                    m->progress.sides[PROGRESS_DESTINATION].outcome == PROGRESS_DONE)
                        return 0;
                if (now >= m->deadline_usec)
                        return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, -ETIMEDOUT,
                                               "not done within the --timeout");
                r = rpc_group_wait(m->group,
                                   now + TICK < m->deadline_usec ? now + TICK : m->deadline_usec,
                                   reterr);
                if (r < 0)
                        return r;
                if (m->on_change)
                        m->on_change(m, false, m->userdata);
        }
}

static void take_report(rpc *shim, Ferry__Shim__V1__Report **ret) {
        shim_status *status;

        if (*ret || !rpc_is_open(shim) || rpc_is_silent(shim) ||
            call_status(shim, &status, NULL) < 0)
                return;
        if (status->session)
                *ret = TAKE_PTR(status->session->report);
        protobuf_c_message_free_unpacked(&status->base, NULL);
}

/* The destination measures the blackout, the source the rest; what a shim does not tell, its
 * notifications did. */
void mover_take_figures(mover *m) {
        mover_figures *f = &m->figures;

        f->total_usec = now_usec() - m->start_usec;
        take_report(m->source, &f->source);
        take_report(m->destination, &f->destination);
        if (f->source && f->source->total_usec > f->total_usec)
                f->total_usec = f->source->total_usec; /* we came late: `ferry recover` */
        f->passes = f->source && f->source->passes > 0 ? f->source->passes : m->progress.passes;
        f->bytes = f->source && f->source->bytes > 0 ? f->source->bytes : m->progress.sent;
        /* the last notification came before the last bytes went */
        m->progress.pass = f->passes;
        m->progress.sent = f->bytes;
        if (m->progress.sides[PROGRESS_SOURCE].outcome == PROGRESS_DONE)
                m->progress.remaining = 0;
        if (f->destination && f->destination->blackout_usec > 0)
                f->blackout_usec = f->destination->blackout_usec;
        else if (m->progress.has_blackout)
                f->blackout_usec = m->progress.blackout_usec;
        else if (f->source)
                f->blackout_usec = f->source->blackout_usec;
}

void mover_take_traces(mover *m) {
        traces_take(&m->traces, m->source, m->destination, m->session_id);
}

int mover_run(mover *m, InitializeOptions *options, bool by_caller, ferry_error *reterr) {
        static const char handed_over[] = "it has moved already, and is being finished";
        int r;

        r = check_source(m, reterr);
        if (r == 0)
                r = prepare(m, options, reterr);
        if (r == 0)
                r = connect_both(m, options, reterr);
        if (r == 0)
                r = transfer(m, reterr);
        if (r == 0)
                r = wait_done(m, reterr);
        if (r < 0)
                return r;
        /* From here on there is nothing to cancel: see it through. */
        if (!by_caller)
                rpc_group_set_deaf(m->group, handed_over);
        r = call_finalize(m->source, m->session_id, FINALIZE_ACTION__FINALIZE_ACTION_STOP, NULL,
                          reterr);
        if (r == 0)
                r = call_finalize(m->destination, m->session_id,
                                  FINALIZE_ACTION__FINALIZE_ACTION_RESUME, NULL, reterr);
        if (r < 0)
                return r;
        rpc_group_set_deaf(m->group, handed_over);
        mover_take_figures(m);
        return 0;
}

/* Closes the session of one side; that it has none of it is as good. */
static int close_session(const mover *m, rpc *shim, ferry_error *reterr) {
        int r;

        if (!rpc_is_open(shim))
                return 0;
        if (rpc_is_silent(shim))
                return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, -ETIMEDOUT,
                                       "%s still does not answer", rpc_get_label(shim));
        r = call_cleanup(shim, m->session_id, reterr);
        return r < 0 ? ferry_error_prefix(reterr, r, "%s cannot close the session",
                                          rpc_get_label(shim))
                     : 0;
}

/* A shim that has served containerd goes when that has removed its containers, and may have gone
 * before we look. */
int mover_clear_side(mover *m, peer *p, bool source, ferry_error *reterr) {
        int r;

        if (m->awaits && (source || m->has_pod || mover_await_is_used(m)))
                return 0; /* who made the containers removes them, and with them the shim */
        if (source ? m->containers != NULL : m->n_created > 0) {
                r = mover_remove_containers(m, source, reterr);
                return r < 0 ? r : p->operations->wait_cleared(p, m->group, m->name, reterr);
        }
        return p->operations->clear(p, m->group, m->name, reterr);
}

int mover_clear(mover *m, mover_place place, ferry_error *reterr) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r, e;

        rpc_group_set_deaf(m->group, "closing the sessions");
        mover_take_traces(m);
        /* Each by itself: the one may be well and the other not. The winner's first. */
        if (place == MOVER_AT_DESTINATION) {
                r = close_session(m, m->destination, reterr);
                if (!m->awaits)
                        m->from->operations->forward(m->from, m->name, m->to);
                e = close_session(m, m->source, &error);
                if (e == 0)
                        e = mover_clear_side(m, m->from, true, &error);
                if (r == 0 && e == 0)
                        m->to->operations->remember(m->to, m->name, NULL, NULL);
        } else {
                r = close_session(m, m->source, reterr);
                e = close_session(m, m->destination, &error);
                if (e == 0 && m->made_destination)
                        e = mover_clear_side(m, m->to, false, &error);
                if (r == 0 && e == 0)
                        m->from->operations->remember(m->from, m->name, NULL, NULL);
        }
        if (r == 0 && e < 0)
                ferry_error_move(reterr, &error);
        return r < 0 ? r : e;
}

bool mover_source_has_ended(const mover *m, const ferry_error *why) {
        /* Unavailable: QEMU did not answer the shim, or the shim us. */
        uint64_t deadline = now_usec() + (why->code == FERRY_UNAVAILABLE ? USEC_PER_SEC : 0);

        for (;;) {
                _cleanup_(message_freep) shim_status *status = NULL;

                if (!m->source || !rpc_is_open(m->source) || rpc_is_silent(m->source) ||
                    call_status(m->source, &status, NULL) < 0)
                        return false;
                if (status->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_STOPPED ||
                    status->vm_state == FERRY__SHIM__V1__VM_STATE__VM_STATE_NONE)
                        return true;
                if (now_usec() >= deadline || rpc_group_wait(m->group, now_usec() + TICK, NULL) < 0)
                        return false;
        }
}
