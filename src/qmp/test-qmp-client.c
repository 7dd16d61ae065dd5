/* SPDX-License-Identifier: MIT */

/* The client over a socketpair; the test is QEMU. One thread: the loop runs until what is
 * expected has happened. */

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "qmp/qmp-client.h"

#define GREETING                                                                                   \
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7},"          \
        " \"package\": \"Debian 1:7.2\"}, \"capabilities\": [\"oob\"]}}\r\n"

typedef struct answer {
        unsigned calls;
        int r;
        bool has_value, has_error;
        char text[64];     /* the error's description, or a string that was returned */
        qmp_client *close; /* closed from inside, when set */
} answer;

typedef struct fixture {
        sd_event *event;
        qmp_client *client;
        int peer;
        unsigned n_ready, n_disconnect, n_events;
        int disconnect_r;
        char reason[128], event_name[64];
        uint64_t qemu_usec, arrival_usec;
        bool close_in_event, close_in_disconnect;
        size_t n_fds; /* open before */
} fixture;

static size_t count_fds(void) {
        DIR *dir = opendir("/proc/self/fd");
        size_t n = 0;

        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}

static void on_ready(qmp_client *client, const qmp_version *version, void *userdata) {
        fixture *f = userdata;

        f->n_ready++;
        assert_int_equal(version->major, 7);
        assert_int_equal(version->micro, 22);
        assert_string_equal(version->package, "Debian 1:7.2");
}

static void on_event(qmp_client *client, const qmp_event *event, void *userdata) {
        fixture *f = userdata;

        f->n_events++;
        snprintf(f->event_name, sizeof(f->event_name), "%s", event->name);
        assert_true(json_is_object(event->data));
        f->qemu_usec = event->qemu_usec;
        f->arrival_usec = event->arrival_usec;
        if (f->close_in_event)
                f->client = qmp_client_close(f->client);
}

static void on_disconnect(qmp_client *client, int r, const char *reason, void *userdata) {
        fixture *f = userdata;

        f->n_disconnect++;
        f->disconnect_r = r;
        snprintf(f->reason, sizeof(f->reason), "%s", reason);
        if (f->close_in_disconnect)
                f->client = qmp_client_close(f->client);
}

static const qmp_client_handlers handlers = { on_ready, on_event, on_disconnect };

static void on_answer(qmp_client *client, int r, const json_t *value, const qmp_error *error,
                      void *userdata) {
        answer *a = userdata;

        a->calls++;
        a->r = r;
        a->has_value = value != NULL;
        a->has_error = error != NULL;
        if (error)
                snprintf(a->text, sizeof(a->text), "%s", error->description);
        else if (json_is_string(value))
                snprintf(a->text, sizeof(a->text), "%s", json_string_value(value));
        if (a->close)
                a->close = qmp_client_close(a->close);
}

#define RUN_UNTIL(f, condition)                                                                    \
        do {                                                                                       \
                while (!(condition))                                                               \
                        assert_true(sd_event_run((f)->event, 60 * USEC_PER_SEC) > 0);              \
        } while (0)

static void run_idle(fixture *f) {
        while (sd_event_run(f->event, 0) > 0)
                ;
}

