/* SPDX-License-Identifier: MIT */
#include "migration/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"

bool audit_text_is_valid(const char *text) {
        if (strlen(text) > AUDIT_TEXT_MAX)
                return false;
        for (const char *c = text; *c; c++)
                if (*c < ' ' || *c > '~' || *c == '"')
                        return false;
        return true;
}

/* A new file's name has to outlive a crash too. */
static int sync_dir(int dir_fd) {
        _cleanup_(closep) int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0 || fsync(fd) < 0)
                return -errno;
        return 0;
}

int audit_append(int dir_fd, const char *session_id, const char *deed, const char *state,
                 const audit_grounds *grounds) {
        _cleanup_(closep) int fd = openat(
                dir_fd, AUDIT_FILE, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        _cleanup_(freep) char *line = NULL;
        time_t now = time(NULL);
        char when[32];
        struct tm tm;
        int n, r;

        if (fd < 0)
                return -errno;
        if (!gmtime_r(&now, &tm) || strftime(when, sizeof(when), "%FT%TZ", &tm) == 0)
                return -EOVERFLOW;
        n = asprintf(
                &line,
                "%s session %s, %s: forced %s; fenced \"%s\", reason \"%s\", a stale copy %s\n",
                when, session_id, state, deed, grounds->fenced, grounds->reason,
                grounds->may_be_stale ? "accepted" : "not accepted");
        if (n < 0) {
                line = NULL;
                return -ENOMEM;
        }
        r = fd_write_all(fd, line, (size_t)n);
        if (r < 0)
                return r;
        if (fdatasync(fd) < 0)
                return -errno;
        r = sync_dir(dir_fd);
        if (r == 0)
                log_warning("audit: %.*s", n - 1, line);
        return r;
}
