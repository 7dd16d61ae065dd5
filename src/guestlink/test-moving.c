/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "channel/keep.h"
#include "guest.pb-c.h"
#include "guestlink/execs.h"
#include "guestlink/guest-stdio.h"
#include "guestlink/keeps.h"
#include "guestlink/landing.h"
#include "guestlink/processes-internal.h"

#define STREAM 4U

typedef struct world {
        char path[48];
        int folder;
        Ferry__Guest__V1__Stream stream[2], *streams[2];
        Ferry__Guest__V1__Program program[2], *programs[2];
        Ferry__Guest__V1__Programs all;
} world;

static int setup(void **state) {
        world *w = calloc(1, sizeof(*w));

        strcpy(w->path, "/tmp/ferry-test-moving-XXXXXX");
        assert_non_null(mkdtemp(w->path));
        w->folder = open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        assert_true(w->folder >= 0);
        ferry__guest__v1__programs__init(&w->all);
        for (uint32_t i = 0; i < 2; i++) {
                ferry__guest__v1__stream__init(&w->stream[i]);
                ferry__guest__v1__program__init(&w->program[i]);
                w->stream[i].id = STREAM + i;
                w->stream[i].consumed = 7;
                w->stream[i].written = 12;
                w->stream[i].acknowledged = 9;
                w->stream[i].pending = (ProtobufCBinaryData){ 3, (uint8_t *)"abc" };
                w->streams[i] = &w->stream[i];
                w->program[i].stream = STREAM + 2 * i;
                w->programs[i] = &w->program[i];
        }
        w->program[0].id = (char *)"first";
        w->program[0].streams = w->streams;
        w->program[0].n_streams = 2;
        w->program[1].id = (char *)"second";
        w->all.programs = w->programs;
        w->all.n_programs = 2;
        w->all.next_stream = 8;
        *state = w;
        return 0;
}

static int teardown(void **state) {
        world *w = *state;

        guest_processes_forget(w->folder);
        fd_close(w->folder);
        assert_int_equal(rmdir(w->path), 0); /* nothing else was left */
        free(w);
        return 0;
}

static int arrive(world *w, ferry_error *error) {
        uint8_t data[4096];
        size_t n = ferry__guest__v1__programs__get_packed_size(&w->all);

        assert_true(n <= sizeof(data));
        ferry__guest__v1__programs__pack(&w->all, data);
        return guest_processes_arrive(w->folder, "77", data, n, error);
}

static bool is_there(const world *w, const char *name) {
        return faccessat(w->folder, name, F_OK, 0) == 0;
}

/* How many programs a restarted shim would find. */
static size_t count_records(const world *w, const char *generation) {
        exec_records records;
        size_t n = 0;

        assert_int_equal(exec_records_read(w->folder, GUEST_EXECS_FILE, generation, &records), 0);
        while (records.first) {
                exec_record *e = records.first;

                records.first = e->next;
                exec_record_free(e);
                n++;
        }
        return n;
}

static void test_is_laid_out_as_a_restart_finds_it(void **state) {
        _cleanup_(guest_keeps_freep) guest_keeps *keeps = NULL;
        world *w = *state;
        const channel_keep *keep;
        exec_records records;
        size_t n = 0;

        assert_int_equal(arrive(w, NULL), 0);
        assert_false(is_there(w, GUEST_EXECS_FILE)); /* not in the blackout */
        assert_int_equal(guest_processes_settle(w->folder, "77"), 0);
        assert_false(is_there(w, GUEST_LANDING_FILE));
        assert_int_equal(exec_records_read(w->folder, GUEST_EXECS_FILE, "77", &records), 0);
        assert_int_equal(records.next_stream, 8);
        while (records.first) {
                exec_record *e = records.first;

                assert_true(e->detached);
                assert_int_equal(e->stream, strcmp(e->id, "first") == 0 ? STREAM : STREAM + 2);
                records.first = e->next;
                exec_record_free(e);
                n++;
        }
        assert_int_equal(n, 2);
        assert_int_equal(
                guest_keeps_open(w->folder, GUEST_EXECS_KEEP_FILE, GUEST_STDIO_BUFFER, &keeps), 0);
        keep = guest_keeps_get(keeps, STREAM + 1);
        assert_true(channel_keep_is_sound(keep));
        assert_int_equal(keep->consumed, 7);
        assert_int_equal(keep->acknowledged, 9);
        assert_int_equal(keep_pending(keep), 3);
        assert_memory_equal(channel_keep_at(keep, 9, 3, &n), "abc", 3);
}

