/* SPDX-License-Identifier: MIT */

/* A guest's state out of one real QEMU into a template's file, and from there into others, which
 * then are guests as any other: they move. Exit 77 without QEMU. */

#include "vm/test-side.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/files.h"
#include "vm/spawn.h"
#include "vm/template-pipe.h"
#include "vm/template.h"

#define KEY "a guest that counts"

typedef struct world {
        sd_event *event;
        vm_config *config;
        side maker, one, two;
        char *disk;
        char folder[64], inner[80];
        int folder_fd;
        bool done;
        int r;
        uint8_t *devices;
        size_t n_devices;
        char text[256];
} world;

static void keep(world *w, int r, const void *devices, size_t n) {
        w->done = true;
        w->r = r;
        free(w->devices);
        w->devices = malloc(n + 1);
        memcpy(w->devices, devices ? devices : "", n);
        w->n_devices = n;
}

static void on_taken(int r, const void *data, size_t n, void *userdata) {
        keep(userdata, r, data, n);
}

static void on_loaded(int r, const ferry_error *error, void *userdata) {
        world *w = userdata;

        if (r < 0)
                snprintf(w->text, sizeof(w->text), "%s", ferry_error_message(error));
        w->done = true;
        w->r = r;
}

static void no_word_failed(int r, const char *text) {
        if (r < 0)
                fail_msg("%s", text);
}

/* The guest at `maker` counts, stands, and is written down. */
static void make_template(world *w) {
        const vm_migrate_options options = { .downtime_limit_msec = 300 };
        template_pipe *pipe = NULL;
        ferry_error error = FERRY_ERROR_INIT;
        side *m = &w->maker;
        int fd;

        wait_counting(m, 0);
        assert_int_equal(CALL(m, vm_stop(m->vm, on_done, m)), 0);
        assert_int_equal(CALL(m, vm_set_memory_apart(m->vm, true, on_done, m)), 0);
        w->done = false;
        assert_int_equal(template_pipe_take(w->event, on_taken, w, &fd, &pipe), 0);
        assert_int_equal(CALL(m, vm_migrate_out(m->vm, fd, &options, on_done, m)), 0);
        WAIT(w->event, w->done && m->migration == VM_MIGRATION_COMPLETED);
        assert_int_equal(w->r, 0);
        template_pipe_free(pipe);
        assert_true(w->n_devices > 0 && w->n_devices < 4 << 20);
        no_word_failed(template_save(w->folder_fd, KEY, vm_get_memory_fd(m->vm),
                                     vm_config_memory_bytes(vm_get_config(m->vm)), w->devices,
                                     w->n_devices, &error),
                       ferry_error_message(&error));
}

static void world_begin(world *w) {
        ferry_error error = FERRY_ERROR_INIT;

        *w = (world){ .event = new_event() };
        strcpy(w->folder, "/tmp/ferry-test-XXXXXX");
        assert_non_null(mkdtemp(w->folder));
        snprintf(w->inner, sizeof(w->inner), "%s/tenant", w->folder);
        no_word_failed(template_folder_open(w->inner, true, &w->folder_fd, &error),
                       ferry_error_message(&error));
        w->disk = boot(&w->maker, w->event, &w->config, "");
        assert_int_equal(CALL(&w->maker, vm_cont(w->maker.vm, on_done, &w->maker)), 0);
        make_template(w);
}

