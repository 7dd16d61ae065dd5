/* SPDX-License-Identifier: MIT */

/* A real Linux guest with the agent, and the shim's way to it. Exit 77 when there is no kernel
 * package to be had or no QEMU; with CI=true that is a failure. */

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "agent.ttrpc.h"
#include "base/clock.h"
#include "base/fd.h"
#include "guest/image.h"
#include "guestlink/guest-stdio.h"
#include "guestlink/link.h"
#include "vm/vm.h"

#define LIMIT_USEC (240 * USEC_PER_SEC) /* ends a hung test, proves nothing */
#define OUTPUT_MAX (16U << 20)

static sd_event *event;
static char folder[64];
static ferry_vm *vm;
static guest_link *guest;
static const ttrpc_call_options call_options = { .timeout_usec = LIMIT_USEC };

static int on_limit(sd_event_source *source, uint64_t usec, void *userdata) {
        fail_msg("the test hung");
        return 0;
}

#define WAIT(condition)                                                                            \
        do {                                                                                       \
                sd_event_source *limit_ = NULL;                                                    \
                assert_true(sd_event_add_time_relative(event, &limit_, CLOCK_MONOTONIC,            \
                                                       LIMIT_USEC, 0, on_limit, NULL) >= 0);       \
                while (!(condition))                                                               \
                        assert_true(sd_event_run(event, UINT64_MAX) >= 0);                         \
                sd_event_source_disable_unref(limit_);                                             \
        } while (0)

/* ---- calls ---- */

static bool answered;
static int32_t code;
static uint32_t figure;

static void note(int r, const ttrpc_status *status, uint32_t value) {
        if (r < 0)
                fail_msg("no answer: %s", strerror(-r));
        code = status->code;
        figure = value;
        answered = true;
}

/* NAME(request) runs the call to its end; gives its code, and FIELD of the answer in `figure`. */
#define DEFINE_CALL(name, Name, field)                                                             \
        static void on_##name(int r, const ttrpc_status *status,                                   \
                              const Ferry__Agent__V1__##Name##Response *response,                  \
                              void *userdata) {                                                    \
                note(r, status, response ? (uint32_t)(field) : 0);                                 \
        }                                                                                          \
        static int32_t call_##name(const Ferry__Agent__V1__##Name##Request *request) {             \
                answered = false;                                                                  \
                assert_int_equal(ferry_agent_v1_agent_##name##_start(guest_link_client(guest),     \
                                                                     request, &call_options,       \
                                                                     on_##name, NULL, NULL),       \
                                 0);                                                               \
                WAIT(answered);                                                                    \
                return code;                                                                       \
        }

DEFINE_CALL(info, Info, response->processes)
DEFINE_CALL(start, Start, response->pid)
DEFINE_CALL(wait, Wait, response->exit_status)
DEFINE_CALL(signal, Signal, 0)
DEFINE_CALL(resize, Resize, 0)
DEFINE_CALL(list, List, response->n_processes)
DEFINE_CALL(delete, Delete, 0)
DEFINE_CALL(moved, Moved, 0)

static uint32_t processes(void) {
        Ferry__Agent__V1__InfoRequest q = FERRY__AGENT__V1__INFO_REQUEST__INIT;

        assert_int_equal(call_info(&q), 0);
        return figure;
}

static uint32_t exit_status(const char *id) {
        Ferry__Agent__V1__WaitRequest q = FERRY__AGENT__V1__WAIT_REQUEST__INIT;

        q.id = (char *)id;
        assert_int_equal(call_wait(&q), 0);
        return figure;
}

static int32_t send_signal(const char *id, uint32_t number) {
        Ferry__Agent__V1__SignalRequest q = FERRY__AGENT__V1__SIGNAL_REQUEST__INIT;

        q.id = (char *)id;
        q.signal = number;
        return call_signal(&q);
}