static void test_another_vm_has_none_of_it(void **state) {
        world *w = *state;

        assert_int_equal(arrive(w, NULL), 0);
        assert_int_equal(guest_processes_settle(w->folder, "78"), 0);
        assert_false(is_there(w, GUEST_LANDING_FILE));
        assert_int_equal(arrive(w, NULL), 0);
        assert_int_equal(guest_processes_settle(w->folder, "77"), 0);
        assert_int_equal(count_records(w, "78"), 0);
        assert_int_equal(count_records(w, "77"), 2);
}

static void test_what_is_said_last_counts(void **state) {
        world *w = *state;

        assert_int_equal(guest_landing_prepare(w->folder), 0);
        assert_int_equal(arrive(w, NULL), 0);
        w->all.n_programs = 1;
        assert_int_equal(arrive(w, NULL), 0);
        assert_int_equal(arrive(w, NULL), 0);
        assert_int_equal(guest_landing_prepare(w->folder), 0); /* a shim that was started again */
        assert_int_equal(guest_processes_settle(w->folder, "77"), 0);
        assert_int_equal(count_records(w, "77"), 1);
}

/* A byte of it was written, and the head that says so was not. */
static void test_half_of_it_is_nothing(void **state) {
        world *w = *state;
        int fd;

        assert_int_equal(guest_landing_prepare(w->folder), 0);
        fd = openat(w->folder, GUEST_LANDING_FILE, O_WRONLY | O_CLOEXEC);
        assert_int_equal(pwrite(fd, "x", 1, 100), 1);
        fd_close(fd);
        assert_int_equal(guest_processes_settle(w->folder, "77"), 0);
        assert_false(is_there(w, GUEST_EXECS_FILE));
}

/* What the shim before this one has taken on from there is not undone. */
static void test_is_laid_out_once(void **state) {
        world *w = *state;

        assert_int_equal(arrive(w, NULL), 0);
        assert_int_equal(guest_processes_settle(w->folder, "77"), 0);
        guest_processes_forget_files(w->folder);
        assert_int_equal(guest_processes_settle(w->folder, "77"), 0);
        assert_false(is_there(w, GUEST_EXECS_FILE));
}

static void test_stays_while_the_disk_is_full(void **state) {
        struct rlimit before, small;
        world *w = *state;

        assert_int_equal(arrive(w, NULL), 0);
        assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
        small = (struct rlimit){ .rlim_cur = 65536, .rlim_max = before.rlim_max };
        (void)signal(SIGXFSZ, SIG_IGN);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        assert_true(guest_processes_settle(w->folder, "77") < 0);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_false(is_there(w, GUEST_EXECS_FILE));
        assert_true(is_there(w, GUEST_LANDING_FILE));
        assert_int_equal(guest_processes_settle(w->folder, "77"), 0);
        assert_int_equal(count_records(w, "77"), 2);
}

