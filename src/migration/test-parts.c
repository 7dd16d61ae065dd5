/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "migration/link.h"
#include "migration/notifications.h"
#include "migration/options.h"
#include "migration/socket.h"
#include "socket.pb-c.h"
#include "tls/tunnel.h"

/* ---- notifications ---- */

typedef struct reader {
        uint32_t ids[64];
        Phase phases[64];
        size_t n, room;
        bool ended, dead;
} reader;

static int take(const notification_entry *e, uint64_t start_usec, void *userdata) {
        reader *r = userdata;

        if (r->dead)
                return -ENOTCONN;
        if (r->n == r->room)
                return 0;
        r->ids[r->n] = e->message_id;
        r->phases[r->n++] = e->phase;
        return 1;
}

static void end(void *userdata) {
        ((reader *)userdata)->ended = true;
}

static void say(notifications *n, Phase phase) {
        assert_int_equal(notifications_publish(n, &(notification_entry){ .phase = phase }), 0);
}

static void test_history_comes_first_and_in_order(void **state) {
        reader early = { .room = 64 }, late = { .room = 64 };
        subscriber *a, *b;
        notifications *n;

        assert_int_equal(notifications_new(ORIGIN__ORIGIN_SOURCE, &n), 0);
        assert_int_equal(notifications_subscribe(n, take, end, &early, &a), 0);
        say(n, PHASE__PHASE_SETUP_DONE);
        say(n, PHASE__PHASE_TRANSFER_IN_PROGRESS);
        say(n, PHASE__PHASE_TRANSFER_IN_PROGRESS);
        say(n, PHASE__PHASE_DONE);
        assert_int_equal(notifications_subscribe(n, take, end, &late, &b), 0);
        assert_int_equal(early.n, 4); /* it saw each */
        assert_int_equal(late.n, 3);  /* of consecutive progress the newest */
        assert_int_equal(late.ids[0], 1);
        assert_int_equal(late.ids[1], 3);
        assert_int_equal(late.ids[2], 4);
        assert_false(early.ended);
        notifications_close(n);
        assert_true(early.ended && late.ended);
}

/* Progress fills no history to the brim: what ends a session always has its place, and what goes
 * on after a shim's restart has ids above all of that. */
static void test_there_is_always_room_for_the_end(void **state) {
        reader late = { .room = 64 };
        notifications *n;
        subscriber *s;
        int r = 0;

        assert_int_equal(notifications_new(ORIGIN__ORIGIN_SOURCE, &n), 0);
        for (int i = 0; i < 1000 && r == 0; i++) {
                r = notifications_publish(
                        n, &(notification_entry){ .phase = PHASE__PHASE_TRANSFER_IN_PROGRESS });
                if (r == 0)
                        say(n, PHASE__PHASE_SETUP_DONE);
        }
        assert_int_equal(r, -ENOSPC);
        say(n, PHASE__PHASE_BLACKOUT_STARTED);
        do
                r = notifications_publish(
                        n, &(notification_entry){ .phase = PHASE__PHASE_BLACKOUT_STARTED });
        while (r == 0);
        assert_int_equal(r, -ENOSPC);
        say(n, PHASE__PHASE_FAILED);
        say(n, PHASE__PHASE_RECOVERY_DONE);
        say(n, PHASE__PHASE_DONE);
        notifications_close(n);

        assert_int_equal(notifications_new(ORIGIN__ORIGIN_SOURCE, &n), 0);
        notifications_continue(n);
        say(n, PHASE__PHASE_FAILED);
        assert_int_equal(notifications_subscribe(n, take, end, &late, &s), 0);
        assert_true(late.n == 1 && late.ids[0] > 1000);
        notifications_close(n);
}

static void test_a_slow_reader_loses_only_progress(void **state) {
        reader slow = { .room = 1 };
        subscriber *s;
        notifications *n;

        assert_int_equal(notifications_new(ORIGIN__ORIGIN_SOURCE, &n), 0);
        assert_int_equal(notifications_subscribe(n, take, end, &slow, &s), 0);
        say(n, PHASE__PHASE_SETUP_DONE);
        for (int i = 0; i < 1000; i++)
                say(n, PHASE__PHASE_TRANSFER_IN_PROGRESS);
        say(n, PHASE__PHASE_BLACKOUT_STARTED);
        say(n, PHASE__PHASE_DONE);
        notifications_close(n); /* it gets the rest all the same */
        assert_false(slow.ended);
        slow.room = 64;
        subscriber_feed(s);
        assert_true(slow.ended);
        assert_int_equal(slow.n, 4);
        assert_int_equal(slow.phases[1], PHASE__PHASE_TRANSFER_IN_PROGRESS);
        assert_int_equal(slow.ids[1], 1001);
        assert_int_equal(slow.phases[3], PHASE__PHASE_DONE);
}

