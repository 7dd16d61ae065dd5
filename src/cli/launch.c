/* SPDX-License-Identifier: MIT */
#include "cli/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/netns.h"
#include "cli/sandbox.h"

#define READY_TIMEOUT (20 * USEC_PER_SEC)
#define READY_FD      3
#define ARGV_MAX      32U
#define LOG_LINES     5U
/* What the host's QEMU and KVM can do, asked once a boot; no sandbox has such a name. */
#define PROBE_CACHE ".probe"

static bool is_program(const char *path) {
        return access(path, X_OK) == 0;
}

/* `file` beside our own executable: installed next to us, or in its place of the build folder. */
static int beside_us(const char *file, char **ret) {
        char self[4096], *slash, *path;
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

        if (n <= 0)
                return -ENOENT;
        self[n] = '\0';
        slash = strrchr(self, '/');
        if (!slash)
                return -ENOENT;
        *slash = '\0';
        if (asprintf(&path, "%s/%s", self, file) < 0)
                return -ENOMEM;
        if (!is_program(path)) {
                free(path);
                return -ENOENT;
        }
        *ret = path;
        return 0;
}

static int in_path(const char *name, char **ret) {
        const char *folder = getenv("PATH");

        while (folder && *folder) {
                size_t n = strcspn(folder, ":");
                char *path;

                if (n > 0) {
                        if (asprintf(&path, "%.*s/%s", (int)n, folder, name) < 0)
                                return -ENOMEM;
                        if (is_program(path)) {
                                *ret = path;
                                return 0;
                        }
                        free(path);
                }
                folder += n + (folder[n] == ':');
        }
        return -ENOENT;
}

int launch_find_program(const char *name, const char *environment, const char *build_path,
                        char **ret, ferry_error *reterr) {
        const char *given = getenv(environment);
        int r;

        if (given && *given) {
                if (given[0] != '/' || !is_program(given))
                        return ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT,
                                               "$%s: %s is no program (an absolute path is needed)",
                                               environment, given);
                *ret = strdup(given);
                return *ret ? 0 : ferry_error_set_errno(reterr, -ENOMEM, "%s", name);
        }
        r = beside_us(name, ret);
        if (r == -ENOENT && build_path)
                r = beside_us(build_path, ret);
        if (r == -ENOENT)
                r = in_path(name, ret);
        if (r == -ENOENT)
                return ferry_error_set(reterr, FERRY_NOT_FOUND, r,
                                       "%s is neither beside `ferry` nor in PATH; $%s may name it",
                                       name, environment);
        return r < 0 ? ferry_error_set_errno(reterr, r, "%s", name) : 0;
}

typedef struct launch {
        char *argv[ARGV_MAX];
        int netns_fd, log_fd, ready_fd;
} launch;

/* In the grandchild; what goes wrong stands in shim.log, where the parent looks. */
static _Noreturn void become_shim(const launch *l) {
        sigset_t none;
        int r;

        /* Both may be our low descriptors, so not in place: first away, then to where they go. */
        int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        int log_fd = fcntl(l->log_fd, F_DUPFD_CLOEXEC, READY_FD + 1);
        int ready_fd = fcntl(l->ready_fd, F_DUPFD_CLOEXEC, READY_FD + 1);
        int netns_fd = l->netns_fd < 0 ? -EBADF : fcntl(l->netns_fd, F_DUPFD_CLOEXEC, READY_FD + 1);

        if (null_fd < 0 || log_fd < 0 || ready_fd < 0 || dup2(null_fd, 0) < 0 ||
            dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0 || dup2(ready_fd, READY_FD) < 0)
                _exit(126);
        r = netns_enter(netns_fd);
        if (r < 0 || chdir("/") < 0) {
                dprintf(2, "cannot enter the host's network namespace: %s\n", strerror(-r));
                _exit(126);
        }
        for (int s = 1; s < NSIG; s++)
                (void)signal(s, SIG_DFL);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        execv(l->argv[0], l->argv);
        dprintf(2, "cannot run %s: %s\n", l->argv[0], strerror(errno));
        _exit(127);
}

/* Twice, so that init inherits it and nobody has to wait for it. */
static int fork_shim(const launch *l) {
        pid_t pid = fork();
        int status;

        if (pid < 0)
                return -errno;
        if (pid == 0) {
                pid_t shim;

                if (setsid() < 0)
                        _exit(126);
                shim = fork();
                if (shim == 0)
                        become_shim(l);
                _exit(shim < 0 ? 126 : 0);
        }
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EAGAIN;
}

/* 0 when "ready\n" came, -EPIPE when the shim ended before, -ETIMEDOUT. */
static int wait_ready(int fd) {
        uint64_t deadline = now_usec() + READY_TIMEOUT;
        char text[8];
        size_t n = 0;

        for (;;) {
                struct pollfd p = { .fd = fd, .events = POLLIN };
                uint64_t now = now_usec();
                ssize_t got;

                if (now >= deadline)
                        return -ETIMEDOUT;
                if (poll(&p, 1, (int)((deadline - now) / USEC_PER_MSEC) + 1) <= 0)
                        continue;
                got = read(fd, text + n, sizeof(text) - n);
                if (got < 0 && (errno == EINTR || errno == EAGAIN))
                        continue;
                if (got <= 0)
                        return -EPIPE;
                n += (size_t)got;
                if (n >= 6)
                        return memcmp(text, "ready\n", 6) == 0 ? 0 : -EPIPE;
        }
}

