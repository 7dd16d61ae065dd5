/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "migration/trace-chrome.h"
#include "migration/trace-message.h"

#define BEGAN 1000000U

static void begin(trace *t, bool is_source) {
        trace_begin(t, "session-1", is_source, BEGAN, 1700000000000000);
}

static void check_span(const trace *t, size_t i, trace_phase phase, uint64_t from, uint64_t to,
                       bool guest_stands) {
        assert_true(i < t->n_spans);
        assert_string_equal(trace_phase_name(t->spans[i].phase), trace_phase_name(phase));
        assert_int_equal(t->spans[i].begin_usec, from);
        assert_int_equal(t->spans[i].end_usec, to);
        assert_int_equal(t->spans[i].guest_stands, guest_stands);
}

static void test_phases_follow_each_other(void **state) {
        trace t = { .n_spans = 0 };

        begin(&t, true);
        trace_enter(&t, TRACE_EXPORT, BEGAN);
        trace_enter(&t, TRACE_WAIT, BEGAN + 10);
        trace_enter(&t, TRACE_WAIT, BEGAN + 15); /* under way already */
        trace_enter(&t, TRACE_COPY, BEGAN + 20);
        trace_guest_stopped(&t, BEGAN + 50);
        trace_enter(&t, TRACE_LAST, BEGAN + 50);
        assert_int_equal(trace_current(&t), TRACE_LAST);
        trace_enter(&t, TRACE_OFFER, BEGAN + 40); /* an event that came late */
        trace_close(&t, BEGAN + 90);
        assert_int_equal(t.n_spans, 5);
        check_span(&t, 0, TRACE_EXPORT, BEGAN, BEGAN + 10, false);
        check_span(&t, 1, TRACE_WAIT, BEGAN + 10, BEGAN + 20, false);
        check_span(&t, 2, TRACE_COPY, BEGAN + 20, BEGAN + 50, false);
        check_span(&t, 3, TRACE_LAST, BEGAN + 50, BEGAN + 50, true);
        check_span(&t, 4, TRACE_OFFER, BEGAN + 50, BEGAN + 90, true);
        assert_int_equal(trace_current(&t), TRACE_NONE);
        assert_false(t.is_open);
        trace_done(&t);
}

/* QEMU 7.2 says nothing between STOP and `completed`; others do, and may ask first. */
static void test_the_stop_is_split(void **state) {
        trace t = { .n_spans = 0 };

        begin(&t, true);
        trace_enter(&t, TRACE_COPY, BEGAN);
        trace_split_last(&t, TRACE_LAST, BEGAN + 1); /* not now */
        trace_guest_stopped(&t, BEGAN + 10);
        trace_enter(&t, TRACE_LAST, BEGAN + 10);
        trace_split_last(&t, TRACE_DECIDE, BEGAN + 12);
        trace_split_last(&t, TRACE_LAST, BEGAN + 15);
        trace_split_last(&t, TRACE_LAST, BEGAN + 17); /* once */
        trace_enter(&t, TRACE_OFFER, BEGAN + 20);
        check_span(&t, 0, TRACE_COPY, BEGAN, BEGAN + 10, false);
        check_span(&t, 1, TRACE_STOP, BEGAN + 10, BEGAN + 12, true);
        check_span(&t, 2, TRACE_DECIDE, BEGAN + 12, BEGAN + 15, true);
        check_span(&t, 3, TRACE_LAST, BEGAN + 15, BEGAN + 20, true);
        assert_int_equal(t.n_spans, 5);
        trace_done(&t);
}

static void test_rollback_ends_the_stand(void **state) {
        trace t = { .n_spans = 0 };

        begin(&t, true);
        trace_enter(&t, TRACE_COPY, BEGAN);
        trace_guest_stopped(&t, BEGAN + 10);
        trace_enter(&t, TRACE_ROLLBACK, BEGAN + 20);
        trace_guest_runs(&t, BEGAN + 30);
        trace_guest_runs(&t, BEGAN + 40); /* the first counts */
        trace_enter(&t, TRACE_DISCARD, BEGAN + 50);
        check_span(&t, 1, TRACE_ROLLBACK, BEGAN + 20, BEGAN + 50, true);
        assert_int_equal(t.running_usec, BEGAN + 30);
        assert_false(t.spans[2].guest_stands);
        trace_done(&t);
}

