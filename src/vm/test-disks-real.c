/* SPDX-License-Identifier: MIT */

/* SCSI disks that come and go in real QEMUs. Exit 77 without QEMU. What a guest reads from one is
 * in tests/vm. */

#include "vm/test-side.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>

#include "vm/spawn.h"

#define SCSI ",\"scsi\":true"

static char devices[4096];

static void on_devices(ferry_vm *vm, int r, const ferry_error *error, const vm_facts *facts,
                       void *userdata) {
        side *s = userdata;
        size_t n = 0;

        assert_int_equal(r, 0);
        for (size_t i = 0; i < facts->devices.n; i++)
                n += (size_t)snprintf(devices + n, sizeof(devices) - n, "%s;",
                                      facts->devices.items[i]);
        s->n_done++;
}

static const char *devices_of(side *s) {
        devices[0] = '\0';
        CALL(s, vm_query_facts(s->vm, on_devices, s));
        return devices;
}

/* How many descriptors of `path` this VM's QEMU has. */
static unsigned count_held(const side *s, const char *path) {
        char link[512], target[512], folder[64];
        unsigned held = 0;
        DIR *dir;

        snprintf(folder, sizeof(folder), "/proc/%d/fd", (int)vm_get_pid(s->vm));
        dir = opendir(folder);
        assert_non_null(dir);
        for (struct dirent *e = readdir(dir); e; e = readdir(dir)) {
                ssize_t n;

                snprintf(link, sizeof(link), "%s/%s", folder, e->d_name);
                n = readlink(link, target, sizeof(target) - 1);
                if (n <= 0)
                        continue;
                target[n] = '\0';
                held += strcmp(target, path) == 0;
        }
        closedir(dir);
        return held;
}

static char *make_image(const side *s, const char *name) {
        char *path;

        assert_true(asprintf(&path, "%s/%s", s->dir, name) > 0);
        make_disk(path);
        return path;
}

static int add(side *s, const char *path, const char *serial, uint32_t id, bool readonly) {
        vm_disk disk = { .path = path, .serial = serial, .scsi_id = id, .readonly = readonly };

        return CALL(s, vm_disk_add(s->vm, &disk, on_done, s));
}

static int take_away(side *s, const char *serial) {
        return CALL(s, vm_disk_remove(s->vm, serial, on_done, s));
}

/* A test's VM, which counts, and an image. */
typedef struct world {
        sd_event *event;
        vm_config *config;
        char *disk, *image;
        side s;
} world;

static void world_begin(world *w, const char *more) {
        w->event = new_event();
        w->config = NULL;
        w->disk = boot(&w->s, w->event, &w->config, more);
        w->image = make_image(&w->s, "image");
        assert_int_equal(CALL(&w->s, vm_cont(w->s.vm, on_done, &w->s)), 0);
}

static void world_end(world *w) {
        side_done(&w->s);
        vm_config_free(w->config);
        free(w->disk);
        free(w->image);
        sd_event_unref(w->event);
}

static void test_there_and_gone(void **state) {
        world w;
        side *s = &w.s;

        world_begin(&w, SCSI);
        for (unsigned round = 0; round < 3; round++) {
                assert_int_equal(add(s, w.image, "web", 7, true), 0);
                assert_string_equal(devices_of(s),
                                    "disk0 virtio-blk-pci 00:10.0;rng virtio-rng-pci 00:02.0;"
                                    "scsi virtio-scsi-pci 00:05.0;scsi7 scsi-hd;");
                assert_true(count_held(s, w.image) > 0);
                assert_int_equal(vm_config_find_disk(vm_get_config(s->vm), "web"), 1);
                assert_false(vm_disks_are_changing(s->vm));
                if (round > 0) /* the boot sector's loop, which never waits for anything */
                        wait_counting(s, counter(s->vm) + 1000);
                assert_int_equal(take_away(s, "web"), 0);
                assert_null(strstr(devices_of(s), "scsi7"));
                assert_int_equal(count_held(s, w.image), 0);
                assert_int_equal(vm_get_config(s->vm)->n_disks, 1);
        }
        world_end(&w);
}

