/* SPDX-License-Identifier: MIT */

/* ferry exec: a program in the guest, with our standard streams. The bytes go through FIFOs, so
 * that the shim has no part of our life in its hands, nor we of its. */

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/cli.h"
#include "cli/fifos.h"
#include "cli/pair.h"
#include "cli/sandbox.h"
#include "cli/terminal.h"
#include "exec.ttrpc.h"

#define CALL_USEC   (60 * USEC_PER_SEC)
#define SILENT_USEC (2 * USEC_PER_SEC)
/* One that moves back at this moment is for an instant neither here nor there. */
#define GONE_USEC  (500 * USEC_PER_MSEC)
#define RETRY_MSEC 50
#define CHUNK      16384U
#define HOPS_MAX   8U
#define PATH_GUEST "PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"

typedef struct exec_values {
        bool terminal;
        const char *cwd;
        cli_number uid, gid;
        cli_texts env;
} exec_values;

static const cli_option options[] = {
        { "terminal", NULL, "give it a terminal (the default when we have one)", CLI_OPTION_SWITCH,
          offsetof(exec_values, terminal) },
        { "env", "NAME=VALUE", "a variable; may be repeated", CLI_OPTION_TEXTS,
          offsetof(exec_values, env) },
        { "cwd", "DIR", "its working directory in the guest (default /)", CLI_OPTION_TEXT,
          offsetof(exec_values, cwd) },
        { "uid", "N", "its user in the guest (default 0)", CLI_OPTION_NUMBER,
          offsetof(exec_values, uid), 0, UINT32_MAX - 1 },
        { "gid", "N", "its group in the guest (default 0)", CLI_OPTION_NUMBER,
          offsetof(exec_values, gid), 0, UINT32_MAX - 1 },
};

/* Bytes that have been read and not yet written. */
typedef struct buffer {
        uint8_t data[CHUNK];
        size_t start, n;
} buffer;

typedef struct execution {
        char *root; /* of the host where the sandbox was seen last */
        const char *name;
        ttrpc_client *shim;
        char id[32];
        bool terminal;
        fifos fifos;
        int signals;
        bool in_open, out_open[2];
        bool out_waits[2]; /* at its end: the program's, or the shim's, which is not the end */
        buffer in, out[2];
        bool ended, lost, failed;
        uint32_t exit_status;
        ferry_error error;
} execution;

static const ttrpc_call_options call_options = { .timeout_usec = CALL_USEC };

/* ---- calls ---- */

/* What a call gave, as an error. Frees `message`. */
static int judge(int r, int32_t code, char *message, ferry_error *reterr) {
        if (r < 0)
                ferry_error_set_errno(reterr, r, "the shim does not answer");
        else if (code != TTRPC_OK)
                r = ferry_error_set(reterr, (ferry_code)code, -EREMOTEIO, "%s",
                                    message ? message : "refused");
        free(message);
        return r;
}

static void get_window(uint32_t *ret_rows, uint32_t *ret_columns) {
        struct winsize size = { .ws_row = 24, .ws_col = 80 };

        if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0)
                (void)ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
        *ret_rows = size.ws_row;
        *ret_columns = size.ws_col;
}

static int start(execution *e, const exec_values *v, const cli_words *words, ferry_error *reterr) {
        Ferry__Exec__V1__StartRequest q = FERRY__EXEC__V1__START_REQUEST__INIT;
        Ferry__Exec__V1__StartResponse *response = NULL;
        char *env[CLI_TEXTS_MAX + 2], term[64];
        char *message = NULL;
        int32_t code = 0;
        int r;

        q.id = e->id;
        q.args = (char **)(words->words + 1);
        q.n_args = words->n - 1;
        q.env = env;
        env[q.n_env++] = (char *)PATH_GUEST;
        if (e->terminal) {
                snprintf(term, sizeof(term), "TERM=%.50s",
                         getenv("TERM") ? getenv("TERM") : "linux");
                env[q.n_env++] = term;
        }
        for (size_t i = 0; i < v->env.n; i++)
                env[q.n_env++] = (char *)v->env.texts[i];
        q.cwd = (char *)(v->cwd ? v->cwd : "");
        q.uid = (uint32_t)v->uid.value;
        q.gid = (uint32_t)v->gid.value;
        q.terminal = e->terminal;
        get_window(&q.rows, &q.columns);
        q.in = e->fifos.paths[0];
        q.out = e->fifos.paths[1];
        q.err = e->fifos.paths[2];
        r = ferry_exec_v1_exec_start_call(e->shim, &q, &call_options, &code, &message, &response);
        if (response)
                ferry__exec__v1__start_response__free_unpacked(response, NULL);
        return judge(r, code, message, reterr);
}

