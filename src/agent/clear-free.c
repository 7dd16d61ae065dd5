/* SPDX-License-Identifier: MIT */
#include "agent/clear-free.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>

/* Stays free: for the kernel itself, which must never look for something to kill. */
#define RESERVE (16ULL << 20)

int64_t clear_free(uint64_t at_most) {
        struct sysinfo info;
        uint64_t n;
        void *p;

        if (sysinfo(&info) < 0)
                return -errno;
        n = (uint64_t)info.freeram * info.mem_unit;
        if (n <= RESERVE)
                return 0;
        n -= RESERVE;
        if (n > at_most)
                n = at_most & ~4095ULL;
        if (n == 0)
                return 0;
        p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1,
                 0);
        if (p == MAP_FAILED)
                return -errno;
        (void)munmap(p, n);
        return (int64_t)n;
}
