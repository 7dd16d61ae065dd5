/* SPDX-License-Identifier: MIT */

/* A disk's content goes from one real QEMU to another with the guest. Exit 77 without QEMU. A guest
 * that writes meanwhile is in tests/containerd. */

#include "vm/test-side.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/pump.h"
#include "vm/spawn.h"

#define SCSI  ",\"scsi\":true"
#define MIB   (1 << 20)
#define SIZE  (64 * MIB)
#define START (8 * MIB) /* of random bytes; there are some more at the end, and a hole between */

typedef struct world {
        sd_event *event;
        vm_config *config;
        side a, b;
        char *disk, *image, *copy;
        pump *between;
        int cut; /* of the connection, for a test that breaks it */
} world;

static char *path_in(const side *s, const char *name) {
        char *path;

        assert_true(asprintf(&path, "%s/%s", s->dir, name) > 0);
        return path;
}

static void fill(int fd, off_t at, size_t n) {
        char *data = malloc(n);
        int random = open("/dev/urandom", O_RDONLY | O_CLOEXEC);

        assert_non_null(data);
        assert_int_equal(read(random, data, n), (ssize_t)n);
        assert_int_equal(pwrite(fd, data, n, at), (ssize_t)n);
        close(random);
        free(data);
}

static void make_image(const char *path, bool filled) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        assert_true(fd >= 0);
        assert_int_equal(ftruncate(fd, SIZE), 0);
        if (filled) {
                fill(fd, 0, START);
                fill(fd, SIZE - MIB, MIB);
        }
        close(fd);
}

static void assert_same_files(const char *a, const char *b) {
        char command[512];

        snprintf(command, sizeof(command), "cmp %s %s", a, b);
        assert_int_equal(system(command), 0);
}

static blkcnt_t blocks_of(const char *path) {
        struct stat st;

        assert_int_equal(stat(path, &st), 0);
        return st.st_blocks;
}

/* The guest at `a` counts and has the image; `b` waits for it, with an empty file in its place. */
static void world_begin(world *w) {
        vm_config *there = NULL;

        *w = (world){ .event = new_event(), .cut = -EBADF };
        w->disk = boot(&w->a, w->event, &w->config, SCSI);
        assert_int_equal(CALL(&w->a, vm_cont(w->a.vm, on_done, &w->a)), 0);
        w->image = path_in(&w->a, "image");
        make_image(w->image, true);
        assert_int_equal(CALL(&w->a, vm_disk_add(w->a.vm, &(vm_disk){ w->image, false, "web", 3 },
                                                 on_done, &w->a)),
                         0);
        side_init(&w->b, w->event);
        w->copy = path_in(&w->b, "copy");
        make_image(w->copy, false);
        assert_int_equal(vm_config_dup(vm_get_config(w->a.vm), &there), 0);
        free(there->disks[1].path);
        there->disks[1].path = strdup(w->copy);
        start(&w->b, there, VM_MODE_INCOMING, NULL);
        vm_config_free(there);
}

static void world_end(world *w) {
        pump_free(w->between);
        fd_close(w->cut);
        side_done(&w->a);
        side_done(&w->b);
        vm_config_free(w->config);
        free(w->disk);
        free(w->image);
        free(w->copy);
        sd_event_unref(w->event);
}

/* Returns the end that QEMU `a` is to have. */
static int connect_disks(world *w) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), pair[2];
        int there = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        snprintf(address.sun_path, sizeof(address.sun_path), "%s/nbd", w->b.dir);
        assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(CALL(&w->b, vm_nbd_serve(w->b.vm, "web", listener, on_done, &w->b)), 0);
        assert_int_equal(connect(there, (struct sockaddr *)&address, sizeof(address)), 0);
        assert_int_equal(unlink(address.sun_path), 0);
        connected_pair(pair);
        w->cut = dup(pair[1]);
        assert_int_equal(pump_start(pair[1], there, &w->between), 0);
        return pair[0];
}

static void mirror(world *w) {
        int r = CALL(&w->a, vm_mirror_start(w->a.vm, "web", connect_disks(w), 0, on_done, &w->a));

        if (r < 0)
                fail_msg("%s", w->a.text);
}

static void begin_migration(world *w) {
        int pair[2];

        connected_pair(pair);
        assert_int_equal(CALL(&w->b, vm_migrate_in(w->b.vm, pair[1], on_done, &w->b)), 0);
        assert_int_equal(
                CALL(&w->a, vm_migrate_out(w->a.vm, pair[0],
                                           &(vm_migrate_options){ .pause_before_switchover = true,
                                                                  .downtime_limit_msec = 300 },
                                           on_done, &w->a)),
                0);
        WAIT(w->event, w->a.migration == VM_MIGRATION_PRE_SWITCHOVER ||
                               w->a.migration == VM_MIGRATION_FAILED);
}

