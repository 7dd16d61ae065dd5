/* SPDX-License-Identifier: MIT */
#include "cli/log-carry.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/fd.h"
#include "cli/log-part.h"
#include "cli/sandbox.h"

#define CARRIED_MAX (64U << 10)
#define ORIGIN_MAX  4096U

static int open_sandbox(const char *root, const char *name) {
        _cleanup_(freep) char *path = NULL;
        int fd;

        if (sandbox_check_exists(root, name, NULL) < 0 ||
            sandbox_path(root, name, NULL, &path, NULL) < 0)
                return -ENOENT;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

void log_carry(const char *from_root, const char *from_name, const char *to_root,
               const char *to_name) {
        _cleanup_(closep) int from = open_sandbox(from_root, from_name);
        _cleanup_(closep) int to = open_sandbox(to_root, to_name);
        _cleanup_(freep) char *text = NULL;
        size_t n;

        if (from < 0 || to < 0)
                return;
        text = log_part_tail(&log_part_console, from, CARRIED_MAX, &n);
        if (text)
                (void)file_replace(to, LOG_PART_BEFORE, text, n, 0600, false);
        (void)file_replace(to, LOG_CARRY_ORIGIN, from_root, strlen(from_root), 0600, false);
}

char *log_carry_origin(const char *root, const char *name, uint64_t *ret_usec) {
        _cleanup_(closep) int folder = open_sandbox(root, name);
        _cleanup_(freep) char *text = NULL;
        struct stat st;
        size_t n;

        if (folder < 0 || fstatat(folder, LOG_CARRY_ORIGIN, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
            file_read(folder, LOG_CARRY_ORIGIN, ORIGIN_MAX, &text, &n) < 0 || text[0] != '/' ||
            memchr(text, '\0', n))
                return NULL;
        *ret_usec = (uint64_t)st.st_mtim.tv_sec * USEC_PER_SEC +
                    (uint64_t)st.st_mtim.tv_nsec / NSEC_PER_USEC;
        return TAKE_PTR(text);
}
