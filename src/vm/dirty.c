/* SPDX-License-Identifier: MIT */
#include "vm/dirty.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/random.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/clock.h"
#include "base/fd.h"

#define PAGE        4096U
#define SAMPLES_MAX 2048U
/* Of the highest rise: a curve that is this flat has seen all of the hot set. */
#define FLAT 0.15

static const uint64_t look_usec[VM_DIRTY_LOOKS] = { 20000, 50000, 100000, 200000, 400000, 800000 };

struct vm_dirty {
        sd_event_source *timer;
        int memory_fd;
        size_t n, look; /* look 0 is the one that the others are compared with */
        uint64_t pages[SAMPLES_MAX], hashes[SAMPLES_MAX];
        bool changed[SAMPLES_MAX];
        uint64_t begin_usec;
        vm_dirty_curve curve;
        vm_dirty_done done;
        void *userdata;
};

vm_dirty *vm_dirty_free(vm_dirty *d) {
        if (!d)
                return NULL;
        sd_event_source_disable_unref(d->timer);
        fd_close(d->memory_fd);
        free(d);
        return NULL;
}

/* One of each of `n` equal parts. */
static int choose_pages(vm_dirty *d, uint64_t n_pages) {
        uint32_t random[SAMPLES_MAX];
        ssize_t want, got = 0;

        d->n = n_pages < SAMPLES_MAX ? (size_t)n_pages : SAMPLES_MAX;
        want = (ssize_t)(d->n * sizeof(random[0]));
        while (got < want) {
                ssize_t k = getrandom((char *)random + got, (size_t)(want - got), 0);

                if (k < 0)
                        return -errno;
                got += k;
        }
        for (size_t i = 0; i < d->n; i++) {
                uint64_t first = n_pages * i / d->n, next = n_pages * (i + 1) / d->n;

                d->pages[i] = first + random[i] % (next - first);
        }
        return 0;
}

/* A hole of the file reads as zeros, and stays a hole. */
static int look(vm_dirty *d) {
        static const uint8_t zeros[PAGE];
        size_t n_filled = 0, n_changed = 0;
        uint8_t page[PAGE];

        for (size_t i = 0; i < d->n; i++) {
                uint64_t hash;

                /* what has changed once is dirty, whatever it is now */
                if (d->changed[i]) {
                        n_changed++;
                        continue;
                }
                if (pread(d->memory_fd, page, PAGE, (off_t)(d->pages[i] * PAGE)) != PAGE)
                        return errno ? -errno : -EIO;
                hash = XXH3_64bits(page, PAGE);
                if (d->look == 0) {
                        d->hashes[i] = hash;
                        n_filled += memcmp(page, zeros, PAGE) != 0;
                } else if (hash != d->hashes[i]) {
                        d->changed[i] = true;
                        n_changed++;
                }
        }
        if (d->look == 0)
                d->curve.filled = d->curve.total * n_filled / d->n;
        else {
                d->curve.usec[d->look - 1] = now_usec() - d->begin_usec;
                d->curve.bytes[d->look - 1] = d->curve.total * n_changed / d->n;
        }
        return 0;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        vm_dirty *d = userdata;
        int r = look(d);

        if (d->look == 0)
                d->begin_usec = now_usec();
        if (r < 0 || d->look == VM_DIRTY_LOOKS) {
                d->done(r, &d->curve, d->userdata); /* may free it */
                return 0;
        }
        (void)sd_event_source_set_time(source, d->begin_usec + look_usec[d->look]);
        d->look++;
        return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

int vm_dirty_start(sd_event *event, int memory_fd, uint64_t total, vm_dirty_done done,
                   void *userdata, vm_dirty **ret) {
        _cleanup_(vm_dirty_freep) vm_dirty *d = NULL;
        int r;

        if (total < PAGE)
                return -EINVAL;
        d = calloc(1, sizeof(*d));
        if (!d)
                return -ENOMEM;
        d->curve.total = total;
        d->done = done;
        d->userdata = userdata;
        d->memory_fd = fcntl(memory_fd, F_DUPFD_CLOEXEC, 3);
        if (d->memory_fd < 0)
                return -errno;
        r = choose_pages(d, total / PAGE);
        if (r < 0)
                return r;
        r = sd_event_add_time(event, &d->timer, CLOCK_MONOTONIC, now_usec(), 0, on_timer, d);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(d);
        return 0;
}

static double slope(const vm_dirty_curve *c, size_t i) {
        double bytes = (double)c->bytes[i] - (i > 0 ? (double)c->bytes[i - 1] : 0);
        double usec = (double)c->usec[i] - (i > 0 ? (double)c->usec[i - 1] : 0);

        return usec > 0 && bytes > 0 ? bytes * 1e6 / usec : 0;
}

/* Up to the bend the curve rises at the rate; behind it, it is flat at the hot set's size. */
void vm_dirty_fit(const vm_dirty_curve *c, vm_dirty_model *ret) {
        const size_t last = VM_DIRTY_LOOKS - 1;
        double rate = 0;

        for (size_t i = 0; i < VM_DIRTY_LOOKS; i++) {
                double mean = c->usec[i] > 0 ? (double)c->bytes[i] * 1e6 / (double)c->usec[i] : 0;

                if (mean > rate)
                        rate = mean;
        }
        *ret = (vm_dirty_model){ .rate = (uint64_t)rate, .hot = c->total };
        if (rate > 0 && slope(c, last) < FLAT * rate)
                ret->hot = c->bytes[last];
        else if (c->usec[last] > 0)
                /* without a bend the longest look is the most exact */
                ret->rate = c->bytes[last] * 1000000 / c->usec[last];
}
