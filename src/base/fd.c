/* SPDX-License-Identifier: MIT */
#include "base/fd.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

int fd_set_nonblock(int fd, bool on) {
        int flags = fcntl(fd, F_GETFL);

        if (flags < 0)
                return -errno;
        flags = on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
        return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

int fd_set_cloexec(int fd, bool on) {
        int flags = fcntl(fd, F_GETFD);

        if (flags < 0)
                return -errno;
        flags = on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC;
        return fcntl(fd, F_SETFD, flags) < 0 ? -errno : 0;
}

int fd_write_all(int fd, const void *data, size_t n) {
        const char *at = data;

        while (n > 0) {
                ssize_t k = write(fd, at, n);

                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                at += k;
                n -= (size_t)k;
        }
        return 0;
}

int file_read(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_n) {
        _cleanup_(closep) int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        _cleanup_(freep) char *text = NULL;
        size_t n = 0, size = 0;

        if (fd < 0)
                return -errno;
        for (;;) {
                ssize_t k;

                if (size - n < 2) {
                        char *more;

                        size = size ? size * 2 : 4096;
                        more = realloc(text, size);
                        if (!more)
                                return -ENOMEM;
                        text = more;
                }
                k = read(fd, text + n, size - n - 1);
                if (k < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (k == 0)
                        break;
                n += (size_t)k;
                if (n > max)
                        return -EFBIG;
        }
        text[n] = '\0';
        if (ret_n)
                *ret_n = n;
        *ret = TAKE_PTR(text);
        return 0;
}

/* A rename is on disk when its folder is. `dir_fd` may be O_PATH. */
static int folder_sync(int dir_fd) {
        _cleanup_(closep) int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int file_replace(int dir_fd, const char *path, const void *data, size_t n, mode_t mode, bool sync) {
        _cleanup_(freep) char *temp = NULL;
        _cleanup_(closep) int fd = -EBADF;
        int r;

        if (asprintf(&temp, "%s.%d.new", path, (int)getpid()) < 0) {
                temp = NULL;
                return -ENOMEM;
        }
        fd = openat(dir_fd, temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
        if (fd < 0)
                return -errno;
        r = fd_write_all(fd, data, n);
        if (r == 0 && sync && fsync(fd) < 0)
                r = -errno;
        if (r == 0 && renameat(dir_fd, temp, dir_fd, path) < 0)
                r = -errno;
        if (r == 0 && sync)
                r = folder_sync(dir_fd);
        if (r < 0)
                (void)unlinkat(dir_fd, temp, 0);
        return r;
}

int folders_make(const char *path, mode_t mode) {
        _cleanup_(freep) char *copy = strdup(path);

        if (!copy)
                return -ENOMEM;
        for (char *slash = copy + 1; slash; slash = strchr(slash + 1, '/')) {
                if (*slash != '/')
                        continue;
                *slash = '\0';
                if (mkdir(copy, 0755) < 0 && errno != EEXIST)
                        return -errno;
                *slash = '/';
        }
        return mkdir(copy, mode) < 0 && errno != EEXIST ? -errno : 0;
}

void folder_empty(int dir_fd) {
        int copy = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = copy < 0 ? NULL : fdopendir(copy);
        struct dirent *entry;

        while (d && (entry = readdir(d)))
                (void)unlinkat(dir_fd, entry->d_name, 0);
        if (d)
                closedir(d);
        else
                fd_close(copy);
}

ssize_t fd_send(int socket, const void *data, size_t n, const int *fds, size_t n_fds) {
        struct iovec iov = { .iov_base = (void *)data, .iov_len = n };
        struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int) * 16)];
        } control;
        ssize_t k;

        if (n_fds > 16)
                return -EINVAL;
        if (n_fds > 0) {
                struct cmsghdr *c;

                memset(&control, 0, sizeof(control));
                message.msg_control = control.bytes;
                message.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
                c = CMSG_FIRSTHDR(&message);
                c->cmsg_level = SOL_SOCKET;
                c->cmsg_type = SCM_RIGHTS;
                c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
                memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
        }
        do
                k = sendmsg(socket, &message, MSG_NOSIGNAL);
        while (k < 0 && errno == EINTR);
        return k < 0 ? -errno : k;
}

ssize_t fd_receive(int socket, void *data, size_t n, int *fds, size_t max_fds, size_t *ret_n_fds) {
        struct iovec iov = { .iov_base = data, .iov_len = n };
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int) * 16)];
        } control;
        struct msghdr message = {
                .msg_iov = &iov,
                .msg_iovlen = 1,
                .msg_control = control.bytes,
                .msg_controllen = sizeof(control.bytes),
        };
        size_t n_fds = 0;
        bool over = false;
        ssize_t k;

        do
                k = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
        while (k < 0 && errno == EINTR);
        if (k < 0)
                return -errno;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
                size_t count;

                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < count; i++) {
                        int fd;

                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
                        if (n_fds < max_fds)
                                fds[n_fds++] = fd;
                        else {
                                fd_close(fd);
                                over = true;
                        }
                }
        }
        if (over || (message.msg_flags & MSG_CTRUNC)) {
                for (size_t i = 0; i < n_fds; i++)
                        fd_close(fds[i]);
                return -EMSGSIZE;
        }
        *ret_n_fds = n_fds;
        return k;
}

static int unix_address(const char *path, struct sockaddr_un *ret) {
        size_t n = strlen(path);

        if (n == 0)
                return -EINVAL;
        if (n >= sizeof(ret->sun_path))
                return -ENAMETOOLONG;
        *ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
        memcpy(ret->sun_path, path, n + 1);
        return 0;
}

int unix_connect(const char *path, int *ret_fd) {
        _cleanup_(closep) int fd = -EBADF;
        struct sockaddr_un address;
        int r;

        r = unix_address(path, &address);
        if (r < 0)
                return r;
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int unix_listen(const char *path, mode_t mode, int backlog, int *ret_fd) {
        _cleanup_(closep) int fd = -EBADF;
        struct sockaddr_un address;
        int r;

        r = unix_address(path, &address);
        if (r < 0)
                return r;
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        /* bind() makes the file with the socket's own mode less the umask. */
        if (fchmod(fd, mode) < 0)
                return -errno;
        if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
                _cleanup_(closep) int probe = -EBADF;
                struct stat st;

                if (errno != EADDRINUSE)
                        return -errno;
                if (lstat(path, &st) < 0)
                        return -errno;
                if (!S_ISSOCK(st.st_mode) || unix_connect(path, &probe) != -ECONNREFUSED)
                        return -EADDRINUSE;
                if (unlink(path) < 0)
                        return -errno;
                if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
                        return -errno;
        }
        if (listen(fd, backlog) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}
