/* SPDX-License-Identifier: MIT */

/* Two sandboxes with real QEMUs and the tiny guest, in this process: disks that come while the
 * guest runs are known to a later shim and to the destination. */

#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "migration/sandbox.h"
#include "migration/session.h"

#define LIMIT_USEC (120 * USEC_PER_SEC) /* ends a hung test, proves nothing */

typedef struct world {
        sd_event *event;
        char folder[64], image[96], writable[96];
        sandbox *a, *b;
        InitializeOptions options;
        unsigned n_done;
        int r;
        char text[2048];
} world;

static int on_limit(sd_event_source *source, uint64_t usec, void *userdata) {
        fail_msg("the test hung");
        return 0;
}

#define WAIT(w, condition)                                                                         \
        do {                                                                                       \
                sd_event_source *limit_ = NULL;                                                    \
                assert_true(sd_event_add_time_relative((w)->event, &limit_, CLOCK_MONOTONIC,       \
                                                       LIMIT_USEC, 0, on_limit, NULL) >= 0);       \
                while (!(condition))                                                               \
                        assert_true(sd_event_run((w)->event, 50000) >= 0);                         \
                sd_event_source_disable_unref(limit_);                                             \
        } while (0)

static void on_done(int r, const ferry_error *error, void *userdata) {
        world *w = userdata;

        w->n_done++;
        w->r = r;
        snprintf(w->text, sizeof(w->text), "%s", r < 0 ? ferry_error_message(error) : "");
}

/* Runs a call to its end; one that was not even taken ends at once. */
#define CALL(w, call)                                                                              \
        __extension__({                                                                            \
                ferry_error error_ = FERRY_ERROR_INIT;                                             \
                ferry_error *reterr = &error_;                                                     \
                unsigned before_ = (w)->n_done;                                                    \
                int r_ = (call);                                                                   \
                if (r_ < 0)                                                                        \
                        on_done(r_, reterr, w);                                                    \
                WAIT(w, (w)->n_done > before_);                                                    \
                ferry_error_done(&error_);                                                         \
                (w)->r;                                                                            \
        })
/* The calls of a session return nothing. */
#define SESSION(w, call) CALL(w, ((call), (void)reterr, 0))

static void good(world *w, int r) {
        if (r < 0)
                fail_msg("%s", w->text);
}

static void make_sandbox(world *w, const char *name, sandbox **ret) {
        sandbox_options options = { .id = "box", .disk_root = w->folder };
        char dir[128];

        snprintf(dir, sizeof(dir), "%s/%s", w->folder, name);
        assert_true(mkdir(dir, 0700) == 0 || errno == EEXIST);
        options.state_dir = dir;
        assert_int_equal(sandbox_new(w->event, &options, ret, NULL), 0);
}

