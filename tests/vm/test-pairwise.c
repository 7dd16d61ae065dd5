/* SPDX-License-Identifier: MIT */
/* Each option that changes what goes over the connections, alone and with each other one, over two
 * real QEMUs; and the bandwidth that was asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"

#include "steps.h"

static CompressionSettings compression = COMPRESSION_SETTINGS__INIT;

static void checksums(InitializeOptions *o) {
        o->checksum_verification = true;
}

static void compress(InitializeOptions *o) {
        o->compression_settings = &compression;
}

static void encrypt_it(InitializeOptions *o) {
        o->encryption = ENCRYPTION__ENCRYPTION_PSK;
}

static void channels(InitializeOptions *o) {
        o->optional_channels_case = INITIALIZE_OPTIONS__OPTIONAL_CHANNELS_CHANNELS;
        o->channels = 3;
}

static void verify_memory(InitializeOptions *o) {
        o->verify_memory = true;
}

static void cap(InitializeOptions *o) {
        o->optional_max_bandwidth_case = INITIALIZE_OPTIONS__OPTIONAL_MAX_BANDWIDTH_MAX_BANDWIDTH;
        o->max_bandwidth = 64 << 20;
}

static void trace(InitializeOptions *o) {
        o->perf_tracing_enabled = true;
}

static void postcopy(InitializeOptions *o) {
        o->postcopy = POSTCOPY__POSTCOPY_ALWAYS;
}

static void by_caller(InitializeOptions *o) {
        o->handover = HANDOVER__HANDOVER_CALLER;
}

typedef struct choice {
        const char *name;
        void (*set)(InitializeOptions *o);
} choice;

static const choice choices[] = {
        { "checksums", checksums },         { "compression", compress },
        { "encryption", encrypt_it },       { "channels", channels },
        { "verify_memory", verify_memory }, { "max_bandwidth", cap },
        { "perf_tracing", trace },          { "handover caller", by_caller },
        { "postcopy", postcopy },
};

#define N_CHOICES (sizeof(choices) / sizeof(choices[0]))

static int setup(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 10000, 2048); /* so that post-copy has something left to do */
        *state = p;
        return 0;
}

/* Back and forth, so that both hosts are both sides with all of them. */
static void test_each_option_with_each_other(void **state) {
        pair *p = *state;
        const InitializeOptions plain = p->options;
        host *at = &p->a, *other = &p->b;

        for (size_t i = 0; i < N_CHOICES; i++)
                for (size_t k = i; k < N_CHOICES; k++) {
                        host *was = at;

                        print_message("# %s, %s\n", choices[i].name, choices[k].name);
                        p->options = plain;
                        p->options.handover = HANDOVER__HANDOVER_DIRECT;
                        choices[i].set(&p->options);
                        choices[k].set(&p->options);
                        if (p->options.verify_memory &&
                            p->options.postcopy != POSTCOPY__POSTCOPY_NEVER)
                                continue; /* the one pair that is refused */
                        migrate_whole(p, at, other);
                        at = other;
                        other = was;
                        assert_exactly_one_runs(p, at);
                }
        guest_check(at);
}

static uint64_t sent_by(host *h) {
        Ferry__Shim__V1__StatusResponse *s = host_status(h);
        uint64_t bytes = s->session && s->session->report ? s->session->report->bytes : 0;

        ferry__shim__v1__status_response__free_unpacked(s, NULL);
        return bytes;
}

/* In the middle of the copy, over a second and more: by what QEMU says that it has sent. */
static double measure(host *h) {
        uint64_t first = 0, from = 0, bytes, now;

        host_wait_bytes(h);
        for (;;) {
                const struct timespec moment = { .tv_nsec = 10 * 1000 * 1000 };
                uint64_t last = first;

                nanosleep(&moment, NULL);
                bytes = sent_by(h);
                now = now_usec();
                if (bytes == last) /* a figure is taken ten times a second */
                        continue;
                if (from == 0) {
                        first = bytes;
                        from = now;
                } else if (now - from >= 3 * USEC_PER_SEC)
                        return (double)(bytes - first) * 1e6 / (double)(now - from);
        }
}

static void test_the_bandwidth_that_was_asked_for(void **state) {
        static const uint64_t caps[] = { 1 << 20, 4 << 20 };
        pair *p = *state;

        for (size_t i = 0; i < 4; i++) {
                bool honoured = false;

                cap(&p->options);
                p->options.max_bandwidth = caps[i % 2];
                if (i >= 2) {
                        checksums(&p->options);
                        encrypt_it(&p->options);
                }
                session_open(p, true);
                transfer_both(p);
                /* a busy machine may read the figures late, but not always */
                for (size_t n = 0; !honoured && n < 5; n++) {
                        double share = measure(&p->a) / (double)p->options.max_bandwidth;

                        print_message("# %.3f of the cap\n", share);
                        honoured = share > 0.95 && share < 1.05;
                }
                assert_true(honoured);
                host_wait_detail(&p->a, "S_COPYING");
                call_cancel(p, &p->a, 0);
                host_wait_detail(&p->b, "D_FAILED");
                cleanup_both(p);
        }
}

/* It writes more than goes over, so that the copy goes on as long as it is measured. */
static int setup_hot(void **state) {
        pair *p = calloc(1, sizeof(*p));

        pair_start(p, 20000, 16384);
        *state = p;
        return 0;
}

/* One argument: a pattern, to run only the tests that it names. */
int main(int argc, char **argv) {
        const struct CMUnitTest tests[] = {
                cmocka_unit_test_setup_teardown(test_each_option_with_each_other, setup, end_pair),
                cmocka_unit_test_setup_teardown(test_the_bandwidth_that_was_asked_for, setup_hot,
                                                end_pair),
        };

        if (argc > 1)
                cmocka_set_test_filter(argv[1]);
        return cmocka_run_group_tests_name("pairwise", tests, NULL, NULL);
}
