/* SPDX-License-Identifier: MIT */
#pragma once

/* Gives a shim of this machine its end of the migration connection: by our process id, and where
 * the kernel or the shim refuses that, over the fd socket under a token. */

#include "cli/rpc.h"

/* `disk`: the serial of the disk that it is for; "": it is the migration connection. `fd` is
 * borrowed; `fd_socket` is the path of the shim's fd socket. */
int socket_pass(rpc *shim, const char *fd_socket, const char *session_id, const char *disk, int fd,
                ferry_error *reterr);
