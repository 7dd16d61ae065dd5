/* SPDX-License-Identifier: MIT */
#include "guest/kernel-package.h"

#include <string.h>

#include "guest/command.h"
#include "guest/tar.h"

/* A pass reads the whole package, about a second; each goes one step of dependencies further. */
#define PASSES_MAX 8

static const char kernel_prefix[] = "./boot/vmlinuz-";
static const char builtin_suffix[] = "/modules.builtin";

static bool ends_with(const char *text, const char *suffix) {
        size_t n = strlen(text), n_suffix = strlen(suffix);

        return n >= n_suffix && strcmp(text + n - n_suffix, suffix) == 0;
}

static int take_kernel(kernel_package *p, tar_reader *t) {
        const char *version = t->path + strlen(kernel_prefix);

        if (p->image)
                return 0;
        if (version[0] == '\0' || strlen(version) > 128 || strchr(version, '/'))
                return -EBADMSG;
        p->version = strdup(version);
        if (!p->version)
                return -ENOMEM;
        return tar_read(t, &p->image, &p->n_image);
}

static int take_module(kernel_package *p, tar_reader *t) {
        const char *name = NULL;
        size_t n = module_name_of_path(t->path, strlen(t->path), &name);
        module *m = n > 0 ? module_list_find(&p->modules, name, n) : NULL;

        if (!m || m->data)
                return 0;
        return tar_read(t, &m->data, &m->n_data);
}

static int take_builtin(kernel_package *p, tar_reader *t) {
        _cleanup_(freep) char *text = NULL;
        size_t n;
        int r;

        r = tar_read(t, &text, &n);
        if (r < 0)
                return r;
        module_list_mark_built_in(&p->modules, text);
        return 0;
}

static int take(kernel_package *p, tar_reader *t) {
        if (t->type != '0')
                return 0;
        if (strncmp(t->path, kernel_prefix, strlen(kernel_prefix)) == 0)
                return take_kernel(p, t);
        if (ends_with(t->path, builtin_suffix))
                return take_builtin(p, t);
        return take_module(p, t);
}

/* One way through the package, taking what is still missing. */
static int read_once(const char *deb, kernel_package *p, ferry_error *reterr) {
        const char *const argv[] = { "dpkg-deb", "--fsys-tarfile", deb, NULL };
        _cleanup_(command_done) command c = COMMAND_INIT;
        _cleanup_(freep) tar_reader *t = calloc(1, sizeof(*t));
        char scratch[4096];
        int r, told;

        if (!t)
                return ferry_error_set_errno(reterr, -ENOMEM, "reading %s", deb);
        r = command_start(&c, argv, NULL, reterr);
        if (r < 0)
                return r;
        t->file = c.output;
        while ((r = tar_next(t)) > 0) {
                r = take(p, t);
                if (r < 0)
                        break;
        }
        /* The archive's end is padded: read it, or dpkg-deb fails with a broken pipe. */
        while (r == 0 && fread(scratch, 1, sizeof(scratch), c.output) > 0)
                ;
        told = command_finish(&c, reterr); /* says more than "cut short" does */
        if (told < 0)
                return ferry_error_prefix(reterr, told, "reading %s", deb);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "reading %s", deb);
        return 0;
}

static int check(const char *deb, const kernel_package *p, ferry_error *reterr) {
        if (!p->image)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -ENOENT,
                                       "%s has no boot/vmlinuz-*: is it a kernel package, such as "
                                       "linux-image-6.1.0-1-cloud-amd64?",
                                       deb);
        for (size_t i = 0; i < p->modules.n; i++) {
                const module *m = &p->modules.items[i];

                if (!m->data && !m->built_in)
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -ENOENT,
                                               "%s has no module %s.ko (a compressed one is not "
                                               "read); Debian 12's cloud kernel has it",
                                               deb, m->name);
        }
        return 0;
}

int kernel_package_read(const char *deb, const char *const names[], size_t n_names,
                        kernel_package *ret, ferry_error *reterr) {
        _cleanup_(freep) kernel_package *p = calloc(1, sizeof(*p));
        int r = p ? 0 : -ENOMEM;

        for (size_t i = 0; r >= 0 && i < n_names; i++)
                r = module_list_add(&p->modules, names[i], strlen(names[i]));
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "modules of %s", deb);
        r = 1;
        for (int pass = 0; r > 0 && pass < PASSES_MAX; pass++) {
                r = read_once(deb, p, reterr);
                if (r < 0)
                        break;
                r = module_list_close(&p->modules);
                if (r < 0)
                        (void)ferry_error_set_errno(reterr, r, "a module in %s", deb);
        }
        if (r >= 0)
                r = check(deb, p, reterr);
        if (r < 0) {
                kernel_package_done(p);
                return r;
        }
        *ret = *p;
        return 0;
}

void kernel_package_done(kernel_package *p) {
        free(p->version);
        free(p->image);
        module_list_done(&p->modules);
        *p = (kernel_package){ 0 };
}