static void on_ended(int r, const ttrpc_status *status,
                     const Ferry__Exec__V1__WaitResponse *response, void *userdata) {
        execution *e = userdata;

        if (r < 0 || status->code == TTRPC_UNAVAILABLE) { /* gone, or not yet there */
                e->lost = true;
                return;
        }
        e->ended = true;
        memset(e->out_waits, 0, sizeof(e->out_waits)); /* of this shim, the end is the end */
        if (status->code == TTRPC_OK) {
                e->exit_status = response->exit_status;
                return;
        }
        e->failed = true;
        ferry_error_set(&e->error, (ferry_code)status->code, -EREMOTEIO, "%s", status->message);
}

static int wait_for_end(execution *e, ferry_error *reterr) {
        Ferry__Exec__V1__WaitRequest q = FERRY__EXEC__V1__WAIT_REQUEST__INIT;
        int r;

        q.id = e->id;
        q.drained = true;
        r = ferry_exec_v1_exec_wait_start(e->shim, &q, NULL, on_ended, e, NULL);
        return r < 0 ? ferry_error_set_errno(reterr, r, "ask the shim") : 0;
}

static void on_signal_sent(int r, const ttrpc_status *status,
                           const Ferry__Exec__V1__SignalResponse *response, void *userdata) {
}

static void on_resized(int r, const ttrpc_status *status,
                       const Ferry__Exec__V1__ResizeResponse *response, void *userdata) {
}

static void on_in_closed(int r, const ttrpc_status *status,
                         const Ferry__Exec__V1__CloseInResponse *response, void *userdata) {
}

static void pass_signal(execution *e, uint32_t number) {
        Ferry__Exec__V1__ResizeRequest resize = FERRY__EXEC__V1__RESIZE_REQUEST__INIT;
        Ferry__Exec__V1__SignalRequest q = FERRY__EXEC__V1__SIGNAL_REQUEST__INIT;

        if (number == SIGWINCH && e->terminal) {
                resize.id = e->id;
                get_window(&resize.rows, &resize.columns);
                (void)ferry_exec_v1_exec_resize_start(e->shim, &resize, &call_options, on_resized,
                                                      NULL, NULL);
        }
        if (number == SIGWINCH)
                return;
        q.id = e->id;
        q.signal = number;
        (void)ferry_exec_v1_exec_signal_start(e->shim, &q, &call_options, on_signal_sent, NULL,
                                              NULL);
}

static void close_in(execution *e) {
        Ferry__Exec__V1__CloseInRequest q = FERRY__EXEC__V1__CLOSE_IN_REQUEST__INIT;

        e->in_open = false;
        q.id = e->id;
        (void)ferry_exec_v1_exec_close_in_start(e->shim, &q, &call_options, on_in_closed, NULL,
                                                NULL);
}

static void forget(execution *e) {
        Ferry__Exec__V1__DeleteRequest q = FERRY__EXEC__V1__DELETE_REQUEST__INIT;
        Ferry__Exec__V1__DeleteResponse *response = NULL;
        char *message = NULL;
        int32_t code = 0;

        q.id = e->id;
        (void)ferry_exec_v1_exec_delete_call(e->shim, &q, &call_options, &code, &message,
                                             &response);
        if (response)
                ferry__exec__v1__delete_response__free_unpacked(response, NULL);
        free(message);
}