static void make_image(world *w, const char *name, char fill, char ret[96]) {
        char block[4096];
        int fd;

        memset(block, fill, sizeof(block));
        snprintf(ret, 96, "%s/%s", w->folder, name);
        fd = open(ret, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
        for (unsigned i = 0; i < 256; i++)
                assert_int_equal(fd_write_all(fd, block, sizeof(block)), 0);
        fd_close(fd);
}

static int setup(void **state) {
        _cleanup_(vm_config_freep) vm_config *config = NULL;
        world *w = calloc(1, sizeof(*w));
        char text[512];

        assert_non_null(w);
        *state = w;
        assert_true(sd_event_new(&w->event) >= 0);
        initialize_options__init(&w->options);
        w->options.memory_transport = MEMORY_TRANSPORT__MEMORY_TRANSPORT_TCP;
        w->options.handover = HANDOVER__HANDOVER_DIRECT;
        strcpy(w->folder, "/tmp/ferry-disks-XXXXXX");
        assert_non_null(mkdtemp(w->folder));
        make_image(w, "image", 'i', w->image);
        make_image(w, "writable", 'w', w->writable);
        make_sandbox(w, "a", &w->a);
        make_sandbox(w, "b", &w->b);
        snprintf(text, sizeof(text),
                 "{\"memory_mb\":64,\"accelerator\":\"tcg\",\"kernel\":\"%s\",\"scsi\":true,"
                 "\"cmdline\":\"rate=100 wss=64\"}",
                 getenv("FERRY_TINY_GUEST"));
        assert_int_equal(vm_config_parse(text, strlen(text), &config, NULL), 0);
        good(w, CALL(w, sandbox_boot(w->a, config, on_done, w, reterr)));
        return 0;
}

static void remove_tree(const char *path) {
        char command[160];

        snprintf(command, sizeof(command), "rm -rf %s", path);
        assert_int_equal(system(command), 0);
}

static int teardown(void **state) {
        world *w = *state;
        sandbox *both[] = { w->a, w->b };

        for (size_t i = 0; i < ELEMENTS(both); i++) {
                if (sandbox_vm(both[i]))
                        good(w, CALL(w, sandbox_stop(both[i], true, on_done, w, reterr)));
                sandbox_free(both[i]);
        }
        sd_event_unref(w->event);
        remove_tree(w->folder);
        free(w);
        return 0;
}

static int add(world *w, sandbox *sb, const char *path, const char *serial, bool readonly) {
        vm_disk disk = {
                .path = path, .serial = serial, .readonly = readonly, .scsi_id = VM_SCSI_ID_ANY
        };

        return CALL(w, sandbox_disk_add(sb, &disk, on_done, w, reterr));
}

static int take_away(world *w, sandbox *sb, const char *serial) {
        return CALL(w, sandbox_disk_remove(sb, serial, on_done, w, reterr));
}

static bool saved(world *w, const char *name, const char *serial) {
        _cleanup_(vm_config_freep) vm_config *config = NULL;
        char path[128];

        snprintf(path, sizeof(path), "%s/%s/config.json", w->folder, name);
        assert_int_equal(vm_config_read(path, &config, NULL), 0);
        return vm_config_find_disk(config, serial) >= 0;
}

static void test_a_later_shim_knows_them(void **state) {
        world *w = *state;

        good(w, add(w, w->a, w->image, "web", true));
        assert_true(saved(w, "a", "web"));
        w->a = sandbox_free(w->a);
        make_sandbox(w, "a", &w->a);
        good(w, CALL(w, sandbox_recover(w->a, on_done, w, reterr)));
        assert_int_equal(add(w, w->a, w->writable, "web", false), -EEXIST);
        good(w, take_away(w, w->a, "web"));
        assert_false(saved(w, "a", "web"));
        assert_int_equal(take_away(w, w->a, "web"), -ENOENT);
}

static void test_no_vm_no_disk(void **state) {
        world *w = *state;

        assert_int_equal(add(w, w->b, w->image, "web", true), -EPROTO);
        assert_int_equal(take_away(w, w->b, "web"), -EPROTO);
        assert_int_equal(add(w, w->a, w->image, "a-serial-that-is-too-long-by-far", true), -EINVAL);
}

/* What cannot be written down is not kept. */
static void test_a_disk_that_cannot_be_saved(void **state) {
        char path[128];
        world *w = *state;

        snprintf(path, sizeof(path), "%s/a/config.json", w->folder);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_true(add(w, w->a, w->image, "web", true) < 0);
        assert_non_null(strstr(w->text, "config.json"));
        assert_int_equal(vm_get_config(sandbox_vm(w->a))->n_disks, 0);
        assert_int_equal(rmdir(path), 0);
        good(w, add(w, w->a, w->image, "web", true));
        assert_true(saved(w, "a", "web"));
}

static void connected_pair(int ret[2]) {
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t n = sizeof(address);
        int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_int_equal(bind(listener, (struct sockaddr *)&address, n), 0);
        assert_int_equal(listen(listener, 1), 0);
        assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &n), 0);
        ret[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(ret[0], (struct sockaddr *)&address, n), 0);
        ret[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        assert_true(ret[1] >= 0);
        fd_close(listener);
}

static bool is_at(sandbox *sb, mig_state state) {
        session_status status;

        session_get_status(sandbox_session(sb), &status);
        return status.state == state;
}

