/* SPDX-License-Identifier: MIT */
#include "agent/agent.h"

#include <malloc.h>
#include <poll.h>

#include "agent/control.h"
#include "agent/port.h"
#include "agent/process.h"
#include "agent/service.h"
#include "base/clock.h"

#define FDS_FIXED 6U

struct agent {
        port control_port, streams_port;
        control control;
        ttrpc_server *server;
        process_table processes;
        container_table containers;
        agent_service *service;
        struct pollfd fds[FDS_FIXED + PROCESSES_MAX * PROCESS_FDS_MAX];
};

int agent_new(agent **ret) {
        agent *a = calloc(1, sizeof(*a));
        int r;

        if (!a)
                return -ENOMEM;
        /* buffers of streams that have gone are the guest's again, not the heap's */
        (void)mallopt(M_MMAP_THRESHOLD, PROCESS_INPUT_BUFFER / 2);
        a->containers.processes = &a->processes;
        /* of a process that lives as long as the machine: what a failure leaves is not freed */
        r = port_open(&a->control_port, "ferry.control");
        if (r == 0)
                r = port_open(&a->streams_port, "ferry.streams");
        if (r == 0)
                r = ttrpc_server_new(&a->server);
        if (r == 0)
                r = agent_service_new(a->server, &a->containers, &a->service);
        if (r < 0)
                return r;
        a->processes.streams = a->streams_port.channel;
        control_init(&a->control, a->control_port.channel, a->server);
        *ret = a;
        return 0;
}

static uint64_t sooner(uint64_t a, uint64_t b) {
        return a < b ? a : b;
}

static int timeout_msec(const agent *a, uint64_t now) {
        uint64_t until =
                sooner(sooner(port_deadline(&a->control_port), port_deadline(&a->streams_port)),
                       ttrpc_server_get_timeout(a->server));

        if (until == UINT64_MAX)
                return -1;
        if (until <= now)
                return 0;
        return (int)sooner((until - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC, 60000);
}

bool agent_run(agent *a, int fd) {
        uint64_t now = now_usec();
        size_t n = FDS_FIXED;

        n += process_prepare(&a->processes, a->fds + FDS_FIXED, ELEMENTS(a->fds) - FDS_FIXED);
        port_prepare(&a->control_port, &a->fds[0], now);
        port_prepare(&a->streams_port, &a->fds[1], now);
        control_prepare(&a->control, &a->fds[2]);
        a->fds[3] = (struct pollfd){ .fd = ttrpc_server_get_fd(a->server), .events = POLLIN };
        a->fds[4] = (struct pollfd){ .fd = fd, .events = POLLIN };
        a->fds[5] = (struct pollfd){ .fd = agent_service_oom_fd(a->service), .events = POLLIN };
        if (poll(a->fds, n, timeout_msec(a, now)) < 0)
                return false;
        now = now_usec();
        port_receive(&a->control_port, a->fds[0].revents, now);
        port_receive(&a->streams_port, a->fds[1].revents, now);
        process_pump(&a->processes, a->fds + FDS_FIXED);
        if (a->fds[5].revents)
                agent_service_oom(a->service);
        control_process(&a->control);
        (void)ttrpc_server_process(a->server);
        port_send(&a->control_port, now);
        port_send(&a->streams_port, now);
        return a->fds[4].revents != 0;
}

void agent_reaped(agent *a, pid_t pid, int status) {
        container_reaped(&a->containers, pid, status);
}
