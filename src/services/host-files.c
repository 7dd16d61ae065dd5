/* SPDX-License-Identifier: MIT */
#include "services/host-files.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "oci/oci.h"

/* What is too large is looked at further for its figures, up to here. */
#define COUNT_MAX 16384U
#define TRIES     4U
#define MEBIBYTE  1048576.0

typedef struct walk {
        host_files *files;
        const char *source;
        dev_t device;
        size_t n_before, bytes_before, n_notes_before;
        size_t n;       /* seen, of this source */
        uint64_t bytes; /* likewise */
        ferry_error *reterr;
} walk;

static int read_folder(walk *w, int fd, const char *path, unsigned depth);

/* ---- what has been read ---- */

static void forget(walk *w) {
        host_files *f = w->files;

        while (f->n > w->n_before) {
                f->n--;
                free((char *)f->items[f->n].path);
                free((void *)f->items[f->n].data);
        }
        while (f->n_notes > w->n_notes_before)
                free(f->notes[--f->n_notes]);
        f->bytes = w->bytes_before;
}

static _printf_(2, 3) void note(walk *w, const char *format, ...) {
        host_files *f = w->files;
        char text[512];
        va_list ap;

        va_start(ap, format);
        (void)vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        if (f->n_notes < HOST_FILES_NOTES_MAX &&
            asprintf(&f->notes[f->n_notes], "bind mount of %.500s: %s", w->source, text) >= 0)
                f->n_notes++;
}

/* Takes the data when it says 0. */
static int keep(walk *w, const char *path, const struct stat *st, void *data, size_t n) {
        host_files *f = w->files;
        char *copy = strdup(path);

        if (!f->items)
                f->items = calloc(HOST_FILES_MAX, sizeof(*f->items));
        if (!f->items || !copy) {
                free(copy);
                return -ENOMEM;
        }
        f->items[f->n++] = (guest_file){ .path = copy,
                                         .mode = st->st_mode & (S_IFMT | 07777),
                                         .uid = st->st_uid,
                                         .gid = st->st_gid,
                                         .data = data,
                                         .n = n };
        f->bytes += n;
        return 0;
}

static bool is_too_large(const walk *w) {
        return w->n_before + w->n > HOST_FILES_MAX ||
               w->bytes_before + w->bytes > HOST_FILES_BYTES_MAX;
}

static int complain_of_size(const walk *w) {
        return ferry_error_set(
                w->reterr, FERRY_INVALID_ARGUMENT, -EFBIG,
                "bind mount of %.500s: %s%zu files, folders and links with %.1f MiB: what is bound "
                "into a container in a VM is copied, and in all that is at most %u with %.1f MiB "
                "(others of its mounts have %zu with %.1f MiB): mount a smaller part of it, or put "
                "it "
                "into the image",
                w->source, w->n > COUNT_MAX ? "more than " : "",
                w->n > COUNT_MAX ? COUNT_MAX : w->n, (double)w->bytes / MEBIBYTE, HOST_FILES_MAX,
                HOST_FILES_BYTES_MAX / MEBIBYTE, w->n_before, (double)w->bytes_before / MEBIBYTE);
}

/* ---- one of them, open as O_PATH: what has been looked at is what is read ---- */

static int read_file(walk *w, int fd, const char *path, const struct stat *st) {
        size_t n, left = HOST_FILES_BYTES_MAX - w->files->bytes;
        _cleanup_(freep) char *data = NULL;
        char again[32];
        int r;

        if (is_too_large(w) || (uint64_t)st->st_size > left) {
                w->bytes += (uint64_t)st->st_size;
                return 0;
        }
        (void)snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
        r = file_read(AT_FDCWD, again, left, &data,
                      &n); /* the kernel's own do not know their size */
        if (r == -EFBIG)
                return -EAGAIN;
        if (r < 0)
                return r;
        w->bytes += n;
        r = keep(w, path, st, data, n);
        if (r == 0)
                TAKE_PTR(data);
        return r;
}

