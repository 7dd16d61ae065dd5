/* SPDX-License-Identifier: MIT */
#pragma once

/* Reads and writes of a stream socket that another descriptor can end: `stop_fd` becomes readable,
 * and stays so. The socket may be blocking or not, and is left as it is. */

#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

/* Until one of them has something to read, or has ended: which (0 or 1; 0 if both), or -ECANCELED.
 * A descriptor of -EBADF is left out. */
int relay_wait_readable(int first, int second, int stop_fd);

/* At least one byte, and what is there already up to `n`. 0: the end; -ECANCELED: stopped. */
ssize_t relay_read_some(int fd, void *to, size_t n, int stop_fd);

/* All of it. -ENODATA: the stream ended before it. */
int relay_read_all(int fd, void *to, size_t n, int stop_fd);

/* Uses up `iov`. */
int relay_write_all(int fd, struct iovec *iov, size_t n_iov, int stop_fd);
