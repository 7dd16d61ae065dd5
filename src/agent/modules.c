/* SPDX-License-Identifier: MIT */
#include "agent/modules.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/cleanup.h"

static int load(const char *path) {
        _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
                return -errno;
        return 0;
}

void modules_load(const char *list) {
        _cleanup_(fclosep) FILE *file = fopen(list, "re");
        char line[256];

        if (!file) {
                (void)fprintf(stderr, "ferry-guest: %s: %s\n", list, strerror(errno));
                return;
        }
        while (fgets(line, sizeof(line), file)) {
                int r;

                line[strcspn(line, "\n")] = '\0';
                if (line[0] == '\0')
                        continue;
                r = load(line);
                if (r < 0)
                        (void)fprintf(stderr, "ferry-guest: %s: %s\n", line, strerror(-r));
        }
}
