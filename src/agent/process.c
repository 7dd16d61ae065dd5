/* SPDX-License-Identifier: MIT */
#include "agent/process.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "base/clock.h"

#define WORDS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

/* ---- the table ---- */

process *process_find(const process_table *t, const char *id) {
        for (process *p = t->first; p; p = p->next)
                if (strcmp(p->id, id) == 0)
                        return p;
        return NULL;
}

static void close_pipe(process_pipe *pipe) {
        pipe->fd = fd_close(pipe->fd);
}

static process *process_free(process *p) {
        if (!p)
                return NULL;
        for (size_t i = 0; i < PROCESS_FDS_MAX; i++)
                close_pipe(&p->pipes[i]);
        fd_close(p->terminal);
        for (size_t i = 0; i < ELEMENTS(p->streams); i++)
                if (p->streams[i])
                        channel_close(p->streams[i]);
        for (size_t i = 0; p->args && p->args[i]; i++)
                free(p->args[i]);
        free(p->args);
        free(p);
        return NULL;
}

DEFINE_CLEANUP(process *, process_free)

void process_forget(process_table *t, process *p) {
        for (process **at = &t->first; *at; at = &(*at)->next)
                if (*at == p) {
                        *at = p->next;
                        break;
                }
        t->n--;
        process_free(p);
}

int process_delete(process_table *t, process *p) {
        if (!p->ended)
                return -EBUSY;
        process_forget(t, p);
        return 0;
}

static int copy_args(process *p, const process_spec *spec) {
        p->args = calloc(spec->n_args + 1, sizeof(*p->args));
        if (!p->args)
                return -ENOMEM;
        for (size_t i = 0; i < spec->n_args; i++) {
                p->args[i] = strdup(spec->args[i]);
                if (!p->args[i])
                        return -ENOMEM;
        }
        return 0;
}

/* ---- starting ---- */

void process_ends_done(process_ends *c) {
        for (size_t i = 0; i < ELEMENTS(c->fds); i++)
                c->fds[i] = fd_close(c->fds[i]);
}

static int set_nonblock(int fd) {
        int flags = fcntl(fd, F_GETFL);

        return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

static int open_pipe(process_pipe *ours, int *ret_theirs, bool to_guest, channel_stream *stream) {
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        *ours = (process_pipe){ .fd = to_guest ? fds[1] : fds[0],
                                .to_guest = to_guest,
                                .stream = stream };
        *ret_theirs = to_guest ? fds[0] : fds[1];
        if (!to_guest) /* what a program writes while we carry costs no switch to us and back */
                (void)fcntl(fds[0], F_SETPIPE_SZ, PROCESS_OUTPUT_BUFFER);
        return set_nonblock(ours->fd);
}

static int open_pipes(process *p, process_ends *ends) {
        int r;

        r = open_pipe(&p->pipes[0], &ends->fds[0], true, p->streams[0]);
        if (r == 0)
                r = open_pipe(&p->pipes[1], &ends->fds[1], false, p->streams[0]);
        if (r == 0)
                r = open_pipe(&p->pipes[2], &ends->fds[2], false, p->streams[1]);
        return r;
}

static int open_terminal_pipes(process *p) {
        for (size_t i = 0; i < 2; i++) {
                int fd = fcntl(p->terminal, F_DUPFD_CLOEXEC, 3);

                if (fd < 0)
                        return -errno;
                p->pipes[i] =
                        (process_pipe){ .fd = fd, .to_guest = i == 0, .stream = p->streams[0] };
        }
        return 0;
}

static int open_terminal(process *p, const process_spec *spec, process_ends *ends) {
        char name[64];
        int r;

        p->terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (p->terminal < 0 || grantpt(p->terminal) < 0 || unlockpt(p->terminal) < 0 ||
            ptsname_r(p->terminal, name, sizeof(name)) != 0)
                return -errno;
        if (spec->rows > 0)
                (void)process_resize(p, spec->rows, spec->columns);
        for (size_t i = 0; i < ELEMENTS(ends->fds); i++) {
                ends->fds[i] = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
                if (ends->fds[i] < 0)
                        return -errno;
        }
        r = set_nonblock(p->terminal);
        return r < 0 ? r : open_terminal_pipes(p);
}

/* In the child; what fails goes to the parent as an errno. */
static _Noreturn void become(const process_spec *spec, const process_ends *ends, int failure) {
        sigset_t none;
        int fds[3], error;

        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)setsid();
        /* above the three first, in case one of them is among those */
        for (int i = 0; i < 3; i++)
                fds[i] = fcntl(ends->fds[i], F_DUPFD_CLOEXEC, 3);
        for (int i = 0; i < 3; i++)
                if (fds[i] < 0 || dup2(fds[i], i) < 0)
                        goto failed;
        if (spec->terminal && ioctl(STDIN_FILENO, TIOCSCTTY, 0) < 0)
                goto failed;
        if (setgroups(spec->n_groups, spec->groups) < 0 ||
            setresgid(spec->gid, spec->gid, spec->gid) < 0 ||
            setresuid(spec->uid, spec->uid, spec->uid) < 0 || chdir(spec->cwd) < 0)
                goto failed;
        (void)execvpe(spec->args[0], spec->args, spec->env);
failed:
        error = errno;
        (void)!write(failure, &error, sizeof(error));
        _exit(127);
}