static void test_a_guest_that_stands_still(void **state) {
        world w;
        side *s = &w.s;

        world_begin(&w, SCSI);
        assert_int_equal(CALL(s, vm_stop(s->vm, on_done, s)), 0);
        assert_int_equal(add(s, w.image, "web", 7, true), 0);
        assert_int_equal(take_away(s, "web"), 0);
        assert_null(strstr(devices_of(s), "scsi7"));
        assert_int_equal(vm_get_config(s->vm)->n_disks, 1);
        /* QEMU still has the descriptor, unused: the next disk must not get that file */
        {
                _cleanup_(freep) char *other = make_image(s, "other");

                assert_int_equal(add(s, other, "web", 7, true), 0);
                assert_int_equal(CALL(s, vm_cont(s->vm, on_done, s)), 0);
                assert_true(count_held(s, other) > 1);
                assert_int_equal(take_away(s, "web"), 0);
                assert_int_equal(count_held(s, other), 0);
        }
        world_end(&w);
}

static void test_refused_before_qemu_is_asked(void **state) {
        world w;
        side *s = &w.s;
        char path[128];

        world_begin(&w, SCSI);
        snprintf(path, sizeof(path), "%s/none", s->dir);
        assert_int_equal(add(s, path, "web", 0, true), -ENOENT);
        assert_non_null(strstr(s->text, path));
        assert_int_equal(add(s, s->dir, "web", 0, true), -EINVAL);
        assert_int_equal(add(s, "image", "web", 0, true), -EINVAL);
        assert_int_equal(add(s, w.image, "", 0, true), -EINVAL);
        assert_int_equal(add(s, w.image, "web,bus=x", 0, true), -EINVAL);
        assert_int_equal(add(s, w.image, "web", 32, true), -EINVAL);
        assert_int_equal(add(s, w.disk, "web", 0, true), -EEXIST);
        assert_int_equal(take_away(s, "web"), -ENOENT);
        assert_int_equal(take_away(s, "disk0"), -ENOENT);
        assert_int_equal(count_held(s, w.image), 0);
        assert_int_equal(vm_get_config(s->vm)->n_disks, 1);
        world_end(&w);

        world_begin(&w, "");
        assert_int_equal(add(s, w.image, "web", 0, true), -EINVAL);
        assert_non_null(strstr(s->text, "scsi"));
        world_end(&w);
}

static void test_as_many_as_fit(void **state) {
        char serial[16];
        world w;
        side *s = &w.s;

        world_begin(&w, SCSI);
        for (unsigned i = 0; i < VM_CONFIG_SCSI_DISKS_MAX; i++) {
                snprintf(serial, sizeof(serial), "s%u", i);
                assert_int_equal(add(s, w.image, serial, VM_SCSI_ID_ANY, true), 0);
        }
        assert_int_equal(add(s, w.image, "more", VM_SCSI_ID_ANY, true), -ENOSPC);
        assert_int_equal(take_away(s, "s17"), 0);
        assert_int_equal(add(s, w.image, "more", VM_SCSI_ID_ANY, true), 0);
        assert_non_null(strstr(devices_of(s), "scsi17 scsi-hd"));
        world_end(&w);
}

/* QEMU would refuse too, and may hang over it: it is not asked. */
static void test_two_do_not_write_to_one_image(void **state) {
        _cleanup_(vm_config_freep) vm_config *config = NULL;
        _cleanup_(freep) char *disk = NULL;
        side other;
        world w;

        world_begin(&w, SCSI);
        disk = boot(&other, w.event, &config, SCSI);
        assert_int_equal(CALL(&other, vm_cont(other.vm, on_done, &other)), 0);
        assert_int_equal(add(&w.s, w.image, "data", 3, false), 0);
        assert_int_equal(add(&other, w.image, "data", 3, false), -EBUSY);
        assert_non_null(strstr(other.text, w.image));
        assert_int_equal(add(&other, w.image, "data", 3, true), -EBUSY);
        /* nor to one that a VM was started with */
        assert_int_equal(add(&other, w.disk, "data", 3, false), -EBUSY);
        assert_int_equal(count_held(&other, w.image), 0);
        assert_null(strstr(devices_of(&other), "scsi3"));
        assert_int_equal(vm_get_config(other.vm)->n_disks, 1);
        assert_int_equal(take_away(&w.s, "data"), 0);
        assert_int_equal(add(&other, w.image, "data", 3, false), 0);
        assert_int_equal(take_away(&other, "data"), 0);
        /* readers may share it, and let nobody write */
        assert_int_equal(add(&w.s, w.image, "data", 3, true), 0);
        assert_int_equal(add(&other, w.image, "data", 3, false), -EBUSY);
        assert_int_equal(add(&other, w.image, "data", 3, true), 0);
        side_done(&other);
        world_end(&w);
}

/* It refuses the device, the last step, when all else is done. The guest stands still: see
 * vm-disks.c for what QEMU may do else. */
