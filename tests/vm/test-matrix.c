/* SPDX-License-Identifier: MIT */
/*
 * Every call of the Migration service in every state that a session can have, on both sides, as
 * docs/session-matrix.txt says. For each state, first everything that must change nothing: the
 * refused calls and those that are OK without effect, each twice in a row, each also with another
 * session's id and with an empty one, all in one go over one connection, a look at the status
 * between any two. Then each call that moves the session, from a state reached anew, twice at once
 * over two connections: one moves it, the other is told what the state after it says.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "matrix-world.h"

#define DEADLINE_USEC (60 * USEC_PER_SEC)
#define PROBES_MAX    (N_CALLS * 6)
#define PLACES_MAX    64

static bool tried[PLACES_MAX][N_CALLS];

static int code_of(const char *cell, bool had_socket) {
        if (strcmp(cell, "IA") == 0)
                return 3;
        if (strcmp(cell, "FP") == 0)
                return 9;
        if (strcmp(cell, "AE") == 0)
                return 6;
        if (strcmp(cell, "AE*") == 0)
                return had_socket ? 6 : 9;
        return 0;
}

static host *host_of(world *w, const place *at) {
        return at->at_destination ? w->destination : w->source;
}

static void check_code(const place *at, matrix_call call, const char *how, const answer *a,
                       int expected) {
        if (a->code != expected)
                fail_msg("%s: %s%s: code %d, expected %d: %s", at->state, matrix_call_name(call),
                         how, a->code, expected, a->message);
}

/* ---- what changes nothing ---- */

typedef struct probe {
        matrix_call call;
        const char *how; /* for people */
        const char *session;
        int expected;
        answer a;
        look after;
} probe;

static size_t make_probes(world *w, const matrix_row *row, probe probes[PROBES_MAX]) {
        bool idle = strncmp(row->state, "IDLE", 4) == 0;
        bool reserved = strncmp(row->state, "RESERVED", 8) == 0;
        size_t n = 0;

        for (int c = 0; c < N_CALLS; c++) {
                bool begins = c == CALL_EXPORT || c == CALL_IMPORT;

                for (int twice = 0; twice < 2; twice++) {
                        if (!row->after[c])
                                probes[n++] = (probe){
                                        .call = (matrix_call)c,
                                        .how = twice ? ", again" : "",
                                        .session = w->p.session,
                                        .expected = code_of(row->cells[c], w->had_socket),
                                };
                        probes[n++] = (probe){
                                .call = (matrix_call)c,
                                .how = ", without a session id",
                                .session = "",
                                .expected = 3,
                        };
                        if (!idle)
                                probes[n++] = (probe){
                                        .call = (matrix_call)c,
                                        .how = ", with another session's id",
                                        .session = "another",
                                        .expected = begins && !reserved ? 9 : 3,
                                };
                }
        }
        return n;
}

/* The shim stands while everything is sent: it finds all of it at once. False: the state had
 * passed already. */
static bool ask_all(world *w, const place *at, const matrix_row *row, probe probes[PROBES_MAX],
                    size_t *ret_n) {
        look before;
        size_t n;
        host *h;

        at->reach(w);
        h = host_of(w, at);
        *ret_n = n = make_probes(w, row, probes);
        world_hold(w, h->pid);
        if (at->lead != N_CALLS)
                world_lead(w, h, at->lead);
        look_send(h->client, &before);
        for (size_t i = 0; i < n; i++) {
                world_send(w, h, h->client, probes[i].call, probes[i].session, &probes[i].a);
                look_send(h->client, &probes[i].after);
        }
        world_let_go(w, h->pid);
        look_collect(h->client, &before);
        for (size_t i = 0; i < n; i++) {
                look_collect(h->client, &probes[i].after);
                world_collect(h->client, &probes[i].a);
        }
        if (strcmp(before.detail, at->state) != 0 &&
            strcmp(matrix_find(at->state)->wire, "Idle") != 0) {
                assert_true(at->passes);
                return false;
        }
        for (size_t i = 0; i < n; i++) {
                const probe *p = &probes[i];

                check_code(at, p->call, p->how, &p->a, p->expected);
                if (p->after.n != before.n || memcmp(p->after.bytes, before.bytes, before.n) != 0)
                        fail_msg("%s: %s%s: it changed something: %s", at->state,
                                 matrix_call_name(p->call), p->how, p->after.detail);
        }
        return true;
}

static void try_what_changes_nothing(world *w, const place *at, const matrix_row *row,
                                     bool done[N_CALLS]) {
        probe *probes = calloc(PROBES_MAX, sizeof(*probes));
        size_t n;

        assert_non_null(probes);
        for (int tries = 0;; tries++) {
                bool there = ask_all(w, at, row, probes, &n);

                world_reset(w);
                if (there)
                        break;
                if (tries == 20)
                        fail_msg("%s was over each time", at->state);
        }
        for (size_t i = 0; i < n; i++)
                if (probes[i].session == w->p.session)
                        done[probes[i].call] = true;
        free(probes);
}

/* ---- what moves ---- */

/* States of which the next one comes by itself. */
static bool is_under_way(const char *detail) {
        static const char *const names[] = { "S_DONE",       "S_GIVEN_UP", "S_RECOVERING",
                                             "S_CANCELLING", "S_RESUMING", "D_PREPARING",
                                             "D_CANCELLING", "D_STOPPING", "D_FAILING" };

        for (size_t i = 0; i < ELEMENTS(names); i++)
                if (strcmp(names[i], detail) == 0)
                        return true;
        return false;
}