static void test_more_than_usual_lands_too(void **state) {
        _cleanup_(guest_keeps_freep) guest_keeps *keeps = NULL;
        static uint8_t bytes[GUEST_STDIO_BUFFER], data[2 * GUEST_STDIO_BUFFER];
        world *w = *state;
        const channel_keep *keep;
        size_t n;

        memset(bytes, 'z', sizeof(bytes));
        w->stream[0].written = sizeof(bytes);
        w->stream[0].acknowledged = 0;
        w->stream[0].pending = (ProtobufCBinaryData){ sizeof(bytes), bytes };
        n = ferry__guest__v1__programs__pack(&w->all, data);
        assert_int_equal(guest_landing_prepare(w->folder), 0);
        assert_int_equal(guest_processes_arrive(w->folder, "77", data, n, NULL), 0);
        assert_int_equal(guest_processes_settle(w->folder, "77"), 0);
        assert_int_equal(
                guest_keeps_open(w->folder, GUEST_EXECS_KEEP_FILE, GUEST_STDIO_BUFFER, &keeps), 0);
        keep = guest_keeps_get(keeps, STREAM);
        assert_int_equal(keep_pending(keep), sizeof(bytes));
        assert_memory_equal(channel_keep_at(keep, 0, sizeof(bytes), &n), bytes, sizeof(bytes));
}

static void refused(world *w) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;

        assert_true(arrive(w, &error) < 0);
        assert_int_not_equal(error.code, FERRY_OK);
        assert_false(is_there(w, GUEST_LANDING_FILE));
}

/* Each by itself changes one thing of what would be taken. */
#define REFUSED(change)                                                                            \
        do {                                                                                       \
                world *w = NULL;                                                                   \
                setup((void **)&w);                                                                \
                change;                                                                            \
                refused(w);                                                                        \
                teardown((void **)&w);                                                             \
        } while (0)

static void test_nonsense_is_refused(void **state) {
        char longer[GUEST_PROCESS_ID_MAX + 2];

        memset(longer, 'a', sizeof(longer) - 1);
        longer[sizeof(longer) - 1] = '\0';
        REFUSED(w->program[0].id = longer);
        REFUSED(w->program[0].id = (char *)"");
        REFUSED(w->program[0].id = (char *)"../up");
        REFUSED(w->program[1].id = (char *)"first");
        REFUSED(w->program[1].stream = STREAM);
        REFUSED(w->program[1].stream = 0);
        REFUSED(w->program[1].stream = 7);
        REFUSED(w->program[1].stream = 8);
        REFUSED(w->all.next_stream = UINT32_MAX / 2);
        REFUSED(w->stream[0].id = STREAM + 2);
        REFUSED(w->stream[0].id = STREAM + 1);
        REFUSED(w->stream[0].pending.len = 2);
        REFUSED(w->stream[0].acknowledged = 13);
        REFUSED(w->stream[1].written = UINT64_MAX / 2);
        REFUSED(w->stream[0].consumed = UINT64_MAX / 2);
}

static void test_garbage_is_refused(void **state) {
        world *w = *state;

        assert_int_equal(
                guest_processes_arrive(w->folder, "77", (const uint8_t *)"\xff\xff", 2, NULL),
                -EINVAL);
}

static void test_nothing_is_nothing(void **state) {
        world *w = *state;

        assert_int_equal(guest_processes_arrive(w->folder, "77", NULL, 0, NULL), 0);
        assert_int_equal(guest_processes_settle(w->folder, "77"), 0);
        assert_false(is_there(w, GUEST_EXECS_FILE));
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_is_laid_out_as_a_restart_finds_it, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(test_another_vm_has_none_of_it, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_is_said_last_counts, setup, teardown),
                cmocka_unit_test_setup_teardown(test_half_of_it_is_nothing, setup, teardown),
                cmocka_unit_test_setup_teardown(test_is_laid_out_once, setup, teardown),
                cmocka_unit_test_setup_teardown(test_stays_while_the_disk_is_full, setup, teardown),
                cmocka_unit_test_setup_teardown(test_more_than_usual_lands_too, setup, teardown),
                cmocka_unit_test(test_nonsense_is_refused),
                cmocka_unit_test_setup_teardown(test_garbage_is_refused, setup, teardown),
                cmocka_unit_test_setup_teardown(test_nothing_is_nothing, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
