/* SPDX-License-Identifier: MIT */
#include "cli/log-part.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define CHUNK       16384U
#define COUNTED_MAX (1 << 20)

const log_part log_part_console = {
        .title = "console", .files = { LOG_PART_BEFORE, "console.log.old", "console.log" }
};
const log_part log_part_shim = { .title = "shim", .files = { "shim.log" } };
const log_part log_part_qemu = { .title = "qemu", .files = { "qemu.log.old", "qemu.log" } };

static int open_file(int folder_fd, const char *file, off_t *ret_size) {
        _cleanup_(closep) int fd = openat(folder_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
                return -EBADF;
        *ret_size = st.st_size;
        return TAKE_FD(fd);
}

/* ---- printing ---- */

static int put(log_output *o, const char *text, size_t n) {
        return fwrite(text, 1, n, stdout) == n ? 0 : -EIO;
}

static int put_clean(log_output *o, const char *text, size_t n) {
        int r = 0;

        for (size_t i = 0; r == 0 && i < n; i++) {
                unsigned char c = (unsigned char)text[i];
                const char shown[2] = { '^', (char)(c ^ 0x40) };

                if (c == '\r')
                        continue;
                if ((c < ' ' && c != '\n' && c != '\t') || c == 0x7f)
                        r = put(o, shown, sizeof(shown));
                else
                        r = put(o, &text[i], 1);
        }
        return r;
}

static int put_title(log_output *o, const char *title) {
        bool first = !o->title;
        int n;

        if (!o->titles || o->title == title)
                return 0;
        n = printf("%s%s==> %s <==\n", o->in_line ? "\n" : "", first ? "" : "\n", title);
        o->title = title;
        o->in_line = false;
        return n < 0 ? -EIO : 0;
}

/* From `offset` to the end, which is where *offset is then. */
static int print_rest(int fd, off_t *offset, const char *title, log_output *o) {
        char chunk[CHUNK];
        ssize_t n;
        int r = 0;

        while (r == 0 && (n = pread(fd, chunk, sizeof(chunk), *offset)) > 0) {
                *offset += n;
                r = put_title(o, title);
                if (r == 0)
                        r = o->clean ? put_clean(o, chunk, (size_t)n) : put(o, chunk, (size_t)n);
                o->in_line = chunk[n - 1] != '\n';
        }
        return r < 0 ? r : n < 0 ? -errno : 0;
}

/* ---- the last lines ---- */

/* Where the last *n_lines of a file begin; those that it has are taken off. */
static off_t find_lines(int fd, off_t size, uint64_t *n_lines) {
        off_t lowest = size > COUNTED_MAX ? size - COUNTED_MAX : 0, at = size;
        char chunk[CHUNK];

        if (size == 0 || *n_lines == 0)
                return size;
        while (at > lowest) {
                size_t n =
                        at - lowest > (off_t)sizeof(chunk) ? sizeof(chunk) : (size_t)(at - lowest);

                at -= (off_t)n;
                if (pread(fd, chunk, n, at) != (ssize_t)n)
                        return size;
                for (size_t i = n; i > 0; i--)
                        /* the last character ends a line, and begins none */
                        if (chunk[i - 1] == '\n' && at + (off_t)i < size && --*n_lines == 0)
                                return at + (off_t)i;
        }
        --*n_lines;
        return lowest;
}

int log_reader_print(log_reader *reader, int folder_fd, uint64_t n_lines, log_output *output) {
        const log_part *part = reader->part;
        int fds[LOG_PART_FILES_MAX], r = 0;
        off_t offsets[LOG_PART_FILES_MAX];
        size_t n = 0;

        while (n < LOG_PART_FILES_MAX && part->files[n])
                n++;
        for (size_t i = n; i-- > 0;) {
                off_t size;

                fds[i] = open_file(folder_fd, part->files[i], &size);
                if (fds[i] >= 0)
                        offsets[i] =
                                n_lines == LOG_PART_ALL ? 0 : find_lines(fds[i], size, &n_lines);
        }
        for (size_t i = 0; i < n; i++) {
                if (fds[i] >= 0 && r == 0)
                        r = print_rest(fds[i], &offsets[i], part->title, output);
                if (i + 1 < n)
                        fd_close(fds[i]);
        }
        log_reader_done(reader);
        reader->fd = fds[n - 1];
        reader->offset = reader->fd >= 0 ? offsets[n - 1] : 0;
        return r;
}

/* ---- going on ---- */

static const char *last_file(const log_part *part) {
        size_t n = 0;

        while (n + 1 < LOG_PART_FILES_MAX && part->files[n + 1])
                n++;
        return part->files[n];
}

/* A log that was begun anew (vm/files.h): what it has now is new. */
static int read_on(log_reader *reader, log_output *output) {
        struct stat st;

        if (reader->fd < 0)
                return 0;
        if (fstat(reader->fd, &st) == 0 && st.st_size < reader->offset)
                reader->offset = 0;
        return print_rest(reader->fd, &reader->offset, reader->part->title, output);
}

static bool is_same_file(int a, int b) {
        struct stat st, other;

        return fstat(a, &st) == 0 && fstat(b, &other) == 0 && st.st_dev == other.st_dev &&
               st.st_ino == other.st_ino;
}

int log_reader_go_on(log_reader *reader, int folder_fd, log_output *output) {
        _cleanup_(closep) int fd = -EBADF;
        off_t size;
        int r = read_on(reader, output);

        if (r < 0)
                return r;
        fd = open_file(folder_fd, last_file(reader->part), &size);
        if (fd < 0 || (reader->fd >= 0 && is_same_file(fd, reader->fd)))
                return 0;
        log_reader_done(reader);
        reader->fd = TAKE_FD(fd);
        reader->offset = 0;
        return read_on(reader, output);
}

/* ---- to be carried ---- */

char *log_part_tail(const log_part *part, int folder_fd, size_t max, size_t *ret_n) {
        _cleanup_(freep) char *text = malloc(max);
        size_t start = max; /* it is filled from its end */

        for (size_t i = LOG_PART_FILES_MAX; text && start > 0 && i-- > 0;) {
                _cleanup_(closep) int fd = -EBADF;
                off_t size;
                size_t n;

                if (!part->files[i])
                        continue;
                fd = open_file(folder_fd, part->files[i], &size);
                n = fd < 0 || size <= 0 ? 0 : (uint64_t)size > start ? start : (size_t)size;
                if (n == 0)
                        continue;
                if (pread(fd, text + start - n, n, size - (off_t)n) != (ssize_t)n)
                        break;
                start -= n;
        }
        if (!text || start == max)
                return NULL;
        if (start == 0) { /* there was more */
                const char *newline = memchr(text, '\n', max - 1);

                start = newline ? (size_t)(newline + 1 - text) : 0;
        }
        *ret_n = max - start;
        memmove(text, text + start, *ret_n);
        return TAKE_PTR(text);
}