static void test_dead_readers_go(void **state) {
        reader dead = { .room = 64, .dead = true }, leaving = { .room = 64 };
        subscriber *a, *b;
        notifications *n;

        assert_int_equal(notifications_new(ORIGIN__ORIGIN_SOURCE, &n), 0);
        assert_int_equal(notifications_subscribe(n, take, end, &dead, &a), 0);
        assert_int_equal(notifications_subscribe(n, take, end, &leaving, &b), 0);
        subscriber_free(b);
        say(n, PHASE__PHASE_DONE);
        assert_int_equal(leaving.n, 0);
        notifications_close(n);
        assert_false(dead.ended || leaving.ended);
}

/* One that ends two others when it hears of something, and says something itself. */
typedef struct meddler {
        notifications *n;
        subscriber *victims[2];
        unsigned n_heard;
        bool ended;
} meddler;

static int meddle(const notification_entry *e, uint64_t start_usec, void *userdata) {
        meddler *m = userdata;

        if (m->n_heard++ == 0) {
                for (size_t i = 0; i < 2; i++)
                        m->victims[i] = subscriber_free(m->victims[i]);
                say(m->n, PHASE__PHASE_FAILED);
        }
        return 1;
}

static void meddler_end(void *userdata) {
        ((meddler *)userdata)->ended = true;
}

static void test_a_round_in_a_round(void **state) {
        reader first = { .room = 64 }, last = { .room = 64 },
               victims[2] = { { .room = 64 }, { .room = 64 } };
        meddler m = { .n_heard = 0 };
        subscriber *s;

        assert_int_equal(notifications_new(ORIGIN__ORIGIN_SOURCE, &m.n), 0);
        assert_int_equal(notifications_subscribe(m.n, take, end, &first, &s), 0);
        assert_int_equal(notifications_subscribe(m.n, take, end, &victims[0], &m.victims[0]), 0);
        assert_int_equal(notifications_subscribe(m.n, meddle, meddler_end, &m, &s), 0);
        assert_int_equal(notifications_subscribe(m.n, take, end, &victims[1], &m.victims[1]), 0);
        assert_int_equal(notifications_subscribe(m.n, take, end, &last, &s), 0);
        say(m.n, PHASE__PHASE_SETUP_DONE);
        assert_int_equal(notifications_n_subscribers(m.n), 3);
        assert_int_equal(m.n_heard, 2);
        assert_true(first.n == 2 && last.n == 2);
        assert_true(first.phases[1] == PHASE__PHASE_FAILED && last.ids[1] == 2);
        assert_true(victims[0].n + victims[1].n == 1); /* one was told before it went */
        notifications_close(m.n);
        assert_true(first.ended && last.ended && m.ended);
        assert_false(victims[0].ended || victims[1].ended);
}

/* ---- options ---- */

static void test_options_have_defaults(void **state) {
        migration_options o;

        assert_int_equal(migration_options_parse(NULL, &o, NULL), 0);
        assert_int_equal(o.handover, HANDOVER__HANDOVER_CALLER);
        assert_int_equal(o.blackout_target_ms, 300);
        assert_int_equal(o.target_passes, 10);
        assert_int_equal(o.maximum_passes, 30);
}

static void expect_bad(const InitializeOptions *m, int r, const char *field) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        migration_options o = { .target_passes = 77 };

        assert_int_equal(migration_options_parse(m, &o, &error), r);
        assert_int_equal(error.code, r == -EINVAL ? FERRY_INVALID_ARGUMENT : FERRY_UNIMPLEMENTED);
        assert_non_null(strstr(ferry_error_message(&error), field));
        assert_int_equal(o.target_passes, 77);
}

