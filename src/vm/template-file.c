/* SPDX-License-Identifier: MIT */
#include "vm/template-file.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/fd.h"
#include "vm/template.h"

#define MAGIC_SIZE 16U
#define BLOCK      (256U << 10) /* stays in a core's own cache from the reading to the writing */
#define RUN_SIZE   16U
/* A run is worth its place in the table, and a write of its own, from so many zero pages on. */
#define GAP        (8U * TEMPLATE_PAGE)
#define MEMORY_MAX ((uint64_t)VM_CONFIG_MEMORY_MAX << 20)

static const uint8_t magic[MAGIC_SIZE] = "ferry template1";

typedef struct run {
        uint64_t at, n;
} run;

/* ---- head ---- */

static void numbers_of(const template_head *head, uint64_t ret[5]) {
        const uint64_t numbers[] = { head->n_key, head->n_devices, head->n_runs, head->n_pages,
                                     head->memory_bytes };

        memcpy(ret, numbers, sizeof(numbers));
}

void template_head_write(const template_head *head, uint8_t ret[TEMPLATE_HEAD_SIZE]) {
        uint64_t numbers[5];

        numbers_of(head, numbers);
        memcpy(ret, magic, MAGIC_SIZE);
        for (size_t i = 0; i < ELEMENTS(numbers); i++)
                be_write(ret + MAGIC_SIZE + 8 * i, numbers[i], 8);
        memcpy(ret + TEMPLATE_HEAD_SIZE - DIGEST_SIZE, head->digest, DIGEST_SIZE);
}

int template_head_parse(const uint8_t data[TEMPLATE_HEAD_SIZE], uint64_t size, template_head *ret) {
        uint64_t numbers[5];

        if (memcmp(data, magic, MAGIC_SIZE) != 0)
                return -EBADMSG;
        for (size_t i = 0; i < ELEMENTS(numbers); i++)
                numbers[i] = be_read(data + MAGIC_SIZE + 8 * i, 8);
        *ret = (template_head){ .n_key = numbers[0],
                                .n_devices = numbers[1],
                                .n_runs = numbers[2],
                                .n_pages = numbers[3],
                                .memory_bytes = numbers[4] };
        memcpy(ret->digest, data + TEMPLATE_HEAD_SIZE - DIGEST_SIZE, DIGEST_SIZE);
        if (ret->n_key > TEMPLATE_KEY_MAX || ret->n_devices > TEMPLATE_DEVICES_MAX ||
            ret->n_runs > TEMPLATE_RUNS_MAX || ret->memory_bytes > MEMORY_MAX ||
            ret->n_pages > ret->memory_bytes)
                return -EBADMSG;
        return size == TEMPLATE_HEAD_SIZE + ret->n_key + ret->n_devices + ret->n_runs * RUN_SIZE +
                                       ret->n_pages
                       ? 0
                       : -EBADMSG;
}

/* ---- reading ---- */

typedef struct reader {
        int fd;
        uint64_t at;
        digest_stream *digest;
        const atomic_bool *stop;
} reader;

static int read_next(reader *r, uint8_t *to, size_t n) {
        size_t have = 0;

        while (have < n) {
                ssize_t k = pread(r->fd, to + have, n - have, (off_t)(r->at + have));

                if (atomic_load(r->stop))
                        return -ECANCELED;
                if (k < 0 && errno == EINTR)
                        continue;
                if (k <= 0)
                        return k < 0 ? -errno : -EBADMSG; /* it has become shorter */
                have += (size_t)k;
        }
        digest_stream_add(r->digest, to, n);
        r->at += n;
        return 0;
}

static int read_alloc(reader *r, size_t n, uint8_t **ret) {
        *ret = malloc(n + 1);
        return *ret ? read_next(r, *ret, n) : -ENOMEM;
}

static int write_at(int fd, const uint8_t *data, size_t n, uint64_t at) {
        while (n > 0) {
                ssize_t k = pwrite(fd, data, n, (off_t)at);

                if (k < 0 && errno == EINTR)
                        continue;
                if (k <= 0)
                        return k < 0 ? -errno : -EIO;
                data += k;
                n -= (size_t)k;
                at += (uint64_t)k;
        }
        return 0;
}

/* Whole pages of the memory, in order, and as many as there are. */
static bool run_is_good(const run *here, uint64_t end_before, uint64_t memory_bytes) {
        return here->n > 0 && here->at % TEMPLATE_PAGE == 0 && here->n % TEMPLATE_PAGE == 0 &&
               here->at >= end_before && here->at <= memory_bytes &&
               here->n <= memory_bytes - here->at;
}