static int32_t forget(const char *id) {
        Ferry__Agent__V1__DeleteRequest q = FERRY__AGENT__V1__DELETE_REQUEST__INIT;

        q.id = (char *)id;
        return call_delete(&q);
}

/* ---- a process with its streams ---- */

typedef struct program {
        guest_stdio *io;
        int in, out, err; /* our ends */
        bool ended;
        char *text;
        size_t n;
} program;

static uint32_t next_stream = 100;
static channel_keep *keeps[2]; /* for the next program */

static void on_io_end(guest_stdio *io, void *userdata) {
        ((program *)userdata)->ended = true;
}

static void make_pipe(int *ret_read, int *ret_write) {
        int fds[2];

        assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
        *ret_read = fds[0];
        *ret_write = fds[1];
}

static int32_t run(program *p, const char *id, const char *script, bool terminal) {
        Ferry__Agent__V1__StartRequest q = FERRY__AGENT__V1__START_REQUEST__INIT;
        char *args[] = { (char *)"/bin/busybox", (char *)"sh", (char *)"-c", (char *)script };
        char *env[] = { (char *)"PATH=/bin" };
        guest_stdio_spec spec = { .stream = next_stream, .has_err = !terminal };
        int32_t r;

        *p = (program){ .err = -EBADF };
        memcpy(spec.keep, keeps, sizeof(keeps));
        make_pipe(&spec.in, &p->in);
        make_pipe(&p->out, &spec.out);
        spec.err = -EBADF;
        if (!terminal)
                make_pipe(&p->err, &spec.err);
        next_stream += 2;
        assert_int_equal(
                guest_stdio_new(guest_link_streams(guest), event, &spec, on_io_end, p, &p->io), 0);
        q.id = (char *)id;
        q.args = args;
        q.n_args = ELEMENTS(args);
        q.env = env;
        q.n_env = ELEMENTS(env);
        q.terminal = terminal;
        q.rows = 33;
        q.columns = 77;
        q.stream = spec.stream;
        r = call_start(&q);
        p->text = calloc(1, OUTPUT_MAX + 1);
        assert_non_null(p->text);
        return r;
}

static void read_text(program *p, int fd) {
        ssize_t k;

        while (p->n < OUTPUT_MAX && (k = read(fd, p->text + p->n, OUTPUT_MAX - p->n)) > 0)
                p->n += (size_t)k;
        p->text[p->n] = '\0';
}

static bool output_has(program *p, const char *what) {
        read_text(p, p->out);
        return strstr(p->text, what) != NULL;
}

static bool all_read(program *p) {
        read_text(p, p->out);
        return p->ended;
}

static void put_away(program *p) {
        guest_stdio_free(p->io);
        fd_close(p->in);
        fd_close(p->out);
        fd_close(p->err);
        free(p->text);
}

/* ---- the guest ---- */

static bool ready;

static void on_ready(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        if (r < 0)
                fail_msg("%s", ferry_error_message(error));
        ready = true;
}

static void on_cont(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        on_ready(v, r, error, userdata);
}

static int setup(void **state) {
        _cleanup_(guest_image_result_done) guest_image_result image = { 0 };
        _cleanup_(vm_config_freep) vm_config *config = NULL;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *text = NULL;
        guest_image_options options = { .output_dir = folder,
                                        .agent_dir = getenv("FERRY_AGENT_DIR") };
        vm_options vm_with = { .state_dir = folder };
        vm_handlers handlers = { 0 };

        if (guest_image_build(&options, &image, &error) < 0)
                fail_msg("%s", ferry_error_message(&error));
        assert_true(asprintf(&text,
                             "{\"kernel\":\"%s\",\"initrd\":\"%s\",\"cmdline\":\"%s\","
                             "\"accelerator\":\"tcg\",\"agent\":true}",
                             image.kernel, image.initrd, image.cmdline) > 0);
        assert_int_equal(vm_config_parse(text, strlen(text), &config, NULL), 0);
        vm_with.config = config;
        if (vm_start(event, &vm_with, &handlers, on_ready, NULL, &vm, &error) < 0)
                fail_msg("%s", ferry_error_message(&error));
        WAIT(ready);
        assert_int_equal(guest_link_new(event, folder, &guest), 0);
        ready = false;
        assert_int_equal(vm_cont(vm, on_cont, NULL), 0);
        WAIT(ready);
        return 0;
}

