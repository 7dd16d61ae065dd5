/* SPDX-License-Identifier: MIT */

/* Containers in a real Linux guest: crun, a root on a disk, streams through FIFOs. Exit 77 when
 * something of that is not to be had here; with CI=true that is a failure. */

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "guest/image.h"
#include "guestlink/containers.h"
#include "guestlink/processes.h"
#include "vm/vm.h"

#define LIMIT_USEC (240 * USEC_PER_SEC) /* ends a hung test, proves nothing */
#define TEXT_MAX   65536
#define DISK       "root-busybox"

static sd_event *event;
static char folder[64], state_dir[80], disk_path[96];
static ferry_vm *vm;
static guest_processes *guest;

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

/* ---- answers ---- */

static bool answered;
static int result;
static char words[512];
static guest_process_info info;
static size_t n_pids;
static Ferry__Agent__V1__ContainerStatsResponse stats;

static void note(int r, const ferry_error *error) {
        result = r;
        snprintf(words, sizeof(words), "%s", r < 0 ? ferry_error_message(error) : "");
        answered = true;
}

static void on_process(int r, const ferry_error *error, const guest_process_info *of,
                       void *userdata) {
        if (of)
                info = *of;
        note(r, error);
}

static void on_container(int r, const ferry_error *error, void *userdata) {
        note(r, error);
}

static void on_pids(int r, const ferry_error *error, const uint32_t *pids, size_t n,
                    void *userdata) {
        n_pids = n;
        note(r, error);
}

static void on_stats(int r, const ferry_error *error,
                     const Ferry__Agent__V1__ContainerStatsResponse *s, void *userdata) {
        if (s)
                stats = *s;
        note(r, error);
}

/* Asks, waits for the answer, gives its result. */
#define ASK(call)                                                                                  \
        __extension__({                                                                            \
                _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;                 \
                answered = false;                                                                  \
                result = call;                                                                     \
                if (result < 0)                                                                    \
                        note(result, &error);                                                      \
                WAIT(answered);                                                                    \
                result;                                                                            \
        })

#define OK(call)                                                                                   \
        do {                                                                                       \
                if (ASK(call) < 0)                                                                 \
                        fail_msg("%s", words);                                                     \
        } while (0)

/* ---- a container with its streams ---- */

typedef struct streams {
        char paths[3][128];
        int fds[3];
        char text[TEXT_MAX + 1];
        size_t n;
} streams;

static unsigned n_fifos;

static void open_streams(streams *s, bool terminal) {
        memset(s, 0, sizeof(*s));
        for (size_t i = 0; i < 3; i++) {
                s->fds[i] = -EBADF;
                if (terminal && i == 2)
                        continue;
                snprintf(s->paths[i], sizeof(s->paths[i]), "%s/fifo%u", folder, n_fifos++);
                assert_int_equal(mkfifo(s->paths[i], 0600), 0);
                s->fds[i] = open(s->paths[i], O_RDWR | O_NONBLOCK | O_CLOEXEC);
                assert_true(s->fds[i] >= 0);
        }
}

static void close_streams(streams *s) {
        for (size_t i = 0; i < 3; i++) {
                fd_close(s->fds[i]);
                (void)unlink(s->paths[i]);
        }
}

static bool output_has(streams *s, int of, const char *what) {
        ssize_t k;

        while (s->n < TEXT_MAX && (k = read(s->fds[of], s->text + s->n, TEXT_MAX - s->n)) > 0)
                s->n += (size_t)k;
        s->text[s->n] = '\0';
        return strstr(s->text, what) != NULL;
}

