/* SPDX-License-Identifier: MIT */
#include "vm/template.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/thread.h"
#include "vm/spawn.h"
#include "vm/template-file.h"

#define TEMP_FILE TEMPLATE_FILE ".new"

/* ---- the key ---- */

/* A file that was written to or replaced has another time of change, or another number: as good as
 * its digest, which would take longer than the whole start. */
static int add_file(FILE *text, const char *role, const char *path, ferry_error *reterr) {
        struct stat st;

        if (!path)
                return 0;
        if (stat(path, &st) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s %s", role, path);
        (void)fprintf(text, "%s %" PRIu64 ":%" PRIu64 " %" PRIu64 " %lld.%09ld %lld.%09ld\n", role,
                      (uint64_t)st.st_dev, (uint64_t)st.st_ino, (uint64_t)st.st_size,
                      (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
                      (long long)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
        return 0;
}

static int add_files(FILE *text, const vm_config *config, ferry_error *reterr) {
        _cleanup_(freep) char *qemu = NULL;
        int r;

        r = vm_find_program(config->qemu, &qemu, reterr);
        if (r == 0)
                r = add_file(text, "qemu", qemu, reterr);
        if (r == 0)
                r = add_file(text, "kernel", config->kernel, reterr);
        if (r == 0)
                r = add_file(text, "initrd", config->initrd, reterr);
        if (r == 0) /* which hardware it gives is ferry's own choice */
                r = add_file(text, "ferry", "/proc/self/exe", reterr);
        return r;
}

static int add_shape(FILE *text, const vm_config *config) {
        _cleanup_(vm_config_freep) vm_config *shape = NULL;
        _cleanup_(freep) char *json = NULL;
        int r;

        r = vm_config_dup(config, &shape);
        if (r < 0)
                return r;
        shape->mac[0] = shape->tap[0] = shape->bridge[0] = '\0';
        r = vm_config_format(shape, &json);
        if (r == 0)
                (void)fprintf(text, "ferry " FERRY_VERSION "\nvm %s\n", json);
        return r;
}

int template_key(const vm_config *config, char **ret, ferry_error *reterr) {
        _cleanup_(freep) char *key = NULL;
        const char *why = NULL;
        size_t n = 0;
        FILE *text;
        int r;

        if (config->n_disks > 0)
                why = "it boots with disks";
        else if (!config->agent || !config->kernel)
                why = "it has no agent, or no kernel of its own";
        else if (strstr(config->cmdline, "ferry.ip="))
                why = "its guest has an address from the beginning";
        else if (!config->cpu || config->accelerator == VM_ACCELERATOR_AUTO)
                why = "its CPU is not chosen yet";
        if (why)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EINVAL,
                                       "there is no template of such a VM: %s", why);
        text = open_memstream(&key, &n);
        if (!text)
                return ferry_error_set_errno(reterr, -errno, "template");
        r = add_shape(text, config);
        if (r < 0)
                ferry_error_set_errno(reterr, r, "template");
        else
                r = add_files(text, config, reterr);
        if (fclose(text) != 0 && r == 0)
                r = ferry_error_set_errno(reterr, -ENOMEM, "template");
        if (r == 0)
                *ret = TAKE_PTR(key);
        return r;
}

/* ---- places ---- */

static bool is_private(const struct stat *st, mode_t type) {
        return (st->st_mode & S_IFMT) == type && st->st_uid == geteuid() &&
               (st->st_mode & 077) == 0;
}

static int refuse(const char *path, ferry_error *reterr) {
        return ferry_error_set(reterr, FERRY_PERMISSION_DENIED, -EPERM,
                               "%s: must be a folder of user %d's, with mode 0700: others could "
                               "have made what is in it",
                               path, (int)geteuid());
}

static int open_private_folder(int at, const char *name, const char *path, bool make, int *ret_fd,
                               ferry_error *reterr) {
        _cleanup_(closep) int fd = -EBADF;
        struct stat st;

        if (make && mkdirat(at, name, 0700) < 0 && errno != EEXIST)
                return ferry_error_set_errno(reterr, -errno, "make %s", path);
        fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
                return refuse(path, reterr);
        if (fd < 0 || fstat(fd, &st) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", path);
        if (!is_private(&st, S_IFDIR))
                return refuse(path, reterr);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int template_folder_open(const char *path, bool make, int *ret_fd, ferry_error *reterr) {
        _cleanup_(freep) char *above = strdup(path);
        _cleanup_(closep) int fd = -EBADF;
        const char *name = strrchr(path, '/');
        int r;

        if (!above)
                return ferry_error_set_errno(reterr, -ENOMEM, "%s", path);
        if (path[0] != '/' || name == path || strcmp(name, "/") == 0)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "%s: want an absolute path of a folder in a folder of its "
                                       "own",
                                       path);
        above[name - path] = '\0';
        r = open_private_folder(AT_FDCWD, above, above, make, &fd, reterr);
        return r < 0 ? r : open_private_folder(fd, name + 1, path, make, ret_fd, reterr);
}

static int check_key(int fd, uint64_t size, const char *key) {
        _cleanup_(freep) char *text = NULL;
        uint8_t data[TEMPLATE_HEAD_SIZE];
        template_head head;

        if (pread(fd, data, sizeof(data), 0) != (ssize_t)sizeof(data) ||
            template_head_parse(data, size, &head) < 0)
                return -EBADMSG;
        if (head.n_key != strlen(key))
                return -ENOENT;
        text = malloc(head.n_key + 1);
        if (!text)
                return -ENOMEM;
        if (pread(fd, text, head.n_key, sizeof(data)) != (ssize_t)head.n_key)
                return -EBADMSG;
        return memcmp(text, key, head.n_key) == 0 ? 0 : -ENOENT;
}

int template_open(int folder, const char *key, int *ret_fd, ferry_error *reterr) {
        _cleanup_(closep) int fd = -EBADF;
        struct stat st;
        int r;

        fd = openat(folder, TEMPLATE_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (fd < 0 && errno == ENOENT)
                return ferry_error_set(reterr, FERRY_NOT_FOUND, -ENOENT, "there is none yet");
        if (fd < 0 || fstat(fd, &st) < 0)
                return ferry_error_set_errno(reterr, -errno, TEMPLATE_FILE);
        if (!is_private(&st, S_IFREG) || st.st_nlink != 1)
                return ferry_error_set(reterr, FERRY_PERMISSION_DENIED, -EPERM,
                                       "it must be a file of user %d's alone, with mode 0600",
                                       (int)geteuid());
        r = check_key(fd, (uint64_t)st.st_size, key);
        if (r == -ENOENT)
                return ferry_error_set(reterr, FERRY_NOT_FOUND, r,
                                       "it is of another VM, kernel, image, QEMU or ferry");
        if (r == -EBADMSG)
                return ferry_error_set(reterr, FERRY_DATA_LOSS, r,
                                       "it is damaged: no template begins, or is as long, like "
                                       "this");
        if (r < 0)
                return ferry_error_set_errno(reterr, r, TEMPLATE_FILE);
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int template_check(int fd, ferry_error *reterr) {
        _cleanup_(freep) uint8_t *devices = NULL;
        const atomic_bool stop = false;
        size_t n;

        return template_read(fd, -EBADF, 0, &stop, &devices, &n, reterr);
}

int template_save(int folder, const char *key, int memory_fd, uint64_t memory_bytes,
                  const void *devices, size_t n_devices, ferry_error *reterr) {
        _cleanup_(closep) int fd = -EBADF;
        int r;

        (void)unlinkat(folder, TEMP_FILE, 0); /* of one that was killed */
        fd = openat(folder, TEMP_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, TEMP_FILE);
        r = template_write(fd, key, memory_fd, memory_bytes, devices, n_devices, reterr);
        if (r == 0 && (fsync(fd) < 0 || renameat(folder, TEMP_FILE, folder, TEMPLATE_FILE) < 0))
                r = ferry_error_set_errno(reterr, -errno, TEMPLATE_FILE);
        if (r == 0 && fsync(folder) < 0)
                r = ferry_error_set_errno(reterr, -errno, "its folder");
        if (r < 0)
                (void)unlinkat(folder, TEMP_FILE, 0);
        return r;
}

/* ---- loading ---- */

struct template_load {
        int fd, memory_fd, done_fd;
        uint64_t memory_bytes;
        pthread_t thread;
        bool has_thread;
        atomic_bool stop;
        sd_event_source *source;
        int r; /* and what follows: the thread's, until done_fd says */
        ferry_error error;
        uint8_t *devices;
        size_t n_devices;
        template_load_done done;
        void *userdata;
};

static void *load(void *userdata) {
        template_load *l = userdata;

        l->r = template_read(l->fd, l->memory_fd, l->memory_bytes, &l->stop, &l->devices,
                             &l->n_devices, &l->error);
        (void)eventfd_write(l->done_fd, 1);
        return NULL;
}

static int on_loaded(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        template_load *l = userdata;

        (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
        l->done(l->r, l->r < 0 ? &l->error : NULL, l->userdata);
        return 0;
}

const void *template_load_devices(const template_load *l, size_t *ret_n) {
        *ret_n = l->n_devices;
        return l->devices;
}

int template_load_start(sd_event *event, int fd_consume, int memory_fd, uint64_t memory_bytes,
                        template_load_done done, void *userdata, template_load **ret) {
        _cleanup_(closep) int fd = fd_consume;
        _cleanup_(template_load_freep) template_load *l = calloc(1, sizeof(*l));
        int r;

        if (!l)
                return -ENOMEM;
        *l = (template_load){ .fd = TAKE_FD(fd),
                              .memory_fd = fcntl(memory_fd, F_DUPFD_CLOEXEC, 3),
                              .done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                              .memory_bytes = memory_bytes,
                              .done = done,
                              .userdata = userdata };
        if (l->memory_fd < 0 || l->done_fd < 0)
                return -errno;
        r = sd_event_add_io(event, &l->source, l->done_fd, EPOLLIN, on_loaded, l);
        if (r >= 0)
                r = thread_start(&l->thread, load, l);
        if (r < 0)
                return r;
        l->has_thread = true;
        *ret = TAKE_PTR(l);
        return 0;
}

template_load *template_load_free(template_load *l) {
        if (!l)
                return NULL;
        atomic_store(&l->stop, true);
        if (l->has_thread)
                (void)pthread_join(l->thread, NULL);
        sd_event_source_disable_unref(l->source);
        fd_close(l->fd);
        fd_close(l->memory_fd);
        fd_close(l->done_fd);
        ferry_error_done(&l->error);
        free(l->devices);
        free(l);
        return NULL;
}
