/* SPDX-License-Identifier: MIT */
#include "migration/place.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/digest.h"
#include "base/fd.h"

#define PREFIX    ".pod-"
#define LINK_SIZE (sizeof(PREFIX) + PLACE_NAME_SIZE)

int place_name(const char *address, const char *namespace, const char *id,
               char ret[static PLACE_NAME_SIZE]) {
        _cleanup_(freep) char *text = NULL;
        uint8_t digest[DIGEST_SIZE];

        if (asprintf(&text, "%s\n%s\n%s", address, namespace, id) < 0) {
                text = NULL;
                return -ENOMEM;
        }
        digest_sha256(text, strlen(text), digest);
        hex_encode(digest, PLACE_NAME_SIZE / 2, ret);
        return 0;
}

/* The folder around it; *ret_id: its name there. */
static int open_root(const char *state_dir, const char **ret_id) {
        const char *slash = strrchr(state_dir, '/');
        _cleanup_(freep) char *root = NULL;
        int fd;

        if (!slash || !sandbox_id_is_valid(slash + 1))
                return -EINVAL;
        root = strndup(state_dir, (size_t)(slash - state_dir) + 1);
        if (!root)
                return -ENOMEM;
        fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        *ret_id = slash + 1;
        return fd < 0 ? -errno : fd;
}

static bool read_link(int root, const char *name, char ret[static SANDBOX_ID_MAX + 1]) {
        ssize_t n = readlinkat(root, name, ret, SANDBOX_ID_MAX + 1);

        if (n <= 0 || (size_t)n > SANDBOX_ID_MAX)
                return false;
        ret[n] = '\0';
        return sandbox_id_is_valid(ret);
}

static bool is_there(int root, const char *id) {
        struct stat st;

        return fstatat(root, id, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

int place_note(const char *state_dir, const char *name, ferry_error *reterr) {
        char path[LINK_SIZE], other[SANDBOX_ID_MAX + 1];
        _cleanup_(closep) int root = -EBADF;
        const char *id = NULL;

        root = open_root(state_dir, &id);
        if (root < 0)
                return ferry_error_set_errno(reterr, root, "%s", state_dir);
        if (strcmp(name, id) == 0)
                return 0;
        snprintf(path, sizeof(path), PREFIX "%s", name);
        if (read_link(root, path, other)) {
                if (strcmp(other, id) == 0)
                        return 0;
                if (is_there(root, other))
                        return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EEXIST,
                                               "its pod has the sandbox %s here", other);
        }
        (void)unlinkat(root, path, 0); /* of one that has gone */
        if (symlinkat(id, root, path) < 0)
                return ferry_error_set_errno(reterr, -errno, "a link to %s", state_dir);
        return 0;
}

bool place_follow(const char *root, const char *name, char ret[static SANDBOX_ID_MAX + 1]) {
        _cleanup_(closep) int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        char path[LINK_SIZE];

        snprintf(path, sizeof(path), PREFIX "%s", name);
        return fd >= 0 && read_link(fd, path, ret) && is_there(fd, ret);
}

void place_forget(const char *state_dir) {
        char target[SANDBOX_ID_MAX + 1];
        struct dirent *entry;
        const char *id;
        int fd = open_root(state_dir, &id);
        DIR *root = fd < 0 ? NULL : fdopendir(fd);

        while (root && (entry = readdir(root)))
                if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0 &&
                    read_link(fd, entry->d_name, target) && strcmp(target, id) == 0)
                        (void)unlinkat(fd, entry->d_name, 0);
        if (root)
                closedir(root);
        else
                fd_close(fd);
}
