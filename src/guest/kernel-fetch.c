/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "guest/command.h"
#include "guest/kernel-package.h"

#define META_PACKAGE "linux-image-cloud-amd64"
#define ANSWER_MAX   65536U
#define DOWNLOAD     "download" /* subfolder: what is in it is not whole yet */

static const char no_package[] =
        "no kernel package: run apt-get update (as root) and have network, or name a .deb of "
        "linux-image-*-cloud-amd64";

/* The one name after "Depends: linux-image-" in apt-cache's answer; NULL when there is none. */
static char *parse_depends(const char *answer) {
        static const char field[] = "Depends: linux-image-";
        const char *found = strstr(answer, field);
        const char *name = found ? found + strlen("Depends: ") : NULL;
        size_t n = name ? strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.+-") : 0;

        return n > 0 ? strndup(name, n) : NULL;
}

static int join(const char *folder, const char *file, char **ret) {
        if (asprintf(ret, "%s/%s", folder, file) >= 0)
                return 0;
        *ret = NULL;
        return -ENOMEM;
}

/* NULL when apt does not know: no lists, no apt. */
static char *ask_apt(void) {
        const char *const argv[] = {
                "env", "LC_ALL=C", "apt-cache", "depends", META_PACKAGE, NULL
        };
        _cleanup_(freep) char *answer = NULL;

        if (command_run(argv, NULL, ANSWER_MAX, &answer, NULL) < 0)
                return NULL;
        return parse_depends(answer);
}

/* Is `file` a package file "NAME_VERSION_amd64.deb"? `name` NULL = any cloud kernel. */
static bool is_package(const char *file, const char *name) {
        const char *bar = strchr(file, '_');
        size_t n_name = bar ? (size_t)(bar - file) : 0;
        size_t n = strlen(file);

        if (!bar || n < 10 || strcmp(file + n - 10, "_amd64.deb") != 0)
                return false;
        if (name)
                return strlen(name) == n_name && strncmp(file, name, n_name) == 0;
        return strncmp(file, "linux-image-", 12) == 0 && n_name > 12 &&
               memmem(file, n_name, "-cloud-amd64", 12) && !memmem(file, n_name, "-dbg", 4);
}

/* The newest such file of the folder, or NULL with 0: none. */
static int find_package(const char *folder, const char *name, char **ret) {
        _cleanup_(freep) char *best = NULL;
        struct dirent *entry;
        DIR *dir = opendir(folder);

        if (!dir)
                return -errno;
        while ((entry = readdir(dir))) {
                if (!is_package(entry->d_name, name) ||
                    (best && strverscmp(entry->d_name, best) <= 0))
                        continue;
                free(best);
                best = strdup(entry->d_name);
                if (!best)
                        break;
        }
        (void)closedir(dir);
        if (entry && !best)
                return -ENOMEM;
        *ret = TAKE_PTR(best);
        return 0;
}

/* The download folder holds files only. */
static void remove_download(const char *path) {
        struct dirent *entry;
        DIR *dir = opendir(path);

        if (!dir)
                return;
        while ((entry = readdir(dir)))
                (void)unlinkat(dirfd(dir), entry->d_name, 0);
        (void)closedir(dir);
        (void)rmdir(path);
}

/* Into a subfolder, then renamed: a file in the cache is always whole. */
static int download(const char *cache, const char *name, char **ret_file, ferry_error *reterr) {
        /* As root apt would run as _apt, who may not write here, and warn. */
        const char *const argv[] = { "apt-get",  "-q", "-o", "APT::Sandbox::User=root",
                                     "download", name, NULL };
        _cleanup_(freep) char *folder = NULL, *file = NULL, *from = NULL, *to = NULL;
        _cleanup_(ferry_error_donep) ferry_error why = FERRY_ERROR_INIT;
        int r;

        r = join(cache, DOWNLOAD, &folder);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "downloading %s", name);
        remove_download(folder); /* an interrupted build's */
        if (mkdir(folder, 0755) < 0)
                return ferry_error_set_errno(reterr, -errno, "cannot make %s", folder);
        r = command_run(argv, folder, ANSWER_MAX, NULL, &why);
        if (r < 0)
                (void)ferry_error_set(reterr, FERRY_UNAVAILABLE, r, "%s (%s)", no_package,
                                      ferry_error_message(&why));
        if (r == 0) {
                r = find_package(folder, name, &file);
                if (r == 0 && !file)
                        r = -ENOENT;
                if (r == 0)
                        r = join(folder, file, &from);
                if (r == 0)
                        r = join(cache, file, &to);
                if (r == 0 && rename(from, to) < 0)
                        r = -errno;
                if (r < 0)
                        (void)ferry_error_set_errno(reterr, r, "apt-get download %s", name);
        }
        remove_download(folder);
        if (r == 0)
                *ret_file = TAKE_PTR(file);
        return r;
}

/* mkdir -p. */
static int make_folders(const char *path) {
        _cleanup_(freep) char *copy = strdup(path);

        if (!copy)
                return -ENOMEM;
        for (char *slash = copy + 1; *slash != '\0'; slash++) {
                if (*slash != '/')
                        continue;
                *slash = '\0';
                if (mkdir(copy, 0755) < 0 && errno != EEXIST)
                        return -errno;
                *slash = '/';
        }
        return mkdir(copy, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

/* One build at a time looks and downloads. The lock ends with the descriptor. */
static int lock_cache(const char *cache, int *ret_fd) {
        _cleanup_(closep) int fd = -EBADF;
        _cleanup_(freep) char *path = NULL;
        int r;

        r = make_folders(cache);
        if (r < 0)
                return r;
        r = join(cache, "lock", &path);
        if (r < 0)
                return r;
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
        if (fd < 0)
                return -errno;
        while (flock(fd, LOCK_EX) < 0)
                if (errno != EINTR)
                        return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int kernel_package_find(const char *cache_dir, char **ret, ferry_error *reterr) {
        _cleanup_(closep) int lock = -EBADF;
        _cleanup_(freep) char *name = NULL, *file = NULL;
        int r;

        r = lock_cache(cache_dir, &lock);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "cannot use the cache folder %s",
                                             cache_dir);
        name = ask_apt();
        r = find_package(cache_dir, name, &file);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "cannot read %s", cache_dir);
        if (!file && !name)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, -ENOENT, "%s", no_package);
        if (!file) {
                r = download(cache_dir, name, &file, reterr);
                /* Without network an older kernel is better than none. */
                if (r < 0 && find_package(cache_dir, NULL, &file) == 0 && file) {
                        if (reterr)
                                ferry_error_done(reterr);
                        r = 0;
                }
                if (r < 0)
                        return r;
        }
        r = join(cache_dir, file, ret);
        return r < 0 ? ferry_error_set_errno(reterr, r, "%s", file) : 0;
}
