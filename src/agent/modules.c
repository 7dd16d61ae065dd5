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

static bool is_for_network(const char *path) {
        static const char *const names[] = { "failover", "net_failover", "virtio_net" };
        const char *name = strrchr(path, '/');

        name = name ? name + 1 : path;
        for (size_t i = 0; i < ELEMENTS(names); i++)
                if (strncmp(name, names[i], strlen(names[i])) == 0 && name[strlen(names[i])] == '.')
                        return true;
        return false;
}

void modules_load(module_set set) {
        _cleanup_(fclosep) FILE *file = fopen(MODULE_LIST, "re");
        char line[256];

        if (!file) {
                (void)fprintf(stderr, "ferry-guest: " MODULE_LIST ": %s\n", strerror(errno));
                return;
        }
        while (fgets(line, sizeof(line), file)) {
                int r;

                line[strcspn(line, "\n")] = '\0';
                if (line[0] == '\0' ||
                    (set != MODULES_ALL && is_for_network(line) != (set == MODULES_NETWORK)))
                        continue;
                r = load(line);
                if (r < 0)
                        (void)fprintf(stderr, "ferry-guest: %s: %s\n", line, strerror(-r));
        }
}
