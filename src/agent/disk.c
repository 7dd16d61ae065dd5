/* SPDX-License-Identifier: MIT */
#include "agent/disk.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>

#include "base/cleanup.h"

#define PAGE_HEADER 4 /* of SCSI's vital product data */

static bool is_at(const char *name, const char *file, size_t skip, const char *serial) {
        char path[320], text[256] = "";
        _cleanup_(closep) int fd = -EBADF;
        ssize_t n;

        (void)snprintf(path, sizeof(path), "/sys/block/%s/%s", name, file);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return false;
        n = read(fd, text, sizeof(text) - 1);
        if (n < (ssize_t)skip)
                return false;
        text[skip + strcspn(text + skip, "\n")] = '\0';
        return strcmp(text + skip, serial) == 0;
}

/* The kernel names a disk a moment before it can be opened. */
static bool is_ready(const char *path) {
        _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);

        return fd >= 0 || errno != ENXIO;
}

int disk_find(const char *serial, char ret[32]) {
        DIR *disks = opendir("/sys/block");
        struct dirent *entry;
        int r = -ENOENT;

        if (!disks)
                return -errno;
        while (r == -ENOENT && (entry = readdir(disks))) {
                const char *name = entry->d_name;

                if (name[0] == '.' || strlen(name) > 16 ||
                    (!is_at(name, "serial", 0, serial) &&
                     !is_at(name, "device/vpd_pg80", PAGE_HEADER, serial)))
                        continue;
                (void)snprintf(ret, 32, "/dev/%.16s", name);
                if (!is_ready(ret))
                        break;
                r = 0;
        }
        closedir(disks);
        return r;
}
