/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "services/carried.h"

/* A container with an exec, and one without a disk. */
typedef struct world {
        vm_config *config;
        Ferry__Tasks__V1__Process process[3], *first[2], *second[1];
        Ferry__Tasks__V1__Container container[2], *containers[2];
        Ferry__Tasks__V1__Containers all;
} world;

static void name_process(Ferry__Tasks__V1__Process *p, const char *exec_id, const char *guest_id) {
        ferry__tasks__v1__process__init(p);
        p->exec_id = (char *)exec_id;
        p->guest_id = (char *)guest_id;
}

static int setup(void **state) {
        static const char config[] =
                "{\"memory_mb\": 64, \"kernel\": \"/k\", \"scsi\": true, \"disks\": [{\"path\": "
                "\"/d\", \"readonly\": true, \"serial\": \"root-c1\", \"scsi_id\": 0}]}";
        world *w = calloc(1, sizeof(*w));

        assert_int_equal(vm_config_parse(config, sizeof(config) - 1, &w->config, NULL), 0);
        ferry__tasks__v1__containers__init(&w->all);
        for (size_t i = 0; i < 2; i++) {
                ferry__tasks__v1__container__init(&w->container[i]);
                w->containers[i] = &w->container[i];
        }
        name_process(&w->process[0], "", "c1");
        name_process(&w->process[1], "shell", "c1.e2");
        name_process(&w->process[2], "", "c3");
        w->first[0] = &w->process[0];
        w->first[1] = &w->process[1];
        w->second[0] = &w->process[2];
        w->container[0].id = (char *)"web";
        w->container[0].guest_id = (char *)"c1";
        w->container[0].disk = (char *)"root-c1";
        w->container[0].last_exec = 2;
        w->container[0].processes = w->first;
        w->container[0].n_processes = 2;
        w->container[1].id = (char *)"db";
        w->container[1].guest_id = (char *)"c3";
        w->container[1].processes = w->second;
        w->container[1].n_processes = 1;
        w->all.last_number = 3;
        w->all.containers = w->containers;
        w->all.n_containers = 2;
        *state = w;
        return 0;
}

static int teardown(void **state) {
        world *w = *state;

        vm_config_free(w->config);
        free(w);
        return 0;
}

static int decode(world *w) {
        size_t n = ferry__tasks__v1__containers__get_packed_size(&w->all);
        Ferry__Tasks__V1__Containers *m = NULL;
        uint8_t *data = malloc(n + 1);
        int r;

        assert_non_null(data);
        ferry__tasks__v1__containers__pack(&w->all, data);
        r = carried_decode(data, n, w->config, &m, NULL);
        if (r == 0) {
                assert_int_equal(m->n_containers, w->all.n_containers);
                ferry__tasks__v1__containers__free_unpacked(m, NULL);
        }
        free(data);
        return r;
}

static void test_it_goes_round(void **state) {
        world *w = *state;

        assert_int_equal(decode(w), 0);
        w->process[1].status = FERRY__TASKS__V1__PROCESS__STATUS__STATUS_STOPPED;
        assert_int_equal(decode(w), 0);
}

static void test_names_of_other_forms(void **state) {
        static const char *const bad[] = { "",    "c0",  "c01", "c1x",         "c4",
                                           "c-1", "c 1", "d1",  "c4294967297", "../c1" };
        world *w = *state;

        for (size_t i = 0; i < ELEMENTS(bad); i++) {
                w->container[0].guest_id = w->process[0].guest_id = (char *)bad[i];
                assert_int_equal(decode(w), -EINVAL);
        }
        w->container[0].guest_id = w->process[0].guest_id = (char *)"c1";
        w->container[0].id = (char *)"../web";
        assert_int_equal(decode(w), -EINVAL);
        w->container[0].id = (char *)"";
        assert_int_equal(decode(w), -EINVAL);
}

static void test_what_is_there_twice(void **state) {
        world *w = *state;

        w->container[1].id = w->container[0].id;
        assert_int_equal(decode(w), -EINVAL);
        w->container[1].id = (char *)"db";
        w->container[1].disk = w->container[0].disk;
        assert_int_equal(decode(w), -EINVAL);
        w->container[1].disk = (char *)"";
        w->container[1].guest_id = w->process[2].guest_id = (char *)"c1";
        assert_int_equal(decode(w), -EINVAL);
}

static void test_processes_that_make_no_container(void **state) {
        world *w = *state;

        w->container[0].n_processes = 0;
        assert_int_equal(decode(w), -EINVAL);
        w->container[0].n_processes = 2;
        w->process[1].exec_id = (char *)"";
        assert_int_equal(decode(w), -EINVAL);
        w->process[1].exec_id = (char *)"shell";
        w->process[1].guest_id = (char *)"c1.e3"; /* more than there ever were */
        assert_int_equal(decode(w), -EINVAL);
        w->process[1].guest_id = (char *)"c3.e1"; /* another's */
        assert_int_equal(decode(w), -EINVAL);
        w->process[1].guest_id = (char *)"c1.e1";
        w->process[1].status = (Ferry__Tasks__V1__Process__Status)9;
        assert_int_equal(decode(w), -EINVAL);
        w->process[1].status = FERRY__TASKS__V1__PROCESS__STATUS__STATUS_RUNNING;
        assert_int_equal(decode(w), 0);
}

static void test_a_disk_that_is_not_its_own(void **state) {
        world *w = *state;

        w->container[0].disk = (char *)"root-c9";
        assert_int_equal(decode(w), -EINVAL);
        w->container[0].disk = (char *)"root-c1";
        w->container[0].layer = (char *)"root-c1"; /* nobody writes to that */
        assert_int_equal(decode(w), -EINVAL);
        w->container[0].layer = (char *)"";
        w->config->disks[0].readonly = false;
        assert_int_equal(decode(w), -EINVAL);
}

int main(void) {
        static const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_it_goes_round, setup, teardown),
                cmocka_unit_test_setup_teardown(test_names_of_other_forms, setup, teardown),
                cmocka_unit_test_setup_teardown(test_what_is_there_twice, setup, teardown),
                cmocka_unit_test_setup_teardown(test_processes_that_make_no_container, setup,
                                                teardown),
                cmocka_unit_test_setup_teardown(test_a_disk_that_is_not_its_own, setup, teardown),
        };

        return cmocka_run_group_tests(tests, NULL, NULL);
}