static void test_options_out_of_range_are_named(void **state) {
        InitializeOptions m = INITIALIZE_OPTIONS__INIT;
        MemoryTransferThrottleParams p = MEMORY_TRANSFER_THROTTLE_PARAMS__INIT;
        CompressionSettings c = COMPRESSION_SETTINGS__INIT;
        migration_options o;

        expect_bad(&m, -EINVAL, "memory_transport");
        m.memory_transport = MEMORY_TRANSPORT__MEMORY_TRANSPORT_TCP;
        assert_int_equal(migration_options_parse(&m, &o, NULL), 0);
        m.handover = (Handover)7;
        expect_bad(&m, -EINVAL, "handover");
        m.handover = HANDOVER__HANDOVER_DIRECT;
        m.memory_transfer_throttle_params = &p;
        p.optional_target_blackout_case =
                MEMORY_TRANSFER_THROTTLE_PARAMS__OPTIONAL_TARGET_BLACKOUT_TARGET_BLACKOUT_TRANSFER_TIME;
        expect_bad(&m, -EINVAL, "target_blackout_transfer_time");
        p.target_blackout_transfer_time = 20;
        assert_int_equal(migration_options_parse(&m, &o, NULL), 0);
        assert_int_equal(o.blackout_target_ms, 20);
        assert_int_equal(o.handover, HANDOVER__HANDOVER_DIRECT);
        m.compression_settings = &c;
        c.optional_throttle_worker_count_case =
                COMPRESSION_SETTINGS__OPTIONAL_THROTTLE_WORKER_COUNT_THROTTLE_WORKER_COUNT;
        expect_bad(&m, -EINVAL, "throttle_worker_count");
        c.throttle_worker_count = 2;
        assert_int_equal(migration_options_parse(&m, &o, NULL), 0);
        assert_int_equal(o.compress_workers, 2);
        assert_true(migration_options_want_relay(&o));
        c.throttle_worker_count = 65;
        expect_bad(&m, -EINVAL, "throttle_worker_count");
        m.compression_settings = NULL;
        assert_int_equal(migration_options_parse(&m, &o, NULL), 0);
        assert_false(migration_options_want_relay(&o));
        m.checksum_verification = true;
        assert_int_equal(migration_options_parse(&m, &o, NULL), 0);
        assert_true(migration_options_want_relay(&o));
        m.postcopy = POSTCOPY__POSTCOPY_ALWAYS;
        m.checksum_verification = false;
        assert_int_equal(migration_options_parse(&m, &o, NULL), 0);
        assert_int_equal(o.postcopy, POSTCOPY__POSTCOPY_ALWAYS);
        assert_true(migration_options_want_relay(&o));
}

static void test_options_of_both_sides_agree(void **state) {
        InitializeOptions s = INITIALIZE_OPTIONS__INIT, d = INITIALIZE_OPTIONS__INIT;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        assert_int_equal(migration_options_agree(&s, NULL, NULL), 0);
        assert_int_equal(migration_options_agree(&s, &d, NULL), 0);
        assert_int_equal(migration_options_agree(NULL, &d, NULL), 0);
        s.handover = HANDOVER__HANDOVER_DIRECT;
        assert_int_equal(migration_options_agree(&s, &d, &error), -EINVAL);
        assert_non_null(strstr(ferry_error_message(&error), "handover"));
}

static void test_options_of_the_throttle(void **state) {
        InitializeOptions m = INITIALIZE_OPTIONS__INIT;
        MemoryTransferThrottleParams p = MEMORY_TRANSFER_THROTTLE_PARAMS__INIT;
        migration_options o;

        m.memory_transport = MEMORY_TRANSPORT__MEMORY_TRANSPORT_TCP;
        m.memory_transfer_throttle_params = &p;
        m.cancel_if_blackout_threshold_exceeds = true;
        assert_int_equal(migration_options_parse(&m, &o, NULL), 0);
        assert_true(o.cancel_over_threshold && !o.skip_throttling);
        assert_int_equal(o.threshold_ms, 0);
        assert_int_equal(o.throttle_from_pass, 0);

        p.optional_throttling_scale_case =
                MEMORY_TRANSFER_THROTTLE_PARAMS__OPTIONAL_THROTTLING_SCALE_THROTTLING_SCALE;
        expect_bad(&m, -EINVAL, "throttling_scale");
        p.throttling_scale = 12.5;
        p.optional_minimum_throttle_percentage_case =
                MEMORY_TRANSFER_THROTTLE_PARAMS__OPTIONAL_MINIMUM_THROTTLE_PERCENTAGE_MINIMUM_THROTTLE_PERCENTAGE;
        p.minimum_throttle_percentage = 100;
        expect_bad(&m, -EINVAL, "minimum_throttle_percentage");
        p.minimum_throttle_percentage = 10;
        p.optional_starting_pass_case =
                MEMORY_TRANSFER_THROTTLE_PARAMS__OPTIONAL_STARTING_PASS_STARTING_BROWNOUT_PASS_NUMBER_FOR_THROTTLING;
        expect_bad(&m, -EINVAL, "starting_brownout_pass_number_for_throttling");
        p.starting_brownout_pass_number_for_throttling = 4;
        p.optional_blackout_threshold_case =
                MEMORY_TRANSFER_THROTTLE_PARAMS__OPTIONAL_BLACKOUT_THRESHOLD_BLACKOUT_TIME_THRESHOLD_FOR_CANCELLING_MIGRATION;
        expect_bad(&m, -EINVAL, "blackout_time_threshold_for_cancelling_migration");
        p.blackout_time_threshold_for_cancelling_migration = 250;
        assert_int_equal(migration_options_parse(&m, &o, NULL), 0);
        assert_true(o.throttle_step > 12.4 && o.throttle_step < 12.6);
        assert_int_equal(o.first_throttle, 10);
        assert_int_equal(o.throttle_from_pass, 4);
        assert_int_equal(o.threshold_ms, 250);
}