/* ---- bytes ---- */

/* False at the end, or when nobody takes it any more. */
static bool fill(buffer *b, int fd) {
        ssize_t k;

        if (b->n > 0)
                return true;
        k = read(fd, b->data, sizeof(b->data));
        b->start = 0;
        b->n = k > 0 ? (size_t)k : 0;
        return k > 0 || (k < 0 && (errno == EAGAIN || errno == EINTR));
}

static bool empty(buffer *b, int fd) {
        ssize_t k;

        if (b->n == 0)
                return true;
        k = write(fd, b->data + b->start, b->n);
        if (k > 0) {
                b->start += (size_t)k;
                b->n -= (size_t)k;
        }
        return k >= 0 || errno == EAGAIN || errno == EINTR;
}

static void move_in(execution *e) {
        if (!e->in_open)
                return;
        if (!fill(&e->in, STDIN_FILENO) && e->in.n == 0)
                close_in(e);
        else if (!empty(&e->in, e->fifos.fds[0]))
                close_in(e);
}

static void move_out(execution *e, size_t i) {
        e->out_waits[i] = !fill(&e->out[i], e->fifos.fds[1 + i]);
        if (!empty(&e->out[i], i == 0 ? STDOUT_FILENO : STDERR_FILENO))
                e->out_open[i] = false; /* nobody takes it any more */
}

static bool has_all(const execution *e) {
        for (size_t i = 0; i < 2; i++)
                if (e->out_open[i] && !e->out_waits[i])
                        return false;
        return e->ended;
}

/* SIGINT and the like, within `msec`. */
static bool signal_comes(int signals, int msec) {
        struct pollfd p = { .fd = signals, .events = POLLIN };
        struct signalfd_siginfo got;

        return poll(&p, 1, msec) > 0 && read(signals, &got, sizeof(got)) == (ssize_t)sizeof(got) &&
               got.ssi_signo != SIGWINCH;
}

/* ---- another shim ---- */

/* 0: this host's shim goes on with the program. -ENOENT: there is no such sandbox; -ESRCH: it does
 * not know the program; others: perhaps later. */
static int attach_at(execution *e, const char *root) {
        Ferry__Exec__V1__AttachRequest q = FERRY__EXEC__V1__ATTACH_REQUEST__INIT;
        Ferry__Exec__V1__AttachResponse *response = NULL;
        _cleanup_(freep) char *socket = NULL, *message = NULL;
        ttrpc_client *shim = NULL;
        int32_t code = 0;
        int r;

        if (sandbox_check_exists(root, e->name, NULL) < 0)
                return -ENOENT;
        r = sandbox_path(root, e->name, "shim.sock", &socket, NULL);
        if (r == 0)
                r = ttrpc_client_connect(socket, &shim);
        if (r < 0)
                return r == -ENOENT ? -EAGAIN : r; /* the next shim has not come so far */
        q.id = e->id;
        q.in = e->fifos.paths[0];
        q.out = e->fifos.paths[1];
        q.err = e->fifos.paths[2];
        r = ferry_exec_v1_exec_attach_call(shim, &q, &call_options, &code, &message, &response);
        if (response)
                ferry__exec__v1__attach_response__free_unpacked(response, NULL);
        if (r < 0 || code != TTRPC_OK) {
                ttrpc_client_free(shim);
                return r < 0 ? r : code == TTRPC_NOT_FOUND ? -ESRCH : -EAGAIN;
        }
        e->shim = shim;
        return 0;
}