static void wait_settled(host *h, const place *at, matrix_call call, const char *state, look *ret) {
        uint64_t deadline = now_usec() + DEADLINE_USEC;

        for (;;) {
                look_send(h->client, ret);
                look_collect(h->client, ret);
                if (strcmp(ret->state, state) == 0 && !is_under_way(ret->detail))
                        return;
                if (now_usec() > deadline)
                        fail_msg("%s: %s: the session is %s, not %s", at->state,
                                 matrix_call_name(call), ret->detail, state);
                usleep(500);
        }
}

/* States that only what the other side says ends. */
static bool waits_for_word(const char *detail) {
        static const char *const names[] = {
                "S_HANDED", "S_COMMITTED", "S_SERVING",   "S_FEEDING",
                "D_TAKEN",  "D_STARTING",  "D_UNDECIDED", "D_FETCHING"
        };

        for (size_t i = 0; i < ELEMENTS(names); i++)
                if (strcmp(names[i], detail) == 0)
                        return true;
        return false;
}

/* A Cleanup that came before the other side has heard it would leave that one alone. */
static void wait_told(host *h) {
        uint64_t deadline = now_usec() + DEADLINE_USEC;
        look l;

        for (;;) {
                look_send(h->client, &l);
                look_collect(h->client, &l);
                if (!waits_for_word(l.detail))
                        return;
                if (now_usec() > deadline)
                        fail_msg("%s: still %s over a new connection", h->id, l.detail);
                usleep(500);
        }
}

static void rejoin(world *w) {
        host *const hosts[] = { &w->p.a, &w->p.b };

        connect_hosts(&w->p);
        for (size_t i = 0; i < ELEMENTS(hosts); i++) {
                answer a;

                if (hosts[i]->pid <= 0)
                        continue;
                world_send(w, hosts[i], hosts[i]->client, CALL_SOCKET, w->p.session, &a);
                world_collect(hosts[i]->client, &a);
        }
        for (size_t i = 0; i < ELEMENTS(hosts) && !w->spoiled; i++)
                wait_told(hosts[i]);
}

static void try_move(world *w, const place *at, const matrix_row *row, matrix_call call) {
        answer first, second;
        bool again; /* a socket after a break: the first one's connection may be gone */
        ttrpc_client *other;
        look after;
        host *h;
        int expected;

        at->reach(w);
        h = host_of(w, at);
        again = call == CALL_SOCKET && w->had_socket;
        if (again)
                connect_hosts(&w->p);
        other = world_second(w, h);
        world_hold(w, h->pid);
        if (at->lead != N_CALLS)
                world_lead(w, h, at->lead);
        world_send(w, h, h->client, call, w->p.session, &first);
        world_send(w, h, other, call, w->p.session, &second);
        world_let_go(w, h->pid);
        world_taken(h->client);
        world_taken(other);
        world_let_go_all(w);
        world_collect(h->client, &first);
        world_collect(other, &second);
        wait_settled(h, at, call, row->after[call], &after);
        expected = code_of(matrix_find(after.detail)->cells[call], true);
        if (first.code != 0) { /* the other one was the first */
                answer swap = first;

                first = second;
                second = swap;
        }
        check_code(at, call, "", &first, 0);
        check_code(at, call, ", at the same time", &second, expected);
        assert_false(host_runs(&w->p.a) && host_runs(&w->p.b));
        if (again) /* what one side did not hear for it, it hears now */
                rejoin(w);
        world_reset(w);
}

/* ---- one test a state ---- */

static void test_state(void **state) {
        const place *at = *state;
        const matrix_row *row = matrix_find(at->state);
        size_t n, index = (size_t)(at - matrix_places(&n));
        world *w = world_get();

        try_what_changes_nothing(w, at, row, tried[index]);
        for (int c = 0; c < N_CALLS; c++)
                if (row->after[c]) {
                        try_move(w, at, row, (matrix_call)c);
                        tried[index][c] = true;
                }
        world_finish(w);
}

static void test_no_cell_was_left_out(void **state) {
        size_t n_rows, n_places;
        const matrix_row *rows = matrix_read(&n_rows);
        const place *places = matrix_places(&n_places);

        assert_int_equal(n_rows, n_places);
        for (size_t i = 0; i < n_rows; i++) {
                size_t k = 0;

                while (k < n_places && strcmp(places[k].state, rows[i].state) != 0)
                        k++;
                assert_true(k < n_places);
                for (int c = 0; c < N_CALLS; c++)
                        if (!tried[k][c])
                                fail_msg("%s: %s was not tried", rows[i].state,
                                         matrix_call_name((matrix_call)c));
        }
}

/* One argument: a pattern, to try only the states that it names. */
int main(int argc, char **argv) {
        struct CMUnitTest tests[PLACES_MAX];
        size_t n_places, n = 0;
        const place *places = matrix_places(&n_places);

        for (size_t i = 0; i < n_places; i++)
                tests[n++] = (struct CMUnitTest){
                        .name = places[i].state,
                        .test_func = test_state,
                        .setup_func = world_setup,
                        .initial_state = (void *)&places[i],
                };
        tests[n++] = (struct CMUnitTest){
                .name = "no cell was left out",
                .test_func = test_no_cell_was_left_out,
        };
        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return _cmocka_run_group_tests("matrix", tests, n, world_group_start, world_group_end);
}
