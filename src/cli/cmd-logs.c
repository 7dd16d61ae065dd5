/* SPDX-License-Identifier: MIT */

/* ferry logs: what is going on with a sandbox, from the files in its folder: also of one whose shim
 * is dead, and of one that has moved. */

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/inotify.h>

#include "cli/cli.h"
#include "cli/end.h"
#include "cli/find.h"
#include "cli/format.h"
#include "cli/log-carry.h"
#include "cli/log-part.h"
#include "cli/pair.h"
#include "cli/reach.h"
#include "cli/sandbox.h"

#define OVERVIEW_LINES 20U
#define LINES_MAX      1000000U
#define HOPS_MAX       8U
#define LOOK_MSEC      500
#define CHANGES        (IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_DELETE_SELF)

typedef struct logs_values {
        bool follow, console, shim, qemu;
        cli_number lines;
} logs_values;

static const cli_option options[] = {
        { "lines", "N", "only the last N of each log (-n N)", CLI_OPTION_NUMBER,
          offsetof(logs_values, lines), 0, LINES_MAX, .letter = 'n' },
        { "follow", NULL, "go on with what comes, also where it moves to (-f)", CLI_OPTION_SWITCH,
          offsetof(logs_values, follow), .letter = 'f' },
        { "console", NULL, "only what the guest wrote on its console", CLI_OPTION_SWITCH,
          offsetof(logs_values, console) },
        { "shim", NULL, "only what its shim has to say", CLI_OPTION_SWITCH,
          offsetof(logs_values, shim) },
        { "qemu", NULL, "only what its QEMU has to say", CLI_OPTION_SWITCH,
          offsetof(logs_values, qemu) },
};

typedef struct logs {
        char *root; /* where it is now */
        char *name;
        int folder;
        log_reader readers[3];
        size_t n_readers;
        log_output output;
} logs;

/* ---- where it is ---- */

static int open_folder(logs *l, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        int r = sandbox_path(l->root, l->name, NULL, &path, reterr);

        l->folder = fd_close(l->folder);
        if (r < 0)
                return r;
        l->folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return l->folder < 0 ? ferry_error_set_errno(reterr, -errno, "%s", path) : 0;
}

/* Goes where the sandbox has gone from here; false: nobody knows of that. */
static bool follow_move(logs *l) {
        char *next = pair_forwarded(l->root, l->name);

        if (!next)
                return false;
        fflush(stdout);
        fprintf(stderr, "ferry: %s has moved from %s to %s\n", l->name, l->root, next);
        free(l->root);
        l->root = next;
        return true;
}

/* Here, where it went from here, or the sandbox that has a container of this name. */
static int find(logs *l, ferry_error *reterr) {
        rpc_group *group = NULL;
        char *found = NULL;
        int r = -ENOENT;

        for (unsigned hops = 0; r < 0 && hops < HOPS_MAX; hops++) {
                r = sandbox_check_exists(l->root, l->name, reterr);
                if (r < 0 && !follow_move(l))
                        break;
        }
        if (r == 0)
                return open_folder(l, reterr);
        if (rpc_group_new(&group, NULL) == 0 &&
            find_sandbox(l->root, group, l->name, &found, NULL) == 0 &&
            strcmp(found, l->name) != 0) {
                free(l->name);
                l->name = TAKE_PTR(found);
                r = open_folder(l, reterr);
        }
        free(found);
        rpc_group_free(group);
        return r;
}

/* ---- how it is ---- */

static void print_vm(const cli_context *cli, const logs *l) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const cli_context here = { .root = l->root };
        char text[64];
        reach r;

        if (reach_open(&here, l->name, &r, &error) < 0) { /* its shim is dead, or does not answer */
                printf("%s\n", ferry_error_message(&error));
                return;
        }
        printf("%s in %s: VM %s%s%s\n", l->name, l->root, reach_vm_state(r.status, text),
               r.status->exit_reason[0] ? ": " : "", r.status->exit_reason);
        if (r.status->session)
                printf("migration session %s: %s (%s)\n", r.status->session->session_id,
                       r.status->session->state, r.status->session->detail);
        reach_done(&r);
}

static void print_state(const cli_context *cli, logs *l) {
        char time[FORMAT_MAX];
        uint64_t usec;
        _cleanup_(freep) char *origin = log_carry_origin(l->root, l->name, &usec);

        print_vm(cli, l);
        if (origin)
                printf("it came from %s at %s\n", origin, format_time(usec, time));
        printf("\n");
}

/* ---- what there is, and what comes ---- */

static void choose(logs *l, const logs_values *v) {
        bool all = !v->console && !v->shim && !v->qemu;

        /* the guest's own last: that is what stays on the screen */
        if (all || v->shim)
                l->readers[l->n_readers++] = LOG_READER_INIT(&log_part_shim);
        if (all || v->qemu)
                l->readers[l->n_readers++] = LOG_READER_INIT(&log_part_qemu);
        if (all || v->console)
                l->readers[l->n_readers++] = LOG_READER_INIT(&log_part_console);
        l->output = (log_output){ .titles = l->n_readers > 1, .clean = isatty(STDOUT_FILENO) };
}

