/* SPDX-License-Identifier: MIT */
#include "agent/container-files.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "base/cleanup.h"

#define PATH_SIZE 256

static int write_all(int fd, const void *data, size_t n) {
        const char *from = data;

        while (n > 0) {
                ssize_t k = write(fd, from, n);

                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0)
                        return -errno;
                from += k;
                n -= (size_t)k;
        }
        return 0;
}

int container_write(const char *folder, const char *name, const void *data, size_t n, mode_t mode) {
        _cleanup_(closep) int fd = -EBADF;
        char path[2 * PATH_SIZE];
        int r;

        (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        r = fd < 0 ? -errno : write_all(fd, data, n);
        return r == 0 && fchmod(fd, mode) < 0 ? -errno : r;
}

/* ---- what it is given along ---- */

static bool is_inside(const char *path) {
        for (;;) {
                size_t n = strcspn(path, "/");

                if (n == 0 || (n == 1 && path[0] == '.') ||
                    (n == 2 && path[0] == '.' && path[1] == '.'))
                        return false;
                if (path[n] == '\0')
                        return true;
                path += n + 1;
        }
}

/* The folder that `path` is in. None on the way may be a link: it could lead out of it. */
static int open_parent(int fd, char *path, const char **ret_name) {
        _cleanup_(closep) int at = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        char *rest = path, *slash;

        while (at >= 0 && (slash = strchr(rest, '/'))) {
                int next;

                *slash = '\0';
                next = openat(at, rest, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (next < 0)
                        return -errno;
                fd_close(at);
                at = next;
                rest = slash + 1;
        }
        *ret_name = rest;
        return at < 0 ? -errno : TAKE_FD(at);
}

static int make_file(int at, const char *name, const container_file *file) {
        _cleanup_(closep) int fd =
                openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

        return fd < 0 ? -errno : write_all(fd, file->data, file->n);
}

static int make_link(int at, const char *name, const container_file *file) {
        char target[PATH_MAX];

        if (file->n == 0 || file->n >= sizeof(target) || memchr(file->data, '\0', file->n))
                return -EINVAL;
        memcpy(target, file->data, file->n);
        target[file->n] = '\0';
        return symlinkat(target, at, name) < 0 ? -errno : 0;
}

static int copy_path(const container_file *file, char ret[CONTAINER_FILE_PATH_MAX + 1]) {
        if (file->n_path > CONTAINER_FILE_PATH_MAX || memchr(file->path, '\0', file->n_path))
                return -EINVAL;
        memcpy(ret, file->path, file->n_path);
        ret[file->n_path] = '\0';
        return is_inside(ret) ? 0 : -EINVAL;
}

/* Its owner before its mode, from which a change of the owner takes set-uid. */
static int set_attributes(int at, const char *name, const container_file *file) {
        if (fchownat(at, name, file->uid, file->gid, AT_SYMLINK_NOFOLLOW) < 0 ||
            (!S_ISLNK(file->mode) && fchmodat(at, name, file->mode & 07777, 0) < 0))
                return -errno;
        return 0;
}

static int make_one(int files, const container_file *file) {
        _cleanup_(closep) int at = -EBADF;
        char path[CONTAINER_FILE_PATH_MAX + 1];
        const char *name;
        int r;

        r = copy_path(file, path);
        if (r < 0)
                return r;
        at = open_parent(files, path, &name);
        if (at < 0)
                return at;
        if (S_ISREG(file->mode))
                r = make_file(at, name, file);
        else if (S_ISLNK(file->mode))
                r = make_link(at, name, file);
        else
                r = !S_ISDIR(file->mode) ? -EINVAL : mkdirat(at, name, 0700) < 0 ? -errno : 0;
        return r < 0 ? r : set_attributes(at, name, file);
}

/* ---- what containers share ---- */

static int open_shared(void) {
        int fd;

        if (mkdir(CONTAINER_SHARED_FOLDER, 0700) == 0) {
                if (mount("tmpfs", CONTAINER_SHARED_FOLDER, "tmpfs", MS_NODEV | MS_NOSUID,
                          "mode=0700") < 0) {
                        int r = -errno;

                        (void)rmdir(CONTAINER_SHARED_FOLDER);
                        return r;
                }
        } else if (errno != EEXIST)
                return -errno;
        fd = open(CONTAINER_SHARED_FOLDER, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static int make_shared(const container_file *file) {
        _cleanup_(closep) int at = -EBADF;
        char path[CONTAINER_FILE_PATH_MAX + 1];
        int r;

        r = copy_path(file, path);
        if (r < 0 || !S_ISDIR(file->mode) || strchr(path, '/'))
                return -EINVAL;
        at = open_shared();
        if (at < 0)
                return at;
        if (mkdirat(at, path, 0700) < 0)
                return errno == EEXIST ? 0 : -errno;
        return set_attributes(at, path, file);
}

int container_write_files(const char *folder, const container_file *files, size_t n) {
        _cleanup_(closep) int fd = -EBADF;
        char path[PATH_SIZE];
        int r = 0;

        if (n == 0)
                return 0;
        (void)snprintf(path, sizeof(path), "%s/files", folder);
        if (mkdir(path, 0700) < 0 ||
            mount("tmpfs", path, "tmpfs", MS_NODEV | MS_NOSUID, "mode=0700") < 0)
                return -errno;
        fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        for (size_t i = 0; r == 0 && i < n; i++)
                r = files[i].shared ? make_shared(&files[i]) : make_one(fd, &files[i]);
        return r == -EEXIST ? -EINVAL : r; /* it is told twice; the container is not there yet */
}
