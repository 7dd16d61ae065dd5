/* SPDX-License-Identifier: MIT */
#include "rootfs/measure.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

#define DEPTH_MAX   256U
#define ENTRIES_MAX 10000000U
#define BLOCK       4096U
#define INODE       64U /* an extended one */
#define NAME_HEAD   12U /* in a folder, beside the name */

typedef struct measure {
        uint64_t bytes;
        uint32_t n_entries;
} measure;

static void closedirp(DIR **dir) {
        if (*dir)
                (void)closedir(*dir);
}

static int add_folder(measure *m, int fd_consume, unsigned depth);

static int add_entry(measure *m, int dir_fd, const char *name, unsigned depth) {
        struct stat st;
        int fd;

        if (++m->n_entries > ENTRIES_MAX)
                return -E2BIG;
        if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        m->bytes += INODE + NAME_HEAD + strlen(name);
        if (S_ISLNK(st.st_mode))
                m->bytes += (uint64_t)st.st_size;
        else if (S_ISREG(st.st_mode)) {
                uint64_t size = ((uint64_t)st.st_size + 15) & ~15ULL;

                /* each name pays its share of a file that has several */
                m->bytes += size / (st.st_nlink > 0 ? st.st_nlink : 1);
        }
        if (!S_ISDIR(st.st_mode))
                return 0;
        fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : add_folder(m, fd, depth + 1);
}

static int add_folder(measure *m, int fd_consume, unsigned depth) {
        _cleanup_(closedirp) DIR *dir = fdopendir(fd_consume);
        int r = 0;

        if (!dir) {
                r = -errno;
                fd_close(fd_consume);
                return r;
        }
        if (depth > DEPTH_MAX)
                return -E2BIG;
        while (r == 0) {
                struct dirent *e;

                errno = 0;
                e = readdir(dir);
                if (!e)
                        return -errno;
                if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
                        r = add_entry(m, dirfd(dir), e->d_name, depth);
        }
        return r;
}

int tree_measure(const char *root, uint64_t *ret_bytes, ferry_error *reterr) {
        measure m = { .bytes = 2 * BLOCK };
        int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;

        r = fd < 0 ? -errno : add_folder(&m, fd, 0);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "look at what is to be packed");
        *ret_bytes = m.bytes;
        return 0;
}
