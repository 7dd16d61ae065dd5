/* SPDX-License-Identifier: MIT */
#include "vm/spawn.h"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "vm/uffd.h"

#define FDS_MAX 64U

/* Where the child failed: sent up the error pipe. */
typedef enum child_stage {
        STAGE_FDS,
        STAGE_CONFINE,
        STAGE_USER,
        STAGE_EXEC,
        _STAGE_MAX,
} child_stage;

typedef struct child_failure {
        child_stage stage;
        int number;
} child_failure;

static const char *const stage_texts[_STAGE_MAX] = {
        [STAGE_FDS] = "passing descriptors",
        [STAGE_CONFINE] = "confining",
        [STAGE_USER] = "changing the user of",
        [STAGE_EXEC] = "executing",
};

/* --- in the child: only async-signal-safe calls, the parent may have threads --- */

static _Noreturn void child_fail(int error_fd, child_stage stage) {
        child_failure failure = { .stage = stage, .number = errno };

        (void)!write(error_fd, &failure, sizeof(failure));
        _exit(127);
}

/* Moves everything out of the way first, so that no dup2() runs over what is still needed. On
 * return fds are 3.., *error_fd is the next (CLOEXEC) and nothing above is open. */
static int child_arrange_fds(const vm_spawn_spec *spec, int null_fd, int *error_fd) {
        int base = 3 + (int)spec->n_fds + 4;
        int moved[FDS_MAX], log, null, fd;

        fd = fcntl(*error_fd, F_DUPFD_CLOEXEC, base);
        if (fd < 0)
                return -1;
        *error_fd = fd;
        log = fcntl(spec->log_fd, F_DUPFD_CLOEXEC, base);
        null = fcntl(null_fd, F_DUPFD_CLOEXEC, base);
        if (log < 0 || null < 0)
                return -1;
        for (size_t i = 0; i < spec->n_fds; i++) {
                moved[i] = fcntl(spec->fds[i], F_DUPFD_CLOEXEC, base);
                if (moved[i] < 0)
                        return -1;
        }
        if (dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
            dup2(log, STDERR_FILENO) < 0)
                return -1;
        for (size_t i = 0; i < spec->n_fds; i++)
                if (dup2(moved[i], 3 + (int)i) < 0)
                        return -1;
        fd = 3 + (int)spec->n_fds;
        if (dup3(*error_fd, fd, O_CLOEXEC) < 0)
                return -1;
        *error_fd = fd;
        return (int)syscall(SYS_close_range, (unsigned)fd + 1, ~0U, 0U);
}

