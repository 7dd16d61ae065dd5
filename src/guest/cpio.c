/* SPDX-License-Identifier: MIT */
#include "guest/cpio.h"

#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#define HEADER_SIZE   110U
#define BLOCK_SIZE    512U
#define FIRST_INODE   1U
#define TRAILER       "TRAILER!!!"
#define INITIAL_SPACE (1024U * 1024)

typedef struct cpio_entry {
        const char *path;
        uint32_t inode;
        uint32_t mode;
        uint32_t n_links;
        uint32_t major;
        uint32_t minor;
        const void *data;
        size_t n;
} cpio_entry;

static int writer_reserve(cpio_writer *w, size_t n) {
        size_t wanted = w->n_allocated > 0 ? w->n_allocated : INITIAL_SPACE;
        uint8_t *data;

        if (n > CPIO_SIZE_MAX || w->n > CPIO_SIZE_MAX - n)
                return -EFBIG;
        if (w->n + n <= w->n_allocated)
                return 0;
        while (wanted < w->n + n)
                wanted *= 2;
        data = realloc(w->data, wanted);
        if (!data)
                return -ENOMEM;
        w->data = data;
        w->n_allocated = wanted;
        return 0;
}

static int writer_append(cpio_writer *w, const void *data, size_t n) {
        int r;

        r = writer_reserve(w, n);
        if (r < 0)
                return r;
        if (n > 0)
                memcpy(w->data + w->n, data, n);
        w->n += n;
        return 0;
}

static int writer_pad(cpio_writer *w, size_t multiple) {
        size_t n = (multiple - w->n % multiple) % multiple;
        int r;

        r = writer_reserve(w, n);
        if (r < 0)
                return r;
        if (n > 0)
                memset(w->data + w->n, 0, n);
        w->n += n;
        return 0;
}

static int writer_put(cpio_writer *w, const cpio_entry *e) {
        size_t n_path = strlen(e->path) + 1;
        char header[HEADER_SIZE + 1];
        int r;

        if (e->n > CPIO_SIZE_MAX)
                return -EFBIG;
        /* Magic, inode, mode, uid, gid, links, mtime, size, device and rdev (major, minor),
         * size of the path with its NUL, checksum (always 0 in this format). */
        (void)snprintf(header, sizeof(header),
                       "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", e->inode,
                       e->mode, 0U, 0U, e->n_links, 0U, (unsigned)e->n, 0U, 0U, e->major, e->minor,
                       (unsigned)n_path, 0U);
        r = writer_append(w, header, HEADER_SIZE);
        if (r == 0)
                r = writer_append(w, e->path, n_path);
        if (r == 0)
                r = writer_pad(w, 4);
        if (r == 0)
                r = writer_append(w, e->data, e->n);
        if (r == 0)
                r = writer_pad(w, 4);
        return r;
}

static int writer_add(cpio_writer *w, cpio_entry e) {
        if (e.path[0] == '\0' || e.path[0] == '/' || strlen(e.path) > CPIO_PATH_MAX)
                return -EINVAL;
        e.inode = FIRST_INODE + w->n_entries++;
        return writer_put(w, &e);
}

int cpio_add_folder(cpio_writer *w, const char *path, uint32_t mode) {
        return writer_add(w, (cpio_entry){ .path = path, .mode = S_IFDIR | mode, .n_links = 2 });
}

int cpio_add_file(cpio_writer *w, const char *path, uint32_t mode, const void *data, size_t n) {
        return writer_add(
                w,
                (cpio_entry){
                        .path = path, .mode = S_IFREG | mode, .n_links = 1, .data = data, .n = n });
}

int cpio_add_link(cpio_writer *w, const char *path, const char *target) {
        return writer_add(w, (cpio_entry){ .path = path,
                                           .mode = S_IFLNK | 0777,
                                           .n_links = 1,
                                           .data = target,
                                           .n = strlen(target) });
}

int cpio_add_device(cpio_writer *w, const char *path, uint32_t mode, uint32_t major,
                    uint32_t minor) {
        return writer_add(w, (cpio_entry){ .path = path,
                                           .mode = S_IFCHR | mode,
                                           .n_links = 1,
                                           .major = major,
                                           .minor = minor });
}

int cpio_finish(cpio_writer *w) {
        int r;

        r = writer_put(w, &(cpio_entry){ .path = TRAILER, .n_links = 1 });
        if (r < 0)
                return r;
        return writer_pad(w, BLOCK_SIZE);
}

void cpio_done(cpio_writer *w) {
        free(w->data);
        *w = (cpio_writer){ 0 };
}
