/* SPDX-License-Identifier: MIT */
/* Loaded into a QEMU that is to receive by post-copy. That needs a userfaultfd that sees the
 * kernel's faults too; the kernel gives one to root, or to who has /dev/userfaultfd open. QEMU has
 * no privileges, so the shim opens the device for it, and here the one system call that QEMU makes
 * for it is answered from that descriptor. Everything else of syscall(3) is as it was. */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "vm/uffd.h"

#define N_ARGUMENTS 6

__attribute__((visibility("default"))) long syscall(long number, ...);

static long pass_on(long number, const long a[N_ARGUMENTS]) {
        register long r10 __asm__("r10") = a[3];
        register long r8 __asm__("r8") = a[4];
        register long r9 __asm__("r9") = a[5];
        long result;

        __asm__ volatile("syscall"
                         : "=a"(result)
                         : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                         : "rcx", "r11", "memory");
        if (result < 0 && result > -4096) {
                errno = (int)-result;
                return -1;
        }
        return result;
}

long syscall(long number, ...) {
        const char *device = number == SYS_userfaultfd ? getenv(UFFD_ENVIRONMENT) : NULL;
        long a[N_ARGUMENTS];
        va_list ap;

        va_start(ap, number);
        for (int i = 0; i < N_ARGUMENTS; i++)
                a[i] = va_arg(ap, long);
        va_end(ap);
        return device ? ioctl(atoi(device), USERFAULTFD_IOC_NEW, a[0]) : pass_on(number, a);
}
