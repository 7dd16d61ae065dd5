/* SPDX-License-Identifier: MIT */
#include "agent/job.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

static _Noreturn void be(int (*run)(int log, const void *argument), const void *argument,
                         const process_ends *ends, int log) {
        int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
        sigset_t none;
        int own;

        (void)sigemptyset(&none);
        (void)sigprocmask(SIG_SETMASK, &none, NULL);
        (void)setsid();
        own = fcntl(log, F_DUPFD, 3); /* not close-on-exec: what is run opens it by its number */
        for (int i = 0; i < 3; i++)
                (void)dup2(ends ? ends->fds[i] : i == 2 ? log : nothing, i);
        _exit(own < 0 ? 127 : run(own, argument));
}

int job_start(job_table *t, int (*run)(int log, const void *argument), const void *argument,
              const process_ends *ends, void (*done)(bool ok, const char *text, void *userdata),
              void *userdata) {
        job *j = malloc(sizeof(*j));
        int r;

        if (!j)
                return -ENOMEM;
        *j = (job){ .next = t->first, .done = done, .userdata = userdata };
        j->log = memfd_create("log", MFD_CLOEXEC);
        if (j->log >= 0) {
                j->pid = fork();
                if (j->pid == 0)
                        be(run, argument, ends, j->log);
        }
        if (j->log < 0 || j->pid < 0) {
                r = -errno;
                fd_close(j->log);
                free(j);
                return r;
        }
        t->first = j;
        return 0;
}

static void read_log(int fd, char ret[JOB_TEXT_MAX + 1]) {
        ssize_t n = pread(fd, ret, JOB_TEXT_MAX, 0);

        n = n < 0 ? 0 : n;
        while (n > 0 && ret[n - 1] == '\n')
                n--;
        ret[n] = '\0';
}

bool job_reaped(job_table *t, pid_t pid, int status) {
        char text[JOB_TEXT_MAX + 1];

        for (job **at = &t->first; *at; at = &(*at)->next) {
                job *j = *at;

                if (j->pid != pid)
                        continue;
                *at = j->next;
                read_log(j->log, text);
                fd_close(j->log);
                j->done(WIFEXITED(status) && WEXITSTATUS(status) == 0, text, j->userdata);
                free(j);
                return true;
        }
        return false;
}
