/* SPDX-License-Identifier: MIT */
/* Runs in a guest, whose kernel has cgroup v2 with the cpu controller (this machine's may not):
 * slows a thread of its own down by vm/throttle.h, and looks at what the kernel says of it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "vm/throttle.h"

#define STATE  "/tmp/throttle-state"
#define CGROUP "/tmp/throttle-cgroup"
#define HOME   CGROUP "/ferry-test"
#define LIMIT  (120 * USEC_PER_SEC)

static atomic_int thread_id;
static atomic_bool stop;

_Noreturn _printf_(1, 2) static void bad(const char *format, ...) {
        va_list arguments;

        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
        printf("\n");
        exit(1);
}

static void *spin(void *userdata) {
        atomic_store(&thread_id, (int)syscall(SYS_gettid));
        while (!atomic_load(&stop))
                ;
        return NULL;
}

static char *cgroup_file(const char *name) {
        static char path[160];

        snprintf(path, sizeof(path), HOME "/ferry-%d-0/%s", (int)getpid(), name);
        return path;
}

static void put(const char *path, const char *text) {
        _cleanup_(closep) int fd = open(path, O_WRONLY | O_CLOEXEC);

        if (fd < 0 || fd_write_all(fd, text, strlen(text)) < 0)
                bad("%s: %s", path, strerror(errno));
}

/* "nr_throttled 12" of cpu.stat. */
static unsigned long figure(const char *name) {
        _cleanup_(freep) char *text = NULL;
        const char *at;
        size_t n;

        if (file_read(AT_FDCWD, cgroup_file("cpu.stat"), 4096, &text, &n) < 0)
                bad("no %s", cgroup_file("cpu.stat"));
        at = strstr(text, name);
        return at ? strtoul(at + strlen(name), NULL, 10) : 0;
}

static void expect_file(const char *name, const char *expected) {
        _cleanup_(freep) char *text = NULL;
        size_t n;

        if (file_read(AT_FDCWD, cgroup_file(name), 4096, &text, &n) < 0 ||
            strncmp(text, expected, strlen(expected)) != 0)
                bad("%s is \"%s\", not \"%s\"", name, text ? text : "", expected);
}

/* Until so many more periods have ended before it was done. */
static void wait_throttled(unsigned long more) {
        unsigned long before = figure("nr_throttled");
        uint64_t deadline = now_usec() + LIMIT;

        while (figure("nr_throttled") < before + more) {
                if (now_usec() > deadline)
                        bad("it is not slowed down");
                usleep(10000);
        }
}

/* Until it is not held up for some periods. */
static void wait_free(void) {
        uint64_t deadline = now_usec() + LIMIT;
        unsigned long before;

        do {
                if (now_usec() > deadline)
                        bad("it is still slowed down");
                before = figure("nr_throttled");
                usleep(200000);
        } while (figure("nr_throttled") != before);
}

static int open_state(void) {
        int fd;

        (void)mkdir(STATE, 0700);
        fd = open(STATE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                bad(STATE ": %s", strerror(errno));
        return fd;
}

int main(void) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(closep) int state = open_state();
        throttle *t = NULL, *lost = NULL;
        char pid[16];
        pthread_t thread;
        pid_t tid;

        (void)mkdir(CGROUP, 0755);
        if (mount("cgroup2", CGROUP, "cgroup2", 0, NULL) < 0)
                bad("cgroup2: %s", strerror(errno));
        put(CGROUP "/cgroup.subtree_control", "+cpu");
        (void)mkdir(HOME, 0755);
        snprintf(pid, sizeof(pid), "%d", (int)getpid());
        put(HOME "/cgroup.procs", pid);
        if (pthread_create(&thread, NULL, spin, NULL) != 0)
                bad("no thread");
        while ((tid = (pid_t)atomic_load(&thread_id)) == 0)
                usleep(1000);

        if (throttle_new(getpid(), state, &t, &error) < 0 ||
            throttle_set(t, &tid, 1, 80, &error) < 0)
                bad("%s", ferry_error_message(&error));
        expect_file("cpu.max", "1000 5000");
        snprintf(pid, sizeof(pid), "%d\n", (int)tid);
        expect_file("cgroup.threads", pid);
        wait_throttled(20);
        if (throttle_set(t, &tid, 1, 98, &error) < 0)
                bad("%s", ferry_error_message(&error));
        expect_file("cpu.max", "1000 50000");
        wait_throttled(3);
        throttle_lift(t);
        expect_file("cpu.max", "max");
        wait_free();

        /* a shim that was killed leaves a slow guest: the next one finds it */
        if (throttle_set(t, &tid, 1, 80, &error) < 0)
                bad("%s", ferry_error_message(&error));
        wait_throttled(5);
        throttle_recover(state);
        if (access(cgroup_file(""), F_OK) == 0)
                bad("the cgroup stays");
        lost = t; /* it does not know: as a shim that is no more */
        if (throttle_new(getpid(), state, &t, &error) < 0 ||
            throttle_set(t, &tid, 1, 50, &error) < 0)
                bad("%s", ferry_error_message(&error));
        wait_throttled(5);
        throttle_free(t);
        if (access(cgroup_file(""), F_OK) == 0 || faccessat(state, "throttle", F_OK, 0) == 0)
                bad("something stays");
        atomic_store(&stop, true);
        (void)pthread_join(thread, NULL);
        (void)lost;
        printf("slowed down, and let go\n");
        return 0;
}