static void test_what_qemu_refuses_leaves_nothing(void **state) {
        vm_config *config = NULL;
        world w;
        side *s = &w.s;

        world_begin(&w, "");
        assert_int_equal(CALL(s, vm_stop(s->vm, on_done, s)), 0);
        assert_int_equal(vm_config_dup(vm_get_config(s->vm), &config), 0);
        config->scsi = true; /* which this QEMU has not */
        s->vm = vm_close(s->vm);
        assert_int_equal(attach(s, config), 0);
        for (unsigned round = 0; round < 3; round++) {
                /* it says the same each time: no node is in the way */
                assert_int_equal(add(s, w.image, "data", 3, false), -EREMOTEIO);
                assert_non_null(strstr(s->text, "scsi.0"));
                assert_string_equal(devices_of(s), "disk0 virtio-blk-pci 00:10.0;"
                                                   "rng virtio-rng-pci 00:02.0;");
                assert_int_equal(vm_get_config(s->vm)->n_disks, 1);
        }
        assert_int_equal(CALL(s, vm_cont(s->vm, on_done, s)), 0);
        s->vm = vm_close(s->vm);
        assert_int_equal(attach(s, config), 0);
        assert_int_equal(count_held(s, w.image), 0);
        vm_config_free(config);
        world_end(&w);
}

static void test_one_after_the_other(void **state) {
        vm_disk web = { .serial = "web", .scsi_id = 1, .readonly = true },
                db = { .serial = "db", .scsi_id = 1, .readonly = true };
        unsigned before;
        world w;
        side *s = &w.s;

        world_begin(&w, SCSI);
        web.path = db.path = w.image;
        before = s->n_done;
        assert_int_equal(vm_disk_add(s->vm, &web, on_done, s), 0);
        assert_int_equal(vm_disk_remove(s->vm, "web", on_done, s), 0);
        assert_int_equal(vm_disk_add(s->vm, &db, on_done, s), 0);
        assert_true(vm_disks_are_changing(s->vm));
        WAIT(w.event, s->n_done == before + 3);
        assert_int_equal(s->done_r, 0);
        assert_int_equal(vm_config_find_disk(vm_get_config(s->vm), "db"), 1);
        assert_non_null(strstr(devices_of(s), "scsi1 scsi-hd"));
        /* the same again: refused in their turn */
        before = s->n_done;
        assert_int_equal(vm_disk_add(s->vm, &web, on_done, s), 0);
        assert_int_equal(vm_disk_add(s->vm, &db, on_done, s), 0);
        WAIT(w.event, s->n_done == before + 2);
        assert_int_equal(s->done_r, -EEXIST);
        assert_int_equal(vm_get_config(s->vm)->n_disks, 2);
        world_end(&w);
}

static void test_the_end_comes_first(void **state) {
        vm_disk disk = { .serial = "web", .scsi_id = 1, .readonly = true };
        unsigned before;
        world w;
        side *s = &w.s;

        world_begin(&w, SCSI);
        disk.path = w.image;
        before = s->n_done;
        assert_int_equal(vm_disk_add(s->vm, &disk, on_done, s), 0);
        assert_int_equal(vm_disk_remove(s->vm, "web", on_done, s), 0);
        assert_int_equal(vm_kill(s->vm), 0);
        WAIT(w.event, s->exited);
        assert_int_equal(s->n_done, before + 2);
        assert_int_equal(s->done_r, -ENOTCONN);
        assert_int_equal(vm_disk_add(s->vm, &disk, on_done, s), -ENOTCONN);
        world_end(&w);

        world_begin(&w, SCSI);
        disk.path = w.image;
        before = s->n_done;
        assert_int_equal(vm_disk_add(s->vm, &disk, on_done, s), 0);
        assert_int_equal(vm_disk_remove(s->vm, "web", on_done, s), 0);
        s->vm = vm_close(s->vm);
        assert_int_equal(s->n_done, before + 2);
        assert_int_equal(s->done_r, -ECANCELED);
        assert_int_equal(attach(s, w.config), 0); /* for its end */
        world_end(&w);
}

/* The configuration is what a later shim knows of it. */
static void test_found_again(void **state) {
        vm_config *config = NULL;
        world w;
        side *s = &w.s;

        world_begin(&w, SCSI);
        assert_int_equal(add(s, w.image, "web", 4, true), 0);
        assert_int_equal(vm_config_dup(vm_get_config(s->vm), &config), 0);
        s->vm = vm_close(s->vm);
        assert_int_equal(attach(s, config), 0);
        assert_int_equal(add(s, w.image, "web", 4, true), -EEXIST);
        assert_int_equal(take_away(s, "web"), 0);
        assert_int_equal(count_held(s, w.image), 0);
        assert_int_equal(add(s, w.image, "web", 4, true), 0);
        /* one that we do not know of is not ours to undo */
        s->vm = vm_close(s->vm);
        assert_int_equal(attach(s, w.config), 0);
        assert_int_equal(add(s, w.image, "web", 4, true), -EREMOTEIO);
        assert_non_null(strstr(devices_of(s), "scsi4 scsi-hd"));
        assert_true(count_held(s, w.image) > 0);
        vm_config_free(config);
        world_end(&w);
}

