/* SPDX-License-Identifier: MIT */
#include "cli/pair.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fd.h"
#include "cli/sandbox.h"

#define FILE_NAME "migration.json"
#define FILE_MAX_ 8192U
#define FOLDER    ".moved"
#define KEPT_SEC  86400

void pair_remember(const char *root, const char *name, const char *session_id,
                   const char *other_root, const char *other_name) {
        _cleanup_(freep) char *path = NULL, *text = NULL;
        json_t *json = json_pack("{s:s, s:s, s:s*}", "session_id", session_id, "other", other_root,
                                 "other_name", other_name);

        text = json ? json_dumps(json, JSON_INDENT(2)) : NULL;
        json_decref(json);
        if (text && sandbox_path(root, name, FILE_NAME, &path, NULL) == 0)
                (void)file_replace(AT_FDCWD, path, text, strlen(text), 0600, false);
}

void pair_forget(const char *root, const char *name) {
        _cleanup_(freep) char *path = NULL;

        if (sandbox_path(root, name, FILE_NAME, &path, NULL) == 0)
                (void)unlink(path);
}

static json_t *read_pair(const char *root, const char *name) {
        _cleanup_(freep) char *path = NULL, *text = NULL;
        size_t n;

        if (sandbox_path(root, name, FILE_NAME, &path, NULL) < 0 ||
            file_read(AT_FDCWD, path, FILE_MAX_, &text, &n) < 0)
                return NULL;
        return json_loadb(text, n, 0, NULL);
}

char *pair_find(const char *root, const char *name, const char *session_id) {
        json_t *json = read_pair(root, name);
        const char *id = NULL, *other = NULL;
        char *found = NULL;

        if (json && json_unpack(json, "{s:s, s:s}", "session_id", &id, "other", &other) == 0 &&
            other[0] == '/' && (!session_id || strcmp(id, session_id) == 0))
                found = strdup(other);
        json_decref(json);
        return found;
}

char *pair_find_name(const char *root, const char *name) {
        json_t *json = read_pair(root, name);
        const char *other = json_string_value(json_object_get(json, "other_name"));
        char *found = other && sandbox_check_name(other, NULL) == 0 ? strdup(other) : NULL;

        json_decref(json);
        return found;
}

/* ---- where it went ---- */

static int open_folder(const char *root, bool make) {
        _cleanup_(freep) char *path = NULL;
        int fd;

        if (asprintf(&path, "%s/" FOLDER, root) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
                return -errno;
        fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static void drop_old(int folder_fd) {
        int copy = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *folder = copy < 0 ? NULL : fdopendir(copy);
        struct dirent *entry;
        struct stat st;

        while (folder && (entry = readdir(folder)))
                if (entry->d_name[0] != '.' &&
                    fstatat(folder_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                    st.st_mtime < time(NULL) - KEPT_SEC)
                        (void)unlinkat(folder_fd, entry->d_name, 0);
        if (folder)
                closedir(folder);
        else
                fd_close(copy);
}

void pair_forward(const char *root, const char *name, const char *other_root) {
        _cleanup_(closep) int folder = open_folder(root, true);

        if (folder < 0 || sandbox_check_name(name, NULL) < 0)
                return;
        drop_old(folder);
        (void)file_replace(folder, name, other_root, strlen(other_root), 0600, false);
}

void pair_unforward(const char *root, const char *name) {
        _cleanup_(closep) int folder = open_folder(root, false);

        if (folder >= 0 && sandbox_check_name(name, NULL) == 0)
                (void)unlinkat(folder, name, 0);
}

char *pair_forwarded(const char *root, const char *name) {
        _cleanup_(closep) int folder = open_folder(root, false);
        char *text = NULL;
        size_t n;

        if (folder < 0 || sandbox_check_name(name, NULL) < 0 ||
            file_read(folder, name, FILE_MAX_, &text, &n) < 0)
                return NULL;
        if (n == 0 || text[0] != '/' || memchr(text, '\0', n)) {
                free(text);
                return NULL;
        }
        return text;
}