static int explain(const host *h, const char *name, int r, ferry_error *reterr) {
        _cleanup_(freep) char *tail = sandbox_log_tail(h->root, name, "shim.log", LOG_LINES);
        _cleanup_(freep) char *last = sandbox_last_error(h->root, name);
        struct statvfs disk;

        if (r == -ETIMEDOUT)
                return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, r,
                                       "the shim of %s was not ready within 20 s%s%s", name,
                                       tail ? "; its log ends with:\n" : "", tail ? tail : "");
        if (last)
                return ferry_error_set(reterr, FERRY_INTERNAL, r,
                                       "the shim of %s did not start: %s", name, last);
        if (!tail && statvfs(h->root, &disk) == 0 && disk.f_bavail == 0)
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, r,
                                       "the shim of %s did not start: no space is left in %s", name,
                                       h->root);
        return ferry_error_set(reterr, FERRY_INTERNAL, r, "the shim of %s did not start%s%s", name,
                               tail ? ":\n" : " and left no message", tail ? tail : "");
}

/* Its ttrpc socket is where it tells shims itself that it is. */
static int add_containerd(launch *l, size_t *n, const launch_containerd *c, char **ret_events) {
        if (asprintf(ret_events, "%s.ttrpc", c->address) < 0) {
                *ret_events = NULL;
                return -ENOMEM;
        }
        l->argv[(*n)++] = (char *)"--namespace";
        l->argv[(*n)++] = (char *)c->namespace;
        l->argv[(*n)++] = (char *)"--containerd";
        l->argv[(*n)++] = (char *)c->address;
        l->argv[(*n)++] = (char *)"--events";
        l->argv[(*n)++] = *ret_events;
        l->argv[(*n)++] = (char *)"--cache-dir";
        l->argv[(*n)++] = (char *)c->cache_dir;
        return 0;
}

int launch_shim(const host *h, const char *name, const char *config_path,
                const launch_containerd *containerd, ferry_error *reterr) {
        _cleanup_(freep) char *events = NULL;
        _cleanup_(freep) char *program = NULL, *state_dir = NULL, *log_path = NULL, *cache = NULL;
        _cleanup_(closep) int netns_fd = -EBADF, log_fd = -EBADF, read_fd = -EBADF,
                              write_fd = -EBADF;
        launch l = { 0 };
        int pipe_fds[2], r;
        size_t n = 0;

        r = launch_find_program("containerd-shim-ferry-v2", "FERRY_SHIM",
                                "../shim/containerd-shim-ferry-v2", &program, reterr);
        if (r == 0)
                r = sandbox_path(h->root, name, NULL, &state_dir, reterr);
        if (r == 0)
                r = sandbox_path(h->root, name, "shim.log", &log_path, reterr);
        if (r == 0)
                r = netns_open(h->netns, &netns_fd, reterr);
        if (r < 0)
                return r;
        if (asprintf(&cache, "%s/" PROBE_CACHE, h->root) < 0) {
                cache = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "cannot start the shim");
        }
        log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (log_fd < 0)
                return ferry_error_set_errno(reterr, -errno, "cannot open %s", log_path);
        if (pipe2(pipe_fds, O_CLOEXEC) < 0)
                return ferry_error_set_errno(reterr, -errno, "cannot start the shim");
        read_fd = pipe_fds[0];
        write_fd = pipe_fds[1];

        l.argv[n++] = program;
        l.argv[n++] = (char *)"serve";
        l.argv[n++] = (char *)"--state-dir";
        l.argv[n++] = state_dir;
        l.argv[n++] = (char *)"--id";
        l.argv[n++] = (char *)name;
        l.argv[n++] = (char *)"--ready-fd";
        l.argv[n++] = (char *)"3";
        l.argv[n++] = (char *)"--probe-cache";
        l.argv[n++] = cache;
        if (config_path) {
                l.argv[n++] = (char *)"--config";
                l.argv[n++] = (char *)config_path;
        }
        if (h->bridge) {
                l.argv[n++] = (char *)"--bridge";
                l.argv[n++] = h->bridge;
        }
        if (h->qemu) {
                l.argv[n++] = (char *)"--qemu";
                l.argv[n++] = h->qemu;
        }
        if (h->disk_root) {
                l.argv[n++] = (char *)"--disk-root";
                l.argv[n++] = h->disk_root;
        }
        if (containerd && add_containerd(&l, &n, containerd, &events) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "cannot start the shim");
        l.netns_fd = netns_fd;
        l.log_fd = log_fd;
        l.ready_fd = write_fd;
        r = fork_shim(&l);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "cannot start the shim");
        write_fd = fd_close(write_fd);
        r = wait_ready(read_fd);
        return r < 0 ? explain(h, name, r, reterr) : 0;
}
