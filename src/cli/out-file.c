/* SPDX-License-Identifier: MIT */
#include "cli/out-file.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"

static int open_folder(const char *path, const char *name) {
        char *folder;
        int fd;

        if (name == path)
                folder = strdup(".");
        else
                folder = strndup(path, (size_t)(name - path));
        if (!folder)
                return -ENOMEM;
        fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                fd = -errno;
        free(folder);
        return fd;
}

/* Permissions, quotas, read-only file systems: whether a file can be made says only making one. */
static int try_to_write(int folder_fd, const char *name) {
        char probe[64];
        int fd;

        snprintf(probe, sizeof(probe), ".ferry-%d.new", (int)getpid());
        if (strlen(name) > 200)
                return -ENAMETOOLONG;
        fd = openat(folder_fd, probe, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        fd_close(fd);
        return unlinkat(folder_fd, probe, 0) < 0 ? -errno : 0;
}

int out_file_open(const char *option, const char *path, out_file *ret, ferry_error *reterr) {
        const char *slash = path ? strrchr(path, '/') : NULL;
        _cleanup_(closep) int folder = -EBADF;
        const char *name = slash ? slash + 1 : path;
        struct stat st;
        int r;

        *ret = (out_file)OUT_FILE_INIT;
        if (!path)
                return 0;
        if (!*name || !strcmp(name, ".") || !strcmp(name, ".."))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "--%s '%s' names no file", option, path);
        folder = open_folder(path, name);
        if (folder < 0)
                return ferry_error_set_errno(reterr, folder, "--%s %s", option, path);
        if (fstatat(folder, name, &st, 0) == 0 && !S_ISREG(st.st_mode))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "--%s %s is there and is no regular file", option, path);
        r = try_to_write(folder, name);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "--%s %s cannot be written", option, path);
        *ret = (out_file){
                .folder_fd = TAKE_FD(folder),
                .option = option,
                .path = path,
                .name = name,
        };
        return 0;
}

void out_file_write(const out_file *file, const char *data, size_t n) {
        int r = data ? file_replace(file->folder_fd, file->name, data, n, 0644, false) : -ENOMEM;

        if (r < 0)
                fprintf(stderr, "ferry: --%s %s was not written: %s\n", file->option, file->path,
                        strerror(-r));
}

bool out_file_is_wanted(const out_file *file) {
        return file->folder_fd >= 0;
}

void out_file_done(out_file *file) {
        file->folder_fd = fd_close(file->folder_fd);
}