/* Here, or where the sandbox has gone from here. */
static int attach_somewhere(execution *e) {
        _cleanup_(freep) char *root = strdup(e->root);
        int r = root ? 0 : -ENOMEM;

        for (unsigned hops = 0; root && hops < HOPS_MAX; hops++) {
                char *next;

                r = attach_at(e, root);
                if (r == 0) {
                        free(e->root);
                        e->root = TAKE_PTR(root);
                        break;
                }
                next = r == -ENOENT || r == -ESRCH ? pair_forwarded(root, e->name) : NULL;
                if (!next)
                        break;
                free(root);
                root = next;
        }
        return r;
}

static void give_up(execution *e, ferry_error *why) {
        e->ended = e->failed = true;
        ferry_error_move(&e->error, why);
}

/* What the shim before this one may not have heard. */
static int go_on(execution *e, ferry_error *reterr) {
        memset(e->out_waits, 0, sizeof(e->out_waits));
        if (!e->in_open)
                close_in(e);
        if (e->terminal)
                pass_signal(e, SIGWINCH);
        return wait_for_end(e, reterr);
}

/* The shim was killed, or started anew, or the sandbox has moved: another shim goes on with the
 * program, unless the sandbox was stopped. */
static void find_shim_again(execution *e) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        uint64_t began = now_usec();
        bool said = false;
        int r;

        e->lost = false;
        e->shim = ttrpc_client_free(e->shim);
        while ((r = attach_somewhere(e)) < 0) {
                bool late = now_usec() - began > SILENT_USEC;

                if ((r == -ENOENT && now_usec() - began > GONE_USEC) || (r == -ESRCH && late))
                        ferry_error_set(&error, FERRY_UNAVAILABLE, r,
                                        "%s has ended, and the program with it", e->name);
                else if (late && !said) {
                        fprintf(stderr,
                                "ferry: the shim of %s is gone; the program waits for the next "
                                "one: `ferry recover %s`\n",
                                e->name, e->name);
                        said = true;
                }
                if (error.code == FERRY_OK && signal_comes(e->signals, RETRY_MSEC))
                        ferry_error_set(&error, FERRY_UNAVAILABLE, -ENOTCONN,
                                        "the shim of %s is gone; the program may still run: "
                                        "`ferry recover %s`, then `ferry ps %s`",
                                        e->name, e->name, e->name);
                if (error.code != FERRY_OK) {
                        give_up(e, &error);
                        return;
                }
        }
        if (go_on(e, &error) < 0)
                give_up(e, &error);
}

/* Until the program has ended and all of its output was written. */
static void relay(execution *e) {
        while (!e->failed && !has_all(e)) {
                bool in_waits = e->in.n > 0;
                struct pollfd fds[] = {
                        { .fd = ttrpc_client_get_fd(e->shim),
                          .events = (short)ttrpc_client_get_events(e->shim) },
                        { .fd = e->signals, .events = POLLIN },
                        { .fd = !e->in_open || e->ended ? -1
                                : in_waits              ? e->fifos.fds[0]
                                                        : STDIN_FILENO,
                          .events = in_waits ? POLLOUT : POLLIN },
                        { .fd = e->out_open[0] && !e->out_waits[0] ? e->fifos.fds[1] : -1,
                          .events = POLLIN },
                        { .fd = e->out_open[1] && !e->out_waits[1] ? e->fifos.fds[2] : -1,
                          .events = POLLIN },
                };
                struct signalfd_siginfo got;

                bool looks_again = !e->ended && (e->out_waits[0] || e->out_waits[1]);

                if (poll(fds, ELEMENTS(fds), looks_again ? RETRY_MSEC : -1) < 0)
                        continue;
                if (looks_again) /* a shim that takes over opens them in a while */
                        memset(e->out_waits, 0, sizeof(e->out_waits));
                if (fds[0].revents && ttrpc_client_process(e->shim) < 0)
                        e->lost = !e->ended;
                if (fds[1].revents && read(e->signals, &got, sizeof(got)) == (ssize_t)sizeof(got))
                        pass_signal(e, got.ssi_signo);
                if (fds[2].revents)
                        move_in(e);
                for (size_t i = 0; i < 2; i++)
                        if (fds[3 + i].revents)
                                move_out(e, i);
                if (e->lost)
                        find_shim_again(e);
        }
}