static void test_phases_are_bounded(void **state) {
        trace t = { .n_spans = 0 };

        begin(&t, true);
        for (uint64_t i = 0; i < 10 * TRACE_PHASES_MAX; i++)
                trace_enter(&t, i % 2 ? TRACE_ROLLBACK : TRACE_UNDECIDED, BEGAN + i);
        trace_close(&t, BEGAN + 100000);
        assert_int_equal(t.n_spans, TRACE_PHASES_MAX);
        check_span(&t, TRACE_PHASES_MAX - 1, TRACE_ROLLBACK, BEGAN + TRACE_PHASES_MAX - 1,
                   BEGAN + TRACE_PHASES_MAX, false);
        trace_done(&t);
}

/* However many there are: no byte, and no pass, is left out. */
static void test_passes_are_joined(void **state) {
        trace t = { .n_spans = 0 };
        uint64_t sent = 0;
        uint32_t next = 1, n = 40 * TRACE_PASSES_MAX + 7;

        begin(&t, true);
        for (uint32_t i = 1; i <= n; i++)
                trace_add_pass(&t, &(trace_pass){
                                           .first = i,
                                           .last = i,
                                           .begin_usec = BEGAN + 10 * i,
                                           .end_usec = BEGAN + 10 * i + 10,
                                           .sent = i,
                                           .remaining = n - i,
                                           .dirty_rate = 1000,
                                           .limit_ms = i,
                                   });
        assert_true(t.n_passes <= TRACE_PASSES_MAX && t.n_passes > TRACE_PASSES_MAX / 2);
        for (size_t i = 0; i < t.n_passes; i++) {
                const trace_pass *p = &t.passes[i];

                assert_int_equal(p->first, next);
                assert_int_equal(p->begin_usec, BEGAN + 10 * p->first);
                assert_int_equal(p->end_usec, BEGAN + 10 * p->last + 10);
                assert_int_equal(p->remaining, n - p->last);
                assert_int_equal(p->limit_ms, p->last);
                assert_true(p->dirty_rate >= 999 && p->dirty_rate <= 1000);
                next = p->last + 1;
                sent += p->sent;
        }
        assert_int_equal(next, n + 1);
        assert_int_equal(sent, (uint64_t)n * (n + 1) / 2);
        trace_done(&t);
}

static void test_first_and_last_events_are_kept(void **state) {
        const uint64_t head = TRACE_EVENTS_MAX - TRACE_EVENTS_TAIL;

        for (size_t n = 0; n < 4 * TRACE_EVENTS_MAX; n++) {
                trace t = { .n_spans = 0 };
                size_t kept = n < TRACE_EVENTS_MAX ? n : TRACE_EVENTS_MAX;

                begin(&t, true);
                for (size_t i = 0; i < n; i++)
                        trace_add_event(&t, "session", "x", i + 1);
                assert_int_equal(trace_count_dropped_events(&t), n - kept);
                assert_null(trace_get_event(&t, kept));
                for (size_t i = 0; i < kept; i++)
                        assert_int_equal(trace_get_event(&t, i)->usec,
                                         i < head ? i + 1 : n - kept + i + 1);
                trace_done(&t);
        }
}

