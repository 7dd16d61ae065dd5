/* SPDX-License-Identifier: MIT */
#include "show.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/fd.h"
#include "child.h"
#include "cli/netns.h"
#include "client.h"
#include "guest.h"

#define SETTLE_TIMEOUT (60 * USEC_PER_SEC)
#define ANSWERS_AFTER  100U /* that must come after a hop before it counts as done */
#define ANSWERS_BEFORE 50U

typedef struct show {
        const lab *lab;
        int netns_fd;
        client *client;
        unsigned at; /* the host that the guest is on */
} show;

static int interrupted(ferry_error *reterr) {
        if (child_signal() == 0)
                return 0;
        return ferry_error_set(reterr, FERRY_CANCELLED, -EINTR, "interrupted");
}

static int pause_a_bit(ferry_error *reterr) {
        const struct timespec pause = { .tv_nsec = 50000000 };

        nanosleep(&pause, NULL);
        return interrupted(reterr);
}

static int wait_answers(const show *s, uint64_t n, ferry_error *reterr) {
        uint64_t deadline = now_usec() + SETTLE_TIMEOUT;
        client_figures before, now;
        int r = 0;

        client_get(s->client, &before);
        do {
                client_get(s->client, &now);
                if (now.answered >= before.answered + n)
                        return 0;
                if (now_usec() >= deadline)
                        return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, -ETIMEDOUT,
                                               "the client got no answers for 60 s");
                r = pause_a_bit(reterr);
        } while (r == 0);
        return r;
}

/* The memory test's figures once a pass over all of it has begun and ended after `before`. */
static int wait_passes(const show *s, const guest_memory *before, guest_memory *ret,
                       ferry_error *reterr) {
        uint64_t deadline = now_usec() + SETTLE_TIMEOUT;
        int r;

        for (;;) {
                r = guest_memory_now(s->lab, s->netns_fd, s->at, ret, NULL);
                if (r == 0 && (ret->passes >= before->passes + 2 || ret->errors > 0))
                        return 0;
                if (now_usec() >= deadline)
                        return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, -ETIMEDOUT,
                                               "the guest's memory test stands still");
                r = pause_a_bit(reterr);
                if (r < 0)
                        return r;
        }
}

static double number(const json_t *object, const char *key) {
        return json_number_value(json_object_get(object, key));
}

static int migrate(const show *s, unsigned to, show_hop *ret, ferry_error *reterr) {
        _cleanup_(freep) char *output = NULL;
        json_t *report;
        int status, r;

        r = child_run((const char *const[]){ s->lab->ferry, "--root", s->lab->hosts[s->at].root,
                                             "migrate", LAB_SANDBOX, "--to", s->lab->hosts[to].root,
                                             "--json", NULL },
                      false, &output, &status, reterr);
        if (r == 0)
                r = interrupted(reterr);
        if (r < 0)
                return r;
        report = output ? json_loads(output, 0, NULL) : NULL;
        if (status != 0 || !report) {
                json_decref(report);
                return ferry_error_set(reterr, FERRY_INTERNAL, -EIO,
                                       "`ferry migrate` failed (exit status %d)", status);
        }
        ret->total_ms = number(report, "total_ms");
        ret->blackout_ms = number(report, "blackout_ms");
        ret->passes = (uint64_t)number(report, "passes");
        ret->bytes = (uint64_t)number(report, "bytes");
        json_decref(report);
        return 0;
}

static void take_client(const show *s, show_hop *ret) {
        client_figures figures;

        client_get(s->client, &figures);
        ret->client_stall_ms = (double)figures.longest_stall_usec / 1e3;
        ret->requests_answered = figures.answered;
        ret->requests_lost = figures.lost;
        ret->connection_kept = figures.reconnected == 0;
}

static int hop(show *s, show_hop *ret, ferry_error *reterr) {
        unsigned to = (s->at + 1) % LAB_N_HOSTS;
        guest_memory before, after;
        int r;

        r = guest_memory_now(s->lab, s->netns_fd, s->at, &before, reterr);
        if (r == 0 && s->client) {
                client_reset(s->client);
                r = wait_answers(s, ANSWERS_BEFORE, reterr);
        }
        if (r == 0)
                r = migrate(s, to, ret, reterr);
        if (r < 0)
                return r;
        s->at = to;
        if (s->client) {
                r = wait_answers(s, ANSWERS_AFTER, reterr);
                take_client(s, ret);
        }
        if (r == 0)
                r = wait_passes(s, &before, &after, reterr);
        if (r == 0)
                ret->memory_intact = before.errors == 0 && after.errors == 0 &&
                                     after.bytes >= (uint64_t)GUEST_TEST_MB << 20;
        return r;
}

static int run_hops(show *s, const show_options *options, show_result *ret, ferry_error *reterr) {
        int r = 0;

        for (unsigned i = 0; r == 0 && i < options->n_hops; i++) {
                fprintf(stderr, "demo: hop %u: %s to %s\n", i + 1, s->lab->hosts[s->at].name,
                        s->lab->hosts[(s->at + 1) % LAB_N_HOSTS].name);
                ret->hops[i] = (show_hop){ 0 };
                r = hop(s, &ret->hops[i], reterr);
                if (r == 0)
                        ret->n_hops++;
        }
        return r;
}

int show_run(const lab *l, const show_options *options, show_result *ret, ferry_error *reterr) {
        _cleanup_(closep) int netns_fd = -EBADF;
        show s = { .lab = l };
        int r;

        *ret = (show_result){ .has_client = l->has_network };
        r = netns_open(l->has_network ? LAB_CLIENT_NETNS : NULL, &netns_fd, reterr);
        if (r < 0)
                return r;
        s.netns_fd = netns_fd;
        fprintf(stderr, "demo: building the guest's image\n");
        r = guest_start(l, options->memory_rate_mb, reterr);
        if (r == 0) {
                fprintf(stderr, "demo: the guest boots on %s\n", l->hosts[0].name);
                r = guest_wait(l, netns_fd, reterr);
        }
        if (r == 0 && l->has_network)
                r = client_new(netns_fd, LAB_GUEST_ADDRESS, GUEST_PORT, &s.client, reterr);
        if (r == 0)
                r = run_hops(&s, options, ret, reterr);
        client_free(s.client);
        return r;
}

bool show_is_ok(const show_result *result, const show_options *options) {
        if (result->n_hops != options->n_hops)
                return false;
        for (unsigned i = 0; i < result->n_hops; i++) {
                const show_hop *h = &result->hops[i];

                if (!h->memory_intact ||
                    (result->has_client && (h->requests_lost > 0 || !h->connection_kept)))
                        return false;
        }
        return true;
}