/* The firmware boots what was added before the guest ran, there being nothing else: the counter is
 * in a sector of it. */
static void test_a_guest_reads_it(void **state) {
        _cleanup_(freep) char *text = NULL, *image = NULL;
        sd_event *event = new_event();
        vm_config *config = NULL;
        side s;

        side_init(&s, event);
        image = make_image(&s, "image");
        assert_true(asprintf(&text,
                             "{\"memory_mb\":32,\"accelerator\":\"tcg\",\"scsi\":true,"
                             "\"qemu\":\"%s\"}",
                             qemu) > 0);
        assert_int_equal(vm_config_parse(text, strlen(text), &config, NULL), 0);
        start(&s, config, VM_MODE_NORMAL, NULL);
        assert_int_equal(add(&s, image, "web", 5, true), 0);
        assert_int_equal(CALL(&s, vm_cont(s.vm, on_done, &s)), 0);
        wait_counting(&s, 1000);
        side_done(&s);
        vm_config_free(config);
        sd_event_unref(event);
}

static void test_migrates(void **state) {
        static const vm_migrate_options options = { .downtime_limit_msec = 300 };
        _cleanup_(freep) char *data = NULL;
        world w;
        side *a = &w.s, b;
        uint32_t left;
        int pair[2];

        world_begin(&w, SCSI);
        data = make_image(a, "data");
        assert_int_equal(add(a, w.image, "gone", 0, true), 0);
        assert_int_equal(add(a, w.image, "web", 4, true), 0);
        assert_int_equal(add(a, data, "data", 2, false), 0);
        assert_int_equal(take_away(a, "gone"), 0);
        wait_counting(a, 1000);
        side_init(&b, w.event);
        start(&b, vm_get_config(a->vm), VM_MODE_INCOMING, NULL);
        {
                _cleanup_(freep) char *there = strdup(devices_of(a));

                assert_string_equal(devices_of(&b), there);
        }
        connected_pair(pair);
        assert_int_equal(CALL(&b, vm_migrate_in(b.vm, pair[1], on_done, &b)), 0);
        assert_int_equal(CALL(a, vm_migrate_out(a->vm, pair[0], &options, on_done, a)), 0);
        WAIT(w.event,
             a->migration == VM_MIGRATION_COMPLETED && b.migration == VM_MIGRATION_COMPLETED);
        left = counter(a->vm);
        assert_same_memory(a->vm, b.vm);
        assert_int_equal(CALL(a, vm_quit(a->vm, 10 * USEC_PER_SEC, on_done, a)), 0);
        assert_int_equal(CALL(&b, vm_cont(b.vm, on_done, &b)), 0);
        wait_counting(&b, left);
        /* those that it was started with go as those that came later do */
        assert_int_equal(take_away(&b, "data"), 0);
        assert_int_equal(take_away(&b, "web"), 0);
        assert_int_equal(count_held(&b, w.image) + count_held(&b, data), 0);
        assert_int_equal(add(&b, data, "data", 4, false), 0);
        side_done(&b);
        world_end(&w);
}

int main(void) {
        _cleanup_(freep) char *program = NULL;
        const struct CMUnitTest tests[] = {
                SIDE_TEST(test_there_and_gone),
                SIDE_TEST(test_a_guest_that_stands_still),
                SIDE_TEST(test_refused_before_qemu_is_asked),
                SIDE_TEST(test_as_many_as_fit),
                SIDE_TEST(test_two_do_not_write_to_one_image),
                SIDE_TEST(test_what_qemu_refuses_leaves_nothing),
                SIDE_TEST(test_one_after_the_other),
                SIDE_TEST(test_the_end_comes_first),
                SIDE_TEST(test_found_again),
                SIDE_TEST(test_a_guest_reads_it),
                SIDE_TEST(test_migrates),
        };

        if (getenv("FERRY_QEMU"))
                qemu = getenv("FERRY_QEMU");
        if (vm_find_program(qemu, &program, NULL) < 0)
                return 77;
        return cmocka_run_group_tests_name("disks-real", tests, NULL, NULL);
}