static int read_link(walk *w, int fd, const char *path, const struct stat *st) {
        _cleanup_(freep) char *target = malloc(PATH_MAX);
        ssize_t n;
        int r;

        if (!target)
                return -ENOMEM;
        n = readlinkat(fd, "", target, PATH_MAX);
        if (n < 0)
                return -errno;
        w->bytes += (size_t)n;
        if (is_too_large(w))
                return 0;
        r = keep(w, path, st, target, (size_t)n);
        if (r == 0)
                TAKE_PTR(target);
        return r;
}

static int read_one(walk *w, int fd, const char *path, unsigned depth) {
        struct stat st;
        int r;

        if (fstat(fd, &st) < 0)
                return -errno;
        w->n++;
        if (depth > 0 && st.st_dev != w->device) {
                note(w, "left out: %.300s: another file system is mounted there", path);
                return 0;
        }
        if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode)) {
                note(w, "left out: %.300s: neither a file, nor a folder, nor a link", path);
                return 0;
        }
        if (S_ISREG(st.st_mode))
                return read_file(w, fd, path, &st);
        if (S_ISLNK(st.st_mode))
                return read_link(w, fd, path, &st);
        r = is_too_large(w) ? 0 : keep(w, path, &st, NULL, 0);
        return r < 0 ? r : read_folder(w, fd, path, depth);
}

/* ---- a folder ---- */

static int read_entry(walk *w, int folder, const char *path, const char *name, unsigned depth) {
        _cleanup_(closep) int fd = openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        char inner[GUEST_FILE_PATH_MAX + 1];

        if (fd < 0)
                return errno == ENOENT ? -EAGAIN : -errno;
        if (snprintf(inner, sizeof(inner), "%s/%s", path, name) >= (int)sizeof(inner))
                return ferry_error_set(w->reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "bind mount of %.500s: the path %.100s... in it is too long",
                                       w->source, inner);
        return read_one(w, fd, inner, depth);
}

static int read_entries(walk *w, DIR *folder, const char *path, unsigned depth) {
        const struct dirent *entry;
        int r = 0;

        while (r == 0 && w->n <= COUNT_MAX && (errno = 0, entry = readdir(folder)))
                if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
                        r = read_entry(w, dirfd(folder), path, entry->d_name, depth + 1);
        return r == 0 && w->n <= COUNT_MAX ? -errno : r;
}

static int read_folder(walk *w, int fd, const char *path, unsigned depth) {
        DIR *folder;
        int listing, r;

        if (depth == HOST_FILES_DEPTH_MAX)
                return ferry_error_set(w->reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "bind mount of %.500s: there are more than %u folders in "
                                       "each other",
                                       w->source, HOST_FILES_DEPTH_MAX);
        listing = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (listing < 0)
                return -errno;
        folder = fdopendir(listing);
        if (!folder) {
                r = -errno;
                fd_close(listing);
                return r;
        }
        r = read_entries(w, folder, path, depth);
        (void)closedir(folder);
        return r;
}

/* ---- the whole ---- */

static int open_source(walk *w) {
        _cleanup_(closep) int fd = open(w->source, O_PATH | O_CLOEXEC); /* as mount(2) follows it */
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        w->device = st.st_dev;
        if (strstr(w->source, "/kubernetes.io~empty-dir/"))
                return ferry_error_set(
                        w->reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                        "bind mount of %.500s: a part of an emptyDir is shared by the "
                        "containers of a pod, and a copy would not be",
                        w->source);
        if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
                return ferry_error_set(
                        w->reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                        "bind mount of %.500s: it is neither a file nor a folder, and "
                        "nothing else can be copied into a VM",
                        w->source);
        return TAKE_FD(fd);
}

static int read_source(walk *w, const char *name) {
        _cleanup_(closep) int fd = open_source(w);
        int r = fd < 0 ? fd : read_one(w, fd, name, 0);

        return r == 0 && is_too_large(w) ? complain_of_size(w) : r;
}

