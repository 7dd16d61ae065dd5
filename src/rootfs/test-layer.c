/* SPDX-License-Identifier: MIT */
/* Disks for containers to write to, looked at by e2fsck. */
#include "rootfs/layer.h"

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH_SIZE 128

typedef struct world {
        sd_event *event;
        char folder[PATH_SIZE], path[PATH_SIZE + 16];
        layer_job *job;
        int n, r;
        char text[512];
} world;

static int setup(void **state) {
        world *w = calloc(1, sizeof(*w));

        assert_non_null(w);
        assert_true(sd_event_new(&w->event) >= 0);
        strcpy(w->folder, "/tmp/ferry-layer-XXXXXX");
        assert_non_null(mkdtemp(w->folder));
        snprintf(w->path, sizeof(w->path), "%s/disks/one", w->folder);
        *state = w;
        return 0;
}

__attribute__((format(printf, 1, 2))) static int run(const char *format, ...) {
        char text[2 * PATH_SIZE];
        va_list ap;
        int status;

        va_start(ap, format);
        vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        status = system(text);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int teardown(void **state) {
        world *w = *state;

        layer_job_free(w->job);
        sd_event_unref(w->event);
        assert_int_equal(run("rm -r %s", w->folder), 0);
        free(w);
        return 0;
}

static void on_done(int r, const ferry_error *error, void *userdata) {
        world *w = userdata;

        w->n++;
        w->r = r;
        snprintf(w->text, sizeof(w->text), "%s", r < 0 ? ferry_error_message(error) : "");
}

static int begin(world *w, const char *path, uint32_t mb) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int r;

        w->n = 0;
        r = layer_make(w->event, path, mb, on_done, w, &w->job, &error);
        snprintf(w->text, sizeof(w->text), "%s", r < 0 ? ferry_error_message(&error) : "");
        assert_int_equal(w->n, 0);
        return r;
}

static int make(world *w, uint32_t mb) {
        assert_int_equal(begin(w, w->path, mb), 0);
        while (w->n == 0)
                assert_true(sd_event_run(w->event, UINT64_MAX) >= 0);
        w->job = layer_job_free(w->job);
        assert_int_equal(w->n, 1);
        return w->r;
}

static bool folder_is_empty(const world *w) {
        return run("test -z \"$(ls -A %s/disks)\"", w->folder) == 0;
}

static void test_empty_and_sparse(void **state) {
        world *w = *state;
        struct stat st;

        assert_int_equal(make(w, LAYER_MB_DEFAULT), 0);
        assert_int_equal(stat(w->path, &st), 0);
        assert_int_equal(st.st_size, (off_t)LAYER_MB_DEFAULT << 20);
        assert_true(st.st_blocks * 512 < 4 << 20);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_equal(run("e2fsck -fn %s >/dev/null 2>&1", w->path), 0);
        assert_int_equal(run("blkid -o value -s TYPE %s | grep -qx ext4", w->path), 0);
}

static void test_the_smallest(void **state) {
        world *w = *state;

        assert_int_equal(make(w, LAYER_MB_MIN), 0);
        assert_int_equal(run("e2fsck -fn %s >/dev/null 2>&1", w->path), 0);
}

static void test_a_name_that_is_taken(void **state) {
        world *w = *state;

        assert_int_equal(mkdir(strcat(strcpy(w->text, w->folder), "/disks"), 0700), 0);
        assert_int_equal(run("echo mine >%s", w->path), 0);
        assert_int_equal(make(w, LAYER_MB_MIN), -EEXIST);
        assert_int_equal(run("grep -qx mine %s", w->path), 0);
}

static void test_what_is_refused(void **state) {
        world *w = *state;

        assert_int_equal(begin(w, w->path, LAYER_MB_MIN - 1), -EINVAL);
        assert_int_equal(begin(w, w->path, LAYER_MB_MAX + 1), -EINVAL);
        assert_int_equal(begin(w, "disks/one", LAYER_MB_MIN), -EINVAL);
        assert_int_equal(begin(w, "/nowhere/at/all", LAYER_MB_MIN), -ENOENT);
}

static void test_given_up(void **state) {
        world *w = *state;

        assert_int_equal(begin(w, w->path, LAYER_MB_DEFAULT), 0);
        w->job = layer_job_free(w->job);
        while (sd_event_run(w->event, 0) > 0)
                ;
        assert_int_equal(w->n, 0);
        assert_true(folder_is_empty(w));
}

static void test_no_room(void **state) {
        world *w = *state;
        char folder[PATH_SIZE + 16];

        if (geteuid() != 0)
                skip();
        snprintf(folder, sizeof(folder), "%s/disks", w->folder);
        assert_int_equal(mkdir(folder, 0700), 0);
        assert_int_equal(mount("test", folder, "tmpfs", 0, "size=4m"), 0);
        assert_int_equal(begin(w, w->path, 64), -ENOSPC);
        assert_non_null(strstr(w->text, "room"));
        assert_true(folder_is_empty(w));
        assert_int_equal(umount(folder), 0);
}

static void test_without_the_program(void **state) {
        world *w = *state;

        assert_int_equal(mount("test", "/usr/sbin", "tmpfs", 0, NULL), 0);
        assert_int_equal(make(w, LAYER_MB_MIN), -ENOENT);
        assert_int_equal(umount("/usr/sbin"), 0);
        assert_non_null(strstr(w->text, "e2fsprogs"));
        assert_true(folder_is_empty(w));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
        const struct CMUnitTest tests[] = {
                TEST(test_empty_and_sparse),
                TEST(test_the_smallest),
                TEST(test_a_name_that_is_taken),
                TEST(test_what_is_refused),
                TEST(test_given_up),
                TEST(test_no_room),
                TEST(test_without_the_program),
        };

        /* nothing mounted here is seen elsewhere */
        if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
            mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return 77;
        return cmocka_run_group_tests_name("layer", tests, NULL, NULL);
}