static int print_all(logs *l, uint64_t n_lines) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < l->n_readers; i++)
                r = log_reader_print(&l->readers[i], l->folder, n_lines, &l->output);
        return r == 0 && fflush(stdout) != 0 ? -errno : r;
}

static int go_on(logs *l) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < l->n_readers; i++)
                r = log_reader_go_on(&l->readers[i], l->folder, &l->output);
        return r == 0 && fflush(stdout) != 0 ? -errno : r;
}

/* Where its folder is in another place, or nothing of it is left. */
static bool has_ended(const logs *l) {
        bool has_shim = true;

        if (sandbox_check_exists(l->root, l->name, NULL) < 0)
                return true;
        return sandbox_has_shim(l->root, l->name, &has_shim, NULL) == 0 && !has_shim &&
               !end_has_living_vm(l->root, l->name);
}

static int watch(const logs *l, ferry_error *reterr) {
        _cleanup_(closep) int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
        _cleanup_(freep) char *path = NULL;
        int r = sandbox_path(l->root, l->name, NULL, &path, reterr);

        if (r < 0)
                return r;
        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "inotify");
        (void)inotify_add_watch(fd, path, CHANGES); /* when it has gone, that is seen below */
        return TAKE_FD(fd);
}

/* Until it changes, or is to be looked for. */
static void wait_for_change(int watch_fd) {
        char events[4096];

        (void)poll(&(struct pollfd){ .fd = watch_fd, .events = POLLIN }, 1, LOOK_MSEC);
        while (read(watch_fd, events, sizeof(events)) > 0)
                ;
}

/* 1: it has ended; 0: it goes on in another place. */
static int follow_here(logs *l, ferry_error *reterr) {
        _cleanup_(closep) int fd = watch(l, reterr);

        if (fd < 0)
                return fd;
        for (;;) {
                /* looked at first: what it says until its end is still to be read then */
                bool ended = has_ended(l);
                int r = go_on(l);

                if (r < 0)
                        return ferry_error_set_errno(reterr, r, "the logs of %s", l->name);
                if (ended)
                        return follow_move(l) ? 0 : 1;
                wait_for_change(fd);
        }
}

static int follow(logs *l, ferry_error *reterr) {
        int r;

        while ((r = follow_here(l, reterr)) == 0) {
                r = sandbox_check_exists(l->root, l->name, reterr);
                if (r == 0)
                        r = open_folder(l, reterr);
                if (r < 0)
                        break;
                /* what it wrote before has been read where it was */
                for (size_t i = 0; i < l->n_readers; i++)
                        log_reader_done(&l->readers[i]);
        }
        if (r == 1)
                fprintf(stderr, "ferry: %s has ended\n", l->name);
        return r < 0 ? r : 0;
}

/* ---- the verb ---- */

static void logs_done(logs *l) {
        for (size_t i = 0; i < l->n_readers; i++)
                log_reader_done(&l->readers[i]);
        fd_close(l->folder);
        free(l->root);
        free(l->name);
}

static cli_exit run(const cli_context *cli, const cli_words *words, const void *values) {
        static const char *const names[] = { "the sandbox's NAME" };
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        const logs_values *v = values;
        uint64_t n_lines;
        int r;

        if (!cli_need_words("logs", words, 1, names))
                return CLI_EXIT_USAGE;
        _cleanup_(logs_done) logs l = { .root = strdup(cli->root),
                                        .name = strdup(words->words[0]),
                                        .folder = -EBADF };
        if (!l.root || !l.name)
                return ferry_error_set_errno(&error, -ENOMEM, "logs"), cli_fail(&error);
        if (find(&l, &error) < 0)
                return cli_fail(&error);
        choose(&l, v);
        if (!v->console && !v->shim && !v->qemu)
                print_state(cli, &l);
        n_lines = v->lines.given ? v->lines.value : l.n_readers > 1 ? OVERVIEW_LINES : LOG_PART_ALL;
        r = print_all(&l, n_lines);
        if (r < 0)
                ferry_error_set_errno(&error, r, "the logs of %s", l.name);
        else if (v->follow)
                r = follow(&l, &error);
        return r < 0 ? cli_fail(&error) : CLI_EXIT_OK;
}

const cli_verb cmd_logs = {
        .name = "logs",
        .arguments = "NAME [--lines N] [--follow] [--console] [--shim] [--qemu]",
        .summary = "show what the guest, its shim and its QEMU have said",
        .details = "Without a choice: how it is, and the last 20 lines of each log. With one log "
                   "chosen: all of\nit, and nothing else. A sandbox that has moved is found where "
                   "it is now, with the end of what\nits guest wrote before.",
        .options = options,
        .n_options = ELEMENTS(options),
        .values_size = sizeof(logs_values),
        .run = run,
};
