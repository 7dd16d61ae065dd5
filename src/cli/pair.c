/* SPDX-License-Identifier: MIT */
#include "cli/pair.h"

#include <fcntl.h>
#include <jansson.h>
#include <string.h>

#include "base/fd.h"
#include "cli/sandbox.h"

#define FILE_NAME "migration.json"
#define FILE_MAX_ 8192U

void pair_remember(const char *root, const char *name, const char *session_id,
                   const char *other_root) {
        _cleanup_(freep) char *path = NULL, *text = NULL;
        json_t *json = json_pack("{s:s, s:s}", "session_id", session_id, "other", other_root);

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

char *pair_find(const char *root, const char *name, const char *session_id) {
        _cleanup_(freep) char *path = NULL, *text = NULL;
        const char *id = NULL, *other = NULL;
        char *found = NULL;
        json_t *json;
        size_t n;

        if (sandbox_path(root, name, FILE_NAME, &path, NULL) < 0 ||
            file_read(AT_FDCWD, path, FILE_MAX_, &text, &n) < 0)
                return NULL;
        json = json_loadb(text, n, 0, NULL);
        if (json && json_unpack(json, "{s:s, s:s}", "session_id", &id, "other", &other) == 0 &&
            other[0] == '/' && (!session_id || strcmp(id, session_id) == 0))
                found = strdup(other);
        json_decref(json);
        return found;
}
