/* SPDX-License-Identifier: MIT */
#pragma once

/* File descriptors: flags, whole reads and writes, passing over AF_UNIX, unix sockets by path. */

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/cleanup.h"

int fd_set_nonblock(int fd, bool on);
int fd_set_cloexec(int fd, bool on);

/* All of it or a negative errno; retries EINTR. Blocking descriptors only. */
int fd_write_all(int fd, const void *data, size_t n);

/* Up to `max` bytes of a file, NUL-terminated behind. -EFBIG when there is more. */
int file_read(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_n);

/* Temp file, fsync when `sync`, rename: readers see the old or the new, never a part. */
int file_replace(int dir_fd, const char *path, const void *data, size_t n, mode_t mode, bool sync);

/* With those above it (0755). 0 too when it is there. */
int folders_make(const char *path, mode_t mode);
/* Removes the files in it, as far as that can be done; no folders. */
void folder_empty(int dir_fd);

/* One sendmsg: at least one byte must go along. Returns bytes sent or a negative errno
 * (-EAGAIN on a non-blocking socket). `fds` are borrowed. */
ssize_t fd_send(int socket, const void *data, size_t n, const int *fds, size_t n_fds);

/* One recvmsg. Received fds are CLOEXEC and owned by the caller; those over `max_fds` are
 * closed and the call fails with -EMSGSIZE. Returns bytes (0 at EOF) or a negative errno. */
ssize_t fd_receive(int socket, void *data, size_t n, int *fds, size_t max_fds, size_t *ret_n_fds);

/* Stream sockets by path. -ENAMETOOLONG when it does not fit sockaddr_un (107 bytes). A stale
 * socket file, one that nobody listens on, is replaced; a live one is -EADDRINUSE. */
int unix_listen(const char *path, mode_t mode, int backlog, int *ret_fd);
int unix_connect(const char *path, int *ret_fd);