static int teardown(void **state) {
        guest = guest_link_free(guest);
        if (vm) {
                (void)vm_kill(vm);
                while (vm_is_alive(vm))
                        (void)sd_event_run(event, UINT64_MAX);
                vm = vm_close(vm);
        }
        return 0;
}

static void test_the_agent_answers(void **state) {
        assert_int_equal(processes(), 0);
}

static void test_streams_and_exit_status(void **state) {
        program p;

        assert_int_equal(run(&p, "cat", "cat; echo to err >&2; exit 3", false), 0);
        assert_int_equal(write(p.in, "hello\n", 6), 6);
        p.in = fd_close(p.in);
        assert_int_equal(exit_status("cat"), 3);
        WAIT(all_read(&p));
        assert_string_equal(p.text, "hello\n");
        p.n = 0;
        read_text(&p, p.err);
        assert_string_equal(p.text, "to err\n");
        assert_int_equal(processes(), 1);
        assert_int_equal(forget("cat"), 0);
        assert_int_equal(forget("cat"), TTRPC_NOT_FOUND);
        assert_int_equal(processes(), 0);
        put_away(&p);
}

/* What `seq 1 LAST` writes, whole and once. */
static void assert_counted(const char *at, long last) {
        for (long i = 1; i <= last; i++) {
                char *end;

                if (strtol(at, &end, 10) != i || *end != '\n')
                        fail_msg("line %ld is '%.20s'", i, at);
                at = end + 1;
        }
        assert_int_equal(*at, '\0');
}

static void test_much_output_is_whole(void **state) {
        program p;

        assert_int_equal(run(&p, "much", "seq 1 300000", false), 0);
        WAIT(all_read(&p));
        assert_int_equal(exit_status("much"), 0);
        assert_counted(p.text, 300000);
        assert_int_equal(forget("much"), 0);
        put_away(&p);
}

static void test_much_input_is_whole(void **state) {
        size_t n = 0, total = 1 << 20;
        char bytes[4096];
        program p;

        memset(bytes, 'x', sizeof(bytes));
        assert_int_equal(run(&p, "in", "wc -c", false), 0);
        while (n < total) {
                ssize_t k = write(p.in, bytes, sizeof(bytes));

                if (k > 0)
                        n += (size_t)k;
                else
                        assert_true(sd_event_run(event, UINT64_MAX) >= 0);
        }
        p.in = fd_close(p.in);
        WAIT(all_read(&p));
        assert_int_equal(atol(p.text), (long)n);
        assert_int_equal(exit_status("in"), 0);
        assert_int_equal(forget("in"), 0);
        put_away(&p);
}

static void test_a_terminal(void **state) {
        Ferry__Agent__V1__ResizeRequest q = FERRY__AGENT__V1__RESIZE_REQUEST__INIT;
        program p;

        assert_int_equal(run(&p, "tty", "stty size; read line; stty size; tty", true), 0);
        WAIT(output_has(&p, "33 77"));
        q.id = (char *)"tty";
        q.rows = 11;
        q.columns = 22;
        assert_int_equal(call_resize(&q), 0);
        assert_int_equal(write(p.in, "go\n", 3), 3);
        WAIT(all_read(&p));
        assert_non_null(strstr(p.text, "11 22"));
        assert_non_null(strstr(p.text, "/dev/pts/"));
        assert_int_equal(exit_status("tty"), 0);
        assert_int_equal(forget("tty"), 0);
        put_away(&p);
}

