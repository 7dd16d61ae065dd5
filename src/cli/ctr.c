/* SPDX-License-Identifier: MIT */
#include "cli/ctr.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/launch.h"

#define CTR_USEC    (60 * USEC_PER_SEC)
#define OUTPUT_MAX  (8U << 20)
#define MESSAGE_MAX 400
#define ARGV_MAX    32U
#define LABELS_MAX  8U
#define RUNTIME     "io.containerd.ferry.v2"

typedef struct call {
        const char *argv[ARGV_MAX];
        size_t n;
        bool terminal; /* it insists on one */
        int out_fd, err_fd;
        int terminal_fd; /* our end; -EBADF: none */
} call;

static void add(call *c, const char *word) {
        if (c->n + 1 < ARGV_MAX)
                c->argv[c->n++] = word;
}

static _Noreturn void become_ctr(const call *c, int slave_fd) {
        int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        sigset_t none;

        (void)setsid(); /* Ctrl-C is for us: what was begun is undone in order */
        if (slave_fd >= 0)
                (void)ioctl(slave_fd, TIOCSCTTY, 0);
        if (dup2(slave_fd >= 0 ? slave_fd : null_fd, 0) < 0 ||
            dup2(slave_fd >= 0 ? slave_fd : c->out_fd, 1) < 0 ||
            dup2(slave_fd >= 0 ? slave_fd : c->err_fd, 2) < 0)
                _exit(126);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)execv(c->argv[0], (char **)c->argv);
        _exit(127);
}

static int open_terminal(call *c, int *ret_slave) {
        char name[64];

        c->terminal_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (c->terminal_fd < 0 || grantpt(c->terminal_fd) < 0 || unlockpt(c->terminal_fd) < 0 ||
            ptsname_r(c->terminal_fd, name, sizeof(name)) != 0)
                return -errno;
        *ret_slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
        return *ret_slave < 0 ? -errno : 0;
}

/* What it writes to its terminal is what it has to say. */
static void drain_terminal(const call *c) {
        char text[4096];
        ssize_t n = read(c->terminal_fd, text, sizeof(text));

        if (n > 0)
                (void)fd_write_all(c->err_fd, text, (size_t)n);
}

/* Its exit status; -ETIMEDOUT: it was killed. */
static int wait_for(const call *c, pid_t pid) {
        _cleanup_(closep) int process = (int)syscall(SYS_pidfd_open, pid, 0);
        struct pollfd p[2] = { { .fd = process, .events = POLLIN },
                               { .fd = c->terminal_fd, .events = POLLIN } };
        uint64_t deadline = now_usec() + CTR_USEC;
        bool late = false;
        int status;

        for (;;) {
                uint64_t now = now_usec();

                if (!late && now >= deadline) {
                        late = true;
                        (void)kill(pid, SIGKILL);
                }
                (void)poll(p, 2, late ? -1 : (int)((deadline - now) / USEC_PER_MSEC) + 1);
                if (p[1].revents & POLLIN)
                        drain_terminal(c);
                else if (p[1].revents)
                        p[1].fd = -1;
                if (p[0].revents)
                        break;
        }
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        if (late)
                return -ETIMEDOUT;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static char *read_back(int fd) {
        off_t n = lseek(fd, 0, SEEK_END);
        char *text;

        if (n < 0 || n > (off_t)OUTPUT_MAX)
                return NULL;
        text = calloc(1, (size_t)n + 1);
        if (text && pread(fd, text, (size_t)n, 0) != n) {
                free(text);
                return NULL;
        }
        return text;
}

/* Its last line. */
static const char *message_of(char *text) {
        char *end = text ? text + strlen(text) : NULL, *line;

        while (end && end > text && (end[-1] == '\n' || end[-1] == '\r'))
                *--end = '\0';
        if (!text || !*text)
                return "no message";
        line = strrchr(text, '\n');
        line = line ? line + 1 : text;
        return strncmp(line, "ctr: ", 5) == 0 ? line + 5 : line;
}

static int judge(const call *c, int status, ferry_error *reterr) {
        _cleanup_(freep) char *text = read_back(c->err_fd);
        const char *message = message_of(text);
        ferry_code code = FERRY_UNKNOWN;

        if (status == 0)
                return 0;
        if (status == -ETIMEDOUT)
                return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, status,
                                       "containerd (%s) did not answer within a minute",
                                       c->argv[2]);
        if (status < 0)
                return ferry_error_set_errno(reterr, status, "ctr");
        if (strstr(message, "not found"))
                code = FERRY_NOT_FOUND;
        else if (strstr(message, "already exists"))
                code = FERRY_ALREADY_EXISTS;
        return ferry_error_set(reterr, code, code == FERRY_NOT_FOUND ? -ENOENT : -EIO,
                               "containerd (%s): %.*s", c->argv[2], MESSAGE_MAX, message);
}

