/* SPDX-License-Identifier: MIT */
#include "guestlink/landing.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"

#define USUAL_SIZE 65536

typedef struct landing_head {
        char generation[32]; /* "": nothing has landed */
        uint64_t n;          /* bytes behind this */
} landing_head;

static int open_file(int dir_fd) {
        int fd =
                openat(dir_fd, GUEST_LANDING_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        return fd < 0 ? -errno : fd;
}

static int put(int fd, const void *data, size_t n, size_t at) {
        for (size_t done = 0; done < n;) {
                ssize_t k = pwrite(fd, (const uint8_t *)data + done, n - done, (off_t)(at + done));

                if (k < 0 && errno != EINTR)
                        return -errno;
                done += k > 0 ? (size_t)k : 0;
        }
        return 0;
}

static bool get(int fd, void *data, size_t n, size_t at) {
        for (size_t done = 0; done < n;) {
                ssize_t k = pread(fd, (uint8_t *)data + done, n - done, (off_t)(at + done));

                if (k == 0 || (k < 0 && errno != EINTR))
                        return false;
                done += k > 0 ? (size_t)k : 0;
        }
        return true;
}

int guest_landing_prepare(int dir_fd) {
        static const uint8_t zeros[4096]; /* written too: the first page is all that most need */
        _cleanup_(closep) int fd = open_file(dir_fd);
        struct stat st;

        if (fd < 0)
                return fd;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_size > 0)
                return 0;
        return fallocate(fd, 0, 0, USUAL_SIZE) < 0 ? -errno : put(fd, zeros, sizeof(zeros), 0);
}

static int read_from(int fd, const char *generation, size_t max, uint8_t **ret, size_t *ret_n) {
        _cleanup_(freep) uint8_t *data = NULL;
        landing_head head;

        if (!get(fd, &head, sizeof(head), 0) || generation[0] == '\0' ||
            strncmp(head.generation, generation, sizeof(head.generation)) != 0)
                return 0;
        if (head.n > max)
                return -EFBIG;
        data = malloc(head.n + 1);
        if (!data)
                return -ENOMEM;
        if (!get(fd, data, head.n, sizeof(head)))
                return -EIO;
        *ret = TAKE_PTR(data);
        *ret_n = head.n;
        return 1;
}

/* The head counts, and is written last: a process that is killed before has landed nothing. */
int guest_landing_write(int dir_fd, const char *generation, const void *data, size_t n) {
        static const landing_head nothing;
        _cleanup_(closep) int fd = open_file(dir_fd);
        _cleanup_(freep) uint8_t *before = NULL;
        landing_head head = { .n = n };
        size_t n_before;
        int r;

        if (fd < 0)
                return fd;
        if (strlen(generation) >= sizeof(head.generation))
                return -EINVAL;
        /* said again, on another connection: the answer to the first may have been heard */
        if (read_from(fd, generation, n, &before, &n_before) > 0 && n_before == n &&
            memcmp(before, data, n) == 0)
                return 0;
        memcpy(head.generation, generation, strlen(generation));
        r = put(fd, &nothing, sizeof(nothing), 0);
        if (r == 0)
                r = put(fd, data, n, sizeof(head));
        return r < 0 ? r : put(fd, &head, sizeof(head), 0);
}

int guest_landing_read(int dir_fd, const char *generation, size_t max, uint8_t **ret,
                       size_t *ret_n) {
        _cleanup_(closep) int fd =
                openat(dir_fd, GUEST_LANDING_FILE, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        return read_from(fd, generation, max, ret, ret_n);
}

void guest_landing_remove(int dir_fd) {
        (void)unlinkat(dir_fd, GUEST_LANDING_FILE, 0);
}