static int waiting(int fd) {
        int n = 0;

        assert_int_equal(ioctl(fd, FIONREAD, &n), 0);
        return n;
}

/* Output that nobody takes stops its own process and nothing else. */
static void test_a_flood_stands_in_nobodys_way(void **state) {
        program flood, other;

        assert_int_equal(run(&flood, "flood", "yes", false), 0);
        assert_int_equal(run(&other, "other", "echo still here", false), 0);
        WAIT(all_read(&other));
        assert_string_equal(other.text, "still here\n");
        WAIT(waiting(flood.out) >= 49152); /* about as much as a pipe has room for */
        assert_int_equal(processes(), 2);
        assert_int_equal(forget("flood"), TTRPC_FAILED_PRECONDITION);
        assert_int_equal(send_signal("flood", SIGKILL), 0);
        assert_int_equal(exit_status("flood"), 128 + SIGKILL);
        WAIT(all_read(&flood));
        assert_true(flood.n >= 65536);
        assert_int_equal(send_signal("flood", SIGKILL), TTRPC_NOT_FOUND);
        assert_int_equal(forget("flood"), 0);
        assert_int_equal(forget("other"), 0);
        put_away(&flood);
        put_away(&other);
}

static void test_bad_requests_change_nothing(void **state) {
        Ferry__Agent__V1__StartRequest q = FERRY__AGENT__V1__START_REQUEST__INIT;
        char *args[] = { (char *)"/no/such/program" }, *env[] = { (char *)"A=B" };
        Ferry__Agent__V1__ListRequest all = FERRY__AGENT__V1__LIST_REQUEST__INIT;
        program p;

        assert_int_equal(run(&p, "sleep", "sleep 1000", false), 0);
        q.id = (char *)"x";
        q.stream = 9000;
        assert_int_equal(call_start(&q), TTRPC_INVALID_ARGUMENT); /* no program */
        q.args = args;
        q.n_args = 1;
        q.env = env;
        q.n_env = 1;
        assert_int_equal(call_start(&q), TTRPC_NOT_FOUND);
        q.id = (char *)"sleep";
        assert_int_equal(call_start(&q), TTRPC_ALREADY_EXISTS);
        q.id = (char *)"a/b";
        assert_int_equal(call_start(&q), TTRPC_INVALID_ARGUMENT);
        q.id = (char *)"";
        assert_int_equal(call_start(&q), TTRPC_INVALID_ARGUMENT);
        q.id = (char *)"y";
        q.stream = 100000;
        args[0] = (char *)"busybox"; /* looked up in PATH, which has none of it */
        env[0] = (char *)"PATH=/nowhere";
        assert_int_equal(call_start(&q), TTRPC_NOT_FOUND);
        assert_int_equal(send_signal("sleep", 999), TTRPC_INVALID_ARGUMENT);
        assert_int_equal(send_signal("nobody", SIGTERM), TTRPC_NOT_FOUND);
        assert_int_equal(call_list(&all), 0);
        assert_int_equal(figure, 1);
        assert_int_equal(send_signal("sleep", SIGTERM), 0);
        assert_int_equal(exit_status("sleep"), 128 + SIGTERM);
        assert_int_equal(forget("sleep"), 0);
        put_away(&p);
}

static void test_what_a_move_asks_for(void **state) {
        Ferry__Agent__V1__MovedRequest q = FERRY__AGENT__V1__MOVED_REQUEST__INIT;
        uint8_t entropy[64] = { 1, 2, 3 };
        program p;

        q.realtime_usec = 2000000000ULL * USEC_PER_SEC; /* 2033 */
        q.entropy = (ProtobufCBinaryData){ .data = entropy, .len = sizeof(entropy) };
        q.announce = true;
        assert_int_equal(call_moved(&q), 0);
        assert_int_equal(run(&p, "date", "date +%Y", false), 0);
        WAIT(all_read(&p));
        assert_string_equal(p.text, "2033\n");
        assert_int_equal(exit_status("date"), 0);
        assert_int_equal(forget("date"), 0);
        put_away(&p);
}

