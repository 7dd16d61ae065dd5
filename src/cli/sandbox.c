/* SPDX-License-Identifier: MIT */
#include "cli/sandbox.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "cli/log-carry.h"
#include "cli/log-part.h"
#include "cli/pair.h"
#include "guestlink/landing.h"
#include "migration/place.h"
#include "migration/sandbox-restore.h"
#include "migration/session.h"
#include "vm/nic.h"

#define TAIL_MAX       4096
#define LOG_LINES_MAX  16U
#define SUN_PATH_MAX   107U
#define LONGEST_SOCKET "console.sock"
#define LOCK_FILE      "shim.lock"

static int no_memory(ferry_error *reterr) {
        return ferry_error_set_errno(reterr, -ENOMEM, "sandbox");
}

static bool is_name(const char *name) {
        size_t n = strlen(name);

        if (n == 0 || n > SANDBOX_NAME_MAX || name[0] == '-' || name[0] == '.')
                return false;
        /* the root's own file, and what it is written to first */
        if (strncmp(name, "host.json", strlen("host.json")) == 0)
                return false;
        return strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") == n;
}

int sandbox_check_name(const char *name, ferry_error *reterr) {
        if (is_name(name))
                return 0;
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                               "'%.64s' is no name for a sandbox: up to 41 of a-z, 0-9, '-' and "
                               "'.', beginning with a letter or a digit, and not host.json",
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

/* What makes a directory a sandbox: our own shim.lock in it. Anything else below a root is
 * somebody's, and not ours to list, to ask or to remove. Follows no links. */
static bool is_sandbox(int root_fd, const char *name) {
        _cleanup_(closep) int fd =
                openat(root_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        struct stat st;

        return fd >= 0 && fstatat(fd, LOCK_FILE, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
               S_ISREG(st.st_mode) && st.st_uid == geteuid();
}

/* From its first moment on, or it is not there. */
static int mark(const char *path) {
        _cleanup_(closep) int dir = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        _cleanup_(closep) int fd = -EBADF;
        int r = 0;

        if (dir >= 0)
                fd = openat(dir, LOCK_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                            0600);
        if (fd < 0) {
                r = -errno;
                (void)rmdir(path);
        }
        return r;
}

int sandbox_cannot_make(const char *path, ferry_error *reterr) {
        int r = -errno;

        if (r == -EACCES && geteuid() != 0)
                return ferry_error_set(reterr, FERRY_PERMISSION_DENIED, r,
                                       "cannot make %s: you are not root; take a --root of your "
                                       "own, or become root",
                                       path);
        return ferry_error_set_errno(reterr, r, "cannot make %s", path);
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
                return sandbox_cannot_make(root, reterr);
        if (mkdir(path, 0700) == 0) {
                r = mark(path);
                pair_unforward(root, name); /* after: who looks for it finds one or the other */
                return r < 0 ? ferry_error_set_errno(reterr, r, "cannot make %s/" LOCK_FILE, path)
                             : 0;
        }
        r = -errno;
        if (r == -EEXIST && sandbox_check_exists(root, name, NULL) < 0)
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST,
                                       "%s is there and is not a sandbox: choose another name or "
                                       "root",
                                       path);
        if (r == -EEXIST)
                return ferry_error_set(reterr, FERRY_ALREADY_EXISTS, -EEXIST,
                                       "there is a sandbox %s in %s already", name, root);
        errno = -r;
        return sandbox_cannot_make(path, reterr);
}

int sandbox_check_exists(const char *root, const char *name, ferry_error *reterr) {
        _cleanup_(closep) int root_fd = -EBADF;
        int r;

        r = sandbox_check_name(name, reterr);
        if (r < 0)
                return r;
        root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root_fd < 0 && errno == EACCES)
                return ferry_error_set_errno(reterr, -EACCES, "%s", root);
        if (root_fd >= 0 && is_sandbox(root_fd, name))
                return 0;
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

/* "NAME", "NAME.old", or "NAME.PID.new", which a crash may leave of a file that was being written.
 */
static bool is_file_of_ours(const char *file) {
        static const char *const names[] = {
                "config.json",      "qemu.json",          "journal",
                "shim.log",         "qemu.log",           "console.log",
                "console.sock",     "qmp.sock",           "fd.sock",
                "shim.sock",        "control.sock",       "streams.sock",
                "execs.json",       "execs.keep",         "migration.json",
                NIC_RECORD,         "audit.log",          SESSION_TRACE_FILE,
                LOCK_FILE,          LOG_PART_BEFORE,      LOG_CARRY_ORIGIN,
                GUEST_LANDING_FILE, SANDBOX_RESTORE_MARK,
        };

        for (size_t i = 0; i < ELEMENTS(names); i++) {
                size_t n = strlen(names[i]), digits;
                const char *rest = file + n;

                if (strncmp(file, names[i], n) != 0)
                        continue;
                if (*rest == '\0' || strcmp(rest, ".old") == 0)
                        return true;
                digits = *rest == '.' ? strspn(rest + 1, "0123456789") : 0;
                if (digits > 0 && strcmp(rest + 1 + digits, ".new") == 0)
                        return true;
        }
        return false;
}

/* All or nothing: a file that is not ours refuses it before anything is gone. The lock goes last,
 * so that what is left of a removal that failed is still a sandbox. */
static int remove_files(int folder_fd, const char *path, ferry_error *reterr) {
        int copy = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *folder = copy < 0 ? NULL : fdopendir(copy);
        struct dirent *entry;
        int r = 0;

        if (!folder) {
                r = -errno;
                fd_close(copy);
                return ferry_error_set_errno(reterr, r, "%s", path);
        }
        for (int removing = 0; r == 0 && removing < 2; removing++) {
                rewinddir(folder);
                while (r == 0 && (entry = readdir(folder))) {
                        const char *file = entry->d_name;
                        struct stat st;

                        if (!strcmp(file, ".") || !strcmp(file, "..") || !strcmp(file, LOCK_FILE))
                                continue;
                        if (removing) {
                                if (unlinkat(folder_fd, file, 0) < 0 && errno != ENOENT)
                                        r = ferry_error_set_errno(
                                                reterr, -errno, "cannot remove %s/%s", path, file);
                        } else if (!is_file_of_ours(file) ||
                                   (fstatat(folder_fd, file, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                                    S_ISDIR(st.st_mode)))
                                r = ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -ENOTEMPTY,
                                                    "%s/%.100s is not ferry's: nothing was "
                                                    "removed; move it away first",
                                                    path, file);
                }
        }
        closedir(folder);
        return r;
}

int sandbox_remove(const char *root, const char *name, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;
        _cleanup_(closep) int lock = -EBADF, folder = -EBADF;
        pid_t pid;
        int r;

        r = sandbox_path(root, name, NULL, &path, reterr);
        if (r < 0)
                return r;
        folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (folder < 0)
                return errno == ENOENT ? 0 : ferry_error_set_errno(reterr, -errno, "%s", path);
        r = sandbox_check_exists(root, name, reterr);
        if (r < 0)
                return r;
        r = try_lock(root, name, &lock, &pid);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s/" LOCK_FILE, path);
        if (lock < 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EBUSY,
                                       "%s is in use by its shim (process %d)", path, (int)pid);
        nic_clear(folder);
        place_forget(path);
        r = remove_files(folder, path, reterr);
        if (r < 0)
                return r;
        if ((unlinkat(folder, LOCK_FILE, 0) < 0 || rmdir(path) < 0) && errno != ENOENT)
                return ferry_error_set_errno(reterr, -errno, "cannot remove %s", path);
        return 0;
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
                if (is_name(entry->d_name) && is_sandbox(dirfd(folder), entry->d_name))
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

char *sandbox_last_error(const char *root, const char *name) {
        _cleanup_(freep) char *tail = sandbox_log_tail(root, name, "shim.log", LOG_LINES_MAX);
        static const char mark[] = "Z error "; /* behind the time (base/log.c) */
        char *found = NULL;

        for (char *at = tail; at && (at = strstr(at, mark));) {
                at += strlen(mark);
                found = at + strspn(at, " ");
        }
        if (!found)
                return NULL;
        found[strcspn(found, "\n")] = '\0';
        return strdup(found);
}
