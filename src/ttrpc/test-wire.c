/* SPDX-License-Identifier: MIT */
#include "ttrpc/test-wire.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "ttrpc/clock.h"

void wire_pair(int ret[2]) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ret), 0);
}

void wire_send(int fd, const void *data, size_t n) {
        const uint8_t *at = data;

        while (n > 0) {
                ssize_t k = send(fd, at, n, MSG_NOSIGNAL | MSG_DONTWAIT);

                assert_true(k > 0);
                at += k;
                n -= (size_t)k;
        }
}

void wire_send_frame(int fd, uint32_t id, uint8_t type, uint8_t flags, const void *data, size_t n) {
        ttrpc_frame_header header = {
                .length = (uint32_t)n, .stream_id = id, .type = type, .flags = flags
        };
        uint8_t *wire = malloc(TTRPC_HEADER_SIZE + n);

        assert_non_null(wire);
        ttrpc_frame_format(&header, wire);
        if (n > 0)
                memcpy(wire + TTRPC_HEADER_SIZE, data, n);
        wire_send(fd, wire, TTRPC_HEADER_SIZE + n);
        free(wire);
}

void wire_send_request(int fd, uint32_t id, uint8_t flags, const ttrpc_request *q) {
        size_t n = ttrpc_request_size(q);
        uint8_t *data = malloc(n + 1);

        assert_non_null(data);
        ttrpc_request_format(q, data);
        wire_send_frame(fd, id, TTRPC_FRAME_REQUEST, flags, data, n);
        free(data);
}

static bool receive_exactly(int fd, uint8_t *data, size_t n) {
        size_t have = 0;

        while (have < n) {
                ssize_t k = recv(fd, data + have, n - have, MSG_DONTWAIT);

                if (k <= 0 && have == 0)
                        return false;
                assert_true(k > 0);
                have += (size_t)k;
        }
        return true;
}

bool wire_receive(int fd, wire_frame *ret) {
        uint8_t header[TTRPC_HEADER_SIZE];

        if (!receive_exactly(fd, header, sizeof(header)))
                return false;
        assert_int_equal(ttrpc_frame_parse(header, sizeof(header), &ret->header), 1);
        ret->data = malloc(ret->header.length + 1);
        assert_non_null(ret->data);
        if (ret->header.length > 0)
                assert_true(receive_exactly(fd, ret->data, ret->header.length));
        return true;
}

void wire_expect_status(int fd, uint32_t id, int32_t code, const char *message) {
        ttrpc_response p;
        wire_frame f;

        assert_true(wire_receive(fd, &f));
        assert_int_equal(f.header.stream_id, id);
        assert_int_equal(f.header.type, TTRPC_FRAME_RESPONSE);
        assert_int_equal(f.header.flags, 0);
        assert_int_equal(ttrpc_response_parse(f.data, f.header.length, &p), 0);
        assert_int_equal(p.code, code);
        if (message) {
                assert_int_equal(p.message.n, strlen(message));
                assert_memory_equal(p.message.data, message, p.message.n);
        }
        free(f.data);
}

void wire_expect(int fd, uint32_t id, uint8_t type, uint8_t flags, const void *data, size_t n) {
        wire_frame f;

        assert_true(wire_receive(fd, &f));
        assert_int_equal(f.header.stream_id, id);
        assert_int_equal(f.header.type, type);
        assert_int_equal(f.header.flags, flags);
        assert_int_equal(f.header.length, n);
        if (n > 0)
                assert_memory_equal(f.data, data, n);
        free(f.data);
}

void wire_expect_nothing(int fd) {
        uint8_t byte;

        assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK), -1);
        assert_int_equal(errno, EAGAIN);
}

bool wire_is_closed(int fd) {
        uint8_t byte;

        return recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
}

ttrpc_text wire_text(const char *text) {
        return (ttrpc_text){ text, strlen(text) };
}

void wire_pump_server(ttrpc_server *server) {
        struct pollfd p = { .fd = ttrpc_server_get_fd(server), .events = POLLIN };

        do
                assert_int_equal(ttrpc_server_process(server), 0);
        while (poll(&p, 1, 0) > 0 || ttrpc_server_get_timeout(server) <= ttrpc_now());
}

void wire_pump_client(ttrpc_client *client) {
        struct pollfd p = { .fd = ttrpc_client_get_fd(client) };

        do {
                if (ttrpc_client_process(client) < 0)
                        return;
                p.events = (short)ttrpc_client_get_events(client);
        } while (poll(&p, 1, 0) > 0);
}

size_t wire_count_fds(void) {
        DIR *dir = opendir("/proc/self/fd");
        size_t n = 0;

        assert_non_null(dir);
        while (readdir(dir))
                n++;
        closedir(dir);
        return n;
}