/* A host process that dies takes its calls with it; the next one finds the guest as it is. */
static void test_another_host_process_comes(void **state) {
        program p;

        assert_int_equal(run(&p, "long", "sleep 1000", false), 0);
        put_away(&p);
        guest_link_free(guest);
        assert_int_equal(guest_link_new(event, folder, &guest), 0);
        assert_int_equal(processes(), 1);
        assert_int_equal(send_signal("long", SIGKILL), 0);
        assert_int_equal(exit_status("long"), 128 + SIGKILL);
        assert_int_equal(forget("long"), 0);
}

/* The host process dies in the middle of the output, with its end of the streams in memory that
 * outlives it: the next one goes on to the byte. */
static void test_output_over_a_host_process_that_dies(void **state) {
        static _Alignas(uint64_t) uint8_t memory[2][GUEST_STDIO_BUFFER + 64];
        guest_stdio_spec spec = { .stream = next_stream, .err = -EBADF, .has_err = true };
        program p;

        assert_true(sizeof(memory[0]) >= channel_keep_size(GUEST_STDIO_BUFFER));
        for (size_t i = 0; i < 2; i++)
                keeps[i] = (channel_keep *)(void *)memory[i];
        memcpy(spec.keep, keeps, sizeof(keeps));
        assert_int_equal(run(&p, "count", "seq 1 100000", false), 0);
        for (size_t part = 1; part < 4; part++) {
                WAIT((read_text(&p, p.out), p.n) > part * 100000);
                p.io = guest_stdio_free(p.io);
                guest_link_free(guest);
                read_text(&p, p.out); /* what the dead one had delivered */
                fd_close(p.in);
                fd_close(p.out);
                assert_int_equal(guest_link_new(event, folder, &guest), 0);
                make_pipe(&spec.in, &p.in);
                make_pipe(&p.out, &spec.out);
                assert_int_equal(guest_stdio_new(guest_link_streams(guest), event, &spec, on_io_end,
                                                 &p, &p.io),
                                 0);
                guest_port_resume(guest_link_streams(guest));
        }
        WAIT(all_read(&p));
        assert_int_equal(exit_status("count"), 0);
        assert_counted(p.text, 100000);
        assert_int_equal(forget("count"), 0);
        put_away(&p);
        memset(keeps, 0, sizeof(keeps));
}

static void remove_folder(void) {
        DIR *d = opendir(folder);
        struct dirent *e;

        while (d && (e = readdir(d)))
                (void)unlinkat(dirfd(d), e->d_name, 0);
        if (d)
                closedir(d);
        (void)rmdir(folder);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_the_agent_answers),
                cmocka_unit_test(test_streams_and_exit_status),
                cmocka_unit_test(test_much_output_is_whole),
                cmocka_unit_test(test_much_input_is_whole),
                cmocka_unit_test(test_a_terminal),
                cmocka_unit_test(test_a_flood_stands_in_nobodys_way),
                cmocka_unit_test(test_bad_requests_change_nothing),
                cmocka_unit_test(test_what_a_move_asks_for),
                cmocka_unit_test(test_another_host_process_comes),
                cmocka_unit_test(test_output_over_a_host_process_that_dies),
        };
        int r;

        (void)sigaction(SIGPIPE, &(struct sigaction){ .sa_handler = SIG_IGN }, NULL);
        strcpy(folder, "/tmp/ferry-agent-XXXXXX");
        if (!mkdtemp(folder) || sd_event_default(&event) < 0)
                return 1;
        r = cmocka_run_group_tests_name("agent", tests, setup, teardown);
        sd_event_unref(event);
        remove_folder();
        return r;
}
