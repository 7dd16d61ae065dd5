/* SPDX-License-Identifier: MIT */

/* A guest's agent that does as it should until a container's file says what it is to be from then
 * on; it tells the console when it begins. */

#include "agent/agent.h"

bool good_agent_run(agent *a, int fd);
#define agent_run good_agent_run
#include "agent/agent.c"
#undef agent_run

#include <dirent.h>
#include <fcntl.h>
#include <string.h>

#include "channel/frame.h"

#define ORDER      "hostile" /* in the container's root */
#define ORDER_SIZE 32
#define PAUSE_MSEC 20

/* What a container has written; and it is gone then. */
static bool take_order(char ret[ORDER_SIZE]) {
        DIR *containers = opendir(CONTAINER_FOLDER);
        struct dirent *entry;
        ssize_t n = 0;

        while (containers && n <= 0 && (entry = readdir(containers))) {
                char path[400];
                int fd;

                (void)snprintf(path, sizeof(path), CONTAINER_FOLDER "/%s/rootfs/" ORDER,
                               entry->d_name);
                fd = open(path, O_RDONLY | O_CLOEXEC);
                n = fd >= 0 ? read(fd, ret, ORDER_SIZE - 1) : 0;
                fd_close(fd);
                if (n > 0)
                        (void)unlink(path);
        }
        if (containers)
                closedir(containers);
        ret[n > 0 ? n : 0] = '\0';
        ret[strcspn(ret, "\n")] = '\0';
        return n > 0;
}

static void put_frame(const port *p, uint32_t stream, uint64_t offset) {
        static uint8_t payload[CHANNEL_PAYLOAD_MAX], frame[CHANNEL_FRAME_MAX];
        size_t n = channel_frame_format(&(channel_frame){ .type = CHANNEL_FRAME_DATA,
                                                          .stream = stream,
                                                          .offset = offset,
                                                          .payload = payload,
                                                          .n_payload = sizeof(payload) },
                                        frame);

        (void)!write(p->fd, frame, n);
}

/* As much as the ports take: garbage, and frames that are none of anybody's. */
static void flood(const agent *a) {
        static uint8_t garbage[16384];
        static uint64_t number;

        for (size_t i = 0; i < sizeof(garbage); i += 53)
                garbage[i] = (uint8_t)(number + i);
        (void)!write(a->control_port.fd, garbage, sizeof(garbage));
        (void)!write(a->streams_port.fd, garbage, sizeof(garbage));
        for (uint32_t stream = 0; stream < 8; stream++) {
                put_frame(&a->control_port,
                          a->control.stream ? channel_stream_id(a->control.stream) : stream,
                          number * CHANNEL_PAYLOAD_MAX);
                put_frame(&a->streams_port, stream, number * CHANNEL_PAYLOAD_MAX);
        }
        number++;
}

static void reopen(port *p, const char *name) {
        channel *kept = p->channel;

        fd_close(p->fd);
        if (port_open(p, name) == 0)
                channel_free(p->channel);
        p->channel = kept;
}

/* In the place of frames, on the stream that carries calls; then it is good again. */
static void break_protocol(agent *a) {
        if (a->control.stream)
                (void)channel_write(a->control.stream, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                                    10);
}

bool agent_run(agent *a, int fd) {
        static char order[ORDER_SIZE];

        if (!order[0] && take_order(order)) {
                (void)printf("hostile: %s\n", order);
                (void)fflush(stdout);
        }
        if (strcmp(order, "break") == 0) {
                break_protocol(a);
                order[0] = '\0';
        }
        if (!order[0])
                return good_agent_run(a, fd);
        if (strcmp(order, "flood") == 0)
                flood(a);
        else if (strcmp(order, "reopen") == 0) {
                reopen(&a->control_port, "ferry.control");
                reopen(&a->streams_port, "ferry.streams");
        } else /* silent */
                (void)poll(NULL, 0, PAUSE_MSEC);
        return false;
}
