/* SPDX-License-Identifier: MIT */
#include "cli/sandbox.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/fd.h"

#define TAIL_MAX       4096
#define SUN_PATH_MAX   107U
#define LONGEST_SOCKET "console.sock"

static int no_memory(ferry_error *reterr) {
        return ferry_error_set_errno(reterr, -ENOMEM, "sandbox");
}

static bool is_name(const char *name) {
        size_t n = strlen(name);

        if (n == 0 || n > SANDBOX_NAME_MAX || name[0] == '-' || name[0] == '.')
                return false;
        return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") == n;
}

int sandbox_check_name(const char *name, ferry_error *reterr) {
        if (is_name(name))
                return 0;
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                               "'%.64s' is no name for a sandbox: up to 41 of a-z, 0-9, '-' and "
                               "'.', beginning with a letter or a digit",
                               name);
}

int sandbox_path(const char *root, const char *name, const char *file, char **ret,
                 ferry_error *reterr) {
        char *path;

        if (asprintf(&path, "%s/%s%s%s", root, name, file ? "/" : "", file ? file : "") < 0)
                return no_memory(reterr);
        *ret = path;
        return 0;
}

int sandbox_make(const char *root, const char *name, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        int r;

        r = sandbox_path(root, name, NULL, &path, reterr);
        if (r < 0)
                return r;
        if (strlen(path) + strlen("/" LONGEST_SOCKET) > SUN_PATH_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -ENAMETOOLONG,
                                       "%s is too long: a socket's path must fit in 107 bytes; "
                                       "choose a shorter root or name",
                                       path);
        if (mkdir(root, 0700) < 0 && errno != EEXIST)
                return ferry_error_set_errno(reterr, -errno, "cannot make %s", root);
        if (mkdir(path, 0700) == 0)
                return 0;
        if (errno == EEXIST)
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST,
                                       "there is a sandbox %s in %s already", name, root);
        return ferry_error_set_errno(reterr, -errno, "cannot make %s", path);
}

int sandbox_check_exists(const char *root, const char *name, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        struct stat st;
        int r;

        r = sandbox_check_name(name, reterr);
        if (r == 0)
                r = sandbox_path(root, name, NULL, &path, reterr);
        if (r < 0)
                return r;
        if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
                return 0;
        if (errno == EACCES)
                return ferry_error_set_errno(reterr, -EACCES, "%s", path);
        return ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT,
                               "no sandbox %s in %s (`ferry ls` shows what there is)", name, root);
}

/* Opens shim.lock and tries to take it: *ret_fd holds it, or is -EBADF while a shim does. */
static int try_lock(const char *root, const char *name, int *ret_fd, pid_t *ret_pid) {
        _cleanup_(freep) char *path = NULL;
        _cleanup_(closep) int fd = -EBADF;
        char text[24] = "";

        *ret_fd = -EBADF;
        *ret_pid = 0;
        if (asprintf(&path, "%s/%s/shim.lock", root, name) < 0)
                return -ENOMEM;
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
                *ret_fd = TAKE_FD(fd);
                return 0;
        }
        if (errno != EWOULDBLOCK)
                return -errno;
        if (pread(fd, text, sizeof(text) - 1, 0) > 0)
                *ret_pid = (pid_t)strtol(text, NULL, 10);
        return 0;
}

int sandbox_has_shim(const char *root, const char *name, bool *ret, pid_t *ret_pid) {
        _cleanup_(closep) int lock = -EBADF;
        pid_t pid;
        int r;

        r = try_lock(root, name, &lock, &pid);
        if (r < 0 && r != -ENOENT)
                return r;
        *ret = r == 0 && lock < 0;
        if (ret_pid)
                *ret_pid = pid;
        return 0;
}

