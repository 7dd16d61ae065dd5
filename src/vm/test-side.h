/* SPDX-License-Identifier: MIT */
#pragma once

/* A VM with a real QEMU, and what was seen of it. The guest is a boot sector that counts in memory
 * at 0x7000, and in each page of half a MiB: through the memory's descriptor a test sees whether it
 * runs, and that what arrives is what left, to the byte. $FERRY_QEMU_INCOMING is another QEMU for
 * the destinations. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/fd.h"
#include "vm/vm.h"

#define COUNTER    0x7000
#define LIMIT_USEC (120 * USEC_PER_SEC) /* ends a hung test, proves nothing */

extern const char *qemu;

/* One side of a migration, and what was seen of it. */
typedef struct side {
        sd_event *event;
        char dir[64];
        ferry_vm *vm;
        bool ready, exited, lost;
        unsigned n_mirrors_failed;
        int ready_r;
        char text[2048];
        unsigned n_stop, n_resume, n_pass, n_done, n_exit;
        int done_r;
        vm_migration_status migration;
        vm_migration_info info;
        char state[32];
        bool running;
        int memory_fd; /* for the start: vm_options.memory_fd */
} side;

extern const vm_handlers side_handlers;

int side_on_limit(sd_event_source *source, uint64_t usec, void *userdata);
/* Runs the loop until the condition holds. */
#define WAIT(event, condition)                                                                     \
        do {                                                                                       \
                sd_event_source *limit_ = NULL;                                                    \
                assert_true(sd_event_add_time_relative(event, &limit_, CLOCK_MONOTONIC,            \
                                                       LIMIT_USEC, 0, side_on_limit, NULL) >= 0);  \
                while (!(condition))                                                               \
                        assert_true(sd_event_run(event, UINT64_MAX) >= 0);                         \
                sd_event_source_disable_unref(limit_);                                             \
        } while (0)

/* Runs an operation to its end and gives its result. */
#define CALL(s, call)                                                                              \
        __extension__({                                                                            \
                unsigned before_ = (s)->n_done;                                                    \
                assert_int_equal(call, 0);                                                         \
                WAIT((s)->event, (s)->n_done > before_);                                           \
                (s)->done_r;                                                                       \
        })

void on_ready(ferry_vm *vm, int r, const ferry_error *error, void *userdata);
void on_done(ferry_vm *vm, int r, const ferry_error *error, void *userdata);
void on_status(ferry_vm *vm, int r, const ferry_error *error, const vm_status *status,
               void *userdata);
void on_info(ferry_vm *vm, int r, const ferry_error *error, const vm_migration_info *info,
             void *userdata);

void side_init(side *s, sd_event *event);
/* Ends its QEMU; nothing that says "a QEMU lives here" may be left. */
void side_done(side *s);

void make_disk(const char *path);
vm_config *make_config(const char *disk, const char *more);
int try_start(side *s, const vm_config *config, vm_mode mode, const char *bridge);
void start(side *s, const vm_config *config, vm_mode mode, const char *bridge);
/* A guest that counts, at `s`. Returns the path of its disk. */
char *boot(side *s, sd_event *event, vm_config **ret_config, const char *more);
/* After vm_close(). */
int attach(side *s, const vm_config *config);

uint32_t counter(const ferry_vm *vm);
/* The guest has booted and gone on counting after `from`. */
void wait_counting(side *s, uint32_t from);
/* Both stand still, the one loaded by the other. */
void assert_same_memory(const ferry_vm *a, const ferry_vm *b);

/* Over TCP. */
void connected_pair(int ret[2]);
sd_event *new_event(void);

/* No QEMU of a test outlives it, and no descriptor of ours. */
int remember_fds(void **state);
int no_fd_leaked(void **state);
#define SIDE_TEST(name) cmocka_unit_test_setup_teardown(name, remember_fds, no_fd_leaked)
