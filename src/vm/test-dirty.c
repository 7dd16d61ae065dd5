/* SPDX-License-Identifier: MIT */

/* What is seen of memory that changes. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/fd.h"
#include "vm/dirty.h"

#define MIB   (1ULL << 20)
#define TOTAL (4 * MIB)

typedef struct memory {
        int fd, r;
        uint8_t *bytes;
        bool done;
        vm_dirty_curve curve;
} memory;

static void on_done(int r, const vm_dirty_curve *curve, void *userdata) {
        memory *m = userdata;

        assert_false(m->done);
        m->done = true;
        m->r = r;
        m->curve = *curve;
}

/* Looks at it; `write` is called before each turn of the loop. */
static void watch(memory *m, void (*write)(memory *m)) {
        sd_event *event = NULL;
        vm_dirty *d = NULL;

        assert_true(sd_event_new(&event) >= 0);
        assert_int_equal(vm_dirty_start(event, m->fd, TOTAL, on_done, m, &d), 0);
        while (!m->done) {
                assert_true(sd_event_run(event, UINT64_MAX) >= 0);
                if (write)
                        write(m);
        }
        vm_dirty_free(d);
        sd_event_unref(event);
}

static void write_first_half(memory *m) {
        for (size_t i = 0; i < TOTAL / 2; i += 4096)
                m->bytes[i]++;
}

static int setup(void **state) {
        memory *m = calloc(1, sizeof(*m));

        assert_non_null(m);
        m->fd = memfd_create("memory", MFD_CLOEXEC);
        assert_true(m->fd >= 0);
        assert_int_equal(ftruncate(m->fd, TOTAL), 0);
        m->bytes = mmap(NULL, TOTAL, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
        assert_true(m->bytes != MAP_FAILED);
        *state = m;
        return 0;
}

static int teardown(void **state) {
        memory *m = *state;

        munmap(m->bytes, TOTAL);
        fd_close(m->fd);
        free(m);
        return 0;
}

static void test_a_guest_at_rest(void **state) {
        vm_dirty_model model;
        struct stat st;
        memory *m = *state;

        memset(m->bytes, 7, TOTAL / 4);
        watch(m, NULL);
        assert_int_equal(m->r, 0);
        assert_int_equal(m->curve.filled, TOTAL / 4); /* every page is looked at */
        vm_dirty_fit(&m->curve, &model);
        assert_int_equal(model.rate, 0);
        /* what was a hole still is one */
        assert_int_equal(fstat(m->fd, &st), 0);
        assert_int_equal(st.st_blocks * 512, TOTAL / 4);
}

static void test_a_hot_set(void **state) {
        vm_dirty_model model;
        memory *m = *state;

        watch(m, write_first_half);
        assert_int_equal(m->r, 0);
        assert_int_equal(m->curve.filled, 0);
        for (size_t i = 0; i < VM_DIRTY_LOOKS; i++)
                assert_int_equal(m->curve.bytes[i], TOTAL / 2);
        vm_dirty_fit(&m->curve, &model);
        assert_int_equal(model.hot, TOTAL / 2);
        assert_true(model.rate > TOTAL / 2);
}

static void test_memory_that_ends(void **state) {
        memory *m = *state;
        sd_event *event = NULL;
        vm_dirty *d = NULL;

        assert_int_equal(ftruncate(m->fd, (off_t)TOTAL / 2), 0);
        watch(m, NULL);
        assert_true(m->r < 0);
        assert_true(sd_event_new(&event) >= 0);
        assert_int_equal(vm_dirty_start(event, m->fd, 100, on_done, m, &d), -EINVAL);
        assert_true(vm_dirty_start(event, -EBADF, TOTAL, on_done, m, &d) < 0);
        assert_null(d);
        sd_event_unref(event);
}

/* ---- the model ---- */

static vm_dirty_curve curve_of(uint64_t rate, uint64_t hot) {
        static const uint64_t msec[VM_DIRTY_LOOKS] = { 20, 50, 100, 200, 400, 800 };
        vm_dirty_curve c = { .total = 256 * MIB, .filled = 256 * MIB };

        for (size_t i = 0; i < VM_DIRTY_LOOKS; i++) {
                c.usec[i] = msec[i] * 1000;
                c.bytes[i] = rate * msec[i] / 1000;
                if (c.bytes[i] > hot)
                        c.bytes[i] = hot;
        }
        return c;
}

static void test_curves(void **state) {
        static const struct {
                uint64_t rate, hot, expected_rate, expected_hot;
        } cases[] = {
                { 10 * MIB, 256 * MIB, 10 * MIB, 256 * MIB }, /* no end of it is seen */
                { 100 * MIB, 16 * MIB, 100 * MIB, 16 * MIB },
                { 3000 * MIB, 64 * MIB, 3000 * MIB, 64 * MIB },
                { 100000 * MIB, 64 * MIB, 3200 * MIB, 64 * MIB }, /* all of it in 20 ms */
                { 0, 0, 0, 256 * MIB },
        };

        for (size_t i = 0; i < ELEMENTS(cases); i++) {
                vm_dirty_curve c = curve_of(cases[i].rate, cases[i].hot);
                vm_dirty_model model;

                vm_dirty_fit(&c, &model);
                assert_in_range(model.rate, cases[i].expected_rate * 9 / 10,
                                cases[i].expected_rate * 11 / 10);
                assert_int_equal(model.hot, cases[i].expected_hot);
        }
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_a_guest_at_rest, setup, teardown),
                cmocka_unit_test_setup_teardown(test_a_hot_set, setup, teardown),
                cmocka_unit_test_setup_teardown(test_memory_that_ends, setup, teardown),
                cmocka_unit_test(test_curves),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
