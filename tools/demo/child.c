/* SPDX-License-Identifier: MIT */
#include "child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/fd.h"

#define POLL_MSEC 50

static volatile sig_atomic_t caught;
static bool deaf;

static void on_signal(int number) {
        if (caught == 0)
                caught = number;
}

void child_listen(void) {
        static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
        struct sigaction action = { .sa_handler = on_signal }; /* no SA_RESTART: poll returns */

        for (size_t i = 0; i < ELEMENTS(numbers); i++)
                (void)sigaction(numbers[i], &action, NULL);
        (void)signal(SIGPIPE, SIG_IGN);
}

int child_signal(void) {
        return (int)caught;
}

void child_set_deaf(void) {
        deaf = true;
}

typedef struct output {
        char *text;
        size_t n;
} output;

/* What does not fit is read and dropped, so that the program is not held up. */
static int add_output(output *o, const char *chunk, size_t n) {
        char *grown;

        if (!o || o->n + n > CHILD_OUTPUT_MAX)
                return 0;
        grown = realloc(o->text, o->n + n + 1);
        if (!grown)
                return -ENOMEM;
        memcpy(grown + o->n, chunk, n);
        grown[o->n + n] = '\0';
        o->text = grown;
        o->n += n;
        return 0;
}

static _Noreturn void become(const char *const *argv, int out_fd, int err_fd, bool own_group) {
        int null_fd = open("/dev/null", O_RDWR);

        /* When we are killed `ferry migrate` rolls back, as if it was told to. */
        (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
        /* Of its own group while we clean up: a second Ctrl-C must not stop that half-way. */
        if (own_group)
                (void)setpgid(0, 0);
        if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(out_fd >= 0 ? out_fd : null_fd, 1) < 0 ||
            (err_fd != STDERR_FILENO && dup2(err_fd >= 0 ? err_fd : null_fd, 2) < 0))
                _exit(126);
        for (int s = 1; s < NSIG; s++)
                (void)signal(s, SIG_DFL);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
}

/* Reads until the program closes its end; passes one signal on. */
static int collect(int fd, pid_t pid, output *o) {
        bool passed_on = deaf;

        for (;;) {
                struct pollfd p = { .fd = fd, .events = POLLIN };
                char chunk[4096];
                ssize_t n;

                if (caught != 0 && !passed_on) {
                        (void)kill(pid, caught == SIGINT ? SIGINT : SIGTERM);
                        passed_on = true;
                }
                if (poll(&p, 1, POLL_MSEC) <= 0)
                        continue;
                n = read(fd, chunk, sizeof(chunk));
                if (n == 0)
                        return 0;
                if (n < 0 && errno != EINTR && errno != EAGAIN)
                        return -errno;
                if (n > 0 && add_output(o, chunk, (size_t)n) < 0)
                        return -ENOMEM;
        }
}

static int wait_for(pid_t pid, int *ret_status) {
        int status;

        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        *ret_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        return 0;
}

typedef enum sink {
        SINK_OUTPUT, /* standard output is collected, standard error is ours */
        SINK_QUIET,  /* standard output is collected, standard error is dropped */
        SINK_ERRORS, /* standard error is collected, standard output is dropped */
} sink;

static int run(const char *const *argv, sink where, output *o, int *ret_status,
               ferry_error *reterr) {
        _cleanup_(closep) int read_fd = -EBADF, write_fd = -EBADF;
        int fds[2], r, e;
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", argv[0]);
        read_fd = fds[0];
        write_fd = fds[1];
        pid = fork();
        if (pid < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", argv[0]);
        if (pid == 0)
                become(argv, where == SINK_ERRORS ? -1 : write_fd,
                       where == SINK_ERRORS  ? write_fd
                       : where == SINK_QUIET ? -1
                                             : STDERR_FILENO,
                       deaf);
        write_fd = fd_close(write_fd);
        r = collect(read_fd, pid, o);
        read_fd = fd_close(read_fd); /* a writer that goes on gets EPIPE, and ends */
        e = wait_for(pid, ret_status);
        if (r == 0)
                r = e;
        return r < 0 ? ferry_error_set_errno(reterr, r, "%s", argv[0]) : 0;
}

int child_run(const char *const *argv, bool quiet, char **ret_output, int *ret_status,
              ferry_error *reterr) {
        output o = { NULL, 0 };
        int r = run(argv, quiet ? SINK_QUIET : SINK_OUTPUT, ret_output ? &o : NULL, ret_status,
                    reterr);

        if (r < 0) {
                free(o.text);
                return r;
        }
        if (ret_output)
                *ret_output = o.text;
        return 0;
}

int child_must(const char *const *argv, ferry_error *reterr) {
        output o = { NULL, 0 };
        _cleanup_(freep) char *text = NULL;
        int status, r;

        r = run(argv, SINK_ERRORS, &o, &status, reterr);
        text = o.text;
        if (r < 0 || status == 0)
                return r;
        while (o.n > 0 && text[o.n - 1] == '\n')
                text[--o.n] = '\0';
        if (status == 127 && o.n == 0)
                return ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT, "cannot run %s", argv[0]);
        return ferry_error_set(reterr, FERRY_INTERNAL, -EIO, "`%s %s %s ...`: %s", argv[0],
                               argv[1] ? argv[1] : "", argv[1] && argv[2] ? argv[2] : "",
                               text ? text : "failed");
}
