/* SPDX-License-Identifier: MIT */
#include "agent/machine-id.h"

#include <fcntl.h>
#include <stdint.h>
#include <sys/random.h>

#include "base/cleanup.h"

#define PATH "/etc/machine-id"

void machine_id_make(void) {
        _cleanup_(closep) int fd = -EBADF;
        uint8_t id[16];
        char text[2 * sizeof(id) + 2];

        /* not before the kernel's random numbers are good: the next one to start makes it then */
        if (access(PATH, F_OK) == 0 || getrandom(id, sizeof(id), GRND_NONBLOCK) != sizeof(id))
                return;
        id[6] = (uint8_t)((id[6] & 0x0f) | 0x40); /* as a random UUID is marked */
        id[8] = (uint8_t)((id[8] & 0x3f) | 0x80);
        for (size_t i = 0; i < sizeof(id); i++)
                (void)snprintf(text + 2 * i, 3, "%02x", id[i]);
        text[2 * sizeof(id)] = '\n';
        fd = open(PATH, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0444);
        if (fd < 0)
                return;
        if (write(fd, text, 2 * sizeof(id) + 1) != (ssize_t)(2 * sizeof(id) + 1))
                (void)unlink(PATH);
}