/* The configuration of one that runs `script`; `more` is put into "linux". */
static char *config(const char *id, const char *script, bool terminal, const char *more) {
        char *text;

        assert_true(
                asprintf(&text,
                         "{\"ociVersion\":\"1.0.2\",\"root\":{\"path\":\"/run/ferry/containers/%s/"
                         "rootfs\"},"
                         "\"hostname\":\"box\",\"process\":{\"terminal\":%s,\"user\":{\"uid\":0,"
                         "\"gid\":0},"
                         "\"args\":[\"/bin/busybox\",\"sh\",\"-c\",\"%s\"],"
                         "\"env\":[\"PATH=/bin\",\"GREETING=hello\"],\"cwd\":\"/\","
                         "\"capabilities\":{\"bounding\":[\"CAP_KILL\"],\"effective\":[\"CAP_"
                         "KILL\"],"
                         "\"permitted\":[\"CAP_KILL\"]}},"
                         "\"mounts\":[{\"destination\":\"/"
                         "proc\",\"type\":\"proc\",\"source\":\"proc\"},"
                         "{\"destination\":\"/dev\",\"type\":\"tmpfs\",\"source\":\"tmpfs\","
                         "\"options\":[\"nosuid\",\"mode=755\"]},"
                         "{\"destination\":\"/dev/pts\",\"type\":\"devpts\",\"source\":\"devpts\","
                         "\"options\":[\"newinstance\",\"ptmxmode=0666\",\"mode=0620\"]},"
                         "{\"destination\":\"/etc/greeting\",\"type\":\"bind\","
                         "\"source\":\"/run/ferry/containers/%s/files/"
                         "0\",\"options\":[\"bind\",\"ro\"]}],"
                         "\"linux\":{\"cgroupsPath\":\"/ferry/"
                         "%s\",%s\"namespaces\":[{\"type\":\"pid\"},"
                         "{\"type\":\"mount\"},{\"type\":\"ipc\"},{\"type\":\"uts\"},{\"type\":"
                         "\"cgroup\"}]}}",
                         id, terminal ? "true" : "false", script, id, id, more) > 0);
        return text;
}

static int create_with(streams *s, const char *id, const char *script, bool terminal,
                       const char *more, const guest_file *files, size_t n_files) {
        _cleanup_(freep) char *text = config(id, script, terminal, more);
        const guest_container_spec container = { .config = text,
                                                 .n_config = strlen(text),
                                                 .disk = DISK,
                                                 .fstype = "erofs",
                                                 .files = files,
                                                 .n_files = n_files };
        guest_process_spec spec = {
                .id = id, .terminal = terminal, .rows = 33, .columns = 77, .create = &container
        };

        open_streams(s, terminal);
        for (size_t i = 0; i < 3; i++)
                spec.stdio[i] = s->paths[i];
        return ASK(guest_exec(guest, &spec, on_process, NULL, &error));
}

static int create(streams *s, const char *id, const char *script, bool terminal, const char *more) {
        const guest_file greeting = {
                .path = "0", .mode = S_IFREG | 0644, .data = "good morning\n", .n = 13
        };

        return create_with(s, id, script, terminal, more, &greeting, 1);
}

static void start(streams *s, const char *id, const char *script) {
        if (create(s, id, script, false, "") < 0)
                fail_msg("%s", words);
        assert_true(info.pid > 1);
        OK(guest_container_start(guest, id, on_container, NULL, &error));
}

static uint32_t exit_status(const char *id) {
        OK(guest_wait(guest, id, true, on_process, NULL, &error));
        return info.exit_status;
}

static void put_away(streams *s, const char *id) {
        OK(guest_container_delete(guest, id, on_container, NULL, &error));
        OK(guest_delete(guest, id, on_process, NULL, &error));
        close_streams(s);
}

/* A program of the guest itself, to look from outside. */
static void look(streams *s, const char *script) {
        char *args[] = { (char *)"/bin/busybox", (char *)"sh", (char *)"-c", (char *)script };
        char *env[] = { (char *)"PATH=/bin" };
        guest_process_spec spec = {
                .id = "look", .args = args, .n_args = 4, .env = env, .n_env = 1, .cwd = "/"
        };

        open_streams(s, false);
        for (size_t i = 0; i < 3; i++)
                spec.stdio[i] = s->paths[i];
        OK(guest_exec(guest, &spec, on_process, NULL, &error));
        (void)exit_status("look");
        OK(guest_delete(guest, "look", on_process, NULL, &error));
        (void)output_has(s, 1, "");
        close_streams(s);
}

/* ---- the guest ---- */

static bool ready;

static void on_ready(ferry_vm *v, int r, const ferry_error *error, void *userdata) {
        if (r < 0)
                fail_msg("%s", ferry_error_message(error));
        ready = true;
}

static void leave(const char *why) {
        const char *ci = getenv("CI");

        fprintf(stderr, "%s\n", why);
        _exit(ci && strcmp(ci, "true") == 0 ? 1 : 77);
}

static void run(const char *command) {
        int status = system(command);

        if (status != 0)
                fail_msg("%s: %d", command, status);
}

