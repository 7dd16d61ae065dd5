/* SPDX-License-Identifier: MIT */
#include "guest/command.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/fd.h"

#define ERRORS_MAX 1024U

extern char **environ;

static int spawn(command *c, const char *const argv[], const char *folder, int out) {
        posix_spawn_file_actions_t actions;
        int r;

        r = -posix_spawn_file_actions_init(&actions);
        if (r < 0)
                return r;
        r = -posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        if (r == 0)
                r = -posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
        if (r == 0)
                r = -posix_spawn_file_actions_adddup2(&actions, c->errors, STDERR_FILENO);
        if (r == 0 && folder)
                r = -posix_spawn_file_actions_addchdir_np(&actions, folder);
        /* posix_spawn's argv is not const only for old C's sake. */
        if (r == 0)
                r = -posix_spawnp(&c->pid, argv[0], &actions, NULL, (char *const *)argv, environ);
        if (r < 0)
                c->pid = -1;
        (void)posix_spawn_file_actions_destroy(&actions);
        return r;
}

int command_start(command *c, const char *const argv[], const char *folder, ferry_error *reterr) {
        _cleanup_(closep) int in = -EBADF;
        _cleanup_(closep) int out = -EBADF;
        int pipes[2];
        int r;

        *c = COMMAND_INIT;
        c->name = argv[0];
        if (pipe2(pipes, O_CLOEXEC) < 0)
                return ferry_error_set_errno(reterr, -errno, "pipe");
        in = pipes[0];
        out = pipes[1];
        c->errors = memfd_create("stderr", MFD_CLOEXEC);
        if (c->errors < 0)
                return ferry_error_set_errno(reterr, -errno, "memfd_create");
        c->output = fdopen(in, "re");
        if (!c->output)
                return ferry_error_set_errno(reterr, -errno, "fdopen");
        (void)TAKE_FD(in);
        r = spawn(c, argv, folder, out);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "cannot run %s", c->name);
        return 0;
}

/* The last line that says something, into `ret`; empty when there is none. */
static void last_line(int fd, char ret[ERRORS_MAX]) {
        char text[ERRORS_MAX];
        off_t size = lseek(fd, 0, SEEK_END);
        off_t from = size > (off_t)sizeof(text) - 1 ? size - (off_t)sizeof(text) + 1 : 0;
        ssize_t n = size > 0 ? pread(fd, text, sizeof(text) - 1, from) : 0;
        char *start;

        while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
                n--;
        text[n > 0 ? n : 0] = '\0';
        start = strrchr(text, '\n');
        (void)snprintf(ret, ERRORS_MAX, "%s", start ? start + 1 : text);
}

int command_finish(command *c, ferry_error *reterr) {
        char why[ERRORS_MAX];
        int status = 0;
        pid_t waited;

        if (c->output)
                (void)fclose(c->output);
        c->output = NULL;
        do
                waited = waitpid(c->pid, &status, 0);
        while (waited < 0 && errno == EINTR);
        if (waited < 0)
                return ferry_error_set_errno(reterr, -errno, "waiting for %s", c->name);
        c->pid = -1;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                return 0;
        last_line(c->errors, why);
        if (WIFSIGNALED(status))
                return ferry_error_set(reterr, FERRY_ABORTED, -EREMOTEIO,
                                       "%s was ended by signal %d", c->name, WTERMSIG(status));
        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EREMOTEIO,
                               "%s failed (exit status %d)%s%s", c->name, WEXITSTATUS(status),
                               why[0] != '\0' ? ": " : "", why);
}

void command_done(command *c) {
        if (c->output)
                (void)fclose(c->output);
        if (c->pid > 0) {
                (void)kill(c->pid, SIGTERM);
                while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
                        ;
        }
        fd_close(c->errors);
        *c = COMMAND_INIT;
}

/* Reads to the end, so that the program never blocks on a full pipe. */
static int read_all(FILE *file, size_t max, char **ret) {
        _cleanup_(freep) char *text = malloc(max + 1);
        char more[256];
        size_t n;

        if (!text)
                return -ENOMEM;
        n = fread(text, 1, max, file);
        text[n] = '\0';
        while (fread(more, 1, sizeof(more), file) > 0)
                n = SIZE_MAX;
        if (ferror(file))
                return -EIO;
        if (n == SIZE_MAX)
                return -EFBIG;
        *ret = TAKE_PTR(text);
        return 0;
}

int command_run(const char *const argv[], const char *folder, size_t max, char **ret,
                ferry_error *reterr) {
        _cleanup_(command_done) command c = COMMAND_INIT;
        _cleanup_(freep) char *text = NULL;
        int r;

        r = command_start(&c, argv, folder, reterr);
        if (r < 0)
                return r;
        r = read_all(c.output, max, &text);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "reading what %s says", c.name);
        r = command_finish(&c, reterr);
        if (r < 0)
                return r;
        if (ret)
                *ret = TAKE_PTR(text);
        return 0;
}
