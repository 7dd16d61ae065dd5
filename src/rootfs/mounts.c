/* SPDX-License-Identifier: MIT */
#include "rootfs/mounts.h"

#include <endian.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define DATA_MAX   4095U /* the kernel takes a page */
#define LOOP_TRIES 16U

/* What is an option of the mount and not of the file system. The image is read-only and nothing is
 * run while it is packed, so most of them make no difference here. */
static const struct {
        const char *name;
        unsigned long set;
} flags[] = {
        { "bind", MS_BIND }, { "rbind", MS_BIND | MS_REC },
        { "async", 0 },      { "atime", 0 },
        { "defaults", 0 },   { "dev", 0 },
        { "diratime", 0 },   { "dirsync", 0 },
        { "exec", 0 },       { "loop", 0 },
        { "noatime", 0 },    { "nodev", 0 },
        { "nodiratime", 0 }, { "noexec", 0 },
        { "norelatime", 0 }, { "nosuid", 0 },
        { "private", 0 },    { "relatime", 0 },
        { "ro", 0 },         { "rprivate", 0 },
        { "rslave", 0 },     { "rw", 0 },
        { "slave", 0 },      { "strictatime", 0 },
        { "suid", 0 },       { "sync", 0 },
};

/* -1: of the file system. */
static int find_flag(const char *option) {
        for (size_t i = 0; i < ELEMENTS(flags); i++)
                if (strcmp(flags[i].name, option) == 0)
                        return (int)i;
        return -1;
}

static bool has_prefix(const char *text, const char *prefix) {
        return strncmp(text, prefix, strlen(prefix)) == 0;
}

static unsigned long flags_of(const rootfs_mount *m) {
        unsigned long set = strcmp(m->type, "bind") == 0 ? MS_BIND : 0;

        for (size_t i = 0; i < m->n_options; i++) {
                int flag = find_flag(m->options[i]);

                if (flag >= 0)
                        set |= flags[flag].set;
        }
        return set;
}

static bool has_option(const rootfs_mount *m, const char *option) {
        for (size_t i = 0; i < m->n_options; i++)
                if (strcmp(m->options[i], option) == 0)
                        return true;
        return false;
}

/* ---- check ---- */

static int refuse(ferry_error *reterr, size_t index, const char *what) {
        return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL, "rootfs mount %zu: %s",
                               index, what);
}

static int check_one(const rootfs_mount *m, size_t i, ferry_error *reterr) {
        if (!m->type || !m->type[0] || strlen(m->type) > 64)
                return refuse(reterr, i, "type: 1 to 64 bytes");
        if (!m->source || !m->source[0] || strlen(m->source) > 4095)
                return refuse(reterr, i, "source: 1 to 4095 bytes");
        if (m->target && strlen(m->target) > 4095)
                return refuse(reterr, i, "target: longer than 4095 bytes");
        if (m->n_options > ROOTFS_OPTIONS_MAX)
                return refuse(reterr, i, "too many options (at most 128)");
        if ((flags_of(m) & MS_BIND) && m->source[0] != '/')
                return refuse(reterr, i, "the source of a bind mount must be absolute");
        if (has_option(m, "loop") && m->source[0] != '/')
                return refuse(reterr, i, "the source of a loop mount must be absolute");
        for (size_t k = 0; k < m->n_options; k++) {
                const char *option = m->options[k];

                if (!option || strlen(option) > ROOTFS_TEXT_MAX)
                        return refuse(reterr, i, "an option is longer than 64 KiB");
                if (has_prefix(option, "uidmap=") || has_prefix(option, "gidmap="))
                        return refuse(reterr, i, "mapped users and groups cannot be packed");
                if (strcmp(option, "remount") == 0 || strcmp(option, "move") == 0)
                        return refuse(reterr, i, "only new mounts");
        }
        return 0;
}

int mounts_check(const rootfs_mount *mounts, size_t n, ferry_error *reterr) {
        int r = 0;

        if (n == 0 || n > ROOTFS_MOUNTS_MAX)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "rootfs: 1 to %u mounts, not %zu", ROOTFS_MOUNTS_MAX, n);
        for (size_t i = 0; r == 0 && i < n; i++)
                r = check_one(&mounts[i], i, reterr);
        return r;
}

