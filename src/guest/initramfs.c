/* SPDX-License-Identifier: MIT */
#include "guest/initramfs.h"

#include <string.h>

/* The init loads what is listed here, one path a line, in this order. */
#define MODULE_LIST "etc/ferry-modules"

static int add_folders(cpio_writer *w) {
        static const char *const folders[] = { "bin",  "dev",  "etc", "lib", "lib/modules",
                                               "proc", "root", "run", "sys" };
        int r = 0;

        for (size_t i = 0; r == 0 && i < ELEMENTS(folders); i++)
                r = cpio_add_folder(w, folders[i], 0755);
        if (r == 0)
                r = cpio_add_folder(w, "tmp", 01777);
        return r;
}

static int add_programs(cpio_writer *w, const initramfs_content *c) {
        int r;

        r = cpio_add_file(w, "init", 0755, c->init.data, c->init.n);
        if (r == 0)
                r = cpio_add_file(w, "bin/ferry-workload", 0755, c->workload.data, c->workload.n);
        if (r == 0)
                r = cpio_add_file(w, "bin/busybox", 0755, c->busybox.data, c->busybox.n);
        if (r == 0)
                r = cpio_add_link(w, "bin/sh", "busybox");
        /* The kernel opens it for init, before there is a devtmpfs. */
        if (r == 0)
                r = cpio_add_device(w, "dev/console", 0600, 5, 1);
        return r;
}

static int add_modules(cpio_writer *w, const initramfs_content *c) {
        _cleanup_(freep) char *list = NULL;
        size_t n_list = 0;
        FILE *lines = open_memstream(&list, &n_list);
        char path[256];
        int r;

        if (!lines)
                return -ENOMEM;
        (void)snprintf(path, sizeof(path), "lib/modules/%s", c->kernel_version);
        r = cpio_add_folder(w, path, 0755);
        for (size_t i = 0; r == 0 && i < c->n_modules; i++) {
                const module *m = c->modules[i];

                (void)snprintf(path, sizeof(path), "lib/modules/%s/%s.ko", c->kernel_version,
                               m->name);
                (void)fprintf(lines, "/%s\n", path);
                r = cpio_add_file(w, path, 0644, m->data, m->n_data);
        }
        if (fclose(lines) != 0 && r == 0)
                r = -ENOMEM;
        if (r == 0)
                r = cpio_add_file(w, MODULE_LIST, 0644, list, n_list);
        return r;
}

/* The folders above `path`; those of the last path are there. */
static int add_parents(cpio_writer *w, const char *path, const char *last) {
        for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
                _cleanup_(freep) char *folder = strndup(path, (size_t)(slash - path));
                int r;

                if (!folder)
                        return -ENOMEM;
                if (strcmp(folder, "lib") == 0 ||
                    (last && strncmp(last, path, (size_t)(slash - path) + 1) == 0))
                        continue;
                r = cpio_add_folder(w, folder, 0755);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int add_crun(cpio_writer *w, const crun_files *crun) {
        const char *last = NULL;
        int r = 0;

        for (size_t i = 0; r == 0 && i < crun->n; i++) {
                const crun_file *f = &crun->items[i];

                r = add_parents(w, f->path, last);
                if (r == 0)
                        r = cpio_add_file(w, f->path, 0755, f->data, f->n);
                last = f->path;
        }
        return r;
}

int initramfs_write(const initramfs_content *c, cpio_writer *w) {
        int r;

        r = add_folders(w);
        if (r == 0)
                r = add_programs(w, c);
        if (r == 0)
                r = add_modules(w, c);
        if (r == 0 && c->crun)
                r = add_crun(w, c->crun);
        if (r == 0)
                r = cpio_finish(w);
        return r;
}
