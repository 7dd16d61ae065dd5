/* SPDX-License-Identifier: MIT */
#include "cli/socket-pass.h"

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/fd.h"
#include "cli/calls.h"
#include "socket.pb-c.h"

#define MAGIC      0x46455252U
#define VERSION    1U
#define INFO_MAX   128U
#define TOKEN_SIZE 16U
#define STORE_MSEC 5000

static int send_info(rpc *shim, const char *session_id, const Ferry__Socket__V1__ProtocolInfo *info,
                     ferry_error *reterr) {
        uint8_t bytes[INFO_MAX];
        size_t n = ferry__socket__v1__protocol_info__get_packed_size(info);

        if (n > sizeof(bytes))
                return ferry_error_set(reterr, FERRY_INTERNAL, -EMSGSIZE, "protocol_info");
        n = ferry__socket__v1__protocol_info__pack(info, bytes);
        return call_socket(shim, session_id, bytes, n, reterr);
}

static int pass_by_process(rpc *shim, const char *session_id, const char *disk, int fd,
                           ferry_error *reterr) {
        Ferry__Socket__V1__ProtocolInfo info = FERRY__SOCKET__V1__PROTOCOL_INFO__INIT;
        Ferry__Socket__V1__ProcessFd process = FERRY__SOCKET__V1__PROCESS_FD__INIT;

        process.pid = 0; /* the ttrpc peer: us */
        process.fd = (uint32_t)fd;
        info.magic = MAGIC;
        info.version = VERSION;
        info.disk = (char *)disk;
        info.source_case = FERRY__SOCKET__V1__PROTOCOL_INFO__SOURCE_PROCESS_FD;
        info.process_fd = &process;
        return send_info(shim, session_id, &info, reterr);
}

/* u8 length, token, one descriptor; the answer is one byte, 0 for "stored". */
static int store(const char *fd_socket, const uint8_t token[static TOKEN_SIZE], int fd,
                 ferry_error *reterr) {
        _cleanup_(closep) int connection = -EBADF;
        uint8_t message[1 + TOKEN_SIZE], answer;
        struct pollfd p;
        ssize_t n;
        int r;

        r = unix_connect(fd_socket, &connection);
        if (r < 0)
                return ferry_error_set_errno(reterr, r, "cannot reach %s", fd_socket);
        message[0] = TOKEN_SIZE;
        memcpy(message + 1, token, TOKEN_SIZE);
        n = fd_send(connection, message, sizeof(message), &fd, 1);
        if (n != (ssize_t)sizeof(message))
                return ferry_error_set_errno(reterr, n < 0 ? (int)n : -EIO, "%s", fd_socket);
        p = (struct pollfd){ .fd = connection, .events = POLLIN };
        if (poll(&p, 1, STORE_MSEC) <= 0)
                return ferry_error_set(reterr, FERRY_DEADLINE_EXCEEDED, -ETIMEDOUT,
                                       "%s did not answer", fd_socket);
        if (read(connection, &answer, 1) != 1 || answer != 0)
                return ferry_error_set(reterr, FERRY_FAILED_PRECONDITION, -EREMOTEIO,
                                       "%s refused the descriptor", fd_socket);
        return 0;
}

static int pass_by_token(rpc *shim, const char *fd_socket, const char *session_id, const char *disk,
                         int fd, ferry_error *reterr) {
        Ferry__Socket__V1__ProtocolInfo info = FERRY__SOCKET__V1__PROTOCOL_INFO__INIT;
        uint8_t token[TOKEN_SIZE];
        int r;

        if (getrandom(token, sizeof(token), 0) != (ssize_t)sizeof(token))
                return ferry_error_set(reterr, FERRY_INTERNAL, -EIO, "no random numbers");
        r = store(fd_socket, token, fd, reterr);
        if (r < 0)
                return r;
        info.magic = MAGIC;
        info.version = VERSION;
        info.disk = (char *)disk;
        info.source_case = FERRY__SOCKET__V1__PROTOCOL_INFO__SOURCE_TOKEN;
        info.token = (ProtobufCBinaryData){ sizeof(token), token };
        return send_info(shim, session_id, &info, reterr);
}

int socket_pass(rpc *shim, const char *fd_socket, const char *session_id, const char *disk, int fd,
                ferry_error *reterr) {
        _cleanup_(ferry_error_donep) ferry_error first = FERRY_ERROR_INIT;
        int r;

        r = pass_by_process(shim, session_id, disk, fd, &first);
        if (r == 0)
                return 0;
        /* Only a shim that could not fetch it is asked anew: any other answer stands. */
        if (first.code == FERRY_PERMISSION_DENIED || first.code == FERRY_UNIMPLEMENTED ||
            first.code == FERRY_FAILED_PRECONDITION)
                return pass_by_token(shim, fd_socket, session_id, disk, fd, reterr);
        ferry_error_move(reterr, &first);
        return r;
}
