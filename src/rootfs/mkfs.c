/* SPDX-License-Identifier: MIT */
#include "rootfs/mkfs.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOG_TAIL 400U

void mkfs_path(int image, char ret[MKFS_PATH_SIZE]) {
        (void)snprintf(ret, MKFS_PATH_SIZE, "/proc/self/fd/%d", image);
}

_Noreturn void mkfs_run(const char *const *argv, int image, int log) {
        static const char *const environment[] = {
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C",
                NULL
        };

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (fcntl(image, F_SETFD, 0) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
            dup2(log, STDERR_FILENO) < 0)
                _exit(126);
        (void)setenv("PATH", environment[0] + 5, 1);
        execvpe(argv[0], (char *const *)argv, (char *const *)environment);
        _exit(errno == ENOENT ? 127 : 126);
}

/* The last of what it said, on one line. */
static void read_tail(int log, char ret[LOG_TAIL + 1]) {
        off_t end = lseek(log, 0, SEEK_END);
        ssize_t n = pread(log, ret, LOG_TAIL, end > (off_t)LOG_TAIL ? end - (off_t)LOG_TAIL : 0);

        if (n < 0)
                n = 0;
        while (n > 0 && ret[n - 1] == '\n')
                n--;
        ret[n] = '\0';
        for (char *c = ret; *c; c++)
                if ((unsigned char)*c < ' ')
                        *c = ' ';
}

int mkfs_result(int status, int log, const char *program, const char *package, const char *folder,
                ferry_error *reterr) {
        char said[LOG_TAIL + 1];

        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
                return 0;
        if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOENT,
                                       "%s is not installed (Debian: %s)", program, package);
        read_tail(log, said);
        if (strstr(said, "No space left on device"))
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, -ENOSPC,
                                       "%s is full: %s says: %s", folder, program, said);
        return ferry_error_set(reterr, FERRY_INTERNAL, -EIO, "%s failed (%s %d): %s", program,
                               WIFEXITED(status) ? "status" : "signal",
                               WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), said);
}
