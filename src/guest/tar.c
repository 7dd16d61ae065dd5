/* SPDX-License-Identifier: MIT */
#include "guest/tar.h"

#include <stdbool.h>
#include <string.h>

#define BLOCK_SIZE 512U

/* Offsets and sizes of the header's fields. */
#define NAME_SIZE       100U
#define SIZE_OFFSET     124U
#define SIZE_SIZE       12U
#define CHECKSUM_OFFSET 148U
#define CHECKSUM_SIZE   8U
#define TYPE_OFFSET     156U
#define MAGIC_OFFSET    257U
#define PREFIX_OFFSET   345U
#define PREFIX_SIZE     155U

static int read_block(tar_reader *t, uint8_t *ret) {
        if (fread(ret, 1, BLOCK_SIZE, t->file) == BLOCK_SIZE)
                return 0;
        return ferror(t->file) ? -EIO : -EBADMSG;
}

static int skip(tar_reader *t, uint64_t n) {
        char scratch[16 * BLOCK_SIZE];

        while (n > 0) {
                size_t now = n < sizeof(scratch) ? (size_t)n : sizeof(scratch);

                if (fread(scratch, 1, now, t->file) != now)
                        return ferror(t->file) ? -EIO : -EBADMSG;
                n -= now;
        }
        return 0;
}

/* Octal digits, then NULs or blanks; leading blanks allowed. */
static int parse_octal(const uint8_t *text, size_t n, uint64_t *ret) {
        uint64_t value = 0;
        size_t i = 0;
        bool any = false;

        while (i < n && text[i] == ' ')
                i++;
        for (; i < n && text[i] >= '0' && text[i] <= '7'; i++, any = true)
                value = value * 8 + (uint64_t)(text[i] - '0');
        for (; i < n; i++)
                if (text[i] != '\0' && text[i] != ' ')
                        return -EBADMSG;
        if (!any)
                return -EBADMSG;
        *ret = value; /* 12 digits at most: fits */
        return 0;
}

static bool checksum_holds(const uint8_t *header) {
        uint64_t told, sum = 0;

        if (parse_octal(header + CHECKSUM_OFFSET, CHECKSUM_SIZE, &told) < 0)
                return false;
        for (size_t i = 0; i < BLOCK_SIZE; i++)
                if (i >= CHECKSUM_OFFSET && i < CHECKSUM_OFFSET + CHECKSUM_SIZE)
                        sum += ' '; /* it counts itself as blanks */
                else
                        sum += header[i];
        return sum == told;
}

static bool all_zero(const uint8_t *block) {
        for (size_t i = 0; i < BLOCK_SIZE; i++)
                if (block[i] != 0)
                        return false;
        return true;
}

/* POSIX ustar splits long paths in two; GNU's magic has a blank where POSIX has a NUL. */
static void set_path(tar_reader *t, const uint8_t *header) {
        bool has_prefix =
                memcmp(header + MAGIC_OFFSET, "ustar\0", 6) == 0 && header[PREFIX_OFFSET] != '\0';

        (void)snprintf(t->path, sizeof(t->path), "%.*s%s%.*s", has_prefix ? (int)PREFIX_SIZE : 0,
                       (const char *)header + PREFIX_OFFSET, has_prefix ? "/" : "", (int)NAME_SIZE,
                       (const char *)header);
}

static int read_header(tar_reader *t) {
        uint8_t header[BLOCK_SIZE];
        int r;

        r = read_block(t, header);
        if (r < 0)
                return r;
        if (all_zero(header))
                return 0;
        if (!checksum_holds(header))
                return -EBADMSG;
        r = parse_octal(header + SIZE_OFFSET, SIZE_SIZE, &t->size);
        if (r < 0)
                return r;
        t->type = header[TYPE_OFFSET] == '\0' ? '0' : (char)header[TYPE_OFFSET];
        t->n_left = t->size;
        t->n_padding = (BLOCK_SIZE - t->size % BLOCK_SIZE) % BLOCK_SIZE;
        set_path(t, header);
        return 1;
}

int tar_next(tar_reader *t) {
        _cleanup_(freep) char *long_path = NULL;
        size_t n_long = 0;
        int r;

        for (;;) {
                r = skip(t, t->n_left);
                if (r == 0)
                        r = skip(t, t->n_padding);
                if (r == 0)
                        r = read_header(t);
                if (r <= 0)
                        return r;
                if (t->type == 'L') { /* GNU: the content is the next entry's path */
                        if (t->size > TAR_PATH_MAX || long_path)
                                return -EBADMSG;
                        r = tar_read(t, &long_path, &n_long);
                        if (r < 0)
                                return r;
                        continue;
                }
                if (long_path)
                        (void)snprintf(t->path, sizeof(t->path), "%s", long_path);
                return 1;
        }
}

int tar_read(tar_reader *t, char **ret, size_t *ret_n) {
        _cleanup_(freep) char *data = NULL;
        size_t n;

        if (t->n_left > TAR_FILE_MAX)
                return -EFBIG;
        n = (size_t)t->n_left;
        data = malloc(n + 1);
        if (!data)
                return -ENOMEM;
        if (fread(data, 1, n, t->file) != n)
                return ferror(t->file) ? -EIO : -EBADMSG;
        data[n] = '\0';
        t->n_left = 0;
        *ret = TAKE_PTR(data);
        *ret_n = n;
        return 0;
}