/* ---- is it a disk already? ---- */

/* What the superblock says, which both have at 1024. */
#define SUPERBLOCK        1024
#define EXT4_MAGIC_AT     0x38
#define EXT4_INCOMPAT_AT  0x60
#define EXT4_NEEDS_REPLAY 0x04 /* a journal, which a guest that cannot write could not replay */
#define EROFS_MAGIC       0xE0F5E1E2U

static uint32_t read_le32(const uint8_t *at) {
        uint32_t value;

        memcpy(&value, at, sizeof(value));
        return le32toh(value);
}

static bool is_disk(const char *path, const char *type, bool loop) {
        _cleanup_(closep) int fd = -EBADF;
        uint8_t block[EXT4_INCOMPAT_AT + 4];
        struct stat st;

        if (path[0] != '/' || stat(path, &st) < 0 ||
            !(loop ? S_ISREG(st.st_mode) : S_ISBLK(st.st_mode)))
                return false;
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || pread(fd, block, sizeof(block), SUPERBLOCK) != sizeof(block))
                return false;
        if (strcmp(type, "erofs") == 0)
                return read_le32(block) == EROFS_MAGIC;
        return block[EXT4_MAGIC_AT] == 0x53 && block[EXT4_MAGIC_AT + 1] == 0xEF &&
               !(read_le32(block + EXT4_INCOMPAT_AT) & EXT4_NEEDS_REPLAY);
}

const char *rootfs_find_disk(const rootfs_mount *mounts, size_t n_mounts) {
        static const char *const types[] = { "ext4", "erofs" }; /* the guest's kernel has them */
        const rootfs_mount *m = mounts;

        if (n_mounts != 1 || (m->target && m->target[0] && strcmp(m->target, "/") != 0))
                return NULL;
        for (size_t i = 0; i < m->n_options; i++)
                if (find_flag(m->options[i]) < 0)
                        return NULL; /* one that makes another tree of it, perhaps */
        for (size_t i = 0; i < ELEMENTS(types); i++)
                if (strcmp(m->type, types[i]) == 0)
                        return is_disk(m->source, types[i], has_option(m, "loop")) ? types[i]
                                                                                   : NULL;
        return NULL;
}

/* ---- make ---- */

/* Where a target is, whatever symbolic links lead there: never out of the root. */
static int open_target(const char *root, const char *target, int *ret) {
        _cleanup_(closep) int fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
        int inner;

        if (fd < 0)
                return -errno;
        if (!target || target[0] == '\0' || strcmp(target, "/") == 0) {
                *ret = TAKE_FD(fd);
                return 0;
        }
        inner = (int)syscall(SYS_openat2, fd, target, &how, sizeof(how));
        if (inner < 0)
                return -errno;
        *ret = inner;
        return 0;
}

/* The longest folder that all of the lower layers are in; "" when there is none but "/". */
static void common_folder(const char *layers, char *ret, size_t size) {
        const char *layer = layers;
        size_t n = strcspn(layers, ":");

        while (*layer) {
                size_t k = 0;

                while (k < n && layer[k] == layers[k])
                        k++;
                n = k;
                layer += strcspn(layer, ":");
                layer += *layer == ':';
        }
        while (n > 0 && layers[n - 1] != '/')
                n--;
        n = n > 0 ? n - 1 : 0;
        snprintf(ret, size, "%.*s", (int)(n < size ? n : 0), layers);
}

/* Many layers do not fit a page by their whole paths: they are named from the folder that they
 * share, which becomes the working directory. */
static int shorten_layers(char *data, size_t *n) {
        char *layers = strstr(data, "lowerdir="), *end, *out;
        char folder[4096];
        size_t skip;

        if (!layers || (layers > data && layers[-1] != ','))
                return -E2BIG;
        layers += strlen("lowerdir=");
        end = layers + strcspn(layers, ",");
        if (memchr(layers, '\\', (size_t)(end - layers))) /* an escaped colon is in a name */
                return -E2BIG;
        {
                _cleanup_(freep) char *copy = strndup(layers, (size_t)(end - layers));

                if (!copy)
                        return -ENOMEM;
                common_folder(copy, folder, sizeof(folder));
        }
        skip = strlen(folder) + 1;
        if (skip == 1)
                return -E2BIG;
        if (chdir(folder) < 0)
                return -errno;
        out = layers;
        for (const char *in = layers; in < end;) {
                size_t k = strcspn(in, ":,");

                memmove(out, in + skip, k - skip);
                out += k - skip;
                in += k;
                if (*in == ':')
                        *out++ = *in++;
        }
        memmove(out, end, strlen(end) + 1);
        *n = strlen(data);
        return 0;
}

