/* SPDX-License-Identifier: MIT */

/* ferry console: the guest's serial line. QEMU listens on console.sock and takes one reader at a
 * time; it also writes all output to console.log. */

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>

#include "base/fd.h"
#include "cli/cli.h"
#include "cli/sandbox.h"
#include "cli/terminal.h"

#define ESCAPE     0x1d /* Ctrl-] */
#define TAIL_LINES 20U
#define CHUNK      4096U

typedef struct console_values {
        bool log;
} console_values;

static const cli_option options[] = {
        { "log", NULL, "only print the whole log", CLI_OPTION_SWITCH,
          offsetof(console_values, log) },
};

static cli_exit print_log(const cli_context *cli, const char *name) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(freep) char *path = NULL;
        _cleanup_(closep) int fd = -EBADF;
        char chunk[CHUNK];
        ssize_t n;

        if (sandbox_path(cli->root, name, "console.log", &path, &error) < 0)
                return cli_fail(&error);
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0) {
                ferry_error_set_errno(&error, -errno, "%s", path);
                return cli_fail(&error);
        }
        while ((n = read(fd, chunk, sizeof(chunk))) > 0)
                if (fwrite(chunk, 1, (size_t)n, stdout) != (size_t)n)
                        return CLI_EXIT_FAILED;
        return CLI_EXIT_OK;
}

/* From the person to the guest. 1: leave, 0: go on. */
static int forward_input(int console, bool is_terminal, bool *input_open) {
        char chunk[CHUNK];
        ssize_t n = read(STDIN_FILENO, chunk, sizeof(chunk));
        char *escape;

        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                return 0;
        if (n <= 0) {
                *input_open = false;
                return is_terminal; /* a pipe's end leaves the output running */
        }
        escape = is_terminal ? memchr(chunk, ESCAPE, (size_t)n) : NULL;
        if (escape)
                n = escape - chunk;
        if (n > 0) {
                int r = fd_write_all(console, chunk, (size_t)n);

                if (r < 0)
                        return r;
        }
        return escape ? 1 : 0;
}

static int forward_output(int console) {
        char chunk[CHUNK];
        ssize_t n = read(console, chunk, sizeof(chunk));

        if (n < 0)
                return errno == EINTR || errno == EAGAIN ? 0 : -errno;
        if (n == 0)
                return 1;
        return fd_write_all(STDOUT_FILENO, chunk, (size_t)n);
}

/* 0 when the person left, 1 when the guest's side ended, or a negative errno. */
static int relay(int console, int signals, bool is_terminal) {
        bool input_open = true;

        for (;;) {
                struct pollfd fds[] = {
                        { .fd = console, .events = POLLIN },
                        { .fd = signals, .events = POLLIN },
                        { .fd = input_open ? STDIN_FILENO : -1, .events = POLLIN },
                };
                int r;

                if (poll(fds, ELEMENTS(fds), -1) < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (fds[1].revents)
                        return 0;
                if (fds[0].revents) {
                        r = forward_output(console);
                        if (r != 0)
                                return r;
                }
                if (fds[2].revents) {
                        r = forward_input(console, is_terminal, &input_open);
                        if (r != 0)
                                return r < 0 ? r : 0;
                }
        }
}

static int open_signals(void) {
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGHUP);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        return signalfd(-1, &set, SFD_CLOEXEC);
}

static void print_tail(const cli_context *cli, const char *name) {
        _cleanup_(freep) char *tail = sandbox_log_tail(cli->root, name, "console.log", TAIL_LINES);

        if (tail)
                printf("%s", tail);
        fflush(stdout);
}

static cli_exit attach(const cli_context *cli, const char *name) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        _cleanup_(closep) int console = -EBADF, signals = -EBADF;
        _cleanup_(freep) char *path = NULL;
        bool is_terminal = isatty(STDIN_FILENO);
        struct termios before;
        int r;

        if (sandbox_path(cli->root, name, "console.sock", &path, &error) < 0)
                return cli_fail(&error);
        r = unix_connect(path, &console);
        if (r == -ENOENT || r == -ECONNREFUSED)
                ferry_error_set(&error, FERRY_FAILED_PRECONDITION, r,
                                "%s has no console now: its VM does not run here (`ferry status "
                                "%s`; `ferry console --log %s` shows what it wrote)",
                                name, name, name);
        else if (r < 0)
                ferry_error_set_errno(&error, r, "cannot open the console of %s", name);
        if (r < 0)
                return cli_fail(&error);
        signals = open_signals();
        if (signals < 0) {
                ferry_error_set_errno(&error, -errno, "signals");
                return cli_fail(&error);
        }
        print_tail(cli, name);
        if (is_terminal) {
                fprintf(stderr, "\n[console of %s: Ctrl-] leaves]\n", name);
                r = terminal_make_raw(true, &before);
                if (r < 0)
                        is_terminal = false;
        }
        r = relay(console, signals, is_terminal);
        if (is_terminal) {
                terminal_restore(&before);
                fprintf(stderr, "\n[left the console of %s]\n", name);
        }
        if (r == 1)
                fprintf(stderr, "ferry: the console of %s was closed by its VM\n", name);
        if (r < 0) {
                ferry_error_set_errno(&error, r, "console of %s", name);
                return cli_fail(&error);
        }
        return CLI_EXIT_OK;
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const console_values *v = values;

        if (!cli_need_words("console", words, 1, names))
                return CLI_EXIT_USAGE;
        if (sandbox_check_exists(cli->root, words->words[0], &error) < 0)
                return cli_fail(&error);
        return v->log ? print_log(cli, words->words[0]) : attach(cli, words->words[0]);
}

const cli_verb cmd_console = {
        .name = "console",
        .arguments = "NAME [--log]",
        .summary = "attach to the guest's serial console",
        .details = "Prints the end of the log, then connects. Ctrl-] leaves; the guest runs on. "
                   "When standard\ninput is no terminal it is sent to the guest, and the output "
                   "goes on until a signal comes.",
        .options = options,
        .n_options = ELEMENTS(options),
        .values_size = sizeof(console_values),
        .run = run,
};