static void make_disk(void) {
        char command[512];

        snprintf(disk_path, sizeof(disk_path), "%s/root.erofs", folder);
        snprintf(command, sizeof(command),
                 "cd %s && mkdir -p r/bin r/proc r/dev r/etc r/sys r/tmp && cp /bin/busybox r/bin/ "
                 "&& "
                 "touch r/etc/greeting && ln -s busybox r/bin/sh && "
                 "mkfs.erofs -T0 root.erofs r >mkfs.log 2>&1 && rm -r r mkfs.log && chmod 0644 "
                 "root.erofs",
                 folder);
        run(command);
}

static int setup(void **state) {
        _cleanup_(guest_image_result_done) guest_image_result image = { 0 };
        _cleanup_(vm_config_freep) vm_config *vm_with = NULL;
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *text = NULL;
        guest_image_options options = { .output_dir = folder,
                                        .containers = true,
                                        .agent_dir = getenv("FERRY_AGENT_DIR") };
        vm_options with = { .state_dir = state_dir };
        vm_handlers handlers = { 0 };

        if (guest_image_build(&options, &image, &error) < 0)
                leave(ferry_error_message(&error));
        make_disk();
        assert_true(
                asprintf(
                        &text,
                        "{\"kernel\":\"%s\",\"initrd\":\"%s\",\"cmdline\":\"%s\","
                        "\"accelerator\":\"tcg\",\"agent\":true,\"scsi\":true,\"disks\":[{\"path\":"
                        "\"%s\",\"readonly\":true,\"serial\":\"" DISK "\",\"scsi_id\":3}]}",
                        image.kernel, image.initrd, image.cmdline, disk_path) > 0);
        if (vm_config_parse(text, strlen(text), &vm_with, &error) < 0)
                fail_msg("%s", ferry_error_message(&error));
        with.config = vm_with;
        if (vm_start(event, &with, &handlers, on_ready, NULL, &vm, &error) < 0)
                fail_msg("%s", ferry_error_message(&error));
        WAIT(ready);
        if (guest_processes_new(event, state_dir, "1", &guest, &error) < 0)
                fail_msg("%s", ferry_error_message(&error));
        ready = false;
        assert_int_equal(vm_cont(vm, on_ready, NULL), 0);
        WAIT(ready);
        return 0;
}

static int teardown(void **state) {
        guest = guest_processes_free(guest);
        if (vm) {
                (void)vm_kill(vm);
                while (vm_is_alive(vm))
                        (void)sd_event_run(event, UINT64_MAX);
                vm = vm_close(vm);
        }
        return 0;
}

/* ---- tests ---- */

static void test_its_output_and_exit_status(void **state) {
        streams s;

        start(&s, "first",
              "echo $GREETING from $(hostname) $$; cat /etc/greeting; touch /tmp/x && echo "
              "written; echo bad >&2; exit 7");
        assert_int_equal(exit_status("first"), 7);
        assert_true(output_has(&s, 1, "hello from box 1\ngood morning\nwritten\n"));
        s.n = 0;
        assert_true(output_has(&s, 2, "bad\n"));
        assert_int_equal(info.oom_kills, 0);
        put_away(&s, "first");
}

static void test_nothing_is_left_of_it(void **state) {
        streams s;

        look(&s, "ls /run/ferry/containers /run/ferry/jobs /sys/fs/cgroup/ferry | grep -c first; "
                 "grep -c ferry/containers "
                 "/proc/mounts; ls /run/ferry/jobs | wc -l");
        assert_string_equal(s.text, "0\n0\n0\n");
}

static void test_input_and_signals(void **state) {
        streams s;

        start(&s, "cat",
              "trap 'echo term; exit 5' TERM; read x; echo got $x; while :; do sleep 0.1; done");
        assert_int_equal(write(s.fds[0], "this\n", 5), 5);
        WAIT(output_has(&s, 1, "got this\n"));
        OK(guest_signal(guest, "cat", SIGTERM, false, on_process, NULL, &error));
        assert_int_equal(exit_status("cat"), 5);
        put_away(&s, "cat");
}

static void test_a_terminal(void **state) {
        streams s;

        if (create(&s, "tty", "read x; echo got $x; stty size; test -t 0 && exit 3", true, "") < 0)
                fail_msg("%s", words);
        OK(guest_container_start(guest, "tty", on_container, NULL, &error));
        OK(guest_resize(guest, "tty", 44, 99, on_process, NULL, &error));
        assert_int_equal(write(s.fds[0], "this\n", 5), 5);
        assert_int_equal(exit_status("tty"), 3);
        assert_true(output_has(&s, 1, "got this\r\n44 99\r\n"));
        put_away(&s, "tty");
}

