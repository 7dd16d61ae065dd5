/* SPDX-License-Identifier: MIT */
#include "cli/mover-await.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "cli/end.h"
#include "services/annotations.h"

#define AWAIT_USEC (60 * USEC_PER_SEC)
#define STEP       (100 * USEC_PER_MSEC)

static uint64_t limit_of(const mover *m) {
        uint64_t own = now_usec() + AWAIT_USEC;

        return own < m->deadline_usec ? own : m->deadline_usec;
}

static int wait_on(const mover *m, uint64_t limit, const char *what, ferry_error *reterr) {
        if (now_usec() >= limit)
                return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, -ETIMEDOUT,
                                       "%s at host %s: not within the time", what, m->to->name);
        return end_pause(m->group, STEP, reterr);
}

int mover_await_pod(mover *m, ferry_error *reterr) {
        uint64_t limit = limit_of(m);
        int r;

        if (!m->has_pod) {
                /* its name there, said so that whoever finishes this knows who makes what */
                m->to->sandbox = strdup(m->name);
                return m->to->sandbox ? 0 : ferry_error_set_errno(reterr, -ENOMEM, "sandbox");
        }
        fprintf(stderr, "ferry: waiting for a pod at host %s with the annotation\n  %s=%s\n",
                m->to->name, ANNOTATION_SESSION, m->session_id);
        for (;;) {
                r = m->to->operations->find_awaiting(m->to, m->group, m->session_id,
                                                     &m->to->sandbox, reterr);
                if (r < 0)
                        return ferry_error_prefix(reterr, r, "host %s", m->to->name);
                if (m->to->sandbox)
                        return 0;
                r = wait_on(m, limit, "a pod with this session's annotation", reterr);
                if (r < 0)
                        return r;
        }
}

static size_t count_unclaimed(const shim_status *status) {
        const Ferry__Shim__V1__Containerd *c = status->containerd;
        size_t n = 0;

        for (size_t i = 0; c && i < c->n_containers; i++)
                n += c->containers[i]->unclaimed ? 1 : 0;
        return n;
}

/* Negative: they cannot come any more. */
static int look(const mover *m, size_t *ret_n, ferry_error *reterr) {
        shim_status *status;
        int r;

        r = call_status(m->destination, &status, reterr);
        if (r < 0)
                return r;
        *ret_n = count_unclaimed(status);
        if (!status->session || strcmp(status->session->session_id, m->session_id) != 0)
                r = ferry_error_set(reterr, FERRY_ABORTED, -ECONNABORTED,
                                    "host %s has given the session up", m->to->name);
        protobuf_c_message_free_unpacked(&status->base, NULL);
        return r;
}

int mover_await_containers(mover *m, ferry_error *reterr) {
        const Ferry__Shim__V1__Containerd *c = m->containers;
        uint64_t limit = limit_of(m);
        size_t n;
        int r;

        if (m->has_pod)
                fprintf(stderr, "ferry: the pod is there; waiting for its containers, each created "
                                "and started with one of the annotations\n");
        else
                fprintf(stderr,
                        "ferry: waiting for the containers at host %s, each created and started "
                        "with the annotation\n  %s=%s\n"
                        "and (but for the pod's own container of CRI's) one of\n",
                        m->to->name, ANNOTATION_SANDBOX, m->name);
        for (size_t i = c ? c->n_containers : 0; i-- > 0;)
                fprintf(stderr, "  %s=%s\n", ANNOTATION_SOURCE, c->containers[i]->id);
        for (;;) {
                r = look(m, &n, reterr);
                if (r < 0 || n == 0)
                        return r;
                r = wait_on(m, limit, "the pod's containers", reterr);
                if (r < 0)
                        return r;
        }
}

bool mover_await_is_used(const mover *m) {
        shim_status *status;
        size_t n;

        if (!m->destination || call_status(m->destination, &status, NULL) < 0)
                return false;
        n = status->containerd ? status->containerd->n_containers : 0;
        n -= count_unclaimed(status);
        protobuf_c_message_free_unpacked(&status->base, NULL);
        return n > 0;
}