static void world_end(world *w) {
        fd_close(w->folder_fd);
        side_done(&w->maker);
        vm_config_free(w->config);
        free(w->disk);
        free(w->devices);
        w->folder_fd = open(w->inner, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        (void)unlinkat(w->folder_fd, TEMPLATE_FILE, 0);
        fd_close(w->folder_fd);
        assert_int_equal(rmdir(w->inner), 0); /* nothing else was in it */
        assert_int_equal(rmdir(w->folder), 0);
        sd_event_unref(w->event);
}

/* `s` begins where the template ends, stopped. */
static void restore(world *w, side *s) {
        uint64_t bytes = vm_config_memory_bytes(vm_get_config(w->maker.vm));
        template_load *load = NULL;
        template_pipe *pipe = NULL;
        const void *devices;
        size_t n = 0;
        int fd;

        side_init(s, w->event);
        assert_int_equal(memory_create(bytes, &s->memory_fd, NULL), 0);
        assert_int_equal(template_open(w->folder_fd, KEY, &fd, NULL), 0);
        w->done = false;
        assert_int_equal(
                template_load_start(w->event, fd, s->memory_fd, bytes, on_loaded, w, &load), 0);
        start(s, w->config, VM_MODE_INCOMING, NULL);
        fd_close(s->memory_fd);
        WAIT(w->event, w->done);
        no_word_failed(w->r, w->text);
        devices = template_load_devices(load, &n);
        keep(w, 0, devices, n);
        template_load_free(load);
        assert_int_equal(CALL(s, vm_set_memory_apart(s->vm, true, on_done, s)), 0);
        assert_int_equal(template_pipe_give(w->event, w->devices, w->n_devices, &fd, &pipe), 0);
        assert_int_equal(CALL(s, vm_migrate_in(s->vm, fd, on_done, s)), 0);
        WAIT(w->event, s->migration == VM_MIGRATION_COMPLETED);
        template_pipe_free(pipe);
        do
                assert_int_equal(CALL(s, vm_query_status(s->vm, on_status, s)), 0);
        while (strcmp(s->state, "inmigrate") == 0);
        assert_string_equal(s->state, "paused");
        no_word_failed(CALL(s, vm_set_memory_apart(s->vm, false, on_done, s)), s->text);
}

static void test_two_of_one(void **state) {
        uint32_t at;
        world w;

        world_begin(&w);
        at = counter(w.maker.vm);
        restore(&w, &w.one);
        assert_same_memory(w.maker.vm, w.one.vm);
        assert_int_equal(CALL(&w.one, vm_cont(w.one.vm, on_done, &w.one)), 0);
        wait_counting(&w.one, at);
        restore(&w, &w.two); /* what the first has written is its own, but for their disk */
        side_done(&w.one);
        assert_int_equal(counter(w.two.vm), at);
        assert_int_equal(CALL(&w.two, vm_cont(w.two.vm, on_done, &w.two)), 0);
        wait_counting(&w.two, at);
        side_done(&w.two);
        world_end(&w);
}

/* Its memory goes over as any other's. */
static void test_one_moves(void **state) {
        const vm_migrate_options options = { .downtime_limit_msec = 300 };
        uint32_t at;
        int pair[2];
        world w;

        world_begin(&w);
        restore(&w, &w.one);
        assert_int_equal(CALL(&w.one, vm_cont(w.one.vm, on_done, &w.one)), 0);
        wait_counting(&w.one, counter(w.maker.vm));
        side_init(&w.two, w.event);
        start(&w.two, w.config, VM_MODE_INCOMING, NULL);
        connected_pair(pair);
        w.one.migration = VM_MIGRATION_NONE;
        assert_int_equal(CALL(&w.two, vm_migrate_in(w.two.vm, pair[1], on_done, &w.two)), 0);
        assert_int_equal(CALL(&w.one, vm_migrate_out(w.one.vm, pair[0], &options, on_done, &w.one)),
                         0);
        WAIT(w.event, w.one.migration == VM_MIGRATION_COMPLETED &&
                              w.two.migration == VM_MIGRATION_COMPLETED);
        do
                assert_int_equal(CALL(&w.two, vm_query_status(w.two.vm, on_status, &w.two)), 0);
        while (strcmp(w.two.state, "inmigrate") == 0);
        at = counter(w.one.vm);
        assert_same_memory(w.one.vm, w.two.vm);
        assert_int_equal(CALL(&w.two, vm_cont(w.two.vm, on_done, &w.two)), 0);
        wait_counting(&w.two, at);
        side_done(&w.one);
        side_done(&w.two);
        world_end(&w);
}

int main(void) {
        const struct CMUnitTest tests[] = {
                SIDE_TEST(test_two_of_one),
                SIDE_TEST(test_one_moves),
        };
        _cleanup_(freep) char *program = NULL;

        if (vm_find_program(qemu, &program, NULL) < 0)
                return 77;
        return cmocka_run_group_tests_name("template-real", tests, NULL, NULL);
}