/* ---- protocol_info ---- */

static void test_protocol_info(void **state) {
        Ferry__Socket__V1__ProtocolInfo info = FERRY__SOCKET__V1__PROTOCOL_INFO__INIT;
        Ferry__Socket__V1__ProcessFd process = FERRY__SOCKET__V1__PROCESS_FD__INIT;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        migration_socket_source source;
        uint8_t data[128];
        size_t n;

        process.pid = 12;
        process.fd = 7;
        info.magic = 0x46455252;
        info.version = 1;
        info.source_case = FERRY__SOCKET__V1__PROTOCOL_INFO__SOURCE_PROCESS_FD;
        info.process_fd = &process;
        n = ferry__socket__v1__protocol_info__pack(&info, data);
        assert_int_equal(migration_socket_parse(data, n, &source, &error), 0);
        assert_false(source.by_token);
        assert_int_equal(source.pid, 12);
        assert_int_equal(source.fd, 7);
        for (size_t cut = 0; cut < n; cut++) {
                uint8_t *part = malloc(cut + !cut);

                memcpy(part, data, cut);
                assert_int_equal(migration_socket_parse(part, cut, &source, &error), -EINVAL);
                assert_int_equal(error.code, FERRY_INVALID_ARGUMENT);
                free(part);
        }
        info.version = 2;
        n = ferry__socket__v1__protocol_info__pack(&info, data);
        assert_int_equal(migration_socket_parse(data, n, &source, &error), -EINVAL);
        info.version = 1;
        info.source_case = FERRY__SOCKET__V1__PROTOCOL_INFO__SOURCE_TOKEN;
        info.token = (ProtobufCBinaryData){ 5, (uint8_t *)"token" };
        n = ferry__socket__v1__protocol_info__pack(&info, data);
        assert_int_equal(migration_socket_parse(data, n, &source, &error), 0);
        assert_true(source.by_token && source.n_token == 5);
}

static void test_only_connected_stream_sockets(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int pair[2], lonely = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        assert_int_equal(migration_socket_check(pair[0], &error), 0);
        assert_true(migration_socket_check(lonely, &error) < 0);
        assert_int_equal(error.code, FERRY_FAILED_PRECONDITION);
        assert_true(migration_socket_check(STDIN_FILENO, &error) < 0);
        fd_close(pair[0]);
        fd_close(pair[1]);
        fd_close(lonely);
}

static void test_a_descriptor_comes_out_of_a_process(void **state) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        migration_peer self = { .pid = getpid(), .uid = geteuid() }, other = { 1, 12345 };
        migration_socket_source source = { .pid = 0 };
        int pair[2], fd = -EBADF;

        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        source.fd = pair[0];
        assert_int_equal(migration_socket_from_process(&source, &self, &fd, &error), 0);
        assert_true(fd >= 0 && fd != pair[0]);
        fd_close(fd);
        source.pid = getpid(); /* not the caller, and the caller is not root */
        assert_true(migration_socket_from_process(&source, &other, &fd, &error) < 0);
        assert_int_equal(error.code, FERRY_PERMISSION_DENIED);
        source = (migration_socket_source){ .pid = 0, .fd = 9999 };
        assert_int_equal(migration_socket_from_process(&source, &self, &fd, &error), -EBADF);
        assert_int_equal(error.code, FERRY_FAILED_PRECONDITION);
        fd_close(pair[0]);
        fd_close(pair[1]);
}

