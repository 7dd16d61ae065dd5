/* SPDX-License-Identifier: MIT */
/* verify_memory over two real QEMUs: the same memory moves, another one does not. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"

#include "steps.h"

#define UNUSED_PLACE 0x60000 /* below 640 KiB; the tiny guest is at 1 MiB and above */

static int setup(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 1000, 2048);
        p->options.verify_memory = true;
        *state = p;
        return 0;
}

static int open_memory(host *h) {
        char path[300], target[128];
        int found = -EBADF;
        struct dirent *e;
        DIR *dir;

        snprintf(path, sizeof(path), "/proc/%d/fd", (int)host_qemu(h));
        dir = opendir(path);
        assert_non_null(dir);
        while (found < 0 && (e = readdir(dir))) {
                ssize_t k = readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1);

                if (k < 0)
                        continue;
                target[k] = '\0';
                if (strncmp(target, "/memfd:ferry-ram", 16) == 0)
                        found = openat(dirfd(dir), e->d_name, O_RDWR | O_CLOEXEC);
        }
        closedir(dir);
        assert_true(found >= 0);
        return found;
}

static void flip_a_bit(int fd) {
        uint8_t byte;

        assert_int_equal(pread(fd, &byte, 1, UNUSED_PLACE), 1);
        byte ^= 1;
        assert_int_equal(pwrite(fd, &byte, 1, UNUSED_PLACE), 1);
}

static uint64_t verify_usec(host *h) {
        Ferry__Shim__V1__StatusResponse *s = host_status(h);
        uint64_t usec = s->session && s->session->report ? s->session->report->verify_usec : 0;

        ferry__shim__v1__status_response__free_unpacked(s, NULL);
        return usec;
}

static void test_the_same_memory_moves(void **state) {
        pair *p = *state;

        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        migrate_whole(p, &p->a, &p->b);
        assert_exactly_one_runs(p, &p->b);
        migrate_whole(p, &p->b, &p->a);
        p->options.handover = HANDOVER__HANDOVER_CALLER;
        p->options.checksum_verification = true;
        migrate_whole(p, &p->a, &p->b);
        assert_exactly_one_runs(p, &p->b);
        guest_check(&p->b);
}

static void test_both_sides_tell_what_it_cost(void **state) {
        pair *p = *state;

        reach_ready(p);
        assert_true(verify_usec(&p->a) > 0);
        assert_true(verify_usec(&p->b) > 0);
        call_cancel(p, &p->a, 0);
        host_wait_detail(&p->b, "D_FAILED");
        cleanup_both(p);
        p->options.verify_memory = false;
        reach_ready(p);
        assert_int_equal(verify_usec(&p->a), 0);
        call_cancel(p, &p->a, 0);
        host_wait_detail(&p->b, "D_FAILED");
        cleanup_both(p);
}

/* Its QEMU has loaded all, and it has not looked at it. `ret_memory` (nullable): the destination's.
 */
static bool stop_the_destination_s_shim_in_time(pair *p, int *ret_memory) {
        Ferry__Shim__V1__StatusResponse *s;
        bool in_time;

        p->options.optional_max_bandwidth_case =
                INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH_MAX_BANDWIDTH;
        p->options.max_bandwidth = 16 << 20;
        session_open(p, true);
        transfer_both(p);
        host_wait_setup(&p->b);
        if (ret_memory)
                *ret_memory = open_memory(&p->b);
        assert_int_equal(kill(p->b.pid, SIGSTOP), 0);
        host_wait_no_longer(&p->a, "S_COPYING");
        s = host_status(&p->a);
        in_time = strcmp(s->session->detail, "S_OFFERED") == 0;
        ferry__shim__v1__status_response__free_unpacked(s, NULL);
        return in_time;
}

static void try_again(pair *p) {
        assert_int_equal(kill(p->b.pid, SIGCONT), 0);
        call_cancel(p, &p->a, 0);
        host_wait_detail(&p->b, "D_FAILED");
        cleanup_both(p);
}

static void test_another_memory_is_refused(void **state) {
        pair *p = *state;
        int memory;

        while (!stop_the_destination_s_shim_in_time(p, &memory)) {
                fd_close(memory);
                try_again(p);
        }
        flip_a_bit(memory);
        fd_close(memory);
        assert_int_equal(kill(p->b.pid, SIGCONT), 0);
        host_wait_detail(&p->b, "D_FAILED");
        host_wait_detail(&p->a, "S_FAILED");
        expect_reason(&p->b, "not the same");
        expect_reason(&p->a, "not the same");
        expect_rolled_back(p);
}

/* The last copy is kept, compared or not. */
static void test_the_source_s_qemu_dies_before_it_was_compared(void **state) {
        pair *p = *state;

        while (!stop_the_destination_s_shim_in_time(p, NULL))
                try_again(p);
        assert_int_equal(kill(host_qemu(&p->a), SIGKILL), 0);
        host_wait_detail(&p->a, "S_SPENT");
        assert_int_equal(kill(p->b.pid, SIGCONT), 0);
        host_wait_detail(&p->a, "S_SPENT");
        host_wait_detail(&p->b, "D_READY");
        call_finalize(p, &p->a, STOP, 0);
        call_finalize(p, &p->b, RESUME, 0);
        cleanup_both(p);
        assert_exactly_one_runs(p, &p->b);
        guest_check(&p->b);
}

static void test_not_with_post_copy(void **state) {
        ProtobufCBinaryData exported = { .len = 0 };
        pair *p = *state;

        p->options.postcopy = POSTCOPY__POSTCOPY_FALLBACK;
        snprintf(p->session, sizeof(p->session), "one");
        call_export(p, &p->a, INVALID_ARGUMENT, &exported);
        assert_non_null(strstr(call_message(), "verify_memory"));
        host_wait_detail(&p->a, "");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, end_pair)

/* One argument: a pattern, to run only the tests that it names. */
int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                TEST(test_the_same_memory_moves),
                TEST(test_both_sides_tell_what_it_cost),
                TEST(test_another_memory_is_refused),
                TEST(test_the_source_s_qemu_dies_before_it_was_compared),
                TEST(test_not_with_post_copy),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("verify-memory", tests, NULL, NULL);
}