static int exec_in(streams *s, const char *container, const char *id, const char *script,
                   bool terminal) {
        _cleanup_(freep) char *process = NULL;
        guest_process_spec spec = { .id = id, .terminal = terminal, .container = container };

        assert_true(asprintf(&process,
                             "{\"terminal\":%s,\"user\":{\"uid\":0,\"gid\":0},\"args\":[\"/bin/"
                             "busybox\","
                             "\"sh\",\"-c\",\"%s\"],\"env\":[\"PATH=/bin\"],\"cwd\":\"/\"}",
                             terminal ? "true" : "false", script) > 0);
        spec.process = process;
        spec.n_process = strlen(process);
        open_streams(s, terminal);
        for (size_t i = 0; i < 3; i++)
                spec.stdio[i] = s->paths[i];
        return ASK(guest_exec(guest, &spec, on_process, NULL, &error));
}

static void test_more_programs_in_it(void **state) {
        streams s, e, t;

        start(&s, "pod", "echo up; while :; do sleep 0.2; done");
        WAIT(output_has(&s, 1, "up"));
        if (exec_in(&e, "pod", "pod.exec", "hostname; echo $$; exit 9", false) < 0)
                fail_msg("%s", words);
        assert_int_equal(exit_status("pod.exec"), 9);
        assert_true(output_has(&e, 1, "box\n"));
        if (exec_in(&t, "pod", "pod.tty", "test -t 1 && echo tty; read x; exit 4", true) < 0)
                fail_msg("%s", words);
        WAIT(output_has(&t, 1, "tty\r\n"));
        OK(guest_container_pids(guest, "pod", on_pids, NULL, &error));
        assert_true(n_pids >= 2);
        OK(guest_container_stats(guest, "pod", on_stats, NULL, &error));
        assert_true(stats.cpu_usec > 0 && stats.memory_bytes > 0 && stats.pids >= 2 &&
                    stats.n_memory > 10);
        OK(guest_container_stats(guest, "", on_stats, NULL, &error));
        assert_true(stats.cpu_usec > 0 && stats.memory_bytes > 0 && stats.pids >= 2);
        OK(guest_signal(guest, "pod", SIGKILL, true, on_process, NULL, &error));
        assert_int_equal(exit_status("pod"), 128 + SIGKILL);
        assert_int_equal(exit_status("pod.tty"), 128 + SIGKILL);
        OK(guest_delete(guest, "pod.exec", on_process, NULL, &error));
        OK(guest_delete(guest, "pod.tty", on_process, NULL, &error));
        close_streams(&e);
        close_streams(&t);
        put_away(&s, "pod");
}

static void test_pause_and_resume(void **state) {
        streams s, l;

        start(&s, "tick", "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done");
        WAIT(output_has(&s, 1, "tick 3\n"));
        OK(guest_container_pause(guest, "tick", on_container, NULL, &error));
        look(&l, "cat /sys/fs/cgroup/ferry/tick/cgroup.freeze");
        assert_string_equal(l.text, "1\n");
        OK(guest_container_resume(guest, "tick", on_container, NULL, &error));
        (void)output_has(&s, 1, "");
        s.n = 0;
        WAIT(output_has(&s, 1, "tick"));
        OK(guest_signal(guest, "tick", SIGKILL, false, on_process, NULL, &error));
        (void)exit_status("tick");
        put_away(&s, "tick");
}

static void test_a_memory_limit(void **state) {
        streams s;

        if (create(&s, "hungry", "tail /dev/zero; echo $?", false,
                   "\"resources\":{\"memory\":{\"limit\":16777216}},") < 0)
                fail_msg("%s", words);
        OK(guest_container_start(guest, "hungry", on_container, NULL, &error));
        OK(guest_container_stats(guest, "hungry", on_stats, NULL, &error));
        assert_int_equal(stats.memory_limit_bytes, 16777216);
        (void)exit_status("hungry");
        assert_true(info.oom_kills > 0);
        put_away(&s, "hungry");
}

static void test_limits_change(void **state) {
        static const char resources[] = "{\"memory\":{\"limit\":67108864},\"pids\":{\"limit\":50}}";
        streams s;

        start(&s, "change", "while :; do sleep 0.2; done");
        OK(guest_container_update(guest, "change", resources, strlen(resources), on_container, NULL,
                                  &error));
        OK(guest_container_stats(guest, "change", on_stats, NULL, &error));
        assert_int_equal(stats.memory_limit_bytes, 67108864);
        assert_int_equal(stats.pids_limit, 50);
        OK(guest_signal(guest, "change", SIGKILL, false, on_process, NULL, &error));
        (void)exit_status("change");
        put_away(&s, "change");
}