static void test_with_the_guest(void **state) {
        world w;

        world_begin(&w);
        mirror(&w);
        assert_true(vm_mirrors_are_there(w.a.vm));
        begin_migration(&w);
        assert_int_equal(CALL(&w.a, vm_mirrors_finish(w.a.vm, on_done, &w.a)), 0);
        assert_same_files(w.image, w.copy);
        assert_true(blocks_of(w.copy) < 16 * MIB / 512); /* a hole is one there too */
        assert_int_equal(CALL(&w.a, vm_migrate_continue(w.a.vm, on_done, &w.a)), 0);
        WAIT(w.event,
             w.a.migration == VM_MIGRATION_COMPLETED && w.b.migration == VM_MIGRATION_COMPLETED);
        assert_int_equal(CALL(&w.b, vm_nbd_stop(w.b.vm, on_done, &w.b)), 0);
        assert_int_equal(CALL(&w.b, vm_cont(w.b.vm, on_done, &w.b)), 0);
        wait_counting(&w.b, counter(w.a.vm));
        assert_int_equal(w.a.n_mirrors_failed, 0);
        world_end(&w);
}

static void wait_dropped(world *w) {
        vm_mirrors_drop(w->a.vm);
        while (vm_mirrors_are_there(w->a.vm))
                assert_true(sd_event_run(w->event, UINT64_MAX) >= 0);
}

/* The guest stays where it is, and it can be tried again. */
static void test_given_up_and_again(void **state) {
        world w;

        world_begin(&w);
        for (unsigned round = 0; round < 2; round++) {
                mirror(&w);
                wait_dropped(&w);
                assert_int_equal(CALL(&w.b, vm_nbd_stop(w.b.vm, on_done, &w.b)), 0);
                w.between = pump_free(w.between);
                w.cut = fd_close(w.cut);
        }
        wait_counting(&w.a, counter(w.a.vm));
        mirror(&w);
        begin_migration(&w);
        assert_int_equal(CALL(&w.a, vm_mirrors_finish(w.a.vm, on_done, &w.a)), 0);
        assert_same_files(w.image, w.copy);
        world_end(&w);
}

/* A shim that began it is gone; the next one knows nothing of it. */
static void test_left_by_a_shim_that_died(void **state) {
        vm_config *config = NULL;
        world w;

        world_begin(&w);
        mirror(&w);
        assert_int_equal(vm_config_dup(vm_get_config(w.a.vm), &config), 0);
        w.a.vm = vm_close(w.a.vm);
        w.a.ready = false;
        assert_int_equal(attach(&w.a, config), 0);
        assert_false(vm_mirrors_are_there(w.a.vm));
        wait_dropped(&w);
        w.between = pump_free(w.between);
        w.cut = fd_close(w.cut);
        assert_int_equal(CALL(&w.b, vm_nbd_stop(w.b.vm, on_done, &w.b)), 0);
        mirror(&w);
        vm_config_free(config);
        world_end(&w);
}

static void test_nothing_to_drop(void **state) {
        world w;

        world_begin(&w);
        wait_dropped(&w);
        wait_counting(&w.a, counter(w.a.vm));
        world_end(&w);
}

/* The guest goes on, and nobody takes the copy for whole. */
static void test_the_connection_breaks(void **state) {
        world w;

        world_begin(&w);
        mirror(&w);
        assert_int_equal(shutdown(w.cut, SHUT_RDWR), 0);
        /* while nobody writes only the end sees it, and whether QEMU or the mirror comes first
         * there is for the version of QEMU to say */
        begin_migration(&w);
        if (w.a.migration == VM_MIGRATION_PRE_SWITCHOVER) {
                assert_int_not_equal(CALL(&w.a, vm_mirrors_finish(w.a.vm, on_done, &w.a)), 0);
                assert_int_equal(CALL(&w.a, vm_migrate_cancel(w.a.vm, on_done, &w.a)), 0);
                WAIT(w.event, w.a.migration == VM_MIGRATION_CANCELLED);
        }
        wait_dropped(&w);
        wait_counting(&w.a, counter(w.a.vm));
        world_end(&w);
}

static void test_what_is_refused(void **state) {
        world w;
        int pair[2];

        world_begin(&w);
        connected_pair(pair);
        assert_int_equal(vm_mirror_start(w.a.vm, "db", pair[0], 0, on_done, &w.a), -ENOENT);
        assert_int_equal(vm_nbd_serve(w.b.vm, "db", -EBADF, on_done, &w.b), -ENOENT);
        assert_int_equal(vm_mirrors_finish(w.a.vm, on_done, &w.a), -EPROTO);
        close(pair[1]);
        world_end(&w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                SIDE_TEST(test_with_the_guest),           SIDE_TEST(test_given_up_and_again),
                SIDE_TEST(test_left_by_a_shim_that_died), SIDE_TEST(test_nothing_to_drop),
                SIDE_TEST(test_the_connection_breaks),    SIDE_TEST(test_what_is_refused),
        };
        _cleanup_(freep) char *program = NULL;

        if (getenv("FERRY_QEMU"))
                qemu = getenv("FERRY_QEMU");
        if (vm_find_program(qemu, &program, NULL) < 0)
                return 77;
        return cmocka_run_group_tests_name("mirror", tests, NULL, NULL);
}
