/* SPDX-License-Identifier: MIT */
#include "vm/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "uffd-library.h" /* so that this is made again with it */

#define DEVICE "/dev/userfaultfd"

/* uffd-preload.so, byte for byte: QEMU's user need not be able to reach where ferry is installed */
__asm__(".section .rodata\n"
        ".balign 16\n"
        "uffd_library:\n"
        ".incbin \"" UFFD_LIBRARY "\"\n"
        "uffd_library_end:\n"
        ".previous\n");
extern const uint8_t uffd_library[], uffd_library_end[];

static int make_library(int *ret_fd) {
        _cleanup_(closep) int fd =
                memfd_create("ferry-userfaultfd", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        size_t n = (size_t)(uffd_library_end - uffd_library), done = 0;

        if (fd < 0)
                return -errno;
        while (done < n) {
                ssize_t k = write(fd, uffd_library + done, n - done);

                if (k < 0 && errno == EINTR)
                        continue;
                if (k <= 0)
                        return k < 0 ? -errno : -EIO;
                done += (size_t)k;
        }
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
                return -errno;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int uffd_open(int *ret_device_fd, int *ret_library_fd, ferry_error *reterr) {
        _cleanup_(closep) int device = open(DEVICE, O_RDWR | O_CLOEXEC);
        int r;

        if (device < 0) {
                r = -errno;
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, r,
                                       "post-copy needs " DEVICE
                                       " at the destination (Linux 6.1 or "
                                       "newer, root): %s",
                                       strerror(-r));
        }
        r = make_library(ret_library_fd);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "a file in memory");
        *ret_device_fd = TAKE_FD(device);
        return 0;
}
