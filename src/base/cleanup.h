/* SPDX-License-Identifier: MIT */
#pragma once

/* Scope-bound ownership: `_cleanup_(closep) int fd = -EBADF;`, handed on with TAKE_FD(fd). */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn)       __attribute__((cleanup(fn)))
#define _printf_(fmt, args) __attribute__((format(printf, fmt, args)))
#define _pure_              __attribute__((pure))

#define TAKE_PTR(p)                                                                                \
        __extension__({                                                                            \
                typeof(p) *take_ptr_ = &(p);                                                       \
                typeof(p) take_value_ = *take_ptr_;                                                \
                *take_ptr_ = NULL;                                                                 \
                take_value_;                                                                       \
        })

#define TAKE_FD(fd)                                                                                \
        __extension__({                                                                            \
                int *take_fd_ = &(fd);                                                             \
                int take_value_ = *take_fd_;                                                       \
                *take_fd_ = -EBADF;                                                                \
                take_value_;                                                                       \
        })

#define ELEMENTS(array) (sizeof(array) / sizeof((array)[0]))

/* Defines `name##p`, the cleanup helper of a pointer whose destructor is `fn` (NULL is fine). */
#define DEFINE_CLEANUP(type, fn)                                                                   \
        static inline void fn##p(type *p) {                                                        \
                if (*p)                                                                            \
                        fn(*p);                                                                    \
        }

static inline void freep(void *p) {
        free(*(void **)p);
}

/* Keeps errno, takes a negative fd, returns -EBADF: `x->fd = fd_close(x->fd)`. */
static inline int fd_close(int fd) {
        if (fd >= 0) {
                int saved = errno;

                (void)close(fd);
                errno = saved;
        }
        return -EBADF;
}

static inline void closep(int *fd) {
        fd_close(*fd);
}

static inline void fclosep(FILE **f) {
        if (*f)
                (void)fclose(*f);
}