static int run(call *c, char **ret_output, ferry_error *reterr) {
        _cleanup_(closep) int slave = -EBADF;
        int r = 0, status;
        pid_t pid;

        c->argv[c->n] = NULL;
        c->terminal_fd = -EBADF;
        c->out_fd = memfd_create("ctr-out", MFD_CLOEXEC);
        c->err_fd = memfd_create("ctr-err", MFD_CLOEXEC);
        if (c->out_fd < 0 || c->err_fd < 0)
                r = -errno;
        if (r == 0 && c->terminal)
                r = open_terminal(c, &slave);
        if (r == 0) {
                pid = fork();
                if (pid == 0)
                        become_ctr(c, slave);
                r = pid < 0 ? -errno : 0;
        }
        slave = fd_close(slave);
        if (r == 0) {
                status = wait_for(c, pid);
                r = judge(c, status, reterr);
                if (r == 0 && ret_output)
                        *ret_output = read_back(c->out_fd);
        } else
                ferry_error_set_errno(reterr, r, "ctr");
        fd_close(c->out_fd);
        fd_close(c->err_fd);
        fd_close(c->terminal_fd);
        return r;
}

static int begin(call *ret, const ctr *c, char **ret_program, ferry_error *reterr) {
        int r = launch_find_program("ctr", "FERRY_CTR", NULL, ret_program, reterr);

        if (r < 0)
                return r;
        *ret = (call){ .n = 0 };
        add(ret, *ret_program);
        add(ret, "--address");
        add(ret, c->address);
        add(ret, "--namespace");
        add(ret, c->namespace);
        return 0;
}

int ctr_get_container(const ctr *c, const char *id, json_t **ret, ferry_error *reterr) {
        _cleanup_(freep) char *program = NULL, *text = NULL;
        call one;
        int r;

        r = begin(&one, c, &program, reterr);
        if (r < 0)
                return r;
        add(&one, "containers");
        add(&one, "info");
        add(&one, id);
        r = run(&one, &text, reterr);
        if (r < 0)
                return r;
        *ret = text ? json_loads(text, 0, NULL) : NULL;
        if (json_is_object(*ret) && json_is_object(json_object_get(*ret, "Spec")))
                return 0;
        json_decref(*ret);
        *ret = NULL;
        return ferry_error_set(reterr, FERRY_INTERNAL, -EBADMSG,
                               "containerd (%s) says nothing of use about container %s", c->address,
                               id);
}

/* "key=value" each; the caller frees them. */
static size_t make_labels(const json_t *labels, char *ret[LABELS_MAX]) {
        const char *key;
        json_t *value;
        size_t n = 0;

        json_object_foreach((json_t *)labels, key, value) {
                /* what containerd itself noted of where the image came from is not for there */
                if (n == LABELS_MAX || !json_is_string(value) ||
                    strncmp(key, "containerd.io/", 14) == 0)
                        continue;
                if (asprintf(&ret[n], "%s=%s", key, json_string_value(value)) >= 0)
                        n++;
        }
        return n;
}

int ctr_create_container(const ctr *c, const char *id, json_t *spec, const json_t *labels,
                         ferry_error *reterr) {
        _cleanup_(freep) char *program = NULL, *text = json_dumps(spec, JSON_COMPACT);
        _cleanup_(closep) int fd = memfd_create("config.json", 0);
        char *label_texts[LABELS_MAX], path[32];
        size_t n_labels;
        call one;
        int r;

        if (!text || fd < 0 || fd_write_all(fd, text, strlen(text)) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "container %s", id);
        r = begin(&one, c, &program, reterr);
        if (r < 0)
                return r;
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        n_labels = make_labels(labels, label_texts);
        add(&one, "containers");
        add(&one, "create");
        add(&one, "--runtime");
        add(&one, RUNTIME);
        for (size_t i = 0; i < n_labels; i++) {
                add(&one, "--label");
                add(&one, label_texts[i]);
        }
        add(&one, "--config");
        add(&one, path);
        add(&one, id);
        r = run(&one, NULL, reterr);
        for (size_t i = 0; i < n_labels; i++)
                free(label_texts[i]);
        return r;
}

int ctr_start_task(const ctr *c, const char *id, bool terminal, ferry_error *reterr) {
        _cleanup_(freep) char *program = NULL;
        call one;
        int r;

        r = begin(&one, c, &program, reterr);
        if (r < 0)
                return r;
        one.terminal = terminal;
        add(&one, "tasks");
        add(&one, "start");
        add(&one, "--detach");
        add(&one, id);
        return run(&one, NULL, reterr);
}

static int remove_one(const ctr *c, const char *kind, const char *flag, const char *id,
                      ferry_error *reterr) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *program = NULL;
        call one;
        int r;

        r = begin(&one, c, &program, reterr);
        if (r < 0)
                return r;
        add(&one, kind);
        add(&one, "delete");
        if (flag)
                add(&one, flag);
        add(&one, id);
        r = run(&one, NULL, &error);
        if (r < 0 && error.code == FERRY_NOT_FOUND)
                return 0;
        if (r < 0)
                ferry_error_move(reterr, &error);
        return r;
}

int ctr_remove_container(const ctr *c, const char *id, ferry_error *reterr) {
        int r = remove_one(c, "tasks", "--force", id, reterr);

        return r < 0 ? r : remove_one(c, "containers", NULL, id, reterr);
}
