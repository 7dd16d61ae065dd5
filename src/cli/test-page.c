/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/html.h"
#include "cli/report.h"

#define EVIL "<script>alert(1)</script>\"'&\xff\x01\xe2\x80\xae"

/* ---- html.c ---- */

static void check_text(const char *text, const char *expected) {
        char *written = NULL;
        size_t n;
        FILE *f = open_memstream(&written, &n);

        assert_non_null(f);
        html_put(f, "[%s]", text);
        fclose(f);
        assert_int_equal(written[0], '[');
        written[n - 1] = '\0';
        assert_string_equal(written + 1, expected);
        free(written);
}

static void test_text_is_escaped(void **state) {
        check_text("plain", "plain");
        check_text("<b a=\"1\" c='2'>&amp;", "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;amp;");
        check_text("h\xc3\xa9 \xe2\x86\x92 \xf0\x9f\x9a\xa2",
                   "h\xc3\xa9 \xe2\x86\x92 \xf0\x9f\x9a\xa2");
        check_text("a\x01z\x7f", "a\xef\xbf\xbdz\xef\xbf\xbd");
        /* C1, direction, no character, surrogate, overlong, cut off, stray */
        check_text("\xc2\x85", "\xef\xbf\xbd");
        check_text("\xe2\x80\xae", "\xef\xbf\xbd");
        check_text("\xef\xbf\xbf", "\xef\xbf\xbd");
        check_text("\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
        check_text("\xc0\xbc", "\xef\xbf\xbd\xef\xbf\xbd");
        check_text("\xe2\x80", "\xef\xbf\xbd\xef\xbf\xbd");
        check_text("\x80x\xf8", "\xef\xbf\xbdx\xef\xbf\xbd");
}

static void test_put_knows_its_formats(void **state) {
        char *written = NULL;
        size_t n;
        FILE *f = open_memstream(&written, &n);

        html_put(f, "<p>%d|%u|%llu|%.2f|%c|%.0f|%.1f|100%%</p>", -1, 2U, 3ULL, 1.5, '<', 2.0,
                 (double)__builtin_inf());
        fclose(f);
        assert_string_equal(written, "<p>-1|2|3|1.50|&lt;|2|0.0|100%</p>");
        free(written);
}

/* ---- the page ---- */

typedef Ferry__Shim__V1__TracePhase phase;
typedef Ferry__Shim__V1__TracePass pass;

typedef struct sample {
        shim_trace trace;
        Ferry__Shim__V1__Report report;
        phase phases[8], *phase_list[8];
        pass passes[100], *pass_list[100];
        Ferry__Shim__V1__TraceFact facts[2], *fact_list[2];
        Ferry__Shim__V1__TraceEvent events[1], *event_list[1];
} sample;

static void add_phase(sample *s, const char *name, uint64_t begin, uint64_t end, bool stands) {
        phase *p = &s->phases[s->trace.n_phases];

        ferry__shim__v1__trace_phase__init(p);
        *p = (phase){ .base = p->base,
                      .name = (char *)name,
                      .begin_usec = begin,
                      .end_usec = end,
                      .guest_stands = stands };
        s->phase_list[s->trace.n_phases++] = p;
        s->trace.phases = s->phase_list;
        s->trace.now_usec = end;
}

static void add_facts(sample *s, const char *name, const char *value) {
        ferry__shim__v1__trace_fact__init(&s->facts[0]);
        s->facts[0].name = (char *)name;
        s->facts[0].value = (char *)value;
        s->fact_list[0] = &s->facts[0];
        s->trace.versions = s->trace.options = s->fact_list;
        s->trace.n_versions = s->trace.n_options = 1;
        ferry__shim__v1__trace_event__init(&s->events[0]);
        s->events[0].category = s->events[0].name = (char *)value;
        s->event_list[0] = &s->events[0];
        s->trace.events = s->event_list;
        s->trace.n_events = 1;
}

static void add_passes(sample *s, uint32_t n) {
        for (uint32_t i = 0; i < n; i++) {
                pass *p = s->pass_list[i] = &s->passes[i];

                ferry__shim__v1__trace_pass__init(p);
                p->first = p->last = i + 1;
                p->begin_usec = 1000 * i;
                p->end_usec = 1000 * i + 1000;
                p->sent = UINT64_MAX >> i % 64;
                p->remaining = i % 3 ? 4096 * i : 0;
                p->bandwidth = 1000000000;
                p->limit_ms = i == n - 1 ? 2000000 : 5 * i;
                p->throttle = i > 4 ? 20 : 0;
        }
        s->trace.passes = s->pass_list;
        s->trace.n_passes = n;
}

static void init_sample(sample *s, const char *origin) {
        *s = (sample){ 0 };
        ferry__shim__v1__trace_response__init(&s->trace);
        ferry__shim__v1__report__init(&s->report);
        s->trace.report = &s->report;
        s->trace.origin = (char *)origin;
        s->trace.reason = (char *)EVIL;
}

/* The guest stands from 10000 to 10950 of the source's time, which is 9050 of the destination's. */
static void make_source(sample *s) {
        init_sample(s, "source");
        add_phase(s, "export", 0, 1000, false);
        add_phase(s, EVIL, 1000, 2000, false);
        add_phase(s, "copy", 2000, 10000, false);
        add_phase(s, "last-state", 10000, 10600, true);
        add_phase(s, "offer", 10600, 10700, true);
        add_phase(s, "journal", 10700, 10800, true);
        add_phase(s, "away", 10800, 11500, true);
        s->trace.stopped_usec = 10000;
        s->trace.greeted_usec = 1900;
        s->report.blackout_bytes = 400000;
}

static void make_destination(sample *s) {
        init_sample(s, "destination");
        add_phase(s, "prepare", 0, 500, false);
        add_phase(s, "loaded", 8500, 8850, false);
        add_phase(s, "resume", 8950, 9050, true);
        add_phase(s, "confirm", 9050, 9100, false);
        s->trace.stopped_usec = 8100;
        s->trace.running_usec = 9050;
        s->trace.greeted_usec = 5;
}

static story evil_story(const traces *t) {
        return (story){
                .name = EVIL,
                .session_id = EVIL,
                .from = EVIL,
                .from_root = EVIL,
                .to = EVIL,
                .to_root = EVIL,
                .outcome = "failed",
                .runs_at = EVIL,
                .error = EVIL,
                .total_usec = UINT64_MAX,
                .blackout_usec = 1,
                .bytes = UINT64_MAX,
                .traces = t,
        };
}

static char *make_page(const story *s) {
        char *page = NULL;
        size_t n;

        assert_int_equal(report_make(s, &page, &n), 0);
        assert_int_equal(strlen(page), n);
        return page;
}

/* Each tag is closed in its turn, each attribute is quoted, no < or & is stray. */
static void check_well_formed(const char *page) {
        char open[32][16];
        size_t depth = 0;

        for (const char *c = page; *c; c++) {
                char name[16];
                size_t n;

                if (*c == '&') {
                        n = strcspn(c, ";");
                        assert_true(n >= 2 && n <= 5);
                        continue;
                }
                if (*c != '<' || strncmp(c, "<!DOCTYPE html>", 15) == 0)
                        continue;
                c += c[1] == '/' ? 2 : 1;
                n = strspn(c, "abcdefghijklmnopqrstuvwxyz0123456789");
                assert_true(n > 0 && n < sizeof(name));
                snprintf(name, sizeof(name), "%.*s", (int)n, c);
                if (c[-1] == '/') {
                        assert_true(depth > 0);
                        assert_string_equal(open[--depth], name);
                        assert_int_equal(c[n], '>');
                        continue;
                }
                for (c += n; *c == ' ';) {
                        c += strcspn(c, "=\"<>");
                        assert_memory_equal(c, "=\"", 2);
                        c += 2 + strcspn(c + 2, "\"<");
                        assert_int_equal(*c, '"');
                        c++;
                }
                if (strncmp(c, "/>", 2) == 0)
                        continue;
                assert_int_equal(*c, '>');
                assert_true(depth < ELEMENTS(open));
                strcpy(open[depth++], name);
        }
        assert_int_equal(depth, 0);
}

/* Nothing is fetched, and nothing runs. */
static void check_contained(const char *page) {
        static const char *const forbidden[] = { "<script", "<img",   "<link",   "<iframe",
                                                 "src=",    "href=",  "@import", "http:/",
                                                 "https:",  "onload", "nan",     "inf\"" };

        assert_non_null(strstr(page, "default-src 'none'"));
        for (size_t i = 0; i < ELEMENTS(forbidden); i++)
                if (strstr(page, forbidden[i]))
                        fail_msg("the page has %s", forbidden[i]);
        assert_null(strchr(page, '\xff'));
        assert_null(strchr(page, '\x01'));
}

static void test_hostile_names(void **state) {
        static sample source, destination;
        traces t = { .source = &source.trace, .destination = &destination.trace };
        story s = evil_story(&t);

        make_source(&source);
        make_destination(&destination);
        add_facts(&source, EVIL, EVIL);
        add_facts(&destination, EVIL, "other");
        for (uint32_t n = 0; n <= 100; n += n < 3 ? 1 : 97) {
                _cleanup_(freep) char *page = NULL;

                add_passes(&source, n);
                page = make_page(&s);
                check_well_formed(page);
                check_contained(page);
                assert_non_null(strstr(page, "&lt;script&gt;alert(1)"));
                assert_non_null(strstr(page, "(differs)"));
        }
}

/* One side, none, and times that make no sense. */
static void test_what_is_missing(void **state) {
        static sample source, destination;
        traces sides[] = { { NULL, NULL, 0, 0 },
                           { &source.trace, NULL, 0, 0 },
                           { NULL, &destination.trace, 0, 0 },
                           { &source.trace, &destination.trace, 5, 9 } };

        make_source(&source);
        make_destination(&destination);
        for (int turn = 0; turn < 3; turn++) {
                for (size_t i = 0; i < ELEMENTS(sides); i++) {
                        story s = evil_story(&sides[i]);
                        _cleanup_(freep) char *page = make_page(&s);

                        check_well_formed(page);
                        check_contained(page);
                }
                source.trace.stopped_usec = turn ? 1 : 0;
                source.trace.running_usec = 1;
                source.phases[3].end_usec = 0;
                destination.trace.n_phases = 1;
                source.trace.report = NULL;
        }
}

static void test_prediction_beside_actual(void **state) {
        traces t = { .source = NULL };
        story s = evil_story(&t);
        story_prediction p = { 1000000, 12300, 1048576, 7, 60000000 };
        _cleanup_(freep) char *page = NULL;

        s.prediction = &p;
        s.blackout_usec = 13400;
        page = make_page(&s);
        check_well_formed(page);
        assert_non_null(strstr(page, "<td>blackout</td><td class=\"n\">12.3 ms</td>"
                                     "<td class=\"n\">13.4 ms</td>"));
}

/* ---- story.c, traces.c ---- */

static uint64_t sum_of(const story_part *parts, size_t n) {
        uint64_t sum = 0;

        for (size_t i = 0; i < n; i++)
                sum += parts[i].usec;
        return sum;
}

static void test_the_parts_add_up(void **state) {
        static sample source, destination;
        traces t = { .source = &source.trace, .destination = &destination.trace };
        story s = evil_story(&t);
        story_part parts[STORY_PARTS_MAX];
        size_t n;

        make_source(&source);
        make_destination(&destination);
        n = story_get_blackout(&s, parts);
        assert_int_equal(n, 5);
        assert_int_equal(parts[0].group, STORY_LAST);
        assert_string_equal(parts[3].label, "GO under way");
        assert_int_equal(parts[3].usec, 50);
        assert_int_equal(parts[4].usec, 100);
        assert_int_equal(sum_of(parts, n), 950);

        add_passes(&source, 1); /* 1 GB/s: 400 kB take 400 usec */
        n = story_get_blackout(&s, parts);
        assert_int_equal(n, 6);
        assert_int_equal(parts[0].group, STORY_LAST_BYTES);
        assert_int_equal(parts[0].usec, 400);
        assert_true(parts[0].is_reckoned && parts[1].is_reckoned);
        assert_int_equal(sum_of(parts, n), 950);
        add_facts(&source, "max_bandwidth", "1000000000"); /* the blackout goes faster than that */
        assert_int_equal(story_get_blackout(&s, parts), 5);
}

static void test_a_rollback_is_no_handover(void **state) {
        static sample source;
        traces t = { .source = &source.trace };
        story s = evil_story(&t);
        story_part parts[STORY_PARTS_MAX];

        init_sample(&source, "source");
        add_phase(&source, "copy", 0, 100, false);
        add_phase(&source, "stop", 100, 120, true);
        add_phase(&source, "last-state", 120, 150, true);
        add_phase(&source, "rollback", 150, 250, true);
        source.trace.stopped_usec = 100;
        source.trace.running_usec = 200;
        assert_int_equal(story_get_blackout(&s, parts), 3);
        assert_int_equal(parts[0].group, STORY_STOP);
        assert_int_equal(parts[2].group, STORY_ROLLBACK);
        assert_int_equal(sum_of(parts, 3), 100);
        source.trace.stopped_usec = 0;
        assert_int_equal(story_get_blackout(&s, parts), 0);
}

static void test_how_sides_are_related(void **state) {
        static sample source, destination;
        traces t = { &source.trace, &destination.trace, 500, 700 };
        int64_t offset;

        make_source(&source);
        make_destination(&destination);
        assert_int_equal(traces_relate(&t, &offset), TRACES_BY_HANDOVER);
        assert_int_equal(offset, 10000 - 8100);
        destination.trace.stopped_usec = 0;
        assert_int_equal(traces_relate(&t, &offset), TRACES_BY_HELLO);
        assert_int_equal(offset, 1900 - 5);
        source.trace.greeted_usec = 0;
        assert_int_equal(traces_relate(&t, &offset), TRACES_BY_CALLER);
        assert_int_equal(offset, 11500 - 9100 + 200);
        source.trace.now_usec = UINT64_MAX;
        assert_int_equal(traces_relate(&t, &offset), TRACES_UNRELATED);
        t.destination = NULL;
        assert_int_equal(traces_relate(&t, &offset), TRACES_UNRELATED);
        assert_int_equal(offset, 0);
}

/* A destination that began before its source did: no time is negative. */
static void test_merged_times(void **state) {
        static sample source, destination;
        traces t = { .source = &source.trace, .destination = &destination.trace };
        json_t *chrome, *event;
        size_t i;

        make_source(&source);
        make_destination(&destination);
        destination.trace.stopped_usec = 20000;
        chrome = traces_to_chrome(&t);
        assert_non_null(chrome);
        json_array_foreach(json_object_get(chrome, "traceEvents"), i, event)
                assert_true(json_integer_value(json_object_get(event, "ts")) >= 0);
        json_decref(chrome);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_text_is_escaped),
                cmocka_unit_test(test_put_knows_its_formats),
                cmocka_unit_test(test_hostile_names),
                cmocka_unit_test(test_what_is_missing),
                cmocka_unit_test(test_prediction_beside_actual),
                cmocka_unit_test(test_the_parts_add_up),
                cmocka_unit_test(test_a_rollback_is_no_handover),
                cmocka_unit_test(test_how_sides_are_related),
                cmocka_unit_test(test_merged_times),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