static void peer_send(fixture *f, const char *text) {
        assert_int_equal(send(f->peer, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* What the client has sent and nobody has read yet; the last fd that came along. */
static size_t peer_read(fixture *f, char *buffer, size_t size, int *ret_fd) {
        size_t n = 0;

        for (;;) {
                int fds[4];
                size_t n_fds = 0;
                ssize_t k = fd_receive(f->peer, buffer + n, size - 1 - n, fds, 4, &n_fds);

                if (k == -EAGAIN || k == 0)
                        break;
                assert_true(k > 0);
                n += (size_t)k;
                for (size_t i = 0; i < n_fds; i++)
                        if (ret_fd && *ret_fd < 0)
                                *ret_fd = fds[i];
                        else
                                fd_close(fds[i]);
        }
        buffer[n] = '\0';
        return n;
}

static void connect_client(fixture *f, uint64_t handshake_usec) {
        int pair[2];

        *f = (fixture){ .n_fds = count_fds() };
        assert_true(sd_event_new(&f->event) >= 0);
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        f->peer = pair[1];
        assert_int_equal(fd_set_nonblock(f->peer, true), 0);
        assert_int_equal(
                qmp_client_new(f->event, pair[0], handshake_usec, &handlers, f, &f->client), 0);
}

static void make_ready(fixture *f) {
        char text[512];

        connect_client(f, USEC_INFINITY);
        peer_send(f, GREETING);
        run_idle(f);
        peer_read(f, text, sizeof(text), NULL);
        assert_string_equal(text, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":"
                                  "[\"oob\"]},\"id\":1}\n");
        assert_int_equal(f->n_ready, 0);
        peer_send(f, "{\"return\": {}, \"id\": 1}\r\n");
        RUN_UNTIL(f, f->n_ready == 1);
}

static void done(fixture *f) {
        qmp_client_close(f->client);
        fd_close(f->peer);
        sd_event_unref(f->event);
        assert_int_equal(count_fds(), f->n_fds);
}

static int ask(fixture *f, const char *command, answer *a) {
        return qmp_client_invoke(f->client, command, NULL, USEC_INFINITY, on_answer, a);
}

/* --- tests --- */

static void test_handshake_at_every_split_point(void **state) {
        const char *wire = GREETING "{\"event\":\"NICE\",\"timestamp\":{\"seconds\":2,"
                                    "\"microseconds\":5}}\r\n{\"return\": {}, \"id\": 1}\r\n";
        size_t answer_at = (size_t)(strstr(wire, "{\"return") - wire);

        for (size_t cut = 1; cut < strlen(wire); cut++) {
                char text[512];
                fixture f;

                /* QEMU does not answer what it wasn't asked: its answer goes last */
                connect_client(&f, USEC_INFINITY);
                assert_true(send(f.peer, wire, cut < answer_at ? cut : answer_at, 0) > 0);
                run_idle(&f);
                if (cut < answer_at)
                        assert_true(send(f.peer, wire + cut, answer_at - cut, 0) > 0);
                run_idle(&f);
                peer_read(&f, text, sizeof(text), NULL);
                if (cut > answer_at)
                        assert_true(send(f.peer, wire + answer_at, cut - answer_at, 0) > 0);
                run_idle(&f);
                assert_int_equal(f.n_ready, 0);
                peer_send(&f, wire + (cut > answer_at ? cut : answer_at));
                run_idle(&f);
                assert_int_equal(f.n_ready, 1);
                assert_int_equal(f.n_events, 1);
                assert_int_equal(f.qemu_usec, 2000005);
                assert_true(f.arrival_usec > 0 && f.arrival_usec <= now_usec());
                done(&f);
        }
}

static void test_not_before_ready(void **state) {
        answer a = { 0 };
        fixture f;

        connect_client(&f, USEC_INFINITY);
        assert_null(qmp_client_get_version(f.client));
        assert_int_equal(ask(&f, "stop", &a), -EBUSY);
        done(&f);
        assert_int_equal(a.calls, 0);
}

static void test_an_answer_and_a_refusal(void **state) {
        answer yes = { 0 }, no = { 0 };
        char text[512];
        fixture f;

        make_ready(&f);
        assert_int_equal(qmp_client_invoke(f.client, "one", json_pack("{s:i}", "x", 1),
                                           USEC_INFINITY, on_answer, &yes),
                         0);
        assert_int_equal(ask(&f, "two", &no), 0);
        /* written at once, without a turn of the loop */
        peer_read(&f, text, sizeof(text), NULL);
        assert_string_equal(text, "{\"execute\":\"one\",\"arguments\":{\"x\":1},\"id\":2}\n"
                                  "{\"execute\":\"two\",\"id\":3}\n");
        peer_send(&f, "{\"return\":\"fine\",\"id\":2}\n"
                      "{\"id\":3,\"error\":{\"class\":\"GenericError\",\"desc\":\"not today\"}}\n");
        RUN_UNTIL(&f, no.calls);
        assert_int_equal(yes.calls, 1);
        assert_int_equal(yes.r, 0);
        assert_true(yes.has_value && !yes.has_error);
        assert_string_equal(yes.text, "fine");
        assert_int_equal(no.r, 0);
        assert_true(no.has_error && !no.has_value);
        assert_string_equal(no.text, "not today");
        done(&f);
        assert_int_equal(yes.calls + no.calls, 2);
}

/* QEMU's main loop answers nothing, and this all the same. */
static void test_out_of_band(void **state) {
        answer first = { 0 }, oob = { 0 };
        char text[512];
        fixture f;

        make_ready(&f);
        assert_int_equal(ask(&f, "query-status", &first), 0);
        assert_int_equal(
                qmp_client_invoke_oob(f.client, "recover", NULL, USEC_INFINITY, on_answer, &oob),
                0);
        peer_read(&f, text, sizeof(text), NULL);
        assert_string_equal(text, "{\"execute\":\"query-status\",\"id\":2}\n"
                                  "{\"exec-oob\":\"recover\",\"id\":3}\n");
        peer_send(&f, "{\"return\":\"now\",\"id\":3}\n");
        RUN_UNTIL(&f, oob.calls);
        assert_string_equal(oob.text, "now");
        assert_int_equal(first.calls, 0);
        done(&f);
}

static void test_without_out_of_band(void **state) {
        answer a = { 0 };
        char text[512];
        fixture f;

        connect_client(&f, USEC_INFINITY);
        peer_send(&f, "{\"QMP\":{\"version\":{\"qemu\":{\"micro\":22,\"minor\":2,\"major\":7},"
                      "\"package\":\"Debian 1:7.2\"},\"capabilities\":[\"strange\",1]}}\r\n");
        run_idle(&f);
        peer_read(&f, text, sizeof(text), NULL);
        assert_string_equal(text, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
        peer_send(&f, "{\"return\": {}, \"id\": 1}\r\n");
        RUN_UNTIL(&f, f.n_ready == 1);
        assert_int_equal(
                qmp_client_invoke_oob(f.client, "recover", NULL, USEC_INFINITY, on_answer, &a), 0);
        peer_read(&f, text, sizeof(text), NULL);
        assert_string_equal(text, "{\"execute\":\"recover\",\"id\":2}\n");
        done(&f);
}

static void test_answers_at_every_split_point(void **state) {
        const char *wire = "{\"event\":\"STOP\"}\r\n{\"return\":\"a\",\"id\":2}\r\n"
                           "{\"error\":{\"class\":\"X\",\"desc\":\"b\"},\"id\":3}\r\n";

        for (size_t cut = 1; cut < strlen(wire); cut++) {
                answer a = { 0 }, b = { 0 };
                fixture f;

                make_ready(&f);
                assert_int_equal(ask(&f, "a", &a), 0);
                assert_int_equal(ask(&f, "b", &b), 0);
                assert_int_equal(send(f.peer, wire, cut, 0), cut);
                run_idle(&f);
                assert_int_equal(b.calls, 0);
                peer_send(&f, wire + cut);
                run_idle(&f);
                assert_int_equal(f.n_events, 1);
                assert_int_equal(a.calls, 1);
                assert_int_equal(b.calls, 1);
                assert_string_equal(a.text, "a");
                assert_string_equal(b.text, "b");
                assert_int_equal(f.n_disconnect, 0);
                done(&f);
        }
}

static void test_eof_ends_each_call_once(void **state) {
        answer a = { 0 }, b = { 0 };
        fixture f;

        make_ready(&f);
        assert_int_equal(ask(&f, "a", &a), 0);
        assert_int_equal(ask(&f, "b", &b), 0);
        peer_send(&f, "{\"return\":{},\"id\":2}\n");
        f.peer = fd_close(f.peer);
        RUN_UNTIL(&f, f.n_disconnect);
        /* what came before the end counts */
        assert_int_equal(a.r, 0);
        assert_true(a.has_value);
        assert_int_equal(b.r, -ENOTCONN);
        assert_int_equal(f.disconnect_r, -ENOTCONN);
        assert_int_equal(ask(&f, "c", &a), -ENOTCONN);
        done(&f);
        assert_int_equal(a.calls, 1);
        assert_int_equal(b.calls, 1);
        assert_int_equal(f.n_disconnect, 1);
}

static void test_writing_to_a_dead_peer_tells_later(void **state) {
        answer a = { 0 };
        fixture f;

        make_ready(&f);
        peer_send(&f, "{\"event\":\"SHUTDOWN\"}\n");
        f.peer = fd_close(f.peer);
        assert_int_equal(ask(&f, "a", &a), 0);
        assert_int_equal(a.calls, 0); /* never from inside */
        RUN_UNTIL(&f, f.n_disconnect);
        assert_int_equal(a.calls, 1);
        assert_int_equal(a.r, -ENOTCONN);
        assert_int_equal(f.n_events, 1); /* its last words were heard */
        done(&f);
}

static void test_close_cancels(void **state) {
        answer a = { 0 };
        fixture f;

        make_ready(&f);
        assert_int_equal(ask(&f, "a", &a), 0);
        done(&f);
        assert_int_equal(a.calls, 1);
        assert_int_equal(a.r, -ECANCELED);
        assert_int_equal(f.n_disconnect, 0);
}

static void test_close_from_each_handler(void **state) {
        answer a = { 0 }, b = { 0 };
        fixture f;

        make_ready(&f);
        a.close = f.client;
        assert_int_equal(ask(&f, "a", &a), 0);
        assert_int_equal(ask(&f, "b", &b), 0);
        peer_send(&f, "{\"return\":{},\"id\":2}\n{\"return\":{},\"id\":3}\n{\"event\":\"X\"}\n");
        f.client = NULL;
        run_idle(&f);
        assert_int_equal(a.calls, 1);
        assert_int_equal(b.calls, 1);
        assert_int_equal(b.r, -ECANCELED);
        assert_int_equal(f.n_events, 0);
        done(&f);

        make_ready(&f);
        f.close_in_event = true;
        peer_send(&f, "{\"event\":\"X\"}\n{\"event\":\"X\"}\n");
        run_idle(&f);
        assert_int_equal(f.n_events, 1);
        done(&f);

        make_ready(&f);
        f.close_in_disconnect = true;
        f.peer = fd_close(f.peer);
        run_idle(&f);
        assert_int_equal(f.n_disconnect, 1);
        assert_null(f.client);
        done(&f);

        /* from a call that the disconnect ends */
        make_ready(&f);
        a = (answer){ .close = f.client };
        b = (answer){ 0 };
        assert_int_equal(ask(&f, "a", &a), 0);
        assert_int_equal(ask(&f, "b", &b), 0);
        f.client = NULL;
        f.peer = fd_close(f.peer);
        run_idle(&f);
        assert_int_equal(a.r, -ENOTCONN);
        assert_int_equal(b.r, -ECANCELED);
        assert_int_equal(f.n_disconnect, 0);
        done(&f);
}

static void test_time_runs_out_and_the_late_answer_is_dropped(void **state) {
        answer late = { 0 }, other = { 0 };
        fixture f;

        make_ready(&f);
        assert_int_equal(qmp_client_invoke(f.client, "a", NULL, 1, on_answer, &late), 0);
        assert_int_equal(ask(&f, "b", &other), 0);
        RUN_UNTIL(&f, late.calls);
        assert_int_equal(late.r, -ETIMEDOUT);
        assert_int_equal(other.calls, 0);
        peer_send(&f, "{\"return\":{},\"id\":2}\n{\"return\":{},\"id\":3}\n");
        RUN_UNTIL(&f, other.calls);
        assert_int_equal(other.r, 0);
        assert_int_equal(late.calls, 1);
        assert_int_equal(f.n_disconnect, 0);
        done(&f);
}

static void test_no_greeting_in_time(void **state) {
        fixture f;

        connect_client(&f, 1);
        RUN_UNTIL(&f, f.n_disconnect);
        assert_int_equal(f.disconnect_r, -ETIMEDOUT);
        assert_int_equal(f.n_ready, 0);
        done(&f);
}

static void test_an_fd_rides_on_its_command(void **state) {
        int pipe_fds[2], got = -EBADF, second[2];
        answer a = { 0 }, b = { 0 }, c = { 0 };
        char text[512], byte;
        fixture f;

        make_ready(&f);
        assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
        assert_int_equal(pipe2(second, O_CLOEXEC), 0);
        assert_int_equal(qmp_client_invoke_fd(f.client, "getfd", json_pack("{s:s}", "fdname", "x"),
                                              pipe_fds[1], USEC_INFINITY, on_answer, &a),
                         0);
        /* the second waits for the first's answer, and what follows keeps its place */
        assert_int_equal(qmp_client_invoke_fd(f.client, "getfd", NULL, second[1], USEC_INFINITY,
                                              on_answer, &b),
                         0);
        assert_int_equal(ask(&f, "c", &c), 0);
        peer_read(&f, text, sizeof(text), &got);
        assert_string_equal(text,
                            "{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"x\"},\"id\":2}\n");
        assert_true(got >= 0);
        assert_int_equal(write(got, "y", 1), 1);
        assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
        got = fd_close(got);
        assert_int_equal(read(pipe_fds[0], &byte, 1), 0); /* ours was closed when it was sent */

        peer_send(&f, "{\"return\":{},\"id\":2}\n");
        RUN_UNTIL(&f, a.calls);
        peer_read(&f, text, sizeof(text), &got);
        assert_string_equal(text,
                            "{\"execute\":\"getfd\",\"id\":3}\n{\"execute\":\"c\",\"id\":4}\n");
        assert_true(got >= 0);
        fd_close(got);
        fd_close(pipe_fds[0]);
        fd_close(second[0]);
        done(&f);
        assert_int_equal(b.r, -ECANCELED);
}

static void test_an_fd_is_taken_on_every_path(void **state) {
        answer a = { 0 };
        fixture f;

        make_ready(&f);
        /* the wrong kind of arguments; too long a name; never sent; dead */
        assert_int_equal(qmp_client_invoke_fd(f.client, "getfd", json_array(), dup(0),
                                              USEC_INFINITY, on_answer, &a),
                         -EINVAL);
        assert_int_equal(
                qmp_client_invoke_fd(f.client, NULL, NULL, dup(0), USEC_INFINITY, on_answer, &a),
                -EINVAL);
        assert_int_equal(
                qmp_client_invoke_fd(f.client, "getfd", NULL, dup(0), USEC_INFINITY, on_answer, &a),
                0);
        assert_int_equal(qmp_client_invoke_fd(f.client, "getfd", NULL, dup(0), 1, on_answer, &a),
                         0);
        RUN_UNTIL(&f, a.calls == 1); /* given up before it was sent: it never will be */
        assert_int_equal(a.r, -ETIMEDOUT);
        peer_send(&f, "{\"return\":{},\"id\":2}\n");
        RUN_UNTIL(&f, a.calls == 2);
        {
                char text[512];

                peer_read(&f, text, sizeof(text), NULL);
                assert_null(strstr(text, "\"id\":3"));
        }
        assert_int_equal(
                qmp_client_invoke_fd(f.client, "getfd", NULL, dup(0), USEC_INFINITY, on_answer, &a),
                0);
        f.peer = fd_close(f.peer);
        RUN_UNTIL(&f, f.n_disconnect);
        assert_int_equal(qmp_client_invoke_fd(f.client, "getfd", json_object(), dup(0),
                                              USEC_INFINITY, on_answer, &a),
                         -ENOTCONN);
        assert_int_equal(a.calls, 3);
        done(&f); /* counts the descriptors */
}

static void test_a_peer_that_does_not_read(void **state) {
        json_t *arguments;
        answer a = { 0 };
        char *big = malloc(4 * 1024 * 1024 + 1), *text = malloc(8 * 1024 * 1024);
        size_t n = 0;
        fixture f;

        make_ready(&f);
        memset(big, 'z', 4 * 1024 * 1024);
        big[4 * 1024 * 1024] = '\0';
        arguments = json_pack("{s:s}", "x", big);
        assert_int_equal(qmp_client_invoke(f.client, "a", arguments, USEC_INFINITY, on_answer, &a),
                         0);
        while (n == 0 || text[n - 1] != '\n') {
                n += peer_read(&f, text + n, 8 * 1024 * 1024 - n, NULL);
                run_idle(&f);
        }
        assert_int_equal(n,
                         4 * 1024 * 1024 + strlen("{'execute':'a','arguments':{'x':''},'id':2}\n"));
        peer_send(&f, "{\"return\":{},\"id\":2}\n");
        RUN_UNTIL(&f, a.calls);

        /* given up half-way: the rest is sent, or all that follows would be garbage */
        assert_int_equal(
                qmp_client_invoke(f.client, "a", json_pack("{s:s}", "x", big), 1, on_answer, &a),
                0);
        RUN_UNTIL(&f, a.calls == 2);
        assert_int_equal(a.r, -ETIMEDOUT);
        assert_int_equal(ask(&f, "b", &a), 0);
        n = 0;
        while (n == 0 || !strstr(text + (n > 64 ? n - 64 : 0), "\"b\"")) {
                n += peer_read(&f, text + n, 8 * 1024 * 1024 - n, NULL);
                run_idle(&f);
        }
        assert_non_null(strstr(text, "\"},\"id\":3}\n{\"execute\":\"b\",\"id\":4}\n"));
        peer_send(&f, "{\"return\":{},\"id\":3}\n{\"return\":{},\"id\":4}\n");
        RUN_UNTIL(&f, a.calls == 3);
        assert_int_equal(a.r, 0);
        done(&f);
        free(big);
        free(text);
}

static void test_who_breaks_the_protocol_is_cut_off(void **state) {
        static const char *const lines[] = {
                "nonsense\n",
                "[]\n",
                "{}\n",
                "{\"return\":{}}\n",              /* to no question */
                "{\"return\":{},\"id\":\"2\"}\n", /* ids are numbers */
                "{\"return\":{},\"id\":3}\n",     /* never asked */
                "{\"return\":{},\"id\":0}\n",
                "{\"return\":{},\"id\":-1}\n",
                "{\"return\":{},\"error\":{},\"id\":2}\n",
                "{\"a\":\"\xff\xfe\"}\n",
                "{\"event\":5}\n",
        };

        for (size_t i = 0; i < ELEMENTS(lines); i++) {
                answer a = { 0 };
                fixture f;

                make_ready(&f);
                assert_int_equal(ask(&f, "a", &a), 0);
                peer_send(&f, lines[i]);
                RUN_UNTIL(&f, f.n_disconnect);
                assert_int_equal(f.disconnect_r, -EPROTO);
                assert_true(f.reason[0] != '\0');
                assert_int_equal(a.calls, 1);
                assert_int_equal(a.r, -ENOTCONN);
                done(&f);
        }
}

static void test_strange_but_legal(void **state) {
        answer a = { 0 };
        fixture f;

        make_ready(&f);
        assert_int_equal(ask(&f, "a", &a), 0);
        peer_send(&f, "{\"event\":\"X\",\"data\":7,\"timestamp\":{\"seconds\":-1,"
                      "\"microseconds\":-1}}\n");
        peer_send(&f, "{\"error\":\"odd\",\"id\":2}\n");
        RUN_UNTIL(&f, a.calls);
        assert_true(a.has_error);
        assert_int_equal(f.n_events, 1);
        assert_int_equal(f.qemu_usec, 0);
        done(&f);
}

static void test_bad_greetings(void **state) {
        static const char *const greetings[] = {
                "{\"event\":\"X\"}\n",
                "{\"QMP\":{}}\n",
                "{\"QMP\":{\"version\":{\"qemu\":{\"major\":-7,\"minor\":0,\"micro\":0}}}}\n",
                "{\"QMP\":{\"version\":{\"qemu\":{\"major\":\"7\",\"minor\":0,\"micro\":0}}}}\n",
                "220 mail.example.org ESMTP\r\n",
        };

        for (size_t i = 0; i < ELEMENTS(greetings); i++) {
                fixture f;

                connect_client(&f, USEC_INFINITY);
                peer_send(&f, greetings[i]);
                RUN_UNTIL(&f, f.n_disconnect);
                assert_int_equal(f.disconnect_r, -EPROTO);
                assert_int_equal(f.n_ready, 0);
                done(&f);
        }
}

static void test_capabilities_refused(void **state) {
        fixture f;

        connect_client(&f, USEC_INFINITY);
        peer_send(&f, GREETING);
        run_idle(&f);
        peer_send(&f, "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"},\"id\":1}\n");
        RUN_UNTIL(&f, f.n_disconnect);
        assert_int_equal(f.n_ready, 0);
        assert_string_equal(f.reason, "no");
        done(&f);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_handshake_at_every_split_point),
                cmocka_unit_test(test_not_before_ready),
                cmocka_unit_test(test_an_answer_and_a_refusal),
                cmocka_unit_test(test_answers_at_every_split_point),
                cmocka_unit_test(test_eof_ends_each_call_once),
                cmocka_unit_test(test_writing_to_a_dead_peer_tells_later),
                cmocka_unit_test(test_close_cancels),
                cmocka_unit_test(test_close_from_each_handler),
                cmocka_unit_test(test_time_runs_out_and_the_late_answer_is_dropped),
                cmocka_unit_test(test_no_greeting_in_time),
                cmocka_unit_test(test_an_fd_rides_on_its_command),
                cmocka_unit_test(test_an_fd_is_taken_on_every_path),
                cmocka_unit_test(test_a_peer_that_does_not_read),
                cmocka_unit_test(test_who_breaks_the_protocol_is_cut_off),
                cmocka_unit_test(test_out_of_band),
                cmocka_unit_test(test_without_out_of_band),
                cmocka_unit_test(test_strange_but_legal),
                cmocka_unit_test(test_bad_greetings),
                cmocka_unit_test(test_capabilities_refused),
        };

        return cmocka_run_group_tests_name("qmp-client", tests, NULL, NULL);
}