static void export_and_import(world *w, const char *id) {
        const uint8_t *exported;
        size_t n;

        good(w, SESSION(w, session_export(sandbox_session(w->a), id, &w->options, on_done, w)));
        session_exported(sandbox_session(w->a), &exported, &n);
        (void)SESSION(w, session_import(sandbox_session(w->b), id, "box", exported, n, on_done, w));
}

static void test_they_move_along(void **state) {
        session *from, *to;
        int pair[2];
        world *w = *state;

        good(w, add(w, w->a, w->image, "gone", true));
        good(w, add(w, w->a, w->image, "web", true));
        good(w, add(w, w->a, w->writable, "data", false));
        good(w, take_away(w, w->a, "gone"));
        export_and_import(w, "one");
        good(w, w->r);
        from = sandbox_session(w->a);
        to = sandbox_session(w->b);
        /* the destination has been told what there is */
        assert_int_equal(add(w, w->a, w->image, "late", true), -EBUSY);
        assert_int_equal(take_away(w, w->a, "web"), -EBUSY);
        good(w, SESSION(w, session_prepare(to, "one", &w->options, on_done, w)));
        assert_true(saved(w, "b", "web") && saved(w, "b", "data"));
        connected_pair(pair);
        good(w, SESSION(w, session_socket(from, "one", pair[0], on_done, w)));
        good(w, SESSION(w, session_socket(to, "one", pair[1], on_done, w)));
        good(w, SESSION(w, session_transfer(from, "one", 0, on_done, w)));
        good(w, SESSION(w, session_transfer(to, "one", 0, on_done, w)));
        WAIT(w, is_at(w->a, MIG_S_RELEASED) && is_at(w->b, MIG_D_RUNNING));
        good(w, SESSION(w, session_finalize(from, "one", FINALIZE_ACTION__FINALIZE_ACTION_STOP,
                                            NULL, 0, false, NULL, on_done, w)));
        good(w, SESSION(w, session_finalize(to, "one", FINALIZE_ACTION__FINALIZE_ACTION_RESUME,
                                            NULL, 0, false, NULL, on_done, w)));
        good(w, SESSION(w, session_cleanup(from, "one", on_done, w)));
        good(w, SESSION(w, session_cleanup(to, "one", on_done, w)));
        assert_int_equal(sandbox_get_vm_state(w->a), SANDBOX_VM_NONE);
        assert_int_equal(sandbox_get_vm_state(w->b), SANDBOX_VM_RUNNING);
        good(w, take_away(w, w->b, "data"));
        good(w, add(w, w->b, w->writable, "data", false));
        good(w, take_away(w, w->b, "web"));
        assert_false(saved(w, "b", "web"));
        assert_true(saved(w, "b", "data"));
}

static void test_another_content_is_refused(void **state) {
        int fd;
        world *w = *state;

        good(w, add(w, w->a, w->image, "web", true));
        good(w, SESSION(w, session_export(sandbox_session(w->a), "one", &w->options, on_done, w)));
        fd = open(w->image, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "?", 1, 500000), 1);
        fd_close(fd);
        {
                const uint8_t *exported;
                size_t n;

                session_exported(sandbox_session(w->a), &exported, &n);
                assert_true(SESSION(w, session_import(sandbox_session(w->b), "one", "box", exported,
                                                      n, on_done, w)) < 0);
        }
        assert_non_null(strstr(w->text, "scsi0"));
        assert_non_null(strstr(w->text, "another content"));
        assert_null(sandbox_vm(w->b));
        good(w, SESSION(w, session_cancel(sandbox_session(w->a), "one", on_done, w)));
        good(w, SESSION(w, session_cleanup(sandbox_session(w->a), "one", on_done, w)));
        assert_int_equal(sandbox_get_vm_state(w->a), SANDBOX_VM_RUNNING);
        good(w, take_away(w, w->a, "web"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_a_later_shim_knows_them),     TEST(test_no_vm_no_disk),
                TEST(test_a_disk_that_cannot_be_saved), TEST(test_they_move_along),
                TEST(test_another_content_is_refused),
        };

        return cmocka_run_group_tests_name("disks", tests, NULL, NULL);
}
