/* SPDX-License-Identifier: MIT */
#include "cli/fifos.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

void fifos_done(fifos *f) {
        for (size_t i = 0; i < ELEMENTS(f->fds); i++) {
                f->fds[i] = fd_close(f->fds[i]);
                if (f->paths[i][0])
                        (void)unlink(f->paths[i]);
        }
        if (f->folder[0])
                (void)rmdir(f->folder);
        *f = FIFOS_INIT;
}

int fifos_make(size_t n, fifos *ret, ferry_error *reterr) {
        static const char *const names[] = { "in", "out", "err" };
        _cleanup_(fifos_done) fifos f = FIFOS_INIT;

        strcpy(f.folder, "/tmp/ferry-exec-XXXXXX");
        if (!mkdtemp(f.folder)) {
                f.folder[0] = '\0';
                return ferry_error_set_errno(reterr, -errno, "cannot make a folder in /tmp");
        }
        for (size_t i = 0; i < n; i++) {
                /* Input: with a reader of our own a write never fails. Output: none but the shim
                 * writes, so its close is the end. */
                int flags = i == 0 ? O_RDWR : O_RDONLY;

                snprintf(f.paths[i], sizeof(f.paths[i]), "%s/%s", f.folder, names[i]);
                if (mkfifo(f.paths[i], 0600) == 0)
                        f.fds[i] = open(f.paths[i], flags | O_NONBLOCK | O_CLOEXEC);
                if (f.fds[i] < 0)
                        return ferry_error_set_errno(reterr, -errno, "%s", f.paths[i]);
        }
        *ret = f;
        f = FIFOS_INIT;
        return 0;
}