/* ---- the link ---- */

typedef struct side {
        mig_link *link;
        bool greeted, broken;
        int n_messages;
        char reason[256];
} side;

static void on_greeted(void *userdata) {
        ((side *)userdata)->greeted = true;
}

static void on_message(const mig_message *m, void *userdata) {
        ((side *)userdata)->n_messages++;
}

static void on_broken(const char *reason, void *userdata) {
        side *s = userdata;

        s->broken = true;
        snprintf(s->reason, sizeof(s->reason), "%s", reason);
}

static const mig_link_handlers link_handlers = { on_greeted, on_message, on_broken };

static void run_until(sd_event *event, const bool *one, const bool *other) {
        while (!*one || !*other)
                assert_true(sd_event_run(event, UINT64_MAX) >= 0);
}

static void make_link(sd_event *event, side *s, int fd) {
        *s = (side){ .link = NULL };
        assert_int_equal(mig_link_new(event, fd, &link_handlers, s, &s->link), 0);
}

static void test_the_hello_knows_its_peer(void **state) {
        sd_event *event = NULL;
        mig_link_identity id = { .source = true, .session_id = "one", .secret = { 1 } }, other;
        mig_message m = FERRY__HANDOVER__V1__MESSAGE__INIT;
        Ferry__Handover__V1__Offer offer = FERRY__HANDOVER__V1__OFFER__INIT;
        side a, b;
        int pair[2];

        assert_true(sd_event_new(&event) >= 0);
        for (int i = 0; i < 6; i++) {
                static const char *const wrong[] = { NULL,
                                                     "prove",
                                                     "another session",
                                                     "another exported",
                                                     "not the other side",
                                                     "other transfer" };

                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
                make_link(event, &a, pair[0]);
                make_link(event, &b, pair[1]);
                other = id;
                other.source = i == 4;
                if (i == 1)
                        other.secret[0] ^= 1;
                if (i == 2)
                        other.session_id = "two";
                if (i == 3)
                        other.state_digest[3] = 1;
                if (i == 5) {
                        other.options = (const uint8_t *)"x";
                        other.n_options = 1;
                }
                assert_int_equal(mig_link_greet(a.link, &id, NULL), 0);
                assert_int_equal(mig_link_greet(b.link, &other, NULL), 0);
                if (i > 0) {
                        while (!a.broken && !b.broken)
                                assert_true(sd_event_run(event, UINT64_MAX) >= 0);
                        assert_non_null(strstr(a.broken ? a.reason : b.reason, wrong[i]));
                        assert_false(a.greeted && b.greeted);
                } else {
                        run_until(event, &a.greeted, &b.greeted);
                        m.kind_case = FERRY__HANDOVER__V1__MESSAGE__KIND_OFFER;
                        m.offer = &offer;
                        assert_int_equal(mig_link_send(a.link, &m), 0);
                        mig_link_listen(b.link);
                        while (b.n_messages == 0)
                                assert_true(sd_event_run(event, UINT64_MAX) >= 0);
                        a.link = mig_link_free(a.link);
                        while (!b.broken)
                                assert_true(sd_event_run(event, UINT64_MAX) >= 0);
                }
                mig_link_free(a.link);
                mig_link_free(b.link);
        }
        sd_event_unref(event);
}

/* The other side may have made an end before we have said a word. */
static void greet_or_break(side *s, const mig_link_identity *id) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        if (mig_link_greet(s->link, id, &error) == 0)
                return;
        s->broken = true;
        snprintf(s->reason, sizeof(s->reason), "%s", ferry_error_message(&error));
}

/* The same under TLS: what is wrong is found there, or in the hello within. */
static void test_the_link_under_tls(void **state) {
        static const char *const wrong[] = { NULL, "this session's key", "this session's key",
                                             "TLS", "TLS" };
        mig_link_identity id = { .source = true, .session_id = "one", .encryption = TLS_PSK };
        sd_event *event = NULL;

        assert_true(sd_event_new(&event) >= 0);
        for (int i = 0; i < 5; i++) {
                mig_link_identity other = id, own = id;
                side a, b;
                int pair[2];

                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
                make_link(event, &a, pair[0]);
                make_link(event, &b, pair[1]);
                other.source = false;
                if (i == 1)
                        other.secret[0] ^= 1;
                if (i == 2)
                        other.session_id = "two";
                if (i == 3) /* a downgrade */
                        other.encryption = TLS_NONE;
                if (i == 4)
                        own.encryption = TLS_NONE;
                greet_or_break(&a, &own);
                greet_or_break(&b, &other);
                if (i > 0) {
                        while (!a.broken || !b.broken)
                                assert_true(sd_event_run(event, UINT64_MAX) >= 0);
                        if (!strstr(a.reason, wrong[i]) && !strstr(b.reason, wrong[i]))
                                fail_msg("%d: %s; %s", i, a.reason, b.reason);
                        assert_false(a.greeted || b.greeted);
                } else
                        run_until(event, &a.greeted, &b.greeted);
                mig_link_free(a.link);
                mig_link_free(b.link);
        }
        sd_event_unref(event);
        tls_tunnel_drain_all(60 * USEC_PER_SEC);
}

