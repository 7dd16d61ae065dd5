/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "vm/throttle.h"

/* ---- where a process is ---- */

static void expect_place(const char *cgroups, const char *mounts, throttle_kind kind,
                         const char *folder) {
        _cleanup_(freep) char *found = NULL;
        throttle_kind found_kind;

        assert_int_equal(throttle_locate(cgroups, mounts, &found_kind, &found), 0);
        assert_int_equal(found_kind, kind);
        assert_string_equal(found, folder);
}

static void expect_nowhere(const char *cgroups, const char *mounts) {
        throttle_kind kind;
        char *found = NULL;

        assert_int_equal(throttle_locate(cgroups, mounts, &kind, &found), -EOPNOTSUPP);
        assert_null(found);
}

#define V2_MOUNT  "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1_MOUNT  "35 32 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
#define SET_MOUNT "36 32 0:32 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"

static void test_places(void **state) {
        expect_place("0::/system.slice/ferry.service\n", V2_MOUNT, THROTTLE_V2,
                     "/sys/fs/cgroup/system.slice/ferry.service");
        expect_place("0::/", V2_MOUNT, THROTTLE_V2, "/sys/fs/cgroup");
        /* both: where v1 has the controller, v2 has not */
        expect_place("5:cpuset:/a\n4:cpu,cpuacct:/b\n0::/c\n",
                     SET_MOUNT V1_MOUNT
                     "40 32 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n",
                     THROTTLE_V1, "/sys/fs/cgroup/cpu,cpuacct/b");
        /* v1 has others only */
        expect_place("5:cpuset:/a\n0::/c\n", SET_MOUNT V2_MOUNT, THROTTLE_V2, "/sys/fs/cgroup/c");
        /* a container sees a part */
        expect_place("4:cpu:/docker/1/ferry\n",
                     "35 32 0:31 /docker/1 /cg rw shared:9 master:2 - cgroup none rw,cpu\n",
                     THROTTLE_V1, "/cg/ferry");
}

static void test_places_that_are_none(void **state) {
        static const char *const rubbish[] = {
                "",
                "\n\n",
                ":",
                "::",
                "0:",
                "0:/a",
                "4:cpu\n",
                "x",
                "4:cpu:relative\n",
                "4:cpuset:/a\n",
        };

        for (size_t i = 0; i < ELEMENTS(rubbish); i++)
                expect_nowhere(rubbish[i], V1_MOUNT V2_MOUNT);
        expect_nowhere("0::/a\n", "");
        expect_nowhere("0::/a\n", "- cgroup2 x y\n1 2 3\n - \n");
        expect_nowhere("0::/a\n", V1_MOUNT);
        expect_nowhere("4:cpu:/other/1\n", "35 32 0:31 /docker/1 /cg rw - cgroup none rw,cpu\n");
        expect_nowhere("4:cpu:/docker/12\n", "35 32 0:31 /docker/1 /cg rw - cgroup none rw,cpu\n");
        expect_nowhere("0::/a\n", "30 23 0:26 / /with\\040blank rw - cgroup2 cgroup2 rw\n");
}

static void test_periods_are_short_and_quotas_are_legal(void **state) {
        unsigned period, quota;

        for (unsigned percentage = 1; percentage <= THROTTLE_MAX; percentage++) {
                throttle_period(percentage, &period, &quota);
                assert_true(quota >= THROTTLE_QUOTA_MIN);
                assert_true(period >= THROTTLE_PERIOD_MIN && period <= 50000);
                assert_true(quota * 100 <= period * (100 - percentage) + 100);
        }
        throttle_period(50, &period, &quota);
        assert_int_equal(period, 5000);
        assert_int_equal(quota, 2500);
        throttle_period(98, &period, &quota);
        assert_int_equal(period, 50000);
        assert_int_equal(quota, 1000);
}

/* ---- what a shim before us has left ---- */

typedef struct folder {
        char path[32];
        int fd;
} folder;

static int make_folder(void **state) {
        folder *f = calloc(1, sizeof(*f));

        strcpy(f->path, "/tmp/throttle-XXXXXX");
        assert_non_null(mkdtemp(f->path));
        f->fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(f->fd >= 0);
        *state = f;
        return 0;
}

static int remove_folder(void **state) {
        folder *f = *state;

        close(f->fd);
        assert_int_equal(rmdir(f->path), 0);
        free(f);
        return 0;
}

static void leave(folder *f, const char *text) {
        assert_int_equal(file_replace(f->fd, "throttle", text, strlen(text), 0600, false), 0);
}

static void test_rubbish_that_was_left_is_harmless(void **state) {
        static const char *const texts[] = {
                "", "v1", "v3 1 /tmp\n", "v1 -5 /tmp\n", "v1 5 tmp", "v1 5 /a/../b"
        };
        folder *f = *state;

        throttle_recover(f->fd);
        for (size_t i = 0; i < ELEMENTS(texts); i++) {
                leave(f, texts[i]);
                throttle_recover(f->fd);
                assert_int_equal(unlinkat(f->fd, "throttle", 0), 0);
        }
        leave(f, "v1 5 /nonexistent\n");
        throttle_recover(f->fd);
        assert_int_equal(faccessat(f->fd, "throttle", F_OK, 0), -1);
}

/* Only what has the name of that process goes. */
static void test_what_was_left_is_removed_by_name(void **state) {
        static const char *const names[] = { "ferry-7-0", "ferry-7-12", "ferry-77-0", "other" };
        folder *f = *state;
        char text[64];

        for (size_t i = 0; i < ELEMENTS(names); i++)
                assert_int_equal(mkdirat(f->fd, names[i], 0700), 0);
        snprintf(text, sizeof(text), "v2 7 %s\n", f->path);
        leave(f, text);
        throttle_recover(f->fd);
        assert_int_equal(faccessat(f->fd, "ferry-7-0", F_OK, 0), -1);
        assert_int_equal(faccessat(f->fd, "ferry-7-12", F_OK, 0), -1);
        assert_int_equal(faccessat(f->fd, "throttle", F_OK, 0), -1);
        assert_int_equal(unlinkat(f->fd, "ferry-77-0", AT_REMOVEDIR), 0);
        assert_int_equal(unlinkat(f->fd, "other", AT_REMOVEDIR), 0);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_places),
                cmocka_unit_test(test_places_that_are_none),
                cmocka_unit_test(test_periods_are_short_and_quotas_are_legal),
                cmocka_unit_test_setup_teardown(test_rubbish_that_was_left_is_harmless, make_folder,
                                                remove_folder),
                cmocka_unit_test_setup_teardown(test_what_was_left_is_removed_by_name, make_folder,
                                                remove_folder),
        };

        return cmocka_run_group_tests_name("throttle", tests, NULL, NULL);
}
