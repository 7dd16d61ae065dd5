/* SPDX-License-Identifier: MIT */
/* Post-copy over two real QEMUs: the guest runs at the destination before its memory is there. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"

#include "steps.h"

/* It writes more than goes over, so that pre-copy alone never ends. */
static int setup(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 20000, 16384);
        p->options.handover = HANDOVER__HANDOVER_DIRECT;
        p->options.postcopy = POSTCOPY__POSTCOPY_ALWAYS;
        *state = p;
        return 0;
}

static void test_there_and_back(void **state) {
        pair *p = *state;

        migrate_whole(p, &p->a, &p->b);
        assert_exactly_one_runs(p, &p->b);
        guest_check(&p->b);
        migrate_whole(p, &p->b, &p->a);
        assert_exactly_one_runs(p, &p->a);
        guest_check(&p->a);
}

int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_there_and_back, setup, end_pair),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("postcopy", tests, NULL, NULL);
}