/* Reads to the byte: what follows the proof is QEMU's. */
static void test_the_link_leaves_the_stream_alone(void **state) {
        sd_event *event = NULL;
        mig_link_identity id = { .source = true, .session_id = "one" }, other = id;
        side a, b;
        char text[8] = "";
        int pair[2], fd;

        assert_true(sd_event_new(&event) >= 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        make_link(event, &a, pair[0]);
        make_link(event, &b, pair[1]);
        other.source = false;
        assert_int_equal(mig_link_greet(a.link, &id, NULL), 0);
        assert_int_equal(mig_link_greet(b.link, &other, NULL), 0);
        while (!a.greeted)
                assert_true(sd_event_run(event, UINT64_MAX) >= 0);
        assert_int_equal(mig_link_dup(a.link, &fd), 0);
        assert_int_equal(fd_write_all(fd, "stream", 6), 0);
        fd_close(fd);
        while (!b.greeted)
                assert_true(sd_event_run(event, UINT64_MAX) >= 0);
        while (sd_event_run(event, 0) > 0)
                ;
        assert_int_equal(mig_link_dup(b.link, &fd), 0);
        assert_int_equal(recv(fd, text, sizeof(text), MSG_DONTWAIT), 6);
        assert_string_equal(text, "stream");
        fd_close(fd);
        mig_link_free(a.link);
        mig_link_free(b.link);
        sd_event_unref(event);
}

static void test_the_link_survives_garbage(void **state) {
        static const char *const garbage[] = {
                "GET / HTTP/1.1\r\n\r\n",
                "FERY\xff\xff\xff\xff",
                "FERY\0\0\0\1x",
                "FERY\0\0\0\0",
        };
        static const size_t sizes[] = { 18, 8, 9, 8 };
        mig_link_identity id = { .source = true, .session_id = "one" };
        sd_event *event = NULL;

        assert_true(sd_event_new(&event) >= 0);
        for (size_t i = 0; i < ELEMENTS(garbage); i++) {
                side a;
                int pair[2];

                assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
                make_link(event, &a, pair[0]);
                assert_int_equal(mig_link_greet(a.link, &id, NULL), 0);
                for (size_t k = 0; k < sizes[i]; k++) { /* byte by byte */
                        assert_int_equal(fd_write_all(pair[1], garbage[i] + k, 1), 0);
                        while (sd_event_run(event, 0) > 0)
                                ;
                }
                assert_true(a.broken);
                assert_false(a.greeted);
                mig_link_free(a.link);
                fd_close(pair[1]);
        }
        sd_event_unref(event);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_history_comes_first_and_in_order),
                cmocka_unit_test(test_there_is_always_room_for_the_end),
                cmocka_unit_test(test_a_slow_reader_loses_only_progress),
                cmocka_unit_test(test_dead_readers_go),
                cmocka_unit_test(test_a_round_in_a_round),
                cmocka_unit_test(test_options_have_defaults),
                cmocka_unit_test(test_options_out_of_range_are_named),
                cmocka_unit_test(test_options_of_the_throttle),
                cmocka_unit_test(test_options_of_both_sides_agree),
                cmocka_unit_test(test_protocol_info),
                cmocka_unit_test(test_only_connected_stream_sockets),
                cmocka_unit_test(test_a_descriptor_comes_out_of_a_process),
                cmocka_unit_test(test_the_hello_knows_its_peer),
                cmocka_unit_test(test_the_link_under_tls),
                cmocka_unit_test(test_the_link_leaves_the_stream_alone),
                cmocka_unit_test(test_the_link_survives_garbage),
        };

        return cmocka_run_group_tests_name("parts", tests, NULL, NULL);
}
