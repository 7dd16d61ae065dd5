/* SPDX-License-Identifier: MIT */
#include "cli/target-check.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/launch.h"
#include "cli/netns.h"

#define LIMIT_USEC (60 * USEC_PER_SEC)
#define OUTPUT_MAX (256U * 1024)
#define ARGV_MAX   16U

typedef struct run {
        char *argv[ARGV_MAX];
        int netns_fd, in_fd, out_fd, err_fd;
} run;

static _Noreturn void become_check(const run *c) {
        int fds[3] = { fcntl(c->in_fd, F_DUPFD_CLOEXEC, 3), fcntl(c->out_fd, F_DUPFD_CLOEXEC, 3),
                       fcntl(c->err_fd, F_DUPFD_CLOEXEC, 3) };
        int netns_fd = c->netns_fd < 0 ? -EBADF : fcntl(c->netns_fd, F_DUPFD_CLOEXEC, 3);

        for (int i = 0; i < 3; i++)
                if (fds[i] < 0 || dup2(fds[i], i) < 0)
                        _exit(126);
        if (netns_enter(netns_fd) < 0) {
                dprintf(2, "cannot enter the host's network namespace\n");
                _exit(126);
        }
        execv(c->argv[0], c->argv);
        dprintf(2, "cannot run %s: %s\n", c->argv[0], strerror(errno));
        _exit(127);
}

static int wait_for(pid_t pid, int *ret_status) {
        uint64_t until = now_usec() + LIMIT_USEC;

        for (;;) {
                pid_t ended = waitpid(pid, ret_status, WNOHANG);

                if (ended == pid)
                        return 0;
                if (ended < 0 && errno != EINTR)
                        return -errno;
                if (now_usec() >= until) {
                        (void)kill(pid, SIGKILL); /* ours, not reaped */
                        (void)waitpid(pid, ret_status, 0);
                        return -ETIMEDOUT;
                }
                (void)usleep(2000);
        }
}

static int read_all(int fd, char **ret) {
        _cleanup_(freep) char *text = calloc(1, OUTPUT_MAX + 1);
        ssize_t n;

        if (!text)
                return -ENOMEM;
        n = pread(fd, text, OUTPUT_MAX, 0);
        if (n < 0)
                return -errno;
        *ret = TAKE_PTR(text);
        return 0;
}

static int execute(run *c, ferry_error *reterr) {
        _cleanup_(freep) char *told = NULL;
        int status, r;
        pid_t pid = fork();

        if (pid < 0)
                return ferry_error_set_errno(reterr, -errno, "cannot run its check");
        if (pid == 0)
                become_check(c);
        r = wait_for(pid, &status);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "its check");
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                return 0;
        r = read_all(c->err_fd, &told);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "its check");
        told[strcspn(told, "\n")] = '\0';
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EREMOTEIO,
                               "its check failed: %s", told[0] ? told : "it said nothing");
}

static int parse(int fd, json_t **ret, ferry_error *reterr) {
        _cleanup_(freep) char *text = NULL;
        json_t *root = NULL, *reasons;
        int r = read_all(fd, &text);

        if (r == 0)
                root = json_loads(text, 0, NULL);
        reasons = json_object_get(root, "reasons");
        if (!json_is_array(reasons))
                r = ferry_error_set(reterr, FERRY_INTERNAL, -EBADMSG,
                                    "its check said something else than reasons");
        else
                *ret = json_incref(reasons);
        json_decref(root);
        return r;
}

/* The sandbox's folder would be made in the root, and the root too if need be. */
static void nearest_folder(char *path) {
        char *slash;

        while (access(path, F_OK) < 0 && (slash = strrchr(path, '/')) != path && slash)
                *slash = '\0';
}

int target_check(const host *h, const void *state, size_t n, json_t **ret, ferry_error *reterr) {
        _cleanup_(closep) int in_fd = memfd_create("ferry-check", MFD_CLOEXEC),
                              out_fd = memfd_create("ferry-check", MFD_CLOEXEC),
                              err_fd = memfd_create("ferry-check", MFD_CLOEXEC), netns_fd = -EBADF;
        _cleanup_(freep) char *program = NULL, *folder = strdup(h->root);
        run c = { 0 };
        size_t k = 0;
        int r;

        if (in_fd < 0 || out_fd < 0 || err_fd < 0 || !folder)
                return ferry_error_set_errno(reterr, -ENOMEM, "check");
        r = fd_write_all(in_fd, state, n);
        if (r < 0 || lseek(in_fd, 0, SEEK_SET) < 0)
                return ferry_error_set_errno(reterr, r < 0 ? r : -errno, "check");
        r = launch_find_program("containerd-shim-ferry-v2", "FERRY_SHIM",
                                "../shim/containerd-shim-ferry-v2", &program, reterr);
        if (r == 0)
                r = netns_open(h->netns, &netns_fd, reterr);
        if (r < 0)
                return r;
        nearest_folder(folder);
        c.argv[k++] = program;
        c.argv[k++] = (char *)"check";
        c.argv[k++] = (char *)"--state-dir";
        c.argv[k++] = folder;
        if (h->bridge) {
                c.argv[k++] = (char *)"--bridge";
                c.argv[k++] = h->bridge;
        }
        if (h->qemu) {
                c.argv[k++] = (char *)"--qemu";
                c.argv[k++] = h->qemu;
        }
        if (h->disk_root) {
                c.argv[k++] = (char *)"--disk-root";
                c.argv[k++] = h->disk_root;
        }
        c.netns_fd = netns_fd;
        c.in_fd = in_fd;
        c.out_fd = out_fd;
        c.err_fd = err_fd;
        r = execute(&c, reterr);
        return r < 0 ? r : parse(out_fd, ret, reterr);
}