static bool is_same(const guest_file *a, const guest_file *b) {
        return strcmp(a->path, b->path) == 0 && a->mode == b->mode && a->uid == b->uid &&
               a->gid == b->gid && a->n == b->n &&
               (a->n == 0 || memcmp(a->data, b->data, a->n) == 0);
}

/* What is the same when it is read once more was so between the two: one version of a volume, which
 * Kubernetes changes by renaming a link over another, and not a part of each. */
static int read_again(const walk *first, const char *name) {
        _cleanup_(host_files_done) host_files files = { .n = 0 };
        walk w = { .files = &files, .source = first->source, .reterr = first->reterr };
        const guest_file *before = first->files->items + first->n_before;
        int r = read_source(&w, name);

        if (r == 0 && files.n != first->files->n - first->n_before)
                return -EAGAIN;
        for (size_t i = 0; r == 0 && i < files.n; i++)
                if (!is_same(&before[i], &files.items[i]))
                        r = -EAGAIN;
        return r;
}

static int add(host_files *files, const char *source, const char *name, ferry_error *reterr) {
        _cleanup_(ferry_error_donep) ferry_error error = FERRY_ERROR_INIT;
        walk w = { .files = files,
                   .source = source,
                   .n_before = files->n,
                   .bytes_before = files->bytes,
                   .n_notes_before = files->n_notes,
                   .reterr = &error };
        int r = -EAGAIN;

        for (unsigned i = 0; i < TRIES && r == -EAGAIN; i++) {
                w.n = w.bytes = 0;
                r = read_source(&w, name);
                if (r == 0)
                        r = read_again(&w, name);
                if (r < 0)
                        forget(&w);
        }
        if (r == -EAGAIN)
                return ferry_error_set(reterr, FERRY_UNAVAILABLE, r,
                                       "bind mount of %.500s: it changes while it is read", source);
        if (error.code != FERRY_OK) {
                ferry_error_move(reterr, &error);
                return r;
        }
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "bind mount of %.500s", source);
        note(&w,
             "copied into the VM (%zu of files, folders and links, %zu bytes): what is changed on "
             "one "
             "side from now on does not get to the other",
             files->n - w.n_before, files->bytes - w.bytes_before);
        return 0;
}

/* Of that only what it is like: it is empty until its pod's containers write into it. */
static int add_shared(host_files *files, const char *source, const char *name,
                      ferry_error *reterr) {
        walk w = { .files = files, .source = source, .n_before = files->n, .reterr = reterr };
        struct stat st;
        int r;

        if (stat(source, &st) < 0)
                return ferry_error_set_errno(reterr, -errno, "bind mount of %.500s", source);
        if (!S_ISDIR(st.st_mode))
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -ENOTDIR,
                                       "bind mount of %.500s: this emptyDir is no folder", source);
        w.n = 1;
        if (is_too_large(&w))
                return complain_of_size(&w);
        r = keep(&w, name, &st, NULL, 0);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "bind mount of %.500s", source);
        files->items[files->n - 1].shared = true;
        note(&w,
             "an emptyDir, in the VM's memory: all of its containers share it, and nothing of it "
             "gets to this host");
        return 0;
}

int host_files_read(char *const *sources, size_t n_sources, host_files *ret, ferry_error *reterr) {
        char name[24];
        int r = 0;

        *ret = (host_files){ .n = 0 };
        for (size_t i = 0; r == 0 && i < n_sources; i++) {
                const char *shared = oci_shared_name(sources[i]);

                (void)snprintf(name, sizeof(name), "%zu", i);
                r = shared ? add_shared(ret, sources[i], shared, reterr)
                           : add(ret, sources[i], name, reterr);
        }
        return r;
}

void host_files_done(host_files *files) {
        forget(&(walk){ .files = files });
        free(files->items);
        *files = (host_files){ .n = 0 };
}