static void test_facts(void **state) {
        static const char *const names[] = { "a", "b" };
        trace_facts facts = { .n = 0 };
        char text[2 * TRACE_TEXT_MAX];

        memset(text, 'x', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        trace_set_fact(&facts, names[0], "%d", 1);
        trace_set_fact(&facts, names[1], "%s", text);
        trace_set_fact(&facts, names[0], "%d", 2);
        assert_int_equal(facts.n, 2);
        assert_string_equal(facts.facts[0].value, "2");
        assert_int_equal(strlen(facts.facts[1].value), TRACE_TEXT_MAX - 1);
        for (size_t i = 0; i < 2 * TRACE_FACTS_MAX; i++) {
                char *name = malloc(8);

                snprintf(name, 8, "n%zu", i);
                trace_set_fact(&facts, name, "v");
                if (facts.facts[facts.n - 1].name != name)
                        free(name);
        }
        assert_int_equal(facts.n, TRACE_FACTS_MAX);
        for (size_t i = 2; i < facts.n; i++)
                free((char *)facts.facts[i].name);
}

static void make_sides(trace *source, trace *destination) {
        begin(source, true);
        trace_set_fact(&source->versions, "qemu", "7.2 \"%s\"", "<b>");
        trace_enter(source, TRACE_EXPORT, BEGAN);
        trace_enter(source, TRACE_COPY, BEGAN + 100);
        for (uint32_t i = 1; i <= 3; i++)
                trace_add_pass(source, &(trace_pass){ .first = i,
                                                      .last = i,
                                                      .begin_usec = BEGAN + 100 * i,
                                                      .end_usec = BEGAN + 100 * i + 100,
                                                      .sent = UINT64_MAX,
                                                      .limit_ms = 5 });
        trace_add_event(source, "qemu", "STOP", BEGAN + 400);
        trace_guest_stopped(source, BEGAN + 400);
        trace_enter(source, TRACE_LAST, BEGAN + 400);
        trace_close(source, BEGAN + 500);
        begin(destination, false);
        trace_enter(destination, TRACE_LOAD, BEGAN + 10);
        trace_guest_stopped(destination, BEGAN + 20);
        trace_guest_runs(destination, BEGAN + 200);
}

static json_int_t integer(const json_t *event, const char *key) {
        json_t *value = json_object_get(event, key);

        assert_true(json_is_integer(value));
        return json_integer_value(value);
}

/* The rules of the format: each has ph, ts, pid, tid and name; X a duration, C numbers, M a name, i
 * a scope. */
static void check_chrome_event(const json_t *event, int *seen) {
        const char *ph = json_string_value(json_object_get(event, "ph"));
        json_t *args = json_object_get(event, "args"), *value;
        const char *key;

        assert_true(ph && strlen(ph) == 1 && strchr("XCMi", *ph));
        seen[(unsigned char)*ph]++;
        assert_true(json_string_length(json_object_get(event, "name")) > 0);
        assert_true(integer(event, "pid") == 1 || integer(event, "pid") == 2);
        assert_true(integer(event, "tid") >= 0);
        assert_true(integer(event, "ts") >= 0);
        if (*ph == 'X')
                assert_true(integer(event, "dur") >= 0);
        if (*ph == 'i')
                assert_string_equal(json_string_value(json_object_get(event, "s")), "t");
        if (*ph == 'C' || *ph == 'M')
                assert_true(json_object_size(args) == 1);
        if (*ph == 'C')
                json_object_foreach(args, key, value) assert_true(json_is_number(value));
}

static void test_chrome_format(void **state) {
        session_report report = { .total_usec = 1 };
        trace source = { .n_spans = 0 }, destination = { .n_spans = 0 };
        trace_message *a, *b;
        int seen[256] = { 0 };
        json_t *chrome, *event;
        size_t i;

        make_sides(&source, &destination);
        snprintf(source.reason, sizeof(source.reason), "\xff\x01\"</script>");
        a = trace_message_new(&source, &report, "web", BEGAN + 500);
        b = trace_message_new(&destination, &report, "web", BEGAN + 600);
        assert_non_null(a);
        assert_non_null(b);
        chrome = trace_to_chrome(
                (trace_side[]){ { trace_message_get(a), 0 }, { trace_message_get(b), 30 } }, 2);
        assert_non_null(chrome);
        json_array_foreach(json_object_get(chrome, "traceEvents"), i, event) {
                check_chrome_event(event, seen);
                if (integer(event, "pid") == 2 &&
                    !strcmp(json_string_value(json_object_get(event, "name")), "load")) {
                        assert_int_equal(integer(event, "ts"), 40);
                        assert_int_equal(integer(event, "dur"), 590); /* it lasts */
                }
        }
        assert_int_equal(seen['C'], 15);
        assert_int_equal(seen['M'], 2 * 10);
        assert_int_equal(seen['i'], 1);
        /* phases 3 + 1, passes 3, the guest: runs, stands / stands, runs */
        assert_int_equal(seen['X'], 4 + 3 + 4);
        event = json_array_get(json_object_get(json_object_get(chrome, "otherData"), "sides"), 0);
        assert_string_equal(json_string_value(json_object_get(event, "reason")), "?\?\"</script>");
        json_decref(chrome);
        trace_message_free(a);
        trace_message_free(b);
        trace_done(&source);
        trace_done(&destination);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_phases_follow_each_other),
                cmocka_unit_test(test_the_stop_is_split),
                cmocka_unit_test(test_rollback_ends_the_stand),
                cmocka_unit_test(test_phases_are_bounded),
                cmocka_unit_test(test_passes_are_joined),
                cmocka_unit_test(test_first_and_last_events_are_kept),
                cmocka_unit_test(test_facts),
                cmocka_unit_test(test_chrome_format),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