static int make_data(const rootfs_mount *m, char **ret) {
        _cleanup_(freep) char *data = NULL;
        size_t n = 0, size = 1;

        for (size_t i = 0; i < m->n_options; i++)
                size += strlen(m->options[i]) + 1;
        data = calloc(1, size);
        if (!data)
                return -ENOMEM;
        for (size_t i = 0; i < m->n_options; i++)
                if (find_flag(m->options[i]) < 0)
                        n += (size_t)snprintf(data + n, size - n, "%s%s", n > 0 ? "," : "",
                                              m->options[i]);
        if (n > DATA_MAX && strcmp(m->type, "overlay") == 0) {
                int r = shorten_layers(data, &n);

                if (r < 0)
                        return r;
        }
        if (n > DATA_MAX)
                return -E2BIG;
        *ret = TAKE_PTR(data);
        return 0;
}

/* A device that goes by itself once nothing is mounted from it. Others may take the free one first.
 */
static int attach_loop(const char *path, char ret[32], int *ret_fd) {
        _cleanup_(closep) int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC),
                              file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        struct stat st;

        if (control < 0 || file < 0 || fstat(file, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        for (unsigned i = 0; i < LOOP_TRIES; i++) {
                _cleanup_(closep) int loop = -EBADF;
                int number = ioctl(control, LOOP_CTL_GET_FREE);
                struct loop_config config = {
                        .fd = (uint32_t)file,
                        .info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_READ_ONLY,
                };

                if (number < 0)
                        return -errno;
                snprintf(ret, 32, "/dev/loop%d", number);
                loop = open(ret, O_RDONLY | O_CLOEXEC);
                if (loop < 0)
                        return -errno;
                if (ioctl(loop, LOOP_CONFIGURE, &config) == 0) {
                        *ret_fd = TAKE_FD(loop);
                        return 0;
                }
                if (errno != EBUSY)
                        return -errno;
        }
        return -EBUSY;
}

static int make_one(const rootfs_mount *m, const char *root) {
        _cleanup_(closep) int target = -EBADF, loop = -EBADF;
        _cleanup_(freep) char *data = NULL;
        const char *source = m->source;
        unsigned long set = flags_of(m);
        char path[32], device[32];
        int r;

        r = open_target(root, m->target, &target);
        if (r < 0)
                return r;
        snprintf(path, sizeof(path), "/proc/self/fd/%d", target);
        if (set & MS_BIND)
                return mount(source, path, NULL, set, NULL) < 0 ? -errno : 0;
        if (has_option(m, "loop")) {
                r = attach_loop(source, device, &loop);
                if (r < 0)
                        return r;
                source = device;
        }
        r = make_data(m, &data);
        if (r < 0)
                return r;
        return mount(source, path, m->type, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, data) < 0
                       ? -errno
                       : 0;
}

int mounts_make(const rootfs_mount *mounts, size_t n, const char *root, ferry_error *reterr) {
        struct mount_attr attributes = { .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME,
                                         .attr_clr = MOUNT_ATTR__ATIME };
        int r = 0;

        for (size_t i = 0; i < n; i++) {
                r = make_one(&mounts[i], root);
                if (r < 0)
                        return ferry_error_set_errno(reterr, r, "mount %s %.512s on /%.512s",
                                                     mounts[i].type, mounts[i].source,
                                                     mounts[i].target ? mounts[i].target : "");
        }
        if (syscall(SYS_mount_setattr, AT_FDCWD, root, AT_RECURSIVE, &attributes,
                    sizeof(attributes)) < 0)
                return ferry_error_set_errno(reterr, -errno, "make %s read-only", root);
        return 0;
}
