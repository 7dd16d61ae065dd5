/* SPDX-License-Identifier: MIT */
#include "cli/run-config.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "vm/vm-config.h"

#define LINUX_MARK_AT 0x202
#define LINUX_CMDLINE "console=ttyS0"

static bool has_shortcuts(const run_config_values *v) {
        return v->memory.given || v->vcpus.given || v->kernel || v->initrd || v->cmdline ||
               v->disks.n > 0 || v->network || v->bridge;
}

/* Files are named from here, configurations by absolute path. */
static int add_path(json_t *object, const char *key, const char *path, ferry_error *reterr) {
        _cleanup_(freep) char *absolute = NULL;

        if (!path)
                return 0;
        absolute = realpath(path, NULL);
        if (!absolute)
                return ferry_error_set_errno(reterr, -errno, "--%s %s", key, path);
        if (json_object_set_new(object, key, json_string(absolute)) < 0)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EILSEQ,
                                       "--%s: the path is not UTF-8", key);
        return 0;
}

static int add_disks(json_t *object, const cli_texts *disks, ferry_error *reterr) {
        json_t *list = json_array();

        if (json_object_set_new(object, "disks", list) < 0)
                return ferry_error_set_errno(reterr, -ENOMEM, "configuration");
        for (size_t i = 0; i < disks->n; i++) {
                json_t *disk = json_object();
                int r;

                if (json_array_append_new(list, disk) < 0)
                        return ferry_error_set_errno(reterr, -ENOMEM, "configuration");
                {
                        _cleanup_(freep) char *absolute = realpath(disks->texts[i], NULL);

                        if (!absolute)
                                return ferry_error_set_errno(reterr, -errno, "--disk %s",
                                                             disks->texts[i]);
                        r = json_object_set_new(disk, "path", json_string(absolute));
                }
                if (r < 0)
                        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EILSEQ,
                                               "--disk: the path is not UTF-8");
        }
        return 0;
}

/* The x86 boot protocol's mark: such a kernel is silent unless it is told where its console is. */
static bool is_linux(const char *path) {
        _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
        char mark[4];

        return fd >= 0 && pread(fd, mark, sizeof(mark), LINUX_MARK_AT) == (ssize_t)sizeof(mark) &&
               memcmp(mark, "HdrS", sizeof(mark)) == 0;
}

static int fill_in(json_t *object, const run_config_values *v, ferry_error *reterr) {
        int failed = 0, r;

        failed |= json_object_set_new(
                object, "memory_mb",
                json_integer(v->memory.given ? (json_int_t)v->memory.value : 256));
        failed |= json_object_set_new(
                object, "vcpus", json_integer(v->vcpus.given ? (json_int_t)v->vcpus.value : 1));
        if (v->cmdline)
                failed |= json_object_set_new(object, "cmdline", json_string(v->cmdline));
        else if (v->kernel && is_linux(v->kernel))
                failed |= json_object_set_new(object, "cmdline", json_string(LINUX_CMDLINE));
        if (v->network || v->bridge)
                failed |= json_object_set_new(object, "network", json_object());
        if (v->bridge)
                failed |= json_object_set_new(json_object_get(object, "network"), "bridge",
                                              json_string(v->bridge));
        if (failed)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "the options are not UTF-8");
        r = add_path(object, "kernel", v->kernel, reterr);
        if (r == 0)
                r = add_path(object, "initrd", v->initrd, reterr);
        return r < 0 ? r : add_disks(object, &v->disks, reterr);
}

static int from_shortcuts(const run_config_values *v, vm_config **ret, ferry_error *reterr) {
        json_t *object = json_object();
        char *text = NULL;
        int r;

        if (!object)
                return ferry_error_set_errno(reterr, -ENOMEM, "configuration");
        r = fill_in(object, v, reterr);
        if (r == 0) {
                text = json_dumps(object, JSON_COMPACT);
                r = text ? vm_config_parse(text, strlen(text), ret, reterr)
                         : ferry_error_set_errno(reterr, -ENOMEM, "configuration");
        }
        free(text);
        json_decref(object);
        return r;
}

static int check_file(const char *what, const char *path, ferry_error *reterr) {
        struct stat st;

        if (!path)
                return 0;
        if (access(path, R_OK) < 0 || stat(path, &st) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s %s", what, path);
        if (S_ISDIR(st.st_mode))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EISDIR,
                                       "%s %s: is a directory", what, path);
        return 0;
}

/* What cannot be one, before it is read: a FIFO that nobody writes to would never end. */
static int check_config_file(const char *path, ferry_error *reterr) {
        bool is_given = strncmp(path, "/dev/", 5) == 0 || strncmp(path, "/proc/", 6) == 0;
        struct stat st;

        if (stat(path, &st) < 0)
                return 0; /* told when it is read */
        if (!S_ISREG(st.st_mode) && !(is_given && S_ISFIFO(st.st_mode)))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "--config %s: is no file", path);
        if (st.st_size > (off_t)VM_CONFIG_TEXT_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EFBIG,
                                       "--config %s: a configuration has at most %u bytes", path,
                                       (unsigned)VM_CONFIG_TEXT_MAX);
        return 0;
}

static int check_files(const vm_config *config, ferry_error *reterr) {
        int r;

        r = check_file("kernel", config->kernel, reterr);
        if (r == 0)
                r = check_file("initrd", config->initrd, reterr);
        for (size_t i = 0; r == 0 && i < config->n_disks; i++)
                r = check_file("disk", config->disks[i].path, reterr);
        return r;
}

int run_config_make(const run_config_values *v, char **ret, bool *ret_usage, ferry_error *reterr) {
        _cleanup_(vm_config_freep) vm_config *config = NULL;
        int r;

        *ret_usage = true;
        if (v->file && has_shortcuts(v))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "--config has it all: the other options make a "
                                       "configuration without a file");
        if (!v->file && !has_shortcuts(v))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "--config (or --kernel, --disk, ...) is missing");
        *ret_usage = false;
        r = v->file ? check_config_file(v->file, reterr) : 0;
        if (r < 0)
                return r;
        r = v->file ? vm_config_read(v->file, &config, reterr) : from_shortcuts(v, &config, reterr);
        if (r == 0)
                r = check_files(config, reterr);
        if (r < 0)
                return r;
        r = vm_config_format(config, ret);
        return r < 0 ? ferry_error_set_errno(reterr, r, "configuration") : 0;
}