static const char *path_of(char *const *env) {
        for (size_t i = 0; env[i]; i++)
                if (strncmp(env[i], "PATH=", 5) == 0)
                        return env[i] + 5;
        return "/bin:/usr/bin:/sbin:/usr/sbin";
}

static int spawn(process *p, const process_spec *spec, const process_ends *ends) {
        int failure[2], error = 0;
        ssize_t k;
        pid_t pid;

        if (pipe2(failure, O_CLOEXEC) < 0)
                return -errno;
        pid = fork();
        if (pid == 0) {
                (void)setenv("PATH", path_of(spec->env), 1); /* what execvpe() searches */
                become(spec, ends, failure[1]);
        }
        close(failure[1]);
        if (pid < 0) {
                error = errno;
                close(failure[0]);
                return -error;
        }
        do
                k = read(failure[0], &error, sizeof(error));
        while (k < 0 && errno == EINTR);
        close(failure[0]);
        if (k == (ssize_t)sizeof(error)) {
                (void)waitpid(pid, NULL, 0);
                return error > 0 ? -error : -EIO;
        }
        p->pid = pid;
        return 0;
}

static int open_streams(process_table *t, process *p, bool terminal) {
        for (size_t i = 0; i < (terminal ? 1 : 2); i++) {
                int r = channel_open(t->streams, p->stream + (uint32_t)i, PROCESS_OUTPUT_BUFFER,
                                     NULL, NULL, NULL, &p->streams[i]);

                if (r == 0)
                        r = channel_set_window(p->streams[i], PROCESS_INPUT_BUFFER);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int make(process_table *t, const process_spec *spec, process **ret) {
        _cleanup_(process_freep) process *p = NULL;
        size_t n = strlen(spec->id);
        int r;

        if (n == 0 || n > PROCESS_ID_MAX || strspn(spec->id, WORDS) != n || spec->n_args == 0 ||
            spec->stream == UINT32_MAX)
                return -EINVAL;
        if (process_find(t, spec->id))
                return -EEXIST;
        if (t->n == PROCESSES_MAX)
                return -ENFILE;
        p = malloc(sizeof(*p));
        if (!p)
                return -ENOMEM;
        *p = (process){ .terminal = -EBADF, .stream = spec->stream };
        for (size_t i = 0; i < PROCESS_FDS_MAX; i++)
                p->pipes[i].fd = -EBADF;
        memcpy(p->id, spec->id, n);
        r = copy_args(p, spec);
        if (r == 0)
                r = open_streams(t, p, spec->terminal);
        if (r == 0)
                *ret = TAKE_PTR(p);
        return r;
}

static void add(process_table *t, process *p) {
        p->next = t->first;
        t->first = p;
        t->n++;
}

int process_start(process_table *t, const process_spec *spec, process **ret) {
        _cleanup_(process_ends_done) process_ends ends = PROCESS_ENDS_INIT;
        _cleanup_(process_freep) process *p = NULL;
        int r;

        r = make(t, spec, &p);
        if (r == 0)
                r = spec->terminal ? open_terminal(p, spec, &ends) : open_pipes(p, &ends);
        if (r == 0)
                r = spawn(p, spec, &ends);
        if (r < 0)
                return r;
        *ret = p;
        add(t, TAKE_PTR(p));
        return 0;
}

static int open_nothing(process_ends *ends) {
        for (size_t i = 0; i < ELEMENTS(ends->fds); i++) {
                ends->fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
                if (ends->fds[i] < 0)
                        return -errno;
        }
        return 0;
}

int process_begin(process_table *t, const process_spec *spec, process_ends *ends, process **ret) {
        _cleanup_(process_freep) process *p = NULL;
        int r;

        r = make(t, spec, &p);
        if (r == 0)
                r = spec->terminal ? open_nothing(ends) : open_pipes(p, ends);
        if (r < 0)
                return r;
        *ret = p;
        add(t, TAKE_PTR(p));
        return 0;
}

void process_begun(process *p, pid_t pid) {
        p->pid = pid;
}

int process_take_terminal(process *p, int fd) {
        int r;

        p->terminal = fd;
        r = set_nonblock(fd);
        return r < 0 ? r : open_terminal_pipes(p);
}

/* ---- running ---- */

int process_signal(process *p, int signal) {
        if (p->ended)
                return -ESRCH;
        if (p->pid <= 0)
                return -EBUSY;
        return kill(p->pid, signal) < 0 ? -errno : 0;
}

int process_resize(process *p, uint16_t rows, uint16_t columns) {
        struct winsize size = { .ws_row = rows, .ws_col = columns };

        if (p->terminal < 0)
                return -ENOTTY;
        return ioctl(p->terminal, TIOCSWINSZ, &size) < 0 ? -errno : 0;
}

bool process_reaped(process_table *t, pid_t pid, int status) {
        for (process *p = t->first; p; p = p->next)
                if (p->pid == pid && p->pid > 0 && !p->ended) {
                        p->ended = true;
                        p->exit_status = (uint32_t)(WIFSIGNALED(status) ? 128 + WTERMSIG(status)
                                                                        : WEXITSTATUS(status));
                        p->exited_at_usec = wall_usec();
                        close_pipe(&p->pipes[0]); /* nobody reads what is still to come */
                        if (t->on_end)
                                t->on_end(p, t->userdata);
                        return true;
                }
        return false;
}

/* ---- bytes ---- */

static bool wants_poll(process_pipe *pipe, bool ended) {
        bool end;
        size_t n;

        if (!pipe->to_guest)
                return pipe->fd >= 0 && channel_room(pipe->stream) > 0;
        if (!pipe->stream)
                return false;
        (void)channel_peek(pipe->stream, &n, &end);
        if (pipe->fd >= 0)
                return n > 0 || end;
        /* closed: what still comes goes nowhere, and must not hold up the sender's end */
        if (ended || n > 0 || end)
                channel_consume(pipe->stream, n);
        return false;
}

size_t process_prepare(process_table *t, struct pollfd *fds, size_t max) {
        size_t n = 0;

        for (process *p = t->first; p; p = p->next)
                for (size_t i = 0; i < PROCESS_FDS_MAX; i++) {
                        process_pipe *pipe = &p->pipes[i];

                        pipe->polled = SIZE_MAX;
                        if (n == max || !wants_poll(pipe, p->ended))
                                continue;
                        pipe->polled = n;
                        fds[n++] = (struct pollfd){ .fd = pipe->fd,
                                                    .events = pipe->to_guest ? POLLOUT : POLLIN };
                }
        return n;
}

static void from_guest(process_pipe *pipe) {
        size_t room;
        uint8_t *space = channel_space(pipe->stream, &room);
        ssize_t k = read(pipe->fd, space, room);

        if (k > 0)
                channel_filled(pipe->stream, (size_t)k);
        else if (k == 0 || (errno != EAGAIN && errno != EINTR)) {
                /* a terminal nobody has open any more says EIO */
                channel_end(pipe->stream);
                close_pipe(pipe);
        }
}

static void to_guest(process_pipe *pipe) {
        const uint8_t *data;
        size_t n;
        bool end;
        ssize_t k = 0;

        data = channel_peek(pipe->stream, &n, &end);
        if (n > 0)
                k = write(pipe->fd, data, n);
        if (k < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (k < 0) {
                close_pipe(pipe); /* EPIPE: it reads no more */
                return;
        }
        channel_consume(pipe->stream, (size_t)k);
        (void)channel_peek(pipe->stream, &n, &end);
        if (n == 0 && end) {
                channel_consume(pipe->stream, 0);
                close_pipe(pipe);
        }
}

void process_pump(process_table *t, const struct pollfd *fds) {
        for (process *p = t->first; p; p = p->next)
                for (size_t i = 0; i < PROCESS_FDS_MAX; i++) {
                        process_pipe *pipe = &p->pipes[i];

                        if (pipe->polled == SIZE_MAX || pipe->fd < 0 || !fds[pipe->polled].revents)
                                continue;
                        if (pipe->to_guest)
                                to_guest(pipe);
                        else
                                from_guest(pipe);
                }
}
