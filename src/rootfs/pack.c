/* SPDX-License-Identifier: MIT */
#include "rootfs/pack.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "rootfs/cache.h"
#include "rootfs/measure.h"
#include "rootfs/mkfs.h"
#include "rootfs/mounts.h"

/* Beside the image itself, so that a host does not run full to the last byte. */
#define SPARE_BYTES UINT64_C(0x100000)

/* Of all that pack the same at the same time, one does. The lock goes with its holder. */
static int lock_image(const pack_order *o, ferry_error *reterr) {
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1 };
        int fd = openat(o->cache_fd, CACHE_LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW,
                        0600);
        uint64_t byte;

        if (fd < 0)
                return ferry_error_set_errno(reterr, -errno, "%s/" CACHE_LOCK_FILE, o->cache);
        memcpy(&byte, o->key, sizeof(byte));
        lock.l_start = (off_t)(byte & (uint64_t)INT64_MAX >> 1);
        while (fcntl(fd, F_OFD_SETLKW, &lock) < 0)
                if (errno != EINTR)
                        return ferry_error_set_errno(reterr, -errno, "lock %s/" CACHE_LOCK_FILE,
                                                     o->cache);
        return 0; /* held until this process ends */
}

static int make_root(const pack_order *o, ferry_error *reterr) {
        if (unshare(CLONE_NEWNS) < 0)
                return ferry_error_set_errno(reterr, -errno, "a mount namespace of its own");
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return ferry_error_set_errno(reterr, -errno, "a mount namespace of its own");
        return 0;
}

/* The folder that all is mounted on exists in this namespace only. */
static int make_mount_point(const pack_order *o, char **ret, ferry_error *reterr) {
        _cleanup_(freep) char *path = NULL;

        if (mount("ferry-rootfs", o->cache, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
                  "size=64k,mode=0700") < 0)
                return ferry_error_set_errno(reterr, -errno, "tmpfs on %s", o->cache);
        if (asprintf(&path, "%s/root", o->cache) < 0) {
                path = NULL;
                return ferry_error_set_errno(reterr, -ENOMEM, "rootfs");
        }
        if (mkdir(path, 0755) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", path);
        *ret = TAKE_PTR(path);
        return 0;
}

static int make_space(const pack_order *o, uint64_t need, ferry_error *reterr) {
        return cache_make_room(o->cache_fd, o->cache, need + SPARE_BYTES, o->cache_max, reterr);
}

/* ---- mkfs.erofs ---- */

_Noreturn static void run_mkfs(const pack_order *o, int image, int log, const char *root) {
        char path[MKFS_PATH_SIZE], uuid[64];
        /* The same tree gives the same bytes: no time and no random number of this host's. */
        const char *const argv[] = { "mkfs.erofs", "--quiet", "-T0", uuid, path, root, NULL };
        const uint8_t *k = o->key;

        snprintf(uuid, sizeof(uuid),
                 "-U%02x%02x%02x%02x-%02x%02x-5%x%02x-8%x%02x-%02x%02x%02x%02x%02x%02x", k[0], k[1],
                 k[2], k[3], k[4], k[5], k[6] & 15U, k[7], k[8] & 15U, k[9], k[10], k[11], k[12],
                 k[13], k[14], k[15]);
        mkfs_path(image, path);
        mkfs_run(argv, image, log);
}

static int pack(const pack_order *o, int image, const char *root, ferry_error *reterr) {
        _cleanup_(closep) int log = memfd_create("mkfs.erofs", MFD_CLOEXEC);
        pid_t pid;
        int status;

        if (log < 0)
                return ferry_error_set_errno(reterr, -errno, "mkfs.erofs");
        pid = fork();
        if (pid < 0)
                return ferry_error_set_errno(reterr, -errno, "mkfs.erofs");
        if (pid == 0)
                run_mkfs(o, image, log, root);
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return ferry_error_set_errno(reterr, -errno, "mkfs.erofs");
        return mkfs_result(status, log, "mkfs.erofs", "erofs-utils", o->cache, reterr);
}

/* What a tree takes is known when it is packed: small files may take more than was thought. */
static int pack_with_room(const pack_order *o, int image, const char *root, ferry_error *reterr) {
        uint64_t need;
        int r;

        r = tree_measure(root, &need, reterr);
        if (r == 0)
                r = make_space(o, need, reterr);
        if (r == 0)
                r = pack(o, image, root, reterr);
        if (r != -ENOSPC || ftruncate(image, 0) < 0 || make_space(o, 2 * need, NULL) < 0)
                return r;
        ferry_error_done(reterr);
        *reterr = FERRY_ERROR_INIT;
        return pack(o, image, root, reterr);
}

/* ---- all of it ---- */

/* The file has no name before it is complete and on disk: no crash leaves a part of one. */
static int publish(const pack_order *o, int image, ferry_error *reterr) {
        char path[32];

        int r;

        if (fchmod(image, 0400) < 0 || fsync(image) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s/%s", o->cache, o->name);
        r = cache_lock(image); /* nobody throws it away before it is used */
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s/%s", o->cache, o->name);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", image);
        if (linkat(AT_FDCWD, path, o->cache_fd, o->name, AT_SYMLINK_FOLLOW) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s/%s", o->cache, o->name);
        if (fsync(o->cache_fd) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", o->cache);
        return 0;
}

/* *ret_image stays open, and the image in use, until this process ends. */
static int make_image(const pack_order *o, int *ret_image, ferry_error *reterr) {
        _cleanup_(freep) char *root = NULL;
        int image;
        uint64_t bytes;
        int r;

        r = lock_image(o, reterr);
        if (r < 0)
                return r;
        r = cache_use(o->cache_fd, o->name, ret_image, &bytes);
        if (r == 0)
                return 0; /* by somebody else, while we waited */
        if (r == -EBADMSG && unlinkat(o->cache_fd, o->name, 0) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s/%s is no image", o->cache,
                                             o->name);
        *ret_image = image = openat(o->cache_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (image < 0)
                return ferry_error_set_errno(reterr, -errno, "a temporary file in %s", o->cache);
        r = make_root(o, reterr);
        if (r == 0)
                r = make_mount_point(o, &root, reterr);
        if (r == 0)
                r = mounts_make(o->mounts, o->n_mounts, root, reterr);
        if (r == 0)
                r = pack_with_room(o, image, root, reterr);
        if (r == 0)
                r = publish(o, image, reterr);
        return r;
}

_Noreturn void pack_run(const pack_order *o, int report_fd) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        int image = -EBADF;
        pack_report report = { .r = make_image(o, &image, &error) };
        uint8_t nothing;

        if (report.r < 0) {
                report.code = error.code;
                snprintf(report.text, sizeof(report.text), "%s", ferry_error_message(&error));
        }
        (void)fd_write_all(report_fd, &report, sizeof(report));
        (void)!read(report_fd, &nothing, sizeof(nothing)); /* until it is in use by who wants it */
        _exit(0);
}
