/* SPDX-License-Identifier: MIT */

/* The digest of a guest's memory. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/fd.h"
#include "vm/memory-digest.h"

#define MIB   (1ULL << 20)
#define TOTAL (9 * MIB + 4096)

typedef struct memory {
        int fd, r;
        bool done;
        uint8_t digest[VM_MEMORY_DIGEST_SIZE];
} memory;

static void on_done(int r, const uint8_t *digest, void *userdata) {
        memory *m = userdata;

        assert_false(m->done);
        m->done = true;
        m->r = r;
        if (r == 0)
                memcpy(m->digest, digest, sizeof(m->digest));
        else
                assert_null(digest);
}

static void take_digest(memory *m, uint64_t total) {
        vm_memory_digest *d = NULL;
        sd_event *event = NULL;

        m->done = false;
        assert_true(sd_event_new(&event) >= 0);
        assert_int_equal(vm_memory_digest_start(event, m->fd, total, on_done, m, &d), 0);
        assert_false(m->done);
        while (!m->done)
                assert_true(sd_event_run(event, UINT64_MAX) >= 0);
        vm_memory_digest_free(d);
        sd_event_unref(event);
}

static memory new_memory(void) {
        memory m = { .fd = memfd_create("memory", MFD_CLOEXEC) };

        assert_true(m.fd >= 0);
        assert_int_equal(ftruncate(m.fd, TOTAL), 0);
        return m;
}

static void put(memory *m, uint64_t at, uint8_t byte) {
        assert_int_equal(pwrite(m->fd, &byte, 1, (off_t)at), 1);
}

static uint64_t room_of(const memory *m) {
        struct stat st;

        assert_int_equal(fstat(m->fd, &st), 0);
        return (uint64_t)st.st_blocks * 512;
}

static void assert_same(memory *a, memory *b, bool same) {
        take_digest(a, TOTAL);
        take_digest(b, TOTAL);
        assert_int_equal(a->r, 0);
        assert_int_equal(b->r, 0);
        assert_int_equal(memcmp(a->digest, b->digest, sizeof(a->digest)) == 0, same);
}

static void test_holes_are_zeros(void **state) {
        memory a = new_memory(), b = new_memory();

        for (uint64_t at = 0; at < TOTAL; at += 4096)
                put(&a, at, 0);
        put(&b, 5 * MIB + 4096, 0);
        assert_same(&a, &b, true);
        assert_int_equal(room_of(&b), 4096);
        fd_close(a.fd);
        fd_close(b.fd);
}

static void test_every_byte_counts(void **state) {
        static const uint64_t places[] = { 0,       4095,        MIB - 1,     MIB,
                                           4 * MIB, 9 * MIB - 1, 9 * MIB + 1, TOTAL - 1 };
        memory a = new_memory(), b = new_memory();

        for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
                put(&a, places[i], 1);
                assert_same(&a, &b, false);
                put(&b, places[i], 1);
                assert_same(&a, &b, true);
        }
        fd_close(a.fd);
        fd_close(b.fd);
}

static void test_chunks_have_their_place(void **state) {
        memory a = new_memory(), b = new_memory();

        put(&a, 2 * MIB, 7);
        put(&b, 3 * MIB, 7);
        assert_same(&a, &b, false);
        fd_close(a.fd);
        fd_close(b.fd);
}

static void test_memory_that_ends_early(void **state) {
        memory a = new_memory();

        put(&a, TOTAL - 1, 1);
        take_digest(&a, TOTAL + MIB);
        assert_int_equal(a.r, -EIO);
        fd_close(a.fd);
}

static void test_freed_before_it_is_done(void **state) {
        vm_memory_digest *d = NULL;
        memory a = new_memory();
        sd_event *event = NULL;

        assert_true(sd_event_new(&event) >= 0);
        assert_int_equal(vm_memory_digest_start(event, a.fd, TOTAL, on_done, &a, &d), 0);
        assert_null(vm_memory_digest_free(d));
        assert_int_equal(vm_memory_digest_start(event, a.fd, 0, on_done, &a, &d), -EINVAL);
        assert_int_equal(vm_memory_digest_start(event, -EBADF, TOTAL, on_done, &a, &d), -EBADF);
        assert_false(a.done);
        sd_event_unref(event);
        fd_close(a.fd);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test(test_holes_are_zeros),
                cmocka_unit_test(test_every_byte_counts),
                cmocka_unit_test(test_chunks_have_their_place),
                cmocka_unit_test(test_memory_that_ends_early),
                cmocka_unit_test(test_freed_before_it_is_done),
        };

        return cmocka_run_group_tests_name("memory-digest", tests, NULL, NULL);
}
