/* SPDX-License-Identifier: MIT */
#include "guest/crun.h"

#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "guest/command.h"

#define CRUN     "/usr/bin/crun"
#define LOADER   "/lib64/ld-linux-x86-64.so.2"
#define FILE_MAX (64U << 20)
#define LIST_MAX (64U << 10)

static int add(crun_files *files, const char *from, const char *to, ferry_error *reterr) {
        crun_file *f;
        int r;

        if (files->n == CRUN_FILES_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -E2BIG,
                                       "%s needs more than %u libraries", files->items[0].path,
                                       CRUN_FILES_MAX - 1);
        f = &files->items[files->n++];
        *f = (crun_file){ .path = strdup(to + 1) };
        if (!f->path)
                return ferry_error_set_errno(reterr, -ENOMEM, "%s", from);
        r = file_read(AT_FDCWD, from, FILE_MAX, &f->data, &f->n);
        return r < 0 ? ferry_error_set_errno(reterr, r, "%s", from) : 0;
}

/* "\tlibcap.so.2 => /lib/x86_64-linux-gnu/libcap.so.2 (0x...)", or the loader without an arrow. */
static int add_library(crun_files *files, char *line, ferry_error *reterr) {
        char *arrow = strstr(line, "=> "), *path = arrow ? arrow + 3 : strchr(line, '/');

        if (arrow && strncmp(path, "not found", 9) == 0)
                return ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT,
                                       "crun's library%.128s is not installed", line);
        if (!path || path[0] != '/')
                return 0; /* the kernel's own */
        path[strcspn(path, " \n")] = '\0';
        return add(files, path, path, reterr);
}

static int add_libraries(crun_files *files, const char *crun, ferry_error *reterr) {
        const char *const argv[] = { LOADER, "--list", crun, NULL };
        _cleanup_(freep) char *list = NULL;
        char *rest, *line;
        int r;

        r = command_run(argv, NULL, LIST_MAX, &list, reterr);
        rest = list;
        while (r == 0 && (line = strsep(&rest, "\n")))
                r = add_library(files, line, reterr);
        return r;
}

static int by_path(const void *a, const void *b) {
        return strcmp(((const crun_file *)a)->path, ((const crun_file *)b)->path);
}

int crun_read(const char *crun, crun_files *ret, ferry_error *reterr) {
        _cleanup_(crun_files_done) crun_files files = { .n = 0 };
        int r;

        if (!crun)
                crun = CRUN;
        if (access(crun, R_OK) < 0)
                return ferry_error_set(reterr, FERRY_NOT_FOUND, -errno,
                                       "%s: %s: install the package crun, or name one", crun,
                                       strerror(errno));
        r = add(&files, crun, CRUN, reterr);
        if (r == 0)
                r = add_libraries(&files, crun, reterr);
        if (r < 0)
                return r;
        qsort(files.items, files.n, sizeof(files.items[0]), by_path);
        *ret = files;
        files.n = 0;
        return 0;
}

void crun_files_done(crun_files *files) {
        for (size_t i = 0; i < files->n; i++) {
                free(files->items[i].path);
                free(files->items[i].data);
        }
        files->n = 0;
}