static void test_what_cannot_be(void **state) {
        streams s, again;

        assert_true(create(&s, "no-program", "exit 0", false, "\"garbage\":,") < 0);
        assert_non_null(strstr(words, "config.json"));
        close_streams(&s);
        start(&s, "one", "while :; do sleep 0.2; done");
        assert_true(create(&again, "one", "exit 0", false, "") == -EEXIST);
        close_streams(&again);
        assert_true(exec_in(&again, "nobody", "x", "exit 0", false) < 0);
        assert_non_null(strstr(words, "nobody"));
        close_streams(&again);
        assert_true(ASK(guest_container_start(guest, "one", on_container, NULL, &error)) < 0);
        assert_true(ASK(guest_container_start(guest, "nobody", on_container, NULL, &error)) < 0);
        assert_true(ASK(guest_container_pids(guest, "nobody", on_pids, NULL, &error)) < 0);
        /* with --force: what is in it is killed */
        OK(guest_container_delete(guest, "one", on_container, NULL, &error));
        assert_int_equal(exit_status("one"), 128 + SIGKILL);
        OK(guest_delete(guest, "one", on_process, NULL, &error));
        close_streams(&s);
        look(&s, "ls /run/ferry/containers | wc -l; ls /run/ferry/jobs | wc -l; ls -d "
                 "/sys/fs/cgroup/ferry/*/ 2>/dev/null | wc -l");
        assert_string_equal(s.text, "0\n0\n0\n");
}

/* The agent believes no path: what the shim sends came from a host's folders. */
static void test_files_that_lead_out(void **state) {
        static const char *const paths[] = { "../x", "/run/x", "0/../../x", "0//x",   "",
                                             "0/",   ".",      "link/x",    "none/x", "0" };
        static const guest_file alone[] = {
                { .path = "0", .mode = S_IFCHR | 0600 },
                { .path = "a/b", .mode = S_IFDIR | 0700, .shared = true },
                { .path = "..", .mode = S_IFDIR | 0700, .shared = true },
                { .path = "", .mode = S_IFDIR | 0700, .shared = true },
                { .path = "a", .mode = S_IFREG | 0600, .shared = true },
        };
        streams s;

        for (size_t i = 0; i < ELEMENTS(paths); i++) {
                const guest_file files[] = {
                        { .path = "0", .mode = S_IFDIR | 0755 },
                        { .path = "link", .mode = S_IFLNK | 0777, .data = "/run/ferry", .n = 10 },
                        { .path = paths[i], .mode = S_IFREG | 0644, .data = "x", .n = 1 },
                };

                assert_true(create_with(&s, "out", "exit 0", false, "", files, 3) < 0);
                close_streams(&s);
        }
        for (size_t i = 0; i < ELEMENTS(alone); i++) {
                assert_true(create_with(&s, "out", "exit 0", false, "", &alone[i], 1) < 0);
                close_streams(&s);
        }
        look(&s, "ls -d /run/x /run/ferry/x /x 2>/dev/null | wc -l; grep -c /out/ /proc/mounts; "
                 "ls /run/ferry/containers | wc -l");
        assert_string_equal(s.text, "0\n0\n0\n");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *place) {
        return remove(path);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_its_output_and_exit_status),
                cmocka_unit_test(test_nothing_is_left_of_it),
                cmocka_unit_test(test_input_and_signals),
                cmocka_unit_test(test_a_terminal),
                cmocka_unit_test(test_more_programs_in_it),
                cmocka_unit_test(test_pause_and_resume),
                cmocka_unit_test(test_a_memory_limit),
                cmocka_unit_test(test_limits_change),
                cmocka_unit_test(test_what_cannot_be),
                cmocka_unit_test(test_files_that_lead_out),
        };
        int r;

        strcpy(folder, "/tmp/ferry-containers-XXXXXX");
        if (!mkdtemp(folder) || sd_event_default(&event) < 0)
                return 1;
        (void)chmod(folder, 0755); /* QEMU runs as somebody else */
        snprintf(state_dir, sizeof(state_dir), "%s/state", folder);
        (void)mkdir(state_dir, 0700);
        r = cmocka_run_group_tests_name("containers", tests, setup, teardown);
        sd_event_unref(event);
        (void)nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        return r;
}
