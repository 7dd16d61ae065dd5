/* SPDX-License-Identifier: MIT */

/* The real thing: builds the image twice from Debian's kernel package, compares all bytes, and
 * boots it in QEMU under TCG until its memory has been checked. Exit 77 when there is no kernel
 * package to be had or no QEMU; with CI=true that is a failure. */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "guest/image.h"

#define CRUN          "/usr/bin/crun"
#define QEMU          "qemu-system-x86_64"
#define PATIENCE_USEC (240 * USEC_PER_SEC) /* only a hang takes this long */
#define FILE_MAX      (256U * 1024 * 1024)
#define OUTPUT_MAX    65536U

static const char *const files[] = { "vmlinuz", "initrd.img", "image.json" };

typedef struct machine {
        pid_t pid;
        int in;
        int out;
        size_t n;
        char text[OUTPUT_MAX + 1];
} machine;

static int skip_or_fail(const char *why) {
        const char *ci = getenv("CI");
        bool must = ci && strcmp(ci, "true") == 0;

        (void)fprintf(stderr, "%s: %s\n", must ? "failed" : "skipped", why);
        return must ? 1 : 77;
}

static bool differ(const char *folder_a, const char *folder_b, const char *name) {
        _cleanup_(closep) int a = open(folder_a, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_(closep) int b = open(folder_b, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_(freep) char *text_a = NULL, *text_b = NULL;
        size_t n_a = 0, n_b = 0;

        if (a < 0 || b < 0 || file_read(a, name, FILE_MAX, &text_a, &n_a) < 0 ||
            file_read(b, name, FILE_MAX, &text_b, &n_b) < 0)
                return true;
        return n_a == 0 || n_a != n_b || memcmp(text_a, text_b, n_a) != 0;
}

static void remove_image(const char *folder) {
        _cleanup_(closep) int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        for (size_t i = 0; fd >= 0 && i < ELEMENTS(files); i++)
                (void)unlinkat(fd, files[i], 0);
        (void)rmdir(folder); /* fails when something else is in it: seen by the caller's rmdir */
}

/* The serial line is QEMU's stdio. */
static int machine_start(machine *m, const guest_image_result *image) {
        int to[2], from[2];
        char append[512];

        (void)snprintf(append, sizeof(append), "%s ferry.run=tick ferry.memory_mb=8",
                       image->cmdline);
        if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
                return -errno;
        m->pid = fork();
        if (m->pid == 0) {
                (void)dup2(to[0], STDIN_FILENO);
                (void)dup2(from[1], STDOUT_FILENO);
                (void)execlp(QEMU, QEMU, "-machine", "pc-q35-7.2,accel=tcg", "-cpu", "Nehalem-v1",
                             "-m", "262136k", "-nodefaults", "-no-user-config", "-display", "none",
                             "-no-reboot", "-serial", "stdio", "-device", "virtio-serial-pci",
                             "-kernel", image->kernel, "-initrd", image->initrd, "-append", append,
                             (char *)NULL);
                _exit(127);
        }
        fd_close(to[0]);
        fd_close(from[1]);
        m->in = to[1];
        m->out = from[0];
        return m->pid < 0 ? -errno : 0;
}

/* True once the guest has said it, behind what it said before. */
static bool machine_says(machine *m, const char *what) {
        uint64_t deadline = now_usec() + PATIENCE_USEC;

        for (;;) {
                struct pollfd polled = { .fd = m->out, .events = POLLIN };
                const char *found;
                ssize_t n;

                m->text[m->n] = '\0';
                found = strstr(m->text, what);
                if (found) {
                        m->n -= (size_t)(found - m->text) + strlen(what);
                        memmove(m->text, found + strlen(what), m->n);
                        return true;
                }
                if (m->n == OUTPUT_MAX || now_usec() > deadline)
                        break;
                if (poll(&polled, 1, 1000) <= 0)
                        continue;
                n = read(m->out, m->text + m->n, OUTPUT_MAX - m->n);
                if (n <= 0)
                        break;
                m->n += (size_t)n;
        }
        (void)fprintf(stderr, "waited for '%s', the guest said:\n%s\n", what, m->text);
        return false;
}

static bool boots(const guest_image_result *image) {
        _cleanup_(freep) machine *m = calloc(1, sizeof(*m));
        bool ok;

        if (!m || machine_start(m, image) < 0)
                return false;
        ok = machine_says(m, "ferry-guest: ready") && machine_says(m, "READY") &&
             machine_says(m, "tick 3") && fd_write_all(m->in, "rate 0\r", 7) == 0 &&
             machine_says(m, "rate 0") && fd_write_all(m->in, "rate -1\rcheck\r", 14) == 0 &&
             machine_says(m, "rate -1") && machine_says(m, "memory passes=") &&
             machine_says(m, "errors=0\r\n");
        (void)kill(m->pid, SIGKILL);
        (void)waitpid(m->pid, NULL, 0);
        fd_close(m->in);
        fd_close(m->out);
        return ok;
}

static bool has_qemu(void) {
        return system("command -v " QEMU " >/dev/null") == 0; /* a fixed text */
}

/* Whatever the first says; the second's description is not kept. */
static int build_twice(const char *folder_a, const char *folder_b, bool containers,
                       guest_image_result *ret) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        guest_image_options options = { .output_dir = folder_a, .containers = containers };
        int r;

        r = guest_image_build(&options, ret, &error);
        if (r < 0 && error.code == FERRY_UNAVAILABLE)
                return skip_or_fail(ferry_error_message(&error));
        if (r < 0) {
                (void)fprintf(stderr, "the first build: %s\n", ferry_error_message(&error));
                return 1;
        }
        options.output_dir = folder_b;
        r = guest_image_build(&options, NULL, &error);
        if (r < 0) {
                (void)fprintf(stderr, "the second build: %s\n", ferry_error_message(&error));
                return 1;
        }
        for (size_t i = 0; i < ELEMENTS(files); i++)
                if (differ(folder_a, folder_b, files[i])) {
                        (void)fprintf(stderr, "%s is not the same twice\n", files[i]);
                        return 1;
                }
        return 0;
}

static int check(const char *folder_a, const char *folder_b) {
        _cleanup_(guest_image_result_done) guest_image_result image = { 0 }, other = { 0 };
        int status;

        if (access(CRUN, X_OK) < 0)
                return skip_or_fail("no " CRUN);
        status = build_twice(folder_a, folder_b, true, &other);
        if (status == 0)
                status = build_twice(folder_a, folder_b, false, &image);
        if (status != 0)
                return status;
        if (!has_qemu())
                return skip_or_fail("no " QEMU);
        return boots(&image) ? 0 : 1;
}

int main(void) {
        char folder[] = "/tmp/ferry-image-XXXXXX", a[64], b[64];
        int status;

        (void)signal(SIGPIPE, SIG_IGN); /* QEMU may end before it has read */
        if (!mkdtemp(folder))
                return 1;
        (void)snprintf(a, sizeof(a), "%s/a", folder);
        (void)snprintf(b, sizeof(b), "%s/b", folder);
        status = check(a, b);
        remove_image(a);
        remove_image(b);
        if (rmdir(folder) < 0) {
                (void)fprintf(stderr, "the builds left more than their files in %s\n", folder);
                status = 1;
        }
        return status;
}
