/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/progress.h"
#include "cli/wire-json.h"

#define MIB (1024ULL * 1024)

static uint32_t next_id;

static bool send_phase(progress *p, progress_side side, Phase phase, PhaseState how,
                       Progress *figures) {
        NotificationsResponse message = NOTIFICATIONS_RESPONSE__INIT;
        Notification n = NOTIFICATION__INIT;

        n.phase = phase;
        n.state = how;
        n.progress = figures;
        n.reason = (char *)(how == PHASE_STATE__PHASE_STATE_SUCCESS ? "" : "because");
        message.message_id = ++next_id;
        message.notification = &n;
        return progress_update(p, side, &message);
}

static bool send_pass(progress *p, unsigned pass, uint64_t sent, uint64_t remaining) {
        Progress figures = PROGRESS__INIT;

        figures.bytes_total = 256 * MIB;
        figures.bytes_sent = sent;
        figures.bytes_remaining = remaining;
        figures.bytes_per_second = 100 * MIB;
        figures.dirty_bytes_per_second = 20 * MIB;
        figures.pass = pass;
        figures.expected_blackout_ms = 12;
        return send_phase(p, PROGRESS_SOURCE, PHASE__PHASE_TRANSFER_IN_PROGRESS,
                          PHASE_STATE__PHASE_STATE_SUCCESS, &figures);
}

static void test_a_migration(void **state) {
        char line[PROGRESS_LINE_MAX];
        unsigned last = 0;
        progress p = { 0 };

        next_id = 0;
        assert_string_equal(progress_phase_text(&p), "setting up");
        assert_true(send_phase(&p, PROGRESS_SOURCE, PHASE__PHASE_SETUP_DONE,
                               PHASE_STATE__PHASE_STATE_SUCCESS, NULL));
        assert_true(send_pass(&p, 1, 64 * MIB, 192 * MIB));
        assert_false(send_pass(&p, 1, 128 * MIB, 128 * MIB));
        assert_int_equal(progress_permille(&p, &last), 500);
        progress_format_bar(&p, 500, 200, line);
        assert_string_equal(line, "copying        [##########----------]  50%  pass 1  128.0 MiB "
                                  "sent  128.0 MiB left  100.0 MiB/s  dirty 20.0 MiB/s  "
                                  "blackout ~12.0 ms");
        progress_format_bar(&p, 500, 80, line);
        assert_string_equal(line, "copying [####----]  50% pass 1 128M sent 128M left 100M/s "
                                  "dirty 20M/s ~12.0 ms");
        progress_format_bar(&p, 500, 40, line);
        assert_int_equal(strlen(line), 39);
        progress_format_line(&p, 1500000, line);
        assert_string_equal(line, "   1.50 s  copying         pass 1  128.0 MiB sent  128.0 MiB "
                                  "left  100.0 MiB/s  dirty 20.0 MiB/s  blackout ~12.0 ms");
        assert_true(send_pass(&p, 2, 256 * MIB, 200 * MIB));
        assert_int_equal(progress_permille(&p, &last), 500); /* never backwards */
        assert_true(send_pass(&p, 3, 300 * MIB, 0));
        assert_int_equal(progress_permille(&p, &last), 990); /* not before it is done */
        assert_true(send_phase(&p, PROGRESS_SOURCE, PHASE__PHASE_DONE,
                               PHASE_STATE__PHASE_STATE_SUCCESS, NULL));
        assert_int_equal(progress_permille(&p, &last), 1000);
        assert_int_equal(p.sides[PROGRESS_SOURCE].outcome, PROGRESS_DONE);
        assert_int_equal(p.sides[PROGRESS_DESTINATION].outcome, PROGRESS_OPEN);
        assert_int_equal(p.passes, 3);
}

static void test_history_twice(void **state) {
        progress p = { 0 };

        next_id = 0;
        assert_true(send_pass(&p, 1, 1, 2));
        assert_true(send_phase(&p, PROGRESS_SOURCE, PHASE__PHASE_DONE,
                               PHASE_STATE__PHASE_STATE_SUCCESS, NULL));
        next_id = 0;
        assert_false(send_pass(&p, 7, 1, 2));
        assert_int_equal(p.pass, 1);
        assert_int_equal(p.sides[PROGRESS_SOURCE].phase, PHASE__PHASE_DONE);
}

