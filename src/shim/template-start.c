/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/log.h"
#include "shim/template-maker.h"

#define CONFIG_FD  3
#define NICENESS   15 /* the containers go first */
#define CONFIG_ARG "/proc/self/fd/3"

/* Only to reap it: what it has to say it says itself. */
static int on_ended(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        (void)waitid(P_PIDFD, (id_t)fd, &(siginfo_t){ 0 }, WEXITED);
        sd_event_source_disable_unref(source);
        return 0;
}

static _Noreturn void become_maker(int config, const char *const argv[]) {
        int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        sigset_t none;

        (void)setsid();
        if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 || dup2(null_fd, STDOUT_FILENO) < 0 ||
            dup2(config, CONFIG_FD) < 0 || close_range(CONFIG_FD + 1, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
                _exit(126);
        sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)signal(SIGPIPE, SIG_DFL);
        (void)setpriority(PRIO_PROCESS, 0, NICENESS);
        (void)execv("/proc/self/exe", (char **)argv);
        _exit(127);
}

static int pack_config(const vm_config *config, int *ret_fd) {
        _cleanup_(closep) int fd = memfd_create("ferry-config", MFD_CLOEXEC);
        _cleanup_(freep) char *text = NULL;
        int r;

        if (fd < 0)
                return -errno;
        r = vm_config_format(config, &text);
        if (r == 0)
                r = fd_write_all(fd, text, strlen(text));
        if (r < 0)
                return r;
        /* above CONFIG_FD, so that dup2() makes one that stays open */
        *ret_fd = fcntl(fd, F_DUPFD_CLOEXEC, CONFIG_FD + 1);
        return *ret_fd < 0 ? -errno : 0;
}

int template_maker_start(sd_event *event, const vm_config *config, const char *folder,
                         const char *probe_cache, ferry_error *reterr) {
        const char *const argv[] = { "containerd-shim-ferry-v2",
                                     "template",
                                     "--config",
                                     CONFIG_ARG,
                                     "--template-dir",
                                     folder,
                                     probe_cache ? "--probe-cache" : NULL,
                                     probe_cache,
                                     NULL };
        _cleanup_(closep) int fd = -EBADF, process = -EBADF;
        sd_event_source *source = NULL;
        pid_t pid;
        int r;

        r = pack_config(config, &fd);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "make a template");
        pid = fork();
        if (pid == 0)
                become_maker(fd, argv);
        if (pid < 0)
                return ferry_error_set_errno(reterr, -errno, "make a template");
        process = (int)syscall(SYS_pidfd_open, pid, 0);
        r = process < 0 ? -errno
                        : sd_event_add_io(event, &source, process, EPOLLIN, on_ended, NULL);
        if (r >= 0)
                r = sd_event_source_set_io_fd_own(source, true);
        if (r < 0) { /* nobody would reap it */
                (void)kill(pid, SIGKILL);
                (void)waitpid(pid, NULL, 0);
                sd_event_source_disable_unref(source);
                return ferry_error_set_errno(reterr, r, "make a template");
        }
        process = -EBADF;
        log_info("making a template, process %d", (int)pid);
        return 0;
}
