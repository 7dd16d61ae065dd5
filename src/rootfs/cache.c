/* SPDX-License-Identifier: MIT */
#include "rootfs/cache.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "base/digest.h"
#include "base/fd.h"

#define EROFS_MAGIC  0xe0f5e1e2U
#define EROFS_OFFSET 1024
#define SUFFIX       ".erofs"
#define NAME_LENGTH  (2 * DIGEST_SIZE + sizeof(SUFFIX) - 1)
#define IMAGES_MAX   65536U
#define USE_BYTE     0                  /* of an image; QEMU's locks are on others */
#define ROOM_BYTE    (INT64_C(1) << 62) /* of the lock file: behind those of the images' keys */

typedef struct image {
        char name[NAME_LENGTH + 1];
        uint64_t bytes;
        struct timespec used;
        bool is_free;
} image;

static int set_lock(int fd, short type, off_t start, off_t length, bool wait) {
        struct flock lock = {
                .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length
        };
        int r;

        do
                r = fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock);
        while (r < 0 && errno == EINTR);
        return r < 0 ? -errno : 0;
}

static bool is_locked_from(int fd, off_t start) {
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start };

        return fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type != F_UNLCK;
}

int cache_lock(int image_fd) {
        return set_lock(image_fd, F_RDLCK, USE_BYTE, 1, false);
}

void cache_mark(int image_fd) {
        const struct timespec times[2] = { { .tv_nsec = UTIME_NOW }, { .tv_nsec = UTIME_OMIT } };

        (void)futimens(image_fd, times); /* the time of the last access, whatever the mount says */
}

int cache_use(int cache_fd, const char *name, int *ret_fd, uint64_t *ret_bytes) {
        _cleanup_(closep) int fd =
                openat(cache_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        uint8_t magic[4];
        struct stat st;

        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || pread(fd, magic, sizeof(magic), EROFS_OFFSET) != 4 ||
            ((uint32_t)magic[0] | (uint32_t)magic[1] << 8 | (uint32_t)magic[2] << 16 |
             (uint32_t)magic[3] << 24) != EROFS_MAGIC)
                return -EBADMSG;
        /* who is just throwing it away has it for himself, or had it before us */
        if (cache_lock(fd) < 0 || fstat(fd, &st) < 0 || st.st_nlink == 0)
                return -ENOENT;
        cache_mark(fd);
        *ret_bytes = (uint64_t)st.st_size;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* ---- room ---- */

static bool is_image(const char *name) {
        return strlen(name) == NAME_LENGTH && strspn(name, "0123456789abcdef") == 2 * DIGEST_SIZE &&
               strcmp(name + 2 * DIGEST_SIZE, SUFFIX) == 0;
}

/* Another name is a sandbox's that came from elsewhere: without this one nothing would be gained.
 */
static bool is_free(int fd, const struct stat *st) {
        return st->st_nlink == 1 && !is_locked_from(fd, 0);
}

static void look_at(int cache_fd, const char *name, image *ret) {
        _cleanup_(closep) int fd =
                openat(cache_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return;
        ret->bytes = (uint64_t)st.st_blocks * 512;
        ret->used = st.st_atim;
        ret->is_free = is_free(fd, &st);
}

static int by_use(const void *a, const void *b) {
        const struct timespec *x = &((const image *)a)->used, *y = &((const image *)b)->used;

        if (x->tv_sec != y->tv_sec)
                return x->tv_sec < y->tv_sec ? -1 : 1;
        return x->tv_nsec < y->tv_nsec ? -1 : x->tv_nsec > y->tv_nsec;
}

/* The longest unused first. */
static int list_images(int cache_fd, image **ret, size_t *ret_n) {
        _cleanup_(freep) image *images = NULL;
        int fd = openat(cache_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *folder = fd < 0 ? NULL : fdopendir(fd);
        struct dirent *entry;
        size_t n = 0;
        int r = 0;

        if (!folder) {
                r = -errno;
                fd_close(fd);
                return r;
        }
        while (r == 0 && n < IMAGES_MAX && (entry = readdir(folder))) {
                image *grown;

                if (!is_image(entry->d_name))
                        continue;
                grown = reallocarray(images, n + 1, sizeof(*images));
                if (!grown) {
                        r = -ENOMEM;
                        break;
                }
                images = grown;
                images[n] = (image){ .bytes = 0 };
                memcpy(images[n].name, entry->d_name, NAME_LENGTH + 1);
                look_at(cache_fd, entry->d_name, &images[n++]);
        }
        closedir(folder);
        if (n > 0)
                qsort(images, n, sizeof(*images), by_use);
        *ret = TAKE_PTR(images);
        *ret_n = n;
        return r;
}

/* Nobody can begin to use it meanwhile: our lock is for one alone. */
static bool throw_away(int cache_fd, const image *i) {
        _cleanup_(closep) int fd =
                openat(cache_fd, i->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        struct stat st, named;

        return fd >= 0 && set_lock(fd, F_WRLCK, USE_BYTE, 1, false) == 0 && fstat(fd, &st) == 0 &&
               is_free(fd, &st) && fstatat(cache_fd, i->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
               named.st_ino == st.st_ino && unlinkat(cache_fd, i->name, 0) == 0;
}

static int get_room(int cache_fd, const char *path, uint64_t *ret, ferry_error *reterr) {
        struct statvfs fs;

        if (fstatvfs(cache_fd, &fs) < 0)
                return ferry_error_set_errno(reterr, -errno, "%s", path);
        *ret = (uint64_t)fs.f_bavail * fs.f_frsize;
        return 0;
}

/* Of those that make room at the same time, one does. */
static int lock_room(int cache_fd, int *ret, const char *path, ferry_error *reterr) {
        int fd = openat(cache_fd, CACHE_LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        int r = fd < 0 ? -errno : set_lock(fd, F_WRLCK, ROOM_BYTE, 1, true);

        *ret = fd;
        return r < 0 ? ferry_error_set_errno(reterr, r, "lock %s/" CACHE_LOCK_FILE, path) : 0;
}

int cache_make_room(int cache_fd, const char *path, uint64_t need, uint64_t max,
                    ferry_error *reterr) {
        _cleanup_(closep) int lock = -EBADF;
        _cleanup_(freep) image *images = NULL;
        uint64_t total = 0, unused = 0, room = 0;
        size_t n = 0;
        int r;

        r = lock_room(cache_fd, &lock, path, reterr);
        if (r < 0)
                return r;
        r = list_images(cache_fd, &images, &n);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "%s", path);
        r = get_room(cache_fd, path, &room, reterr);
        for (size_t i = 0; i < n; i++) {
                total += images[i].bytes;
                unused += images[i].is_free ? images[i].bytes : 0;
        }
        if (r == 0 && need > room + unused)
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, -ENOSPC,
                                       "%s has room for %" PRIu64 " bytes, and %" PRIu64
                                       " of images that nobody uses: the image needs about "
                                       "%" PRIu64,
                                       path, room, unused, need);
        for (size_t i = 0; r == 0 && i < n && (need > room || (max > 0 && total + need > max)); i++)
                if (images[i].is_free && throw_away(cache_fd, &images[i])) {
                        total -= images[i].bytes;
                        r = get_room(cache_fd, path, &room, reterr);
                }
        if (r == 0 && need > room)
                return ferry_error_set(reterr, FERRY_RESOURCE_EXHAUSTED, -ENOSPC,
                                       "%s has room for %" PRIu64 " bytes: the image needs about "
                                       "%" PRIu64,
                                       path, room, need);
        return r;
}