static void test_outcomes(void **state) {
        static const struct {
                Phase phase;
                PhaseState how;
                progress_outcome outcome;
        } cases[] = {
                { PHASE__PHASE_DONE, PHASE_STATE__PHASE_STATE_SUCCESS, PROGRESS_DONE },
                { PHASE__PHASE_DONE, PHASE_STATE__PHASE_STATE_CANCELLED, PROGRESS_CANCELLED },
                { PHASE__PHASE_FAILED, PHASE_STATE__PHASE_STATE_CANCELLED, PROGRESS_CANCELLED },
                { PHASE__PHASE_FAILED, PHASE_STATE__PHASE_STATE_SOURCE_FAILED, PROGRESS_FAILED },
                { PHASE__PHASE_FAILED, PHASE_STATE__PHASE_STATE_GUEST_INITIATED_CANCELLATION,
                  PROGRESS_FAILED },
                { PHASE__PHASE_RECOVERY_DONE, PHASE_STATE__PHASE_STATE_SUCCESS, PROGRESS_OPEN },
        };

        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                progress p = { 0 };

                next_id = 0;
                send_phase(&p, PROGRESS_DESTINATION, cases[i].phase, cases[i].how, NULL);
                assert_int_equal(p.sides[PROGRESS_DESTINATION].outcome, cases[i].outcome);
                assert_string_equal(p.sides[PROGRESS_DESTINATION].reason,
                                    cases[i].how == PHASE_STATE__PHASE_STATE_SUCCESS ? ""
                                                                                     : "because");
        }
}

static void test_blackout(void **state) {
        BlackoutExitedEventDetails details = BLACKOUT_EXITED_EVENT_DETAILS__INIT;
        NotificationsResponse message = NOTIFICATIONS_RESPONSE__INIT;
        Notification n = NOTIFICATION__INIT;
        progress p = { 0 };

        n.phase = PHASE__PHASE_BLACKOUT_EXITED;
        n.phase_details_case = NOTIFICATION__PHASE_DETAILS_BLACKOUT_EXITED;
        n.blackout_exited = &details;
        details.blackout_duration_milliseconds = 5;
        message.message_id = 1;
        message.notification = &n;
        progress_update(&p, PROGRESS_DESTINATION, &message);
        assert_true(p.has_blackout);
        assert_int_equal(p.blackout_usec, 5000);
        details.blackout_duration_microseconds = 5321;
        message.message_id = 2;
        progress_update(&p, PROGRESS_DESTINATION, &message);
        assert_int_equal(p.blackout_usec, 5321);
}

static void test_as_json(void **state) {
        BlackoutExitedEventDetails details = BLACKOUT_EXITED_EVENT_DETAILS__INIT;
        NotificationsResponse message = NOTIFICATIONS_RESPONSE__INIT;
        Google__Protobuf__Timestamp time = GOOGLE__PROTOBUF__TIMESTAMP__INIT;
        Notification n = NOTIFICATION__INIT;
        _cleanup_(freep) char *text = NULL;
        json_t *json;

        n.origin = ORIGIN__ORIGIN_SOURCE;
        n.phase = PHASE__PHASE_BLACKOUT_EXITED;
        n.state = 77;
        n.phase_details_case = NOTIFICATION__PHASE_DETAILS_BLACKOUT_EXITED;
        n.blackout_exited = &details;
        n.reason = (char *)"\xff";
        details.blackout_duration_milliseconds = 5;
        time.seconds = 3;
        time.nanos = 1500;
        message.start_time = &time;
        message.notification = &n;
        assert_int_equal(wire_to_json(&message.base, &json), 0);
        text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
        json_decref(json);
        assert_string_equal(text, "{\"message_id\":0,\"notification\":{\"blackout_exited\":"
                                  "{\"blackout_duration_microseconds\":0,"
                                  "\"blackout_duration_milliseconds\":5},\"code\":0,"
                                  "\"origin\":\"source\",\"phase\":\"blackout_exited\","
                                  "\"reason\":\"(not UTF-8)\",\"state\":\"unknown\"},"
                                  "\"start_time\":3000001}");
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_a_migration), cmocka_unit_test(test_history_twice),
                cmocka_unit_test(test_outcomes),    cmocka_unit_test(test_blackout),
                cmocka_unit_test(test_as_json),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
