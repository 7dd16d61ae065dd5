/* SPDX-License-Identifier: MIT */
#include "guestlink/keeps.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "channel/keep.h"

struct guest_keeps {
        int fd;
        uint8_t *memory;
        size_t slot, size;
        bool taken[GUEST_KEEPS_MAX]; /* its room on the disk is there, and it may be touched */
};

static channel_keep *at(const guest_keeps *k, size_t i) {
        return (channel_keep *)(void *)(k->memory + i * k->slot);
}

/* Mapped memory that the disk has no room for is a SIGBUS when it is written: the room is made
 * before. What is there stays. */
static int make_room(guest_keeps *k, size_t i) {
        return fallocate(k->fd, 0, (off_t)(i * k->slot), (off_t)k->slot) < 0 ? -errno : 0;
}

/* By read(), which a hole in the file does not hurt. */
static bool is_in_use(const guest_keeps *k, size_t i) {
        channel_keep head;

        return pread(k->fd, &head, sizeof(head), (off_t)(i * k->slot)) == (ssize_t)sizeof(head) &&
               head.format == CHANNEL_KEEP_FORMAT;
}

/* Most are holes; looking into each takes a millisecond, and this happens in the blackout. */
static size_t next_with_data(const guest_keeps *k, size_t i) {
        off_t data = lseek(k->fd, (off_t)(i * k->slot), SEEK_DATA);

        return data < 0 ? GUEST_KEEPS_MAX : (size_t)data / k->slot;
}

int guest_keeps_open(int dir_fd, const char *name, size_t buffer, guest_keeps **ret) {
        _cleanup_(guest_keeps_freep) guest_keeps *k = calloc(1, sizeof(*k));
        long page = sysconf(_SC_PAGESIZE);
        struct stat st;

        if (!k)
                return -ENOMEM;
        k->memory = MAP_FAILED;
        k->slot = (channel_keep_size(buffer) + (size_t)page - 1) / (size_t)page * (size_t)page;
        k->size = k->slot * GUEST_KEEPS_MAX;
        k->fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (k->fd < 0 || fstat(k->fd, &st) < 0)
                return -errno;
        if (st.st_size != (off_t)k->size &&
            (ftruncate(k->fd, 0) < 0 || ftruncate(k->fd, (off_t)k->size) < 0))
                return -errno;
        k->memory = mmap(NULL, k->size, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, 0);
        if (k->memory == MAP_FAILED)
                return -errno;
        for (size_t i = next_with_data(k, 0); i < GUEST_KEEPS_MAX; i = next_with_data(k, i + 1))
                k->taken[i] = is_in_use(k, i) && make_room(k, i) == 0;
        *ret = TAKE_PTR(k);
        return 0;
}

guest_keeps *guest_keeps_free(guest_keeps *k) {
        if (!k)
                return NULL;
        if (k->memory != MAP_FAILED)
                (void)munmap(k->memory, k->size);
        fd_close(k->fd);
        free(k);
        return NULL;
}

channel_keep *guest_keeps_get(guest_keeps *k, uint32_t id) {
        size_t i;

        for (i = 0; i < GUEST_KEEPS_MAX; i++)
                if (k->taken[i] && at(k, i)->id == id)
                        return at(k, i);
        for (i = 0; i < GUEST_KEEPS_MAX && k->taken[i]; i++)
                ;
        if (i == GUEST_KEEPS_MAX || make_room(k, i) < 0)
                return NULL;
        k->taken[i] = true;
        memset(at(k, i), 0, sizeof(channel_keep));
        at(k, i)->id = id;
        return at(k, i);
}

void guest_keeps_drop(guest_keeps *k, uint32_t id) {
        for (size_t i = 0; i < GUEST_KEEPS_MAX; i++)
                if (k->taken[i] && at(k, i)->id == id) {
                        at(k, i)->format = 0;
                        k->taken[i] = false;
                        (void)fallocate(k->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                        (off_t)(i * k->slot), (off_t)k->slot);
                }
}
