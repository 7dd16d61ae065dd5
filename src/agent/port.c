/* SPDX-License-Identifier: MIT */
#include "agent/port.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>

#include "base/clock.h"

#define PORTS        "/sys/class/virtio-ports"
#define NAME_MAX_    64U
#define RETRY_USEC   (20 * USEC_PER_MSEC)
#define APPEARS_USEC (500 * USEC_PER_MSEC)
/* The driver gives one of its buffers with a read, a page. */
#define DRIVER_BUFFER 4096

static bool has_name(const char *entry, const char *name) {
        _cleanup_(fclosep) FILE *f = NULL;
        char path[320], line[NAME_MAX_] = "";

        (void)snprintf(path, sizeof(path), PORTS "/%s/name", entry);
        f = fopen(path, "re");
        if (!f || !fgets(line, sizeof(line), f))
                return false;
        line[strcspn(line, "\n")] = '\0';
        return strcmp(line, name) == 0;
}

static int find(const char *name) {
        DIR *ports = opendir(PORTS);
        struct dirent *entry;
        int fd = -ENODEV;

        if (!ports)
                return -ENODEV;
        while (fd == -ENODEV && (entry = readdir(ports))) {
                char path[280];

                if (entry->d_name[0] == '.' || !has_name(entry->d_name, name))
                        continue;
                (void)snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
                fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
                if (fd < 0)
                        fd = -errno;
        }
        closedir(ports);
        return fd;
}

/* Whether the machine has a virtio-serial bus, whose ports may still be on their way. */
static bool has_bus(void) {
        DIR *devices = opendir("/sys/bus/virtio/drivers/virtio_console");
        struct dirent *entry;
        bool found = false;

        while (devices && !found && (entry = readdir(devices)))
                found = strncmp(entry->d_name, "virtio", strlen("virtio")) == 0;
        if (devices)
                closedir(devices);
        return found;
}

int port_open(port *p, const char *name) {
        uint64_t deadline = now_usec() + APPEARS_USEC;
        int fd;

        *p = (port){ .fd = -EBADF };
        while ((fd = find(name)) == -ENODEV && has_bus() && now_usec() < deadline)
                (void)usleep(2000);
        if (fd < 0)
                return fd;
        p->fd = fd;
        return channel_new(&p->channel);
}

void port_prepare(port *p, struct pollfd *ret, uint64_t now) {
        const uint8_t *data;

        /* without a host poll() would only say POLLHUP, at once */
        p->polled = p->has_host || now >= p->retry_usec;
        *ret = (struct pollfd){ .fd = p->polled ? p->fd : -1, .events = POLLIN };
        p->waits = p->has_host && channel_output(p->channel, now, &data) > 0;
        if (p->waits) {
                ret->events |= POLLOUT;
                p->retry_usec = now + RETRY_USEC;
        }
}

/* What waits for the port says nothing new before the port takes it. That it would take it again
 * Linux may not say: the interrupt is lost where the guest moves just then. So we look, too. */
uint64_t port_deadline(const port *p) {
        return p->waits || !p->has_host ? p->retry_usec : channel_deadline(p->channel);
}

static void look_for_host(port *p, short revents, uint64_t now) {
        bool has_host = !(revents & POLLHUP);

        if (has_host && !p->has_host)
                channel_port_reset(p->channel);
        p->has_host = has_host;
        if (!has_host)
                p->retry_usec = now + RETRY_USEC;
}

void port_receive(port *p, short revents, uint64_t now) {
        uint8_t buffer[16384];
        ssize_t k;

        if (!p->polled)
                return;
        look_for_host(p, revents, now);
        while (p->has_host && (revents & POLLIN) && (k = read(p->fd, buffer, sizeof(buffer))) > 0) {
                channel_feed(p->channel, buffer, (size_t)k, now);
                if (k < DRIVER_BUFFER)
                        break; /* that was all */
        }
}

void port_send(port *p, uint64_t now) {
        const uint8_t *data;
        ssize_t k;
        size_t n;

        if (!p->has_host)
                return;
        while ((n = channel_output(p->channel, now, &data)) > 0) {
                k = write(p->fd, data, n);
                if (k <= 0)
                        return;
                channel_sent(p->channel, (size_t)k);
        }
}