/* Files and one level of folders below: all that a sandbox has. Follows no links. */
static int remove_contents(int folder_fd_consume, unsigned depth) {
        DIR *folder = fdopendir(folder_fd_consume);
        struct dirent *entry;
        int r = 0;

        if (!folder) {
                r = -errno;
                fd_close(folder_fd_consume);
                return r;
        }
        while (r == 0 && (entry = readdir(folder))) {
                int fd;

                if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
                        continue;
                if (unlinkat(dirfd(folder), entry->d_name, 0) == 0)
                        continue;
                if (errno != EISDIR && errno != EPERM) {
                        r = -errno;
                        break;
                }
                if (depth == 0) {
                        r = -ENOTEMPTY;
                        break;
                }
                fd = openat(dirfd(folder), entry->d_name,
                            O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                r = fd < 0 ? -errno : remove_contents(fd, depth - 1);
                if (r == 0 && unlinkat(dirfd(folder), entry->d_name, AT_REMOVEDIR) < 0)
                        r = -errno;
        }
        closedir(folder);
        return r;
}

int sandbox_remove(const char *root, const char *name, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        _cleanup_(closep) int lock = -EBADF;
        pid_t pid;
        int fd, r;

        r = sandbox_path(root, name, NULL, &path, reterr);
        if (r < 0)
                return r;
        r = try_lock(root, name, &lock, &pid);
        if (r == 0 && lock < 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "%s is in use by its shim (process %d)", path, (int)pid);
        fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? 0 : ferry_error_set_errno(reterr, -errno, "%s", path);
        r = remove_contents(fd, 1);
        if (r == 0 && rmdir(path) < 0 && errno != ENOENT)
                r = -errno;
        return r < 0 ? ferry_error_set_errno(reterr, r, "cannot remove %s", path) : 0;
}

static int compare(const void *a, const void *b) {
        return strcmp(*(char *const *)a, *(char *const *)b);
}

void sandbox_names_done(sandbox_names *names) {
        for (size_t i = 0; i < names->n; i++)
                free(names->names[i]);
        free(names->names);
        *names = (sandbox_names){ 0 };
}

static int add_name(sandbox_names *names, const char *name) {
        char **grown = reallocarray(names->names, names->n + 1, sizeof(*grown));

        if (!grown)
                return -ENOMEM;
        names->names = grown;
        grown[names->n] = strdup(name);
        if (!grown[names->n])
                return -ENOMEM;
        names->n++;
        return 0;
}

int sandbox_list(const char *root, sandbox_names *ret, ferry_error *reterr) {
        sandbox_names names = { 0 };
        struct dirent *entry;
        DIR *folder;
        int r = 0;

        *ret = names;
        folder = opendir(root);
        if (!folder)
                return errno == ENOENT ? 0 : ferry_error_set_errno(reterr, -errno, "%s", root);
        while (r == 0 && (entry = readdir(folder))) {
                struct stat st;

                if (is_name(entry->d_name) &&
                    fstatat(dirfd(folder), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                    S_ISDIR(st.st_mode))
                        r = add_name(&names, entry->d_name);
        }
        closedir(folder);
        if (r < 0) {
                sandbox_names_done(&names);
                return no_memory(reterr);
        }
        if (names.n > 0)
                qsort(names.names, names.n, sizeof(*names.names), compare);
        *ret = names;
        return 0;
}

char *sandbox_log_tail(const char *root, const char *name, const char *file, unsigned n_lines) {
        _cleanup_(freep) char *path = NULL, *text = NULL;
        _cleanup_(closep) int fd = -EBADF;
        struct stat st;
        ssize_t n;
        char *start;

        if (asprintf(&path, "%s/%s/%s", root, name, file) < 0)
                return NULL;
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        text = malloc(TAIL_MAX + 1);
        if (fd < 0 || !text || fstat(fd, &st) < 0)
                return NULL;
        n = pread(fd, text, TAIL_MAX, st.st_size > TAIL_MAX ? st.st_size - TAIL_MAX : 0);
        while (n > 0 && text[n - 1] == '\n')
                n--;
        if (n <= 0)
                return NULL;
        text[n] = '\0';
        for (start = text + n; start > text; start--)
                if (start[-1] == '\n' && n_lines-- == 1)
                        break;
        return strdup(start);
}