/* ---- the verb ---- */

static int open_signals(void) {
        static const int numbers[] = {
                SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH
        };
        sigset_t set;

        sigemptyset(&set);
        for (size_t i = 0; i < ELEMENTS(numbers); i++)
                sigaddset(&set, numbers[i]);
        if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
                return -errno;
        return signalfd(-1, &set, SFD_CLOEXEC);
}

static int prepare(execution *e, const cli_context *cli, const char *name, ferry_error *reterr) {
        _cleanup_(freep) char *socket = NULL;
        uint64_t number;
        int r;

        e->root = strdup(cli->root);
        if (!e->root)
                return ferry_error_set_errno(reterr, -ENOMEM, "exec");
        if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
                return ferry_error_set(reterr, FERRY_INTERNAL, -EIO, "no random numbers");
        snprintf(e->id, sizeof(e->id), "exec-%016" PRIx64, number);
        r = sandbox_path(cli->root, name, "shim.sock", &socket, reterr);
        if (r < 0)
                return r;
        r = ttrpc_client_connect(socket, &e->shim);
        if (r < 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, r,
                                       "%s has no shim that runs (`ferry recover %s`)", name, name);
        r = fifos_make(e->terminal ? 2 : 3, &e->fifos, reterr);
        if (r < 0)
                return r;
        e->signals = open_signals();
        return e->signals < 0 ? ferry_error_set_errno(reterr, e->signals, "signals") : 0;
}

static void execution_done(execution *e) {
        ttrpc_client_free(e->shim);
        free(e->root);
        fifos_done(&e->fifos);
        fd_close(e->signals);
        ferry_error_done(&e->error);
}

static cli_exit execute(const cli_context *cli, const exec_values *v, const cli_words *words) {
        _cleanup_(execution_done) execution e = {
                .name = words->words[0],
                .terminal = v->terminal || (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)),
                .fifos = FIFOS_INIT,
                .signals = -EBADF,
                .in_open = true,
                .out_open = { true, true },
        };
        bool raw = false;
        struct termios before;

        e.out_open[1] = !e.terminal;
        if (prepare(&e, cli, words->words[0], &e.error) < 0 || start(&e, v, words, &e.error) < 0)
                return cli_fail(&e.error);
        if (wait_for_end(&e, &e.error) < 0)
                return cli_fail(&e.error);
        if (e.terminal && isatty(STDIN_FILENO))
                raw = terminal_make_raw(false, &before) == 0;
        relay(&e);
        if (raw)
                terminal_restore(&before);
        if (e.failed)
                return cli_fail(&e.error);
        forget(&e);
        return (cli_exit)(e.exit_status & 0xff);
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const exec_values *v = values;

        if (words->n < 2)
                return cli_fail_usage("exec", "want the sandbox's NAME, and what to run in it: "
                                              "ferry exec NAME -- PROGRAM [ARGUMENT...]");
        for (size_t i = 0; i < v->env.n; i++)
                if (!strchr(v->env.texts[i], '=') || v->env.texts[i][0] == '=')
                        return cli_fail_usage("exec", "--env %.64s: want NAME=VALUE",
                                              v->env.texts[i]);
        if (sandbox_check_exists(cli->root, words->words[0], &error) < 0)
                return cli_fail(&error);
        return execute(cli, v, words);
}

const cli_verb cmd_exec = {
        .name = "exec",
        .arguments = "NAME [OPTION...] -- PROGRAM [ARGUMENT...]",
        .summary = "run a program in the guest",
        .details =
                "Needs a VM with \"agent\": true and ferry's guest image. Standard input, output "
                "and error are\nthe program's; signals are passed on; its exit status is ours "
                "(128 + N after signal N).\nIt goes on where the sandbox is moved to.",
        .options = options,
        .n_options = ELEMENTS(options),
        .values_size = sizeof(exec_values),
        .run = run,
};