static int child_confine(void) {
        const struct rlimit no_core = { 0, 0 };
        struct sigaction action = { .sa_handler = SIG_DFL };
        sigset_t none;

        /* What is ignored stays ignored over an exec. */
        for (int number = 1; number < _NSIG; number++)
                (void)sigaction(number, &action, NULL);
        sigemptyset(&none);
        if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
                return -1;
        (void)umask(077);
        if (chdir("/") < 0)
                return -1;
        /* A core would hold the guest's memory. */
        if (setrlimit(RLIMIT_CORE, &no_core) < 0)
                return -1;
        (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/* Leaving uid 0 for good drops every capability. The raw calls: glibc's would signal the threads
 * of a parent whose copy we are not. */
static int child_change_user(const vm_spawn_spec *spec) {
        size_t n_groups = spec->extra_gid != (gid_t)-1 ? 1 : 0;

        if (!spec->switch_user)
                return 0;
        if (syscall(SYS_setgroups, n_groups, &spec->extra_gid) < 0)
                return -1;
        if (syscall(SYS_setresgid, spec->gid, spec->gid, spec->gid) < 0)
                return -1;
        return (int)syscall(SYS_setresuid, spec->uid, spec->uid, spec->uid);
}

/* After the change of user, which would clear it. A parent that is gone already sends nothing. */
static int child_tie(const vm_spawn_spec *spec, pid_t parent) {
        if (!spec->ends_with_us)
                return 0;
        if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
                return -1;
        if (getppid() != parent)
                _exit(127);
        return 0;
}

typedef struct child_environment {
        char library[48], device[48];
        char *values[5];
} child_environment;

static void make_environment(const vm_spawn_spec *spec, child_environment *ret) {
        *ret = (child_environment){
                .values = {
                        (char *)"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                        (char *)"LC_ALL=C.UTF-8",
                },
        };
        if (spec->uffd_library == 0)
                return;
        snprintf(ret->library, sizeof(ret->library), "LD_PRELOAD=/proc/self/fd/%d",
                 spec->uffd_library);
        snprintf(ret->device, sizeof(ret->device), UFFD_ENVIRONMENT "=%d", spec->uffd_device);
        ret->values[2] = ret->library;
        ret->values[3] = ret->device;
}

static _Noreturn void child_run(const vm_spawn_spec *spec, char *const *environment, pid_t parent,
                                int null_fd, int go_fd, int error_fd) {
        char byte;

        /* EOF: the parent died or thought better of it. */
        if (read(go_fd, &byte, 1) != 1)
                _exit(127);
        (void)setsid();
        if (child_arrange_fds(spec, null_fd, &error_fd) < 0)
                child_fail(error_fd, STAGE_FDS);
        if (spec->own_network && unshare(CLONE_NEWNET) < 0)
                child_fail(error_fd, STAGE_CONFINE);
        if (child_confine() < 0)
                child_fail(error_fd, STAGE_CONFINE);
        if (child_change_user(spec) < 0)
                child_fail(error_fd, STAGE_USER);
        if (child_tie(spec, parent) < 0)
                child_fail(error_fd, STAGE_CONFINE);
        execve(spec->program, spec->argv, environment);
        child_fail(error_fd, STAGE_EXEC);
}

/* --- in the parent --- */

static void kill_and_reap(pid_t pid) {
        (void)kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
}

/* 0 when the child's exec closed the pipe; else what it reported. */
static int wait_for_exec(int error_fd, const char *program, ferry_error *reterr) {
        child_failure failure;
        ssize_t k;

        do
                k = read(error_fd, &failure, sizeof(failure));
        while (k < 0 && errno == EINTR);
        if (k == 0)
                return 0;
        if (k != (ssize_t)sizeof(failure) || failure.stage >= _STAGE_MAX || failure.number <= 0)
                return ferry_error_set(reterr, FERRY_INTERNAL, -EIO, "cannot start %s", program);
        return ferry_error_set_errno(reterr, -failure.number, "%s %s", stage_texts[failure.stage],
                                     program);
}

int vm_spawn(const vm_spawn_spec *spec, pid_t *ret_pid, int *ret_pidfd, ferry_error *reterr) {
        _cleanup_(closep) int null_fd = -EBADF, pidfd = -EBADF;
        _cleanup_(closep) int error_read = -EBADF, error_write = -EBADF;
        _cleanup_(closep) int go_read = -EBADF, go_write = -EBADF;
        child_environment environment;
        int error_pipe[2], go_pair[2];
        pid_t parent = getpid(), pid;
        int r;

        if (spec->n_fds > FDS_MAX)
                return ferry_error_set(reterr, FERRY_INTERNAL, -EINVAL, "too many descriptors");
        null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null_fd < 0)
                return ferry_error_set_errno(reterr, -errno, "open /dev/null");
        if (pipe2(error_pipe, O_CLOEXEC) < 0)
                return ferry_error_set_errno(reterr, -errno, "pipe");
        error_read = error_pipe[0];
        error_write = error_pipe[1];
        /* a socket: writing to a child that was killed must not raise SIGPIPE */
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, go_pair) < 0)
                return ferry_error_set_errno(reterr, -errno, "socketpair");
        go_read = go_pair[0];
        go_write = go_pair[1];

        make_environment(spec, &environment);
        pid = fork();
        if (pid < 0)
                return ferry_error_set_errno(reterr, -errno, "fork");
        if (pid == 0) {
                /* its own copy of the write end would keep it waiting for ever */
                (void)close(go_write);
                child_run(spec, environment.values, parent, null_fd, go_read, error_write);
        }
        error_write = fd_close(error_write);
        go_read = fd_close(go_read);
        pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        r = pidfd < 0 ? ferry_error_set_errno(reterr, -errno, "pidfd_open") : 0;
        if (r == 0 && spec->before_exec)
                r = spec->before_exec(pid, spec->userdata, reterr);
        if (r == 0 && fd_send(go_write, "", 1, NULL, 0) != 1)
                r = ferry_error_set(reterr, FERRY_INTERNAL, -EIO, "the new process was killed");
        if (r == 0)
                r = wait_for_exec(error_read, spec->program, reterr);
        if (r < 0) {
                kill_and_reap(pid);
                return r;
        }
        *ret_pid = pid;
        *ret_pidfd = TAKE_FD(pidfd);
        return 0;
}

static bool is_program(const char *path) {
        struct stat st;

        return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

int vm_find_program(const char *name, char **ret, ferry_error *reterr) {
        const char *path = getenv("PATH");
        char *found = NULL;

        if (strchr(name, '/')) {
                if (!is_program(name))
                        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOENT,
                                               "%s is not an executable file: correct \"qemu\" in "
                                               "the VM configuration",
                                               name);
                found = strdup(name);
                if (!found)
                        return ferry_error_set_errno(reterr, -ENOMEM, "find QEMU");
                *ret = found;
                return 0;
        }
        if (!path || path[0] == '\0')
                path = "/usr/local/bin:/usr/bin:/bin";
        while (*path) {
                int n = (int)strcspn(path, ":");

                /* a relative entry would depend on where we were started */
                if (path[0] == '/') {
                        if (asprintf(&found, "%.*s/%s", n, path, name) < 0)
                                return ferry_error_set_errno(reterr, -ENOMEM, "find QEMU");
                        if (is_program(found)) {
                                *ret = found;
                                return 0;
                        }
                        free(found);
                }
                path += n;
                path += *path == ':';
        }
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOENT,
                               "%s is not in PATH: install it (Debian: qemu-system-x86) or give "
                               "its path as \"qemu\" in the VM configuration",
                               name);
}