static int read_runs(reader *r, const template_head *head, run **ret) {
        _cleanup_(freep) uint8_t *table = NULL;
        _cleanup_(freep) run *runs = calloc(head->n_runs + 1, sizeof(*runs));
        uint64_t end = 0, total = 0;
        int k;

        if (!runs)
                return -ENOMEM;
        k = read_alloc(r, head->n_runs * RUN_SIZE, &table);
        for (size_t i = 0; k == 0 && i < head->n_runs; i++) {
                runs[i] = (run){ be_read(table + i * RUN_SIZE, 8),
                                 be_read(table + i * RUN_SIZE + 8, 8) };
                if (!run_is_good(&runs[i], end, head->memory_bytes))
                        return -EBADMSG;
                end = runs[i].at + runs[i].n;
                total += runs[i].n;
        }
        if (k < 0)
                return k;
        *ret = TAKE_PTR(runs);
        return total == head->n_pages ? 0 : -EBADMSG;
}

static int read_pages(reader *r, const template_head *head, const run *runs, int memory_fd) {
        _cleanup_(freep) uint8_t *block = malloc(BLOCK);
        uint64_t left = head->n_pages;
        run now = { 0 };
        int k = block ? 0 : -ENOMEM;

        while (k == 0 && left > 0) {
                size_t n = left < BLOCK ? (size_t)left : BLOCK;

                k = read_next(r, block, n);
                left -= n;
                for (size_t at = 0; k == 0 && at < n;) {
                        size_t part;

                        if (now.n == 0)
                                now = *runs++;
                        part = now.n < n - at ? (size_t)now.n : n - at;
                        if (memory_fd >= 0)
                                k = write_at(memory_fd, block + at, part, now.at);
                        now.at += part;
                        now.n -= part;
                        at += part;
                }
        }
        return k;
}

static int read_all(reader *r, uint64_t memory_bytes, int memory_fd, uint8_t **ret_devices,
                    size_t *ret_n) {
        _cleanup_(freep) uint8_t *key = NULL, *devices = NULL;
        _cleanup_(freep) run *runs = NULL;
        uint8_t data[TEMPLATE_HEAD_SIZE], digest[DIGEST_SIZE];
        template_head head;
        struct stat st;
        int k;

        if (fstat(r->fd, &st) < 0)
                return -errno;
        if (pread(r->fd, data, sizeof(data), 0) != (ssize_t)sizeof(data) ||
            template_head_parse(data, (uint64_t)st.st_size, &head) < 0 ||
            (memory_bytes > 0 && head.memory_bytes != memory_bytes))
                return -EBADMSG;
        digest_stream_add(r->digest, data, sizeof(data) - DIGEST_SIZE);
        r->at = sizeof(data);
        k = read_alloc(r, head.n_key, &key);
        if (k == 0)
                k = read_alloc(r, head.n_devices, &devices);
        if (k == 0)
                k = read_runs(r, &head, &runs);
        if (k == 0)
                k = read_pages(r, &head, runs, memory_fd);
        if (k < 0)
                return k;
        digest_stream_end(r->digest, digest);
        if (!digest_equal(digest, head.digest))
                return -EBADMSG;
        *ret_devices = TAKE_PTR(devices);
        *ret_n = head.n_devices;
        return 0;
}

int template_read(int fd, int memory_fd, uint64_t memory_bytes, const atomic_bool *stop,
                  uint8_t **ret_devices, size_t *ret_n, ferry_error *reterr) {
        _cleanup_(digest_stream_freep) digest_stream *digest = NULL;
        reader r = { .fd = fd, .stop = stop };
        int k;

        k = digest_stream_new(&digest);
        r.digest = digest;
        if (k == 0)
                k = read_all(&r, memory_bytes, memory_fd, ret_devices, ret_n);
        if (k == -EBADMSG)
                return ferry_error_set(reterr, FERRY_DATA_LOSS, k,
                                       "it is damaged: what it holds is not what was written");
        return k < 0 ? ferry_error_set_errno(reterr, k, "read it") : 0;
}

/* ---- writing ---- */

typedef struct runs_found {
        run *items;
        size_t n, room;
} runs_found;

static bool is_zero(const uint8_t *page) {
        return page[0] == 0 && memcmp(page, page + 1, TEMPLATE_PAGE - 1) == 0;
}

