/* SPDX-License-Identifier: MIT */
#include "vm/memory-digest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/fd.h"
#include "base/thread.h"

#define CHUNK       (1U << 20)
#define READ_SIZE   (128U << 10) /* stays in a core's own cache while it is hashed */
#define THREADS_MAX 8U

struct vm_memory_digest {
        int memory_fd, done_fd;
        sd_event_source *source;
        uint64_t total;
        size_t n_chunks;
        XXH128_canonical_t *chunks;
        XXH128_hash_t zeros; /* of a whole chunk that was never written */
        pthread_t threads[THREADS_MAX];
        unsigned n_threads;
        atomic_size_t next;
        atomic_uint n_working;
        atomic_int error;
        atomic_bool stop;
        vm_memory_digest_done done;
        void *userdata;
};

static size_t length_of(const vm_memory_digest *d, size_t chunk) {
        uint64_t left = d->total - (uint64_t)chunk * CHUNK;

        return left < CHUNK ? (size_t)left : CHUNK;
}

/* A file system that cannot tell has no holes. */
static bool is_hole(const vm_memory_digest *d, size_t chunk) {
        off_t begin = (off_t)chunk * CHUNK, data = lseek(d->memory_fd, begin, SEEK_DATA);

        if (data < 0)
                return errno == ENXIO;
        return data >= begin + (off_t)length_of(d, chunk);
}

static int hash_chunk(vm_memory_digest *d, size_t chunk, uint8_t *buffer) {
        size_t n = length_of(d, chunk);
        XXH3_state_t state;

        if (n == CHUNK && is_hole(d, chunk)) {
                XXH128_canonicalFromHash(&d->chunks[chunk], d->zeros);
                return 0;
        }
        XXH3_INITSTATE(&state);
        XXH3_128bits_reset(&state);
        for (size_t at = 0; at < n;) {
                size_t want = n - at < READ_SIZE ? n - at : READ_SIZE;
                ssize_t k =
                        pread(d->memory_fd, buffer, want, (off_t)((uint64_t)chunk * CHUNK + at));

                if (k < 0 && errno == EINTR)
                        continue;
                if (k <= 0)
                        return k < 0 ? -errno : -EIO;
                XXH3_128bits_update(&state, buffer, (size_t)k);
                at += (size_t)k;
        }
        XXH128_canonicalFromHash(&d->chunks[chunk], XXH3_128bits_digest(&state));
        return 0;
}

static void *work(void *userdata) {
        _cleanup_(freep) uint8_t *buffer = malloc(READ_SIZE);
        vm_memory_digest *d = userdata;
        size_t chunk;
        int r = buffer ? 0 : -ENOMEM;

        while (r == 0 && !atomic_load(&d->stop) &&
               (chunk = atomic_fetch_add(&d->next, 1)) < d->n_chunks)
                r = hash_chunk(d, chunk, buffer);
        if (r < 0) {
                atomic_store(&d->error, r);
                atomic_store(&d->stop, true);
        }
        if (atomic_fetch_sub(&d->n_working, 1) == 1)
                (void)eventfd_write(d->done_fd, 1);
        return NULL;
}

static int on_done(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        vm_memory_digest *d = userdata;
        XXH128_canonical_t digest;
        int r = atomic_load(&d->error);

        (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
        XXH128_canonicalFromHash(&digest,
                                 XXH3_128bits(d->chunks, d->n_chunks * sizeof(d->chunks[0])));
        static_assert(sizeof(digest.digest) == VM_MEMORY_DIGEST_SIZE, "XXH3-128");
        d->done(r, r == 0 ? digest.digest : NULL, d->userdata); /* may free it */
        return 0;
}

static unsigned threads_for(size_t n_chunks) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        unsigned threads = n < 1 ? 1 : n > THREADS_MAX ? THREADS_MAX : (unsigned)n;

        return n_chunks < threads ? (unsigned)n_chunks : threads;
}

/* Fewer threads than wanted take longer, none at all is an error. */
static int start_threads(vm_memory_digest *d) {
        unsigned wanted = threads_for(d->n_chunks);
        int r = 0;

        atomic_store(&d->n_working, 1); /* ours: nobody is the last before all have begun */
        while (r == 0 && d->n_threads < wanted) {
                atomic_fetch_add(&d->n_working, 1);
                r = thread_start(&d->threads[d->n_threads], work, d);
                if (r == 0)
                        d->n_threads++;
                else
                        atomic_fetch_sub(&d->n_working, 1);
        }
        if (d->n_threads == 0)
                return r;
        if (atomic_fetch_sub(&d->n_working, 1) == 1)
                (void)eventfd_write(d->done_fd, 1);
        return 0;
}

static int hash_zeros(XXH128_hash_t *ret) {
        _cleanup_(freep) uint8_t *zeros = calloc(1, CHUNK);

        if (!zeros)
                return -ENOMEM;
        *ret = XXH3_128bits(zeros, CHUNK);
        return 0;
}

int vm_memory_digest_start(sd_event *event, int memory_fd, uint64_t total,
                           vm_memory_digest_done done, void *userdata, vm_memory_digest **ret) {
        _cleanup_(vm_memory_digest_freep) vm_memory_digest *d = NULL;
        int r;

        if (total == 0 || total > INT64_MAX - CHUNK)
                return -EINVAL;
        d = calloc(1, sizeof(*d));
        if (!d)
                return -ENOMEM;
        *d = (vm_memory_digest){
                .memory_fd = fcntl(memory_fd, F_DUPFD_CLOEXEC, 3),
                .done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                .total = total,
                .n_chunks = (size_t)((total + CHUNK - 1) / CHUNK),
                .done = done,
                .userdata = userdata,
        };
        if (d->memory_fd < 0 || d->done_fd < 0)
                return -errno;
        d->chunks = calloc(d->n_chunks, sizeof(d->chunks[0]));
        if (!d->chunks)
                return -ENOMEM;
        r = hash_zeros(&d->zeros);
        if (r == 0)
                r = sd_event_add_io(event, &d->source, d->done_fd, EPOLLIN, on_done, d);
        if (r >= 0) /* a guest stands meanwhile */
                r = sd_event_source_set_priority(d->source, SD_EVENT_PRIORITY_IMPORTANT);
        if (r >= 0)
                r = start_threads(d);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(d);
        return 0;
}

vm_memory_digest *vm_memory_digest_free(vm_memory_digest *d) {
        if (!d)
                return NULL;
        atomic_store(&d->stop, true);
        for (unsigned i = 0; i < d->n_threads; i++)
                (void)pthread_join(d->threads[i], NULL);
        sd_event_source_disable_unref(d->source);
        fd_close(d->memory_fd);
        fd_close(d->done_fd);
        free(d->chunks);
        free(d);
        return NULL;
}
