/* SPDX-License-Identifier: MIT */
#include "steps.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

int end_pair(void **state) {
        pair *p = *state;

        pair_end(p);
        free(p);
        return 0;
}

void make_slow(pair *p) {
        p->options.optional_max_bandwidth_case =
                INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH_MAX_BANDWIDTH;
        p->options.max_bandwidth = 65536;
}

void make_fast(pair *p) {
        p->options.optional_max_bandwidth_case =
                INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH__NOT_SET;
}

void transfer_both(pair *p) {
        call_transfer(p, &p->a, 0, 0);
        call_transfer(p, &p->b, 0, 0);
}

void copy_slowly(pair *p) {
        make_slow(p);
        session_open(p, true);
        transfer_both(p);
        host_wait_detail(&p->a, "S_COPYING");
        host_wait_detail(&p->b, "D_LOADING");
        host_wait_bytes(&p->a);
        make_fast(p);
}

void reach_ready(pair *p) {
        session_open(p, true);
        transfer_both(p);
        host_wait_detail(&p->a, "S_READY");
        host_wait_detail(&p->b, "D_READY");
}

void cleanup_both(pair *p) {
        call_cleanup(p, &p->a, 0);
        call_cleanup(p, &p->b, 0);
}

void expect_history(pair *p, host *h, const char *expected) {
        char *text = history_and_cleanup(p, h);

        assert_string_equal(text, expected);
        free(text);
}

void expect_verdict(host *h, const char *verdict) {
        Ferry__Shim__V1__StatusResponse *s = host_status(h);

        assert_true(s->n_tombstones > 0);
        assert_string_equal(s->tombstones[s->n_tombstones - 1]->verdict, verdict);
        ferry__shim__v1__status_response__free_unpacked(s, NULL);
}

void guest_powers_off(host *h) {
        guest_send(h, "p");
        host_wait_vm(h, FERRY__SHIM__V1__VM_STATE__VM_STATE_STOPPED);
}

void guest_resets(host *h) {
        size_t offset = guest_console_end(h);

        guest_send(h, "r");
        guest_wait(h, "TINY ", &offset);
        guest_wait(h, "H ", &offset);
}

void expect_end(follower *f, pair *p, host *h, Phase phase, PhaseState state, int code,
                const char *reason) {
        const told *t;

        follower_catch_up(f, p, h, phase);
        t = follower_find(f, phase);
        assert_int_equal(t->state, state);
        assert_int_equal(t->code, code);
        if (strncmp(t->reason, reason, strlen(reason)) != 0)
                fail_msg("\"%s\" instead of \"%s\"", t->reason, reason);
}

void then_it_moves(pair *p) {
        make_fast(p);
        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        migrate_whole(p, &p->a, &p->b);
        assert_exactly_one_runs(p, &p->b);
        migrate_whole(p, &p->b, &p->a);
        assert_exactly_one_runs(p, &p->a);
}

void expect_rolled_back(pair *p) {
        cleanup_both(p);
        expect_verdict(&p->a, "ran-again");
        expect_verdict(&p->b, "declined");
        assert_exactly_one_runs(p, &p->a);
        guest_check(&p->a);
        then_it_moves(p);
}

void expect_reason(host *h, const char *text) {
        Ferry__Shim__V1__StatusResponse *s = host_status(h);

        if (!strstr(s->session->reason, text))
                fail_msg("%s says: %s", h->id, s->session->reason);
        ferry__shim__v1__status_response__free_unpacked(s, NULL);
}