static int add_page(runs_found *f, uint64_t at) {
        run *last = f->n > 0 ? &f->items[f->n - 1] : NULL;
        run *more;

        if (last && at - (last->at + last->n) <= GAP) {
                last->n = at + TEMPLATE_PAGE - last->at;
                return 0;
        }
        if (f->n == TEMPLATE_RUNS_MAX)
                return -EFBIG;
        if (f->n == f->room) {
                f->room = f->room ? 2 * f->room : 1024;
                more = realloc(f->items, f->room * sizeof(*more));
                if (!more)
                        return -ENOMEM;
                f->items = more;
        }
        f->items[f->n++] = (run){ at, TEMPLATE_PAGE };
        return 0;
}

/* What was never touched is not read: reading would give it a page. */
static int find_runs(int fd, const uint8_t *memory, uint64_t total, runs_found *f) {
        off_t data, hole = 0;
        int r = 0;

        while (r == 0 && (uint64_t)hole < total && (data = lseek(fd, hole, SEEK_DATA)) >= 0) {
                hole = lseek(fd, data, SEEK_HOLE);
                if (hole < 0)
                        return -errno;
                for (uint64_t at = (uint64_t)data; r == 0 && at < (uint64_t)hole;
                     at += TEMPLATE_PAGE)
                        if (!is_zero(memory + at))
                                r = add_page(f, at);
        }
        return r;
}

typedef struct writer {
        int fd;
        digest_stream *digest;
} writer;

static int put(const writer *w, const void *data, size_t n) {
        digest_stream_add(w->digest, data, n);
        return fd_write_all(w->fd, data, n);
}

static int put_runs(const writer *w, const runs_found *f) {
        _cleanup_(freep) uint8_t *table = malloc(f->n * RUN_SIZE + 1);

        if (!table)
                return -ENOMEM;
        for (size_t i = 0; i < f->n; i++) {
                be_write(table + i * RUN_SIZE, f->items[i].at, 8);
                be_write(table + i * RUN_SIZE + 8, f->items[i].n, 8);
        }
        return put(w, table, f->n * RUN_SIZE);
}

static int write_all(const writer *w, const runs_found *f, const uint8_t *memory,
                     template_head *head, const char *key, const void *devices) {
        uint8_t data[TEMPLATE_HEAD_SIZE];
        int r;

        for (size_t i = 0; i < f->n; i++)
                head->n_pages += f->items[i].n;
        template_head_write(head, data);
        digest_stream_add(w->digest, data, sizeof(data) - DIGEST_SIZE);
        r = lseek(w->fd, sizeof(data), SEEK_SET) < 0 ? -errno : put(w, key, head->n_key);
        if (r == 0)
                r = put(w, devices, head->n_devices);
        if (r == 0)
                r = put_runs(w, f);
        for (size_t i = 0; r == 0 && i < f->n; i++)
                r = put(w, memory + f->items[i].at, f->items[i].n);
        if (r < 0)
                return r;
        digest_stream_end(w->digest, head->digest);
        template_head_write(head, data);
        return write_at(w->fd, data, sizeof(data), 0);
}

int template_write(int fd, const char *key, int memory_fd, uint64_t memory_bytes,
                   const void *devices, size_t n_devices, ferry_error *reterr) {
        _cleanup_(digest_stream_freep) digest_stream *digest = NULL;
        template_head head = { .n_key = strlen(key),
                               .n_devices = n_devices,
                               .memory_bytes = memory_bytes };
        runs_found found = { .n = 0 };
        void *memory;
        int r;

        if (head.n_key > TEMPLATE_KEY_MAX || n_devices > TEMPLATE_DEVICES_MAX ||
            memory_bytes == 0 || memory_bytes % TEMPLATE_PAGE != 0)
                return ferry_error_set(reterr, FERRY_INVALID_ARGUMENT, -EINVAL,
                                       "no template can be made of this VM");
        memory = mmap(NULL, memory_bytes, PROT_READ, MAP_SHARED, memory_fd, 0);
        if (memory == MAP_FAILED)
                return ferry_error_set_errno(reterr, -errno, "the guest's memory");
        r = digest_stream_new(&digest);
        if (r == 0)
                r = find_runs(memory_fd, memory, memory_bytes, &found);
        head.n_runs = found.n;
        if (r == 0)
                r = write_all(&(writer){ fd, digest }, &found, memory, &head, key, devices);
        (void)munmap(memory, memory_bytes);
        free(found.items);
        return r < 0 ? ferry_error_set_errno(reterr, r, "write it") : 0;
}
